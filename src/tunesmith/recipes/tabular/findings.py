"""What is found out about data and model: suspicious columns before, scores and their rows after. Each says what it was measured on."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tunesmith.core.recipe import RunContext
from tunesmith.recipes.tabular import scores
from tunesmith.recipes.tabular.artifact import TabularModel
from tunesmith.recipes.tabular.curves import Curves
from tunesmith.recipes.tabular.importance import permutation_importance
from tunesmith.recipes.tabular.leakage import find_leaks, future_dates, future_sentence
from tunesmith.recipes.tabular.spec import TabularParams
from tunesmith.recipes.tabular.split import Split
from tunesmith.recipes.tabular.table import Table

IMPORTANCE_SHARE = 0.1
"""Of the time limit."""


def tell_suspicious(run: RunContext, table: Table, learned: np.ndarray) -> None:
    """Warn of columns that know too much, and of dates that have not come yet. Nothing is left out for it."""
    values = {name: array[learned] for name, array in table.values.items()}
    leaks = find_leaks(table.columns, values, table.y[learned], len(table.classes))
    if leaks:
        run.notice(
            f"Suspiciously good: {'; '.join(leak.sentence for leak in leaks)}. It may be the target itself, or known only after it.",
            hint="If it is not known when a prediction is made, name it in exclude_columns.", level="warning", code="leakage",
        )  # fmt: skip
    counts = future_dates(table.columns, table.values, time.time())
    if counts:
        run.notice(
            future_sentence(counts),
            hint="Check them: a date in the future may tell what came later.",
            level="warning",
            code="future_dates",
        )


def measure(
    run: RunContext, params: TabularParams, curves: Curves, model: TabularModel, about: dict[str, Any], x: np.ndarray,
    table: Table, split: Split,
) -> dict[str, Any]:  # fmt: skip
    """Everything for report, card and metrics. `eval_…` is of held-out rows, `cv_…` of out-of-fold predictions."""
    learned = ~split.held_out
    spread = curves.spread
    rows, y_cv = about["rows"], table.y[about["rows"]]

    def all_scores(predicted: np.ndarray, y: np.ndarray) -> dict[str, float]:
        return scores.of_classes(predicted, y) if table.classes else scores.of_numbers(predicted, y, spread)

    cross = all_scores(about["mixed"], y_cv)
    found: dict[str, Any] = {
        "metric": about["metric"], "weights": about["weights"], "bound": about["bound"], "calibration": about["calibration"],
        "cv": {"rows": len(rows), "scores": cross},
        "by_model": {name: all_scores(predicted, y_cv) for name, predicted in about["by_model"].items()},
        "metrics": {f"cv_{name}": value for name, value in cross.items()},
    }  # fmt: skip
    if not table.classes:
        found["cv"]["inside_bounds"] = float(np.mean(np.abs(about["mixed"] - y_cv) <= about["bound"]))
    held = np.flatnonzero(split.held_out)
    if len(held):
        predicted, y = model.predict_matrix(x[held]), table.y[held]
        numbers = table.numbers[held]
        whose = f"{len(held):,} held-out rows, which nothing was learned from or chosen by"
    else:
        predicted, y, numbers = about["mixed"], y_cv, table.numbers[rows]
        whose = f"{len(rows):,} out-of-fold predictions; no rows were held out, so these scores are slightly too good"
        run.notice(
            "No rows were held out: the final scores are of out-of-fold predictions, by which iterations and weights were chosen.",
            hint="Set validation_split above 0 for scores on untouched rows.", code="no_held_out_rows",
        )  # fmt: skip
    final = all_scores(predicted, y)
    if not table.classes:
        final["interval_coverage"] = float(np.mean(np.abs(predicted - y) <= about["bound"]))
    if len(held):
        found["metrics"] |= {f"eval_{name}": value for name, value in final.items()}
    low, high = scores.interval(about["metric"], predicted, y, params.seed)
    found["final"] = {"measured_on": whose, "rows": len(y), "scores": final, "interval": [low, high]}
    if table.classes:
        found["final"] |= {
            "per_class": scores.per_class(predicted, y, table.classes),
            "confusion": scores.confusion(predicted, y).tolist(),
            "mistakes": scores.mistakes(predicted, y, table.classes, numbers),
            "reliability": scores.reliability(predicted, y),
        }
    else:
        found["final"]["worst"] = _worst(predicted, y, numbers)
    found["importance"] = _importance(
        run, params, model, x, table, held if len(held) else rows, is_held_out=bool(len(held))
    )
    found["metrics"] |= {
        "rows_learned": float(learned.sum()),
        "rows_held_out": float(len(held)),
        "training_s": curves.elapsed_s,
    }
    return found


def _worst(predicted: np.ndarray, y: np.ndarray, numbers: np.ndarray) -> list[dict[str, float]]:
    order = np.argsort(-np.abs(predicted - y), kind="stable")[:10]
    return [{"row": int(numbers[i]), "expected": float(y[i]), "predicted": float(predicted[i])} for i in order]


def _importance(
    run: RunContext,
    params: TabularParams,
    model: TabularModel,
    x: np.ndarray,
    table: Table,
    rows: np.ndarray,
    *,
    is_held_out: bool,
) -> dict[str, Any] | None:
    if not params.importance:
        return None
    most_s = None if params.time_limit_s is None else params.time_limit_s * IMPORTANCE_SHARE
    found, late = permutation_importance(
        model.predict_matrix, model.encoding, x[rows], table.y[rows], seed=params.seed, most_s=most_s,
        on_column=lambda done, total: run.progress(done, total, "columns"),
    )  # fmt: skip
    if late:
        run.notice(
            f"Not measured what these columns matter, for want of time: {', '.join(late[:20])}{' …' if len(late) > 20 else ''}.",
            hint="Raise time_limit_s.", code="importance_cut",
        )  # fmt: skip
    what = "mean rise of log loss, nats" if table.classes else "mean rise of the squared error"
    whose = (
        "held-out rows"
        if is_held_out
        else "rows that were learned from, so it shows what the model uses, not what helps on new rows"
    )
    return {"columns": found, "not_measured": late, "unit": what, "measured_on": f"a sample of the {whose}"}
