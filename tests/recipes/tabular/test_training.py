from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recipes.tabular.tables import (
    Tables,
    again,
    as_text,
    customers,
    events,
    model_folder,
    notices,
    rows_of,
    train,
)
from tunesmith.core.errors import JobFailure
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import Control
from tunesmith.recipes.tabular import boosted_trees, ensemble, leakage, scores
from tunesmith.recipes.tabular.columns import Column
from tunesmith.recipes.tabular.predictor import load
from tunesmith.recipes.tabular.split import content_groups, split_rows
from tunesmith.worker.run import Run


def answers(run: Run) -> list[Any]:
    return load(model_folder(run)).predict(rows_of(as_text(customers(30, seed=9)), "left", "spent"))


def numbers_of(answer: Any) -> dict[str, float]:
    """By label, or by name."""
    return answer if isinstance(answer, dict) else {each["label"]: each["score"] for each in answer}


def test_a_job_leaves_model_report_and_curves(classifier: Run) -> None:
    metrics = classifier.final_metrics
    assert metrics["eval_accuracy"] > 0.7 and metrics["cv_log_loss"] < 0.6 and metrics["rows_held_out"] == 30
    steps = events(classifier, "step")
    assert all(a.step < b.step for a, b in zip(steps, steps[1:], strict=False)) and len(steps) < 400
    assert steps[-1].step == steps[-1].total_steps and {"loss", "log_loss", "accuracy"} <= set(steps[-1].values)
    evaluations = events(classifier, "evaluation")
    best = min(evaluations, key=lambda e: e.loss)
    assert [e for e in evaluations if e.is_best][-1].loss == best.loss
    report = json.loads((classifier.dir.artifacts / "report" / "report.json").read_text())
    assert (
        report["final"]["measured_on"].startswith("30 held-out rows")
        and sum(map(sum, report["final"]["confusion"])) == 30
    )
    wrong = sum(m["rows"] for m in report["final"]["mistakes"])
    assert wrong == round(30 * (1 - metrics["eval_accuracy"]))
    top = report["importance"]["columns"]
    assert (
        {c["column"] for c in top} == {"age", "plan", "since", "message"}
        and top[0]["column"] == "age"
        and top[0]["low"] > 0
    )
    page = (classifier.dir.artifacts / "report" / "report.html").read_text()
    assert "<svg" in page and "http" not in page.replace("http-equiv", "") and "30 held-out rows" in page


def test_the_artifact_answers_as_training_did(classifier: Run, regressor: Run) -> None:
    for run, metric in ((classifier, "eval_log_loss"), (regressor, "eval_rmse")):
        model = load(model_folder(run), threads=2)
        names = {path.suffix for path in model_folder(run).iterdir()}
        assert names <= {".json", ".safetensors", ".txt", ".cbm", ".md", ".yaml"}
        table = as_text(customers(200)) if run is classifier else customers(300)
        from tunesmith.recipes.tabular.spec import TabularParams
        from tunesmith.recipes.tabular.train import divide, read_table

        params = TabularParams.model_validate(run.spec.params)
        read = read_table(run, params)
        held = divide(run, params, read).held_out
        values = {name: array[held] for name, array in read.values.items()}
        predicted = model.probabilities(values)
        found = scores.score("log_loss" if run is classifier else "rmse", predicted, read.y[held])
        assert found == pytest.approx(run.final_metrics[metric], rel=1e-12)
        rows = rows_of(table, "left", "spent")[:5]
        for row, together in zip(rows, model.predict(rows), strict=True):
            assert numbers_of(model.predict([row])[0]) == pytest.approx(numbers_of(together), rel=1e-12)


def test_bounds_hold_about_nine_tenths(tables: Tables) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=600)
    run = tables.run({"x": x.tolist(), "y": (3 * x + rng.normal(size=600)).tolist()}, target="y", validation_split=0.4,
                     models=["linear", "lightgbm"], max_iterations=60, importance=False)  # fmt: skip
    train(run)
    assert 0.84 <= run.final_metrics["eval_interval_coverage"] <= 0.96
    answer = load(model_folder(run)).predict([{"x": 1.0}])[0]
    assert answer["low"] < 3 < answer["high"] and 2.8 < answer["high"] - answer["low"] < 4.5


class Interrupted(Exception):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, run: Run, at: str, fold: int, act: Any) -> None:
    """Have `act` done in the middle of a model's fit on one fold."""
    from tunesmith.recipes.tabular import fitter

    plain = fitter.BOOSTING[at]
    calls = []

    def fit(job: boosted_trees.Job, path: Path, watch: boosted_trees.Watch) -> int:
        calls.append(path.name)
        if len(calls) != fold + 1:
            return plain(job, path, watch)

        def seen(iteration: int, train_values: dict, valid_values: dict) -> bool:
            if iteration == 4:
                act()
            return watch(iteration, train_values, valid_values)

        return plain(job, path, seen)

    monkeypatch.setitem(fitter.BOOSTING, at, fit)


@pytest.mark.parametrize("at", ["lightgbm", "catboost"])
def test_a_paused_run_goes_on_to_the_same_model(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, classifier: Run, at: str
) -> None:
    from tunesmith.recipes.tabular import curves

    monkeypatch.setattr(curves, "LOOK_EVERY_S", 0.0)
    run = tables.run(as_text(customers(200)), target="left", exclude_columns=["spent"])
    interrupt(monkeypatch, run, at, 1, lambda: write_atomic(run.dir.control, Control(pause=True)))
    assert train(run) == "paused"
    monkeypatch.undo()
    state = json.loads((run.latest_checkpoint() / "state.json").read_text())
    assert [(f["model"], f["fold"]) for f in state["fits"]][-1] == (at, 0)
    write_atomic(run.dir.control, Control())
    resumed = again(run)
    assert train(resumed) == "completed"
    assert answers(resumed) == answers(classifier)
    same = {name: value for name, value in classifier.final_metrics.items() if name != "training_s"}
    assert {name: value for name, value in resumed.final_metrics.items() if name != "training_s"} == same
    assert not (run.dir.path / "tabular").exists()


def test_a_kill_loses_one_fold_at_most(tables: Tables, monkeypatch: pytest.MonkeyPatch, classifier: Run) -> None:
    run = tables.run(as_text(customers(200)), target="left", exclude_columns=["spent"])

    def die() -> None:
        raise Interrupted

    interrupt(monkeypatch, run, "lightgbm", 1, die)
    with pytest.raises(Interrupted):
        train(run)
    monkeypatch.undo()
    (run.dir.path / "tabular" / "lightgbm-1.txt").write_text("half")
    resumed = again(run)
    assert train(resumed) == "completed"
    fitted = [e.detail for e in events(resumed, "phase") if e.attempt == 2]
    assert fitted and answers(resumed) == answers(classifier)


def test_a_stopped_run_is_cancelled(tables: Tables) -> None:
    run = tables.run(customers(60), target="left")
    write_atomic(run.dir.control, Control(stop=True))
    assert train(run) == "cancelled" and not (run.dir.artifacts / "tabular_model").exists()


def test_a_split_by_time_never_learns_from_the_future() -> None:
    times = np.random.default_rng(0).integers(0, 40, 200).astype(float)
    y = np.arange(200) % 2
    split = split_rows(y, True, how="time", units=np.arange(200), times=times, held_out=np.zeros(200, dtype=bool), share=0.2,
                       num_folds=3, seed=1)  # fmt: skip
    assert split.is_refitted and 30 <= split.held_out.sum() <= 50
    assert times[~split.held_out].max() < times[split.held_out].min()
    for train_rows, valid in split.folds[:-1]:
        assert len(train_rows) and times[train_rows].max() < times[valid].min()
    assert sorted(split.folds[-1].train) == sorted(np.flatnonzero(~split.held_out))


def test_a_job_split_by_time_uses_the_last_fit(tables: Tables) -> None:
    run = tables.run(as_text(customers(160)), target="left", split="time", time_column="since", importance=False)
    assert train(run) == "completed"
    told = json.loads((model_folder(run) / "model.json").read_text())
    assert {member["fold"] for member in told["members"]} == {2} and "time" not in told["left_out"]


def test_groups_and_equal_rows_stay_together(tables: Tables) -> None:
    rng = np.random.default_rng(0)
    groups, y = rng.integers(0, 30, 300), rng.integers(0, 2, 300)
    for units in (
        groups,
        content_groups({"a": (groups // 2).astype(float), "b": np.asarray([str(g % 2) for g in groups], dtype=object)}),
    ):
        split = split_rows(y, True, how="group", units=units, times=None, held_out=np.zeros(300, dtype=bool), share=0.2,
                           num_folds=4, seed=1)  # fmt: skip
        sides = [units[split.held_out], *(units[fold.valid] for fold in split.folds)]
        assert sum(len(set(side)) for side in sides) == len(set(units)) == 30
        assert 40 <= split.held_out.sum() <= 80 and sum(len(f.valid) for f in split.folds) == 300 - split.held_out.sum()
    run = tables.run(
        customers(60) | {"who": ["a", "b", "c"] * 20}, target="left", split="group", group_column="who", folds=5
    )
    with pytest.raises(JobFailure, match="groups are too few for 5 folds"):
        train(run)


def test_leaks_are_named_and_kept(tables: Tables) -> None:
    table = customers(100)
    leak = {
        "code": [f"k{value}" for value in table["left"]],
        "paid_at": ["2031-01-01" if v == "yes" else "2020-01-01" for v in table["left"]],
    }
    run = tables.run(table | leak, target="left", models=["linear"], importance=False)
    train(run)
    warned = [e for e in events(run, "notice") if e.code == "leakage"]
    assert (
        len(warned) == 1 and warned[0].level == "warning" and "code tells the target in every row" in warned[0].message
    )
    assert "code" in {c["name"] for c in load(model_folder(run)).columns} and "Dates after" in notices(run)
    x = np.random.default_rng(0).normal(size=300)
    values = {"near": x * 5 + 1, "noise": np.random.default_rng(1).normal(size=300)}
    columns = tuple(Column(name, "number") for name in values)
    assert [leak.column for leak in leakage.find_leaks(columns, values, x + 0.001 * values["noise"], 0)] == ["near"]
    assert [leak.column for leak in leakage.find_leaks(columns, values, (x > 0).astype(int), 2)] == ["near"]


def test_calibration_and_weights_help_where_they_can() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=2000)
    y = (rng.random(2000) < 1 / (1 + np.exp(-logit))).astype(int)
    bold = 1 / (1 + np.exp(-3 * logit))
    p = np.stack([1 - bold, bold], axis=1)
    parts = np.arange(2000) % 4
    found, tried = ensemble.fit_calibration(p, y, parts)
    assert found is not None and min(tried.values()) < 0.9 * tried["none"]
    assert scores.calibration_error(ensemble.calibrated(p, found), y) < 0.5 * scores.calibration_error(p, y)
    right = ensemble.tempered(p, 3.0)
    assert ensemble.fit_calibration(right, y, parts)[0] is None
    noise = np.full_like(p, 0.5)
    assert ensemble.greedy_weights({"noise": noise, "good": right}, y, "log_loss")["good"] > 0.8
    assert scores.log_loss(right, y) <= scores.log_loss(p, y)


def test_a_metric_of_the_other_task_is_refused(tables: Tables) -> None:
    with pytest.raises(JobFailure, match="metric rmse is not one of this task"):
        train(tables.run(customers(60), target="left", metric="rmse"))


def test_what_the_data_holds_out_is_held_out(tables: Tables) -> None:
    split = ["train"] * 100 + ["test"] * 20
    run = tables.run(customers(120) | {"split": split}, target="left", data={"split_column": "split", "num_held_out": 20},
                     models=["linear"], importance=False)  # fmt: skip
    assert train(run) == "completed" and run.final_metrics["rows_held_out"] == 20
    assert "split" not in {c["name"] for c in load(model_folder(run)).columns}


def test_the_schedule_fits_into_the_time() -> None:
    from tunesmith.recipes.tabular.schedule import within

    models, seconds = ["linear", "lightgbm", "catboost"], {"lightgbm": 0.01, "catboost": 0.02}
    plenty = within(seconds, models, 5, 1e6, rate=None, keeps_folds=False)
    assert (plenty.models, plenty.num_folds, plenty.rates["catboost"]) == (models, 5, 0.05)
    less = within(seconds, models, 5, 80, rate=None, keeps_folds=False)
    assert less.models == models and less.num_folds == 5 and less.rates["lightgbm"] < less.rates["catboost"] <= 0.12
    assert sum(less.weights[model] for model in models) * 5 <= 80 * 1.001
    short = within(seconds, models, 5, 30, rate=None, keeps_folds=False)
    assert short.models == models and short.num_folds == 2 and short.affordable["lightgbm"] >= 160
    shorter = within(seconds, models, 5, 5, rate=None, keeps_folds=False)
    assert shorter.models == ["linear", "lightgbm"] and shorter.num_folds == 2
    assert within(seconds, models, 5, 5, rate=None, keeps_folds=True).num_folds == 5
