"""A model of a table, told from the top."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.recipes.tabular import ensemble, findings
from tunesmith.recipes.tabular.artifact import Part, TabularModel, load_member
from tunesmith.recipes.tabular.curves import FIT_SHARE, Curves, Halted
from tunesmith.recipes.tabular.encoding import Encoding
from tunesmith.recipes.tabular.fitter import Fitter
from tunesmith.recipes.tabular.outputs import leave_model, leave_report
from tunesmith.recipes.tabular.spec import TabularParams
from tunesmith.recipes.tabular.split import Split, content_groups, split_rows
from tunesmith.recipes.tabular.store import Store
from tunesmith.recipes.tabular.table import Table, read_table

ORDER: tuple[str, ...] = ("linear", "lightgbm", "catboost")
"""The quick ones first, so that something is there early."""


def train(params: TabularParams, run: RunContext) -> str:
    """Learn the target from the other columns and leave `artifacts/tabular_model/` and `artifacts/report/`. Returns an `Outcome`;
    raises `JobFailure`."""
    if not run.is_main:
        return Outcome.COMPLETED
    # 1) The table: types of columns, the target, what is left out
    run.phase("loading", "table")
    threads = run.spec.resources.cpu_threads or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    table = read_table(run, params)
    if params.unsure_below and ensemble.UNSURE in table.classes:
        raise JobFailure(
            FailureCode.INVALID_SETTINGS,
            f"A class is called {ensemble.UNSURE}, so unsure_below cannot be used.",
            hint="Set it to 0.",
        )
    check_metric(params.metric, table.is_classification)
    # 2) Which rows are held out, and the folds
    split = divide(run, params, table)
    learned = ~split.held_out
    findings.tell_suspicious(run, table, learned)
    # 3) Numbers for the models, learned without the target
    store = Store(run, params.model_dump(mode="json"))
    store.resume()
    spread = 1.0 if table.is_classification else float(table.y[learned].std())
    curves = Curves(
        run, store.state, spread=spread, patience=params.early_stopping_rounds, max_iterations=params.max_iterations,
        time_limit_s=params.time_limit_s, fit_share=FIT_SHARE if params.importance else 1.0,
    )  # fmt: skip
    try:
        curves.check()
        run.phase("tokenizing", "columns")
        encoding = store.encoding()
        if encoding is None:
            encoding = Encoding.fit(table.columns, table.values, learned, params.seed)
            encoding.save(store.folder)
        x = encoding.transform(table.values)
        # 4) Every model on every fold, as far as there is time
        run.phase("training")
        fitter = Fitter(run, params, store, curves, encoding, x, table, split, threads)
        if store.state.schedule is None:
            store.decide(fitter.schedule([name for name in ORDER if name in params.models]))
        for name, fold in curves.fits:
            if store.done(name, fold) is None:
                fitter.fit(name, fold)
                store.checkpoint()
    except Halted as halted:
        if halted.outcome == Outcome.PAUSED:
            store.checkpoint("pause")
        return halted.outcome
    # 5) One answer of all of them, chosen on out-of-fold predictions
    run.phase("evaluating", "out-of-fold and held-out rows")
    model, about = combine(params, store, encoding, table, split, threads)
    found = findings.measure(run, params, curves, model, about, x, table, split)
    # 6) What is left behind
    run.phase("saving", "tabular_model")
    leave_model(run, params, store, model, table, found)
    leave_report(run, params, store, model, table, found)
    run.metrics(found["metrics"])
    store.remove()
    return Outcome.COMPLETED


def divide(run: RunContext, params: TabularParams, table: Table) -> Split:
    """Held-out rows and folds; says how many equal rows were kept on one side."""
    units = table.groups if table.groups is not None else content_groups(table.values)
    split = split_rows(
        table.y, table.is_classification, how=params.split, units=units, times=table.times, held_out=table.held_out,
        share=params.validation_split, num_folds=params.folds, seed=params.seed,
    )  # fmt: skip
    if params.split == "random" and split.num_moved:
        run.notice(
            f"{split.num_moved:,} rows equal another in all columns used; equal rows are kept on the same side of every split.",
            code="equal_rows",
        )
        if table.held_out.any():
            both = set(units[table.held_out].tolist()) & set(units[~table.held_out].tolist())
            if both:
                rows = table.numbers[table.held_out & np.isin(units, list(both))]
                run.notice(
                    f"{len(rows):,} rows that the data holds out equal rows to learn from: their scores say too much.",
                    level="warning", code="overlap", rows=[int(row) for row in rows[:10_000]],
                )  # fmt: skip
    return split


def combine(
    params: TabularParams, store: Store, encoding: Encoding, table: Table, split: Split, threads: int
) -> tuple[TabularModel, dict[str, Any]]:
    """`(the model that answers, what was chosen and the out-of-fold predictions)`."""
    schedule = store.state.schedule or []
    models = list(dict.fromkeys(str(model) for model, _ in schedule))
    used = sorted({int(fold) for _, fold in schedule})
    measured = [split.folds[fold] for fold in (used[:-1] if split.is_refitted else used)]
    rows = np.concatenate([fold.valid for fold in measured])
    parts_of = np.concatenate([np.full(len(fold.valid), place) for place, fold in enumerate(measured)])
    y = table.y[rows]
    predictions = {
        model: np.concatenate([store.predictions[f"{model}-{place}"] for place in range(len(measured))])
        for model in models
    }
    metric = params.metric if params.metric != "auto" else ("log_loss" if table.is_classification else "rmse")
    weights = ensemble.greedy_weights(predictions, y, metric)
    mixed = ensemble.mixed(predictions, weights)
    num_classes = len(table.classes)
    calibration, tried = ensemble.fit_calibration(mixed, y, parts_of) if num_classes else (None, {})
    used = used[-1:] if split.is_refitted else used
    parts = []
    for model, weight in weights.items():
        for fold in used:
            fit = store.done(model, fold)
            assert fit is not None
            parts.append(Part(model, fold, fit["file"], weight / len(used), fit["iterations"]))
    members = [load_member(store.folder, part.model, part.file, encoding, num_classes, threads) for part in parts]
    about = {
        "metric": metric, "weights": weights, "calibration": tried, "rows": rows, "parts": parts_of,
        "by_model": predictions, "mixed": ensemble.calibrated(mixed, calibration),
        "bound": None if num_classes else ensemble.conformal_bound(mixed, y),
    }  # fmt: skip
    return TabularModel(encoding, parts, members, num_classes, calibration), about


def check_metric(metric: str, is_classification: bool) -> None:
    """Raises `JobFailure` for a score of the other task."""
    numbers = ("rmse", "mae", "r2")
    if metric != "auto" and (metric in numbers) == is_classification:
        choice = (
            ", ".join(sorted({"accuracy", "roc_auc", "log_loss", "f1_macro"}))
            if is_classification
            else ", ".join(numbers)
        )
        raise JobFailure(
            FailureCode.INVALID_SETTINGS, f"metric {metric} is not one of this task.", hint=f"One of {choice}, or auto."
        )
