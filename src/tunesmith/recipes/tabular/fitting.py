"""One model on one fold: what it is given, its learning rate, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.core.clock import monotonic_s
from tunesmith.core.recipe import RunContext
from tunesmith.recipes.tabular import scores
from tunesmith.recipes.tabular.artifact import file_name, load_member
from tunesmith.recipes.tabular.boosting import Job, fit_catboost, fit_lightgbm
from tunesmith.recipes.tabular.curves import Curves, Halted
from tunesmith.recipes.tabular.encoding import Encoding
from tunesmith.recipes.tabular.linear import LinearModel
from tunesmith.recipes.tabular.spec import TabularParams
from tunesmith.recipes.tabular.splitting import Split
from tunesmith.recipes.tabular.store import Store
from tunesmith.recipes.tabular.table import Table

USUAL_RATE, MOST_RATE = 0.05, 0.3
PROBE_ITERATIONS = 6
NEEDED = {"lightgbm": 20.0, "catboost": 50.0}
"""Learning rate times iterations that a model usually wants: with fewer iterations, larger steps."""
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
        rate = self._rate(model, fold, budget_s)
        job = self._job(model, fold, rate)
        watch = self.curves.of_fit(model, rate, job.max_iterations, budget_s, stops=bool(len(valid)))
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
        if not len(
            valid
        ):  # nothing tells when to stop: as long as the fold before, which learned from nearly as many rows
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

    def _rate(self, model: str, fold: int, budget_s: float | None) -> float:
        """As set; else the usual one, or more where a few trial iterations say that time leaves few."""
        if model == "linear":
            return 1.0
        if self.params.learning_rate is not None:
            return self.params.learning_rate
        rates = self.store.state.rates
        if model not in rates:
            rates[model] = USUAL_RATE if budget_s is None else self._rate_in_time(model, fold, budget_s)
        return rates[model]

    def _rate_in_time(self, model: str, fold: int, budget_s: float) -> float:
        job = replace(self._job(model, fold, USUAL_RATE), max_iterations=PROBE_ITERATIONS)
        times: list[float] = []

        def watch(_iteration: int, _train: dict[str, float], _valid: dict[str, float]) -> bool:
            times.append(monotonic_s())
            return self.curves.look()

        path = self.store.folder / f"trial-{file_name(model, fold)}"
        BOOSTING[model](job, path, watch)
        path.unlink(missing_ok=True)
        self.curves.check()
        if len(times) < 2:
            return USUAL_RATE
        affordable = budget_s / max(1e-6, float(np.median(np.diff(times))))
        rate = min(MOST_RATE, max(USUAL_RATE, NEEDED[model] / affordable))
        if rate <= USUAL_RATE:
            return USUAL_RATE
        rate = float(f"{rate:.1g}")
        self.run.notice(
            f"{model} has time for about {int(affordable):,} iterations a fold, so its learning rate is {rate:g} "
            f"instead of {USUAL_RATE:g}.",
            hint="Raise time_limit_s for smaller steps.", code="learning_rate_raised",
        )  # fmt: skip
        return rate

    def _linear(self, fold: int, job: Job, path: Any, watch: Any) -> int:
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
