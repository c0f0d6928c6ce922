"""Gradient-boosted trees by LightGBM and CatBoost behind one form: fitted with a watch that sees each iteration, kept in the
libraries' own formats (text, and CatBoost's binary one), and read without running any code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tunesmith.core.errors import BadData

Watch = Callable[[int, dict[str, float], dict[str, float]], bool]
"""`watch(iteration from 1, values of the rows learned from, values of the fold's held-out rows)`: whether to go on."""


class Member(Protocol):
    """One fitted model."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(rows, classes) probabilities, or (rows,) numbers."""


@dataclass(frozen=True)
class Job:
    """What one fit has to do."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    valid_x: np.ndarray
    valid_y: np.ndarray
    """No rows: nothing tells when to stop."""
    categories: list[int]
    num_classes: int
    """0 for a number."""
    learning_rate: float
    max_iterations: int
    seed: int
    threads: int


def fit_lightgbm(job: Job, path: Path, watch: Watch) -> int:
    """Fit and write the text format; returns the iterations that are kept: the best ones on the held-out rows."""
    import lightgbm as lgb

    params = _lightgbm_params(job)
    data = lgb.Dataset(
        job.x, job.y, weight=job.weight, categorical_feature=job.categories or "auto", free_raw_data=False,
        feature_name=[f"f{place}" for place in range(job.x.shape[1])], params=params,
    )  # fmt: skip
    sets, names = [data], ["train"]
    if len(job.valid_y):
        sets.append(lgb.Dataset(job.valid_x, job.valid_y, reference=data, free_raw_data=False))
        names.append("valid")
    best = _Best()

    def after(env: Any) -> None:
        seen: dict[str, dict[str, float]] = {"train": {}, "valid": {}}
        for name, metric, value, *_ in env.evaluation_result_list or ():
            seen[name][metric] = value
        train, valid = (_lightgbm_values(seen[name]) for name in ("train", "valid"))
        best.see(env.iteration, valid)
        if not watch(env.iteration + 1, train, valid):
            raise lgb.callback.EarlyStopException(env.iteration, [])

    booster = lgb.train(params, data, job.max_iterations, valid_sets=sets, valid_names=names, callbacks=[after])
    kept = best.kept(booster.current_iteration())
    booster.save_model(path, num_iteration=kept)
    return kept


def _lightgbm_params(job: Job) -> dict[str, Any]:
    rows = len(job.y)
    kind = {0: ("regression", ["rmse"]), 2: ("binary", ["binary_logloss", "binary_error"])}
    objective, metric = kind.get(job.num_classes, ("multiclass", ["multi_logloss", "multi_error"]))
    return {
        "objective": objective, "metric": metric, "learning_rate": job.learning_rate, "num_threads": job.threads,
        "seed": job.seed, "deterministic": True, "force_row_wise": True, "verbosity": -1, "feature_pre_filter": False,
        "num_leaves": 31 if rows < 50_000 else 63, "min_data_in_leaf": max(2, min(20, rows // 50)),
        "feature_fraction": 0.8, "bagging_fraction": 0.9, "bagging_freq": 1, "cat_smooth": 10, "max_cat_to_onehot": 4,
        **({"num_class": job.num_classes} if job.num_classes > 2 else {}),
    }  # fmt: skip


def _lightgbm_values(seen: dict[str, float]) -> dict[str, float]:
    if "rmse" in seen:
        return {"rmse": seen["rmse"]}
    loss = seen.get("binary_logloss", seen.get("multi_logloss"))
    error = seen.get("binary_error", seen.get("multi_error"))
    return {} if loss is None or error is None else {"log_loss": loss, "accuracy": 1 - error}


class _Best:
    """The iteration with the best score on the held-out rows."""

    def __init__(self) -> None:
        self._loss, self._place = float("inf"), -1

    def see(self, place: int, valid: dict[str, float]) -> None:
        loss = valid.get("log_loss", valid.get("rmse"))
        if loss is not None and loss < self._loss:
            self._loss, self._place = loss, place

    def kept(self, done: int) -> int:
        return self._place + 1 if self._place >= 0 else done


def fit_catboost(job: Job, path: Path, watch: Watch) -> int:
    """Fit and write `.cbm`; returns the iterations that are kept. Its callback cannot raise, so a watch that wants an end says so
    by its answer."""
    from catboost import CatBoost, Pool

    pools = [Pool(_frame(job.x, job.categories), job.y, weight=job.weight, cat_features=job.categories or None)]
    if len(job.valid_y):
        pools.append(Pool(_frame(job.valid_x, job.categories), job.valid_y, cat_features=job.categories or None))
    best = _Best()

    class After:
        def after_iteration(self, info: Any) -> bool:
            seen = {name: _catboost_values(values) for name, values in info.metrics.items()}
            best.see(info.iteration - 1, seen.get("validation", {}))
            return watch(info.iteration, seen.get("learn", {}), seen.get("validation", {}))

    model = CatBoost(_catboost_params(job))
    model.fit(pools[0], eval_set=pools[1] if len(pools) > 1 else None, callbacks=[After()])
    kept = best.kept(model.tree_count_)
    if kept < model.tree_count_:
        model.shrink(ntree_end=kept)
    model.save_model(str(path), format="cbm")
    return kept


def _catboost_params(job: Job) -> dict[str, Any]:
    loss = {0: "RMSE", 2: "Logloss"}.get(job.num_classes, "MultiClass")
    return {
        "loss_function": loss, "iterations": job.max_iterations, "learning_rate": job.learning_rate, "random_seed": job.seed,
        "thread_count": job.threads, "allow_writing_files": False, "verbose": False, "use_best_model": False,
        **({"custom_metric": ["Accuracy"]} if job.num_classes else {}),
        **({"classes_count": job.num_classes} if job.num_classes > 2 else {}),
    }  # fmt: skip


def _catboost_values(seen: dict[str, Any]) -> dict[str, float]:
    """The last of each curve."""
    if "RMSE" in seen:
        return {"rmse": float(seen["RMSE"][-1])}
    loss = seen.get("Logloss", seen.get("MultiClass"))
    return (
        {"log_loss": float(loss[-1]), "accuracy": float(seen["Accuracy"][-1])} if loss and seen.get("Accuracy") else {}
    )


def _frame(x: np.ndarray, categories: list[int]) -> Any:
    """Numbers as they are, categories as whole numbers with -1 for a missing one."""
    if not categories:
        return x
    import pandas as pd

    is_category = set(categories)
    return pd.DataFrame({
        place: np.nan_to_num(x[:, place], nan=-1).astype(np.int64) if place in is_category else x[:, place]
        for place in range(x.shape[1])
    })  # fmt: skip


class LightGbmModel:
    """A model read from LightGBM's text format."""

    def __init__(self, path: Path, num_classes: int, num_features: int, threads: int) -> None:
        import lightgbm as lgb

        try:
            self._booster = lgb.Booster(model_file=path)
        except lgb.basic.LightGBMError:
            raise BadData(f"{path.name} is no LightGBM model.", hint="Download the model again.") from None
        if self._booster.num_feature() != num_features or self._booster.num_model_per_iteration() != max(
            1, num_classes * (num_classes > 2)
        ):
            raise BadData(f"{path.name} is of another table than model.json says.")
        self._num_classes, self._threads = num_classes, threads

    def predict(self, x: np.ndarray) -> np.ndarray:
        found = np.asarray(self._booster.predict(x, num_threads=self._threads))
        return np.stack([1 - found, found], axis=1) if self._num_classes == 2 else found


class CatBoostModel:
    """A model read from CatBoost's binary format."""

    def __init__(self, path: Path, categories: list[int], num_classes: int, num_features: int, threads: int) -> None:
        from catboost import CatBoost, CatBoostError

        try:
            self._model = CatBoost().load_model(str(path), format="cbm")
        except CatBoostError:
            raise BadData(f"{path.name} is no CatBoost model.", hint="Download the model again.") from None
        if len(self._model.feature_names_) != num_features:
            raise BadData(f"{path.name} is of another table than model.json says.")
        self._categories, self._num_classes, self._threads = categories, num_classes, threads

    def predict(self, x: np.ndarray) -> np.ndarray:
        kind = "Probability" if self._num_classes else "RawFormulaVal"
        data = _frame(x, self._categories)
        return np.asarray(self._model.predict(data, prediction_type=kind, thread_count=self._threads), dtype=np.float64)
