"""One model on one fold: what it is given, its learning rate, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.core.clock import monotonic_s
from tunesmith.core.recipe import RunContext
from tunesmith.recipes.tabular import scores
from tunesmith.recipes.tabular.artifact import file_name, load_member
from tunesmith.recipes.tabular.boosted_trees import Job, fit_catboost, fit_lightgbm
from tunesmith.recipes.tabular.curves import Curves, Halted
from tunesmith.recipes.tabular.encoding import Encoding
from tunesmith.recipes.tabular.linear import MAX_ROWS, LinearModel
from tunesmith.recipes.tabular.schedule import USUAL_RATE, Schedule, unlimited, within
from tunesmith.recipes.tabular.spec import TabularParams
from tunesmith.recipes.tabular.split import Split
from tunesmith.recipes.tabular.store import Store
from tunesmith.recipes.tabular.table import Table

PROBE_ITERATIONS, SLOWER = 10, 1.3
"""Iterations of a trial, and how much more the later ones take."""
TRIAL_SHARE, LEAST_LEFT = 0.1, 0.5
"""Of the time limit: most for one model's trial, and what must be left for another trial."""
BOOSTING = {"lightgbm": fit_lightgbm, "catboost": fit_catboost}


class Fitter:
    """Fits the members of a job one after another, into the store."""

    def __init__(
        self, run: RunContext, params: TabularParams, store: Store, curves: Curves, encoding: Encoding, x: np.ndarray,
        table: Table, split: Split, threads: int,
    ) -> None:  # fmt: skip
        self.run, self.params, self.store, self.curves = run, params, store, curves
        self.encoding, self.x, self.table, self.split, self.threads = encoding, x, table, split, threads
        self.num_classes = len(table.classes)

    def fit(self, model: str, fold: int) -> None:
        """Fit, keep the file and its out-of-fold predictions, and note it in the state. Raises `Halted`."""
        self.curves.check()
        started_s = monotonic_s()
        budget_s = self.curves.budget_s()
        path = self.store.folder / file_name(model, fold)
        valid = self.split.folds[fold].valid
        rate = self.store.state.rates.get(model, USUAL_RATE)
        job = self._job(model, fold, rate)
        watch = self.curves.of_fit(
            model, None if model == "linear" else rate, job.max_iterations, budget_s, stops=bool(len(valid))
        )
        kept = self._linear(fold, job, path, watch) if model == "linear" else BOOSTING[model](job, path, watch)
        if self.curves.outcome is not None:
            raise Halted(self.curves.outcome)
        state = self.store.state
        told: dict[str, Any] = {
            "model": model, "fold": fold, "file": path.name, "iterations": kept, "run": watch.done,
            "seconds": monotonic_s() - started_s, "ended": watch.ended if model != "linear" else "solved", "loss": None,
        }  # fmt: skip
        if len(valid):
            member = load_member(self.store.folder, model, path.name, self.encoding, self.num_classes, self.threads)
            predicted = member.predict(job.valid_x)
            self.store.predictions[f"{model}-{fold}"] = predicted
            told["loss"] = scores.score("log_loss" if self.num_classes else "rmse", predicted, job.valid_y)
        state.fits.append(told)
        state.step += watch.done
        state.elapsed_s = self.curves.elapsed_s

    def _job(self, model: str, fold: int, rate: float) -> Job:
        train, valid = self.split.folds[fold]
        most = self.params.max_iterations
        if not len(valid):  # nothing tells when to stop: as long as the fold before, which had nearly as many rows
            before = self.store.done(model, fold - 1)
            most = before["iterations"] if before else most
        return Job(
            x=self.x[train], y=self.table.y[train], weight=self._weight(train), valid_x=self.x[valid], valid_y=self.table.y[valid],
            categories=self.encoding.categories, num_classes=self.num_classes, learning_rate=rate, max_iterations=most,
            seed=self.params.seed % 2**31, threads=self.threads,
        )  # fmt: skip

    def _weight(self, train: np.ndarray) -> np.ndarray | None:
        if self.params.class_weight == "none" or not self.num_classes:
            return None
        y = self.table.y[train]
        counts = np.bincount(y, minlength=self.num_classes)
        return np.asarray(len(y) / (self.num_classes * np.maximum(1, counts)))[y]

    def schedule(self, models: Sequence[str]) -> Schedule:
        """What there is time for; says so where that is not everything. Raises `Halted`."""
        params, num_folds = self.params, len(self.split.folds)
        if params.time_limit_s is None:
            return unlimited(models, num_folds, params.learning_rate)
        seconds: dict[str, float] = {}
        for model in (name for name in models if name in BOOSTING):
            began_s = monotonic_s()
            if not seconds or (self.curves.left_s() or 0.0) > LEAST_LEFT * params.time_limit_s:
                seconds[model] = self._trial(model)
            if monotonic_s() - began_s > TRIAL_SHARE * params.time_limit_s:
                break  # the next one, slower still, would take the time that this one needs
        models_all, models = models, [model for model in models if model in seconds or model not in BOOSTING]
        left_s = max(self.curves.left_s() or 0.0, TRIAL_SHARE * params.time_limit_s)
        found = within(
            seconds, models, num_folds, left_s, rate=params.learning_rate, keeps_folds=self.split.is_refitted
        )
        cut = []
        if found.num_folds < num_folds:
            cut.append(f"{found.num_folds} of {num_folds} folds are trained")
        if missing := [model for model in models_all if model not in found.models]:
            cut.append(f"{' and '.join(missing)} left out")
        if params.learning_rate is None:
            raised = {model: rate for model, rate in found.rates.items() if rate > USUAL_RATE}
            cut += [
                f"the learning rate of {model} is {rate:g} instead of {USUAL_RATE:g}" for model, rate in raised.items()
            ]
        if cut:
            affordable = ", ".join(f"{count:,} iterations of {model}" for model, count in found.affordable.items())
            self.run.notice(
                f"The time limit of {params.time_limit_s:g} s is short for these rows: {'; '.join(cut)}. It is enough for about "
                f"{affordable} a fold, a guess from {PROBE_ITERATIONS} of each.",
                hint="Raise time_limit_s for a better model.", level="warning", code="short_of_time",
            )  # fmt: skip
        return found

    def _trial(self, model: str) -> float:
        """Seconds that an iteration takes, from a few on the first fold."""
        job = replace(self._job(model, 0, USUAL_RATE), max_iterations=PROBE_ITERATIONS)
        times: list[float] = []
        ends_s = monotonic_s() + TRIAL_SHARE * (self.params.time_limit_s or 0.0)

        def watch(_iteration: int, _train: dict[str, float], _valid: dict[str, float]) -> bool:
            times.append(monotonic_s())
            return self.curves.look() and (len(times) < 2 or times[-1] < ends_s)

        path = self.store.folder / f"trial-{file_name(model, 0)}"
        BOOSTING[model](job, path, watch)
        path.unlink(missing_ok=True)
        self.curves.check()
        return SLOWER * float(np.mean(np.diff(times))) if len(times) > 1 else 1e-3

    def _linear(self, fold: int, job: Job, path: Any, watch: Any) -> int:
        if len(job.x) > MAX_ROWS and fold == 0:
            self.run.notice(
                f"The linear model learns from a sample of {MAX_ROWS:,} rows of each fold.", code="linear_sample"
            )
        sizes = [feature.num_categories for feature in self.encoding.features]
        model = LinearModel.fit(job.x, job.y, sizes, self.num_classes, job.weight, self.params.seed)
        model.save(path)
        watch(1, self._values(model, job.x, job.y), self._values(model, job.valid_x, job.valid_y))
        return 1

    def _values(self, model: LinearModel, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        if not len(y):
            return {}
        predicted = model.predict(x)
        if not self.num_classes:
            return {"rmse": scores.score("rmse", predicted, y)}
        return {"log_loss": scores.log_loss(predicted, y), "accuracy": scores.accuracy(predicted, y)}
