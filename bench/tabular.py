"""Tunesmith's `tabular` next to AutoGluon's `medium` on five real tables, alternating, with the same time limit.

    python bench/tabular.py [--tables diamonds,movies] [--time-limit-s 30] [--repeats 1] [--threads 2] [--preset medium_quality]

A quarter of the rows is put aside (by --seed) and seen by neither. Both get the other rows as CSV, nothing about their columns, and
every row to learn from (Tunesmith: validation_split 0; AutoGluon draws its own). Scores are computed here, by the same code,
from the predictions of both. AutoGluon has the models that its extras `lightgbm` and `catboost` bring, and its forests and
neighbors; no neural networks, which need torch. `--stand-in` compares with scikit-learn's HistGradientBoosting at its
defaults instead, which is no AutoGluon and is called by its own name.

Prints scores, seconds, and the ratio of the errors: above 1 Tunesmith is worse. Errors: RMSE, log loss, 1 - ROC AUC.
The `score ratio` is of the scores themselves (for ROC AUC; else that of the errors), which is what "within 1 %" means.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from peers.environments import environment_python
from peers.processes import plain_environment, run_measured
from peers.tables import TABLES, BenchTable, fetch, read
from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import Launch
from tunesmith.recipes.tabular import scores
from tunesmith.recipes.tabular.predictor import load

METRICS = {"rmse": "root_mean_squared_error", "log_loss": "log_loss", "roc_auc": "roc_auc"}
"""Tunesmith's name → AutoGluon's."""
PROBLEMS = {"rmse": "regression", "log_loss": "multiclass", "roc_auc": "binary"}
"""Both are told what kind of target it is, as numbers of few values can be either."""
PEER = Path(__file__).parent / "peers" / "autogluon_tabular.py"


class Found(NamedTuple):
    """One contender on one table."""

    score: float
    seconds: float
    about: str


class Arena:
    """One table, split, with folders for the contenders."""

    def __init__(self, table: BenchTable, frame: Any, place: Path, options: argparse.Namespace) -> None:
        self.table, self.place, self.options = table, place, options
        order = np.random.default_rng(options.seed).permutation(len(frame))
        cut = len(frame) * 3 // 4
        self.train, self.test = frame.iloc[np.sort(order[:cut])], frame.iloc[np.sort(order[cut:])]
        place.mkdir(parents=True)
        self.train.to_csv(place / "train.csv", index=False)
        self.test.drop(columns=[table.target]).to_csv(place / "test.csv", index=False)
        self.environment = plain_environment(place) | {"OMP_NUM_THREADS": str(options.threads)}

    def tunesmith(self, run: int) -> Found:
        """A job by the worker itself, on the rows as the server stores a CSV file: every cell a text."""
        folder = self.place / f"tunesmith-{run}"
        folder.mkdir()
        frame = pd.read_csv(self.place / "train.csv", dtype=str, keep_default_na=False, na_values=[""])
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "data.parquet")
        data = {
            "name": self.table.name,
            "path": str(folder / "data.parquet"),
            "digest": "0" * 64,
            "shape": "tabular",
            "num_rows": len(frame),
        }
        params = {
            "target": self.table.target, "metric": self.table.metric, "time_limit_s": self.options.time_limit_s,
            "validation_split": 0.0, "importance": False, "task": "regression" if self.table.metric == "rmse" else "classification",
        }  # fmt: skip
        job = JobDir(folder)
        spec = {
            "job_id": 1, "name": self.table.name, "recipe": "tabular", "params": params, "dataset": data, "cache_dir": str(folder / "cache"),
            "offline": True, "resources": {"cpu_threads": self.options.threads},
        }  # fmt: skip
        write_atomic(job.spec, spec)
        write_atomic(job.launch, Launch(attempt=1))
        measured = run_measured(
            [sys.executable, "-m", "tunesmith.worker", str(folder), "--attempt", "1"], folder, self.environment
        )
        record = job.read_exit()
        if record is None or record.outcome != "completed":
            sys.exit(
                f"Tunesmith failed on {self.table.name}: {record.failure if record else (folder / 'output.log').read_text()[-2000:]}"
            )
        model = load(job.artifacts / "tabular_model", self.options.threads)
        rows = pd.read_csv(self.place / "test.csv", dtype=str, keep_default_na=False, na_values=[""])
        values = [
            {name: value if isinstance(value, str) else None for name, value in row.items()}
            for row in rows.to_dict("records")
        ]
        answers = [
            answer
            for at in range(0, len(values), 5000)
            for answer in model.predict(values[at : at + 5000], {"unknown_columns": "ignore"})
        ]
        weights = json.loads((job.artifacts / "tabular_model" / "model.json").read_text())["weights"]
        about = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
        if not model.classes:
            return Found(self._score(np.asarray([answer["value"] for answer in answers]), []), measured.wall_s, about)
        labels = [str(label) for label in model.classes]
        p = np.asarray(
            [[next(a["score"] for a in answer if str(a["label"]) == label) for label in labels] for answer in answers]
        )
        return Found(self._score(p, labels), measured.wall_s, about)

    def autogluon(self, run: int, python: Path) -> Found:
        folder = self.place / f"autogluon-{run}"
        folder.mkdir()
        request = {
            "train": str(self.place / "train.csv"), "test": str(self.place / "test.csv"), "target": self.table.target,
            "metric": METRICS[self.table.metric], "problem": PROBLEMS[self.table.metric], "time_limit_s": self.options.time_limit_s, "preset": self.options.preset,
            "threads": self.options.threads, "out": str(folder),
        }  # fmt: skip
        (folder / "request.json").write_text(json.dumps(request))
        measured = run_measured([str(python), str(PEER), str(folder / "request.json")], folder, self.environment)
        told = json.loads((folder / "told.json").read_text())
        found = pd.read_csv(folder / "predictions.csv")
        about = f"{told['version']}, best of {len(told['models'])} models {told['models'][0]['model']}"
        if "value" in found.columns and self.table.metric == "rmse":
            return Found(self._score(found["value"].to_numpy(), []), measured.wall_s, about)
        return Found(self._score(found.to_numpy(), list(map(str, found.columns))), measured.wall_s, about)

    def stand_in(self, _run: int) -> Found:
        """scikit-learn's HistGradientBoosting at its defaults."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        began = time.perf_counter()
        x, test = self.train.drop(columns=[self.table.target]), self.test.drop(columns=[self.table.target])
        words = [name for name in x if x[name].dtype == object or str(x[name].dtype).startswith("str")]
        for name in words:
            kept = x[name].value_counts().index[:250]
            x = x.assign(**{name: pd.Categorical(x[name], categories=kept)})
            test = test.assign(**{name: pd.Categorical(test[name], categories=kept)})
        kind = HistGradientBoostingRegressor if self.table.metric == "rmse" else HistGradientBoostingClassifier
        model = kind(categorical_features="from_dtype", random_state=0).fit(x, self.train[self.table.target])
        seconds = time.perf_counter() - began
        if self.table.metric == "rmse":
            return Found(self._score(model.predict(test), []), seconds, "defaults")
        return Found(self._score(model.predict_proba(test), list(map(str, model.classes_))), seconds, "defaults")

    def _score(self, predicted: np.ndarray, labels: list[str]) -> float:
        truth = self.test[self.table.target]
        if not labels:
            return scores.score("rmse", predicted, truth.to_numpy(dtype=float))
        y = np.asarray([labels.index(str(value)) for value in truth])
        if self.table.metric == "roc_auc":
            return scores.roc_auc(predicted, y) or 0.0
        return scores.log_loss(predicted, y)


def ratios(metric: str, ours: float, theirs: float) -> tuple[float, float]:
    """`(of the errors, of the scores)`, both above 1 where ours is worse."""
    if metric == "roc_auc":
        return (1 - ours) / (1 - theirs), theirs / ours
    return ours / theirs, ours / theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "tunesmith-bench")
    parser.add_argument(
        "--data", type=Path, default=None, help="folder of the downloaded packages; below --envs when absent"
    )
    parser.add_argument("--tables", type=lambda text: text.split(","), default=[table.name for table in TABLES])
    parser.add_argument("--time-limit-s", type=float, default=30)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="medium_quality")
    parser.add_argument(
        "--stand-in", action="store_true", help="compare with HistGradientBoosting instead of AutoGluon"
    )
    options = parser.parse_args()
    data = options.data or options.envs / "tables"
    fetch(data)
    python = None if options.stand_in else environment_python("autogluon", options.envs)
    name = "HistGradientBoosting" if python is None else f"AutoGluon {options.preset}"
    print(f"{options.time_limit_s:g} s a table, {options.threads} threads, next to {name}", flush=True)
    all_ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for table in (each for each in TABLES if each.name in options.tables):
            arena = Arena(table, read(table, data), Path(folder) / table.name, options)
            ours, theirs = [], []
            for run in range(options.repeats):
                ours.append(arena.tunesmith(run))
                theirs.append(arena.stand_in(run) if python is None else arena.autogluon(run, python))
            mine, peer = (statistics.median(found.score for found in each) for each in (ours, theirs))
            errors, of_scores = ratios(table.metric, mine, peer)
            all_ratios.append(of_scores)
            size = f"{len(arena.train):,} rows, {arena.train.shape[1] - 1} columns"
            print(
                f"{table.name} ({size}, {table.metric})\n  Tunesmith {mine:.5f} in {ours[-1].seconds:.0f} s: {ours[-1].about}"
            )
            print(f"  {name} {peer:.5f} in {theirs[-1].seconds:.0f} s: {theirs[-1].about}")
            print(f"  error ratio {errors:.4f}, score ratio {of_scores:.4f}", flush=True)
    if all_ratios:
        print(f"Score ratios: worst {max(all_ratios):.4f}, median {statistics.median(all_ratios):.4f}")


if __name__ == "__main__":
    main()
