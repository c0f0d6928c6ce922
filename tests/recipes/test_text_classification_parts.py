"""Labels, splits, weights, calibration and the plan of text classification, each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tunesmith.core.errors import JobFailure
from tunesmith.core.job_spec import DatasetRef
from tunesmith.recipes.model_info import ModelInfo
from tunesmith.recipes.plans import Facts, Lengths, Machine, plan
from tunesmith.recipes.text_classification.calibration import (
    calibrate,
    calibration_error,
    choose_threshold,
    coverage,
    probabilities_of,
)
from tunesmith.recipes.text_classification.label_errors import contradictions, suspects
from tunesmith.recipes.text_classification.labels import Reading, label_set, name_of, names_in, reading_of
from tunesmith.recipes.text_classification.scores import Predictions, confusions, macro_f1, per_class
from tunesmith.recipes.text_classification.spec import RECIPE
from tunesmith.recipes.text_classification.split import split
from tunesmith.recipes.text_classification.task import balanced_weights, truth_of


def stored(folder: Path, rows: list[dict[str, Any]]) -> DatasetRef:
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    mapping = {"text": "text", "label": "label"}
    return DatasetRef(name="rows", path=str(path), digest="ab", shape="text_label", mapping=mapping, num_rows=len(rows))


def test_names_do_not_depend_on_how_they_are_stored() -> None:
    assert [name_of(value) for value in (3, 3.0, " 3 ", True, "Spam", None, 2.5)] == [
        "3",
        "3",
        "3",
        "true",
        "Spam",
        "",
        "2.5",
    ]
    names = [("b",), ("10",), ("9",), ("a",), ("b",)]
    assert label_set(names, "rows") == label_set(reversed(names), "rows") == ("9", "10", "a", "b")
    with pytest.raises(JobFailure, match=r"10,001 different labels.*free text"):
        label_set([(f"text {n}",) for n in range(10_001)], "rows")


@pytest.mark.parametrize(
    ("setting", "separator", "cells", "reading", "names"),
    [
        ("auto", None, ["a|b", "c"], Reading(False), ("a|b",)),
        ("auto", None, ['["a", "b"]', "[]"], Reading(True), ("a", "b")),
        ("auto", None, [["a", "b", "a"], []], Reading(True), ("a", "b")),
        ("auto", ";", ["a; b"], Reading(True, ";"), ("a", "b")),
        (True, None, ["a|b", "c"], Reading(True, "|", True), ("a", "b")),
        (False, None, [["a", "b"]], Reading(False), ('["a", "b"]',)),
    ],
)
def test_cells_with_several_labels(setting: Any, separator: Any, cells: list[Any], reading: Any, names: Any) -> None:
    found = reading_of(setting, separator, cells)
    assert found == reading and names_in(cells[0], found) == names
    assert names_in(None, found) is None


def test_every_label_that_can_be_is_on_both_sides(tmp_path: Path) -> None:
    """Equal texts stay together, and a label of one row is learned."""
    rows = [{"text": f"text {n // 2}", "label": f"label {n % 8}"} for n in range(64)]
    rows += [{"text": "once", "label": "alone"}, *[{"text": f"rare {n}", "label": "rare"} for n in range(2)]]
    data, labels = stored(tmp_path, rows), [(row["label"],) for row in rows]
    for seed in range(5):
        train, held_out, _ = split(data, labels, np.zeros(0, np.int64), 0.15, seed, "content")
        assert sorted([*train, *held_out]) == list(range(67))
        learned, measured = ({rows[n]["label"] for n in side} for side in (train, held_out))
        assert learned == {row["label"] for row in rows} and measured == learned - {"alone"}
        assert not {rows[n]["text"] for n in train} & {rows[n]["text"] for n in held_out}


def test_balanced_labels_weigh_alike() -> None:
    truth = truth_of([("a",)] * 6 + [("b",)] * 2, ["a", "b", "never"])
    weights = balanced_weights(truth, is_multi=False)
    assert weights.tolist() == pytest.approx([8 / 12, 8 / 4, 0.0])
    assert float(weights[torch.from_numpy(truth.argmax(1))].sum()) == pytest.approx(8)
    assert balanced_weights(truth, is_multi=True).tolist() == pytest.approx([2 / 6, 6 / 2, 8.0])


def drawn(count: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax, divided by `sharpness`, is exactly how often each label is right."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 4)) * 2
    labels = [rng.choice(4, p=row) for row in probabilities_of(logits, is_multi=False)]
    return logits * sharpness, np.eye(4, dtype=bool)[labels]


def test_temperature_makes_probabilities_true() -> None:
    logits, truth = drawn(3000, 3.0)
    found = calibrate(logits, truth, is_multi=False)
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.error_after < 0.04 < 0.15 < found.error_before
    right = calibrate(*drawn(10, 3.0), is_multi=False)
    assert right.temperature == 1.0 and right.error_before == right.error_after


def test_threshold_is_the_lowest_that_does() -> None:
    logits, truth = drawn(2000, 1.0)
    predictions = Predictions(probabilities_of(logits, is_multi=False), truth, False)
    assert calibration_error(predictions) < 0.04
    found = choose_threshold(predictions, "auto", 0.75)
    assert found.value is not None and coverage(predictions, found.value)["accuracy"] >= 0.75
    assert coverage(predictions, found.value - 0.03)["accuracy"] < 0.75 and "75.0%" in found.how
    assert choose_threshold(predictions, "auto", 0.3).value is None
    assert choose_threshold(predictions.of(np.arange(9)), "auto", 0.95).value is None
    assert (
        choose_threshold(predictions, 0.7, 0.95).value == 0.7 and choose_threshold(predictions, None, 0.9).value is None
    )


def test_scores_are_those_of_the_field() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    truth = np.eye(3, dtype=bool)[[0, 1, 1, 0]]
    predictions = Predictions(probabilities, truth, False)
    assert predictions.is_right.tolist() == [True, True, False, False]
    first, second, third = per_class(["a", "b", "c"], predictions, [5, 5, 5])
    assert (first["precision"], first["recall"], first["f1"]) == (0.5, 0.5, 0.5)
    assert (second["precision"], second["recall"]) == (1.0, 0.5) and third["recall"] is None
    assert macro_f1(predictions) == pytest.approx((0.5 + 2 / 3 + 0.0) / 3)
    found = confusions(["a", "b", "c"], predictions, np.array([11, 12, 13, 14]), ["w", "x", "y", "z"])
    assert [(one["label"], one["predicted"], one["examples"][0]["row"]) for one in found] == [
        ("a", "c", 14),
        ("b", "a", 13),
    ]


def test_several_labels_are_right_only_together() -> None:
    predictions = Predictions(
        np.array([[0.9, 0.8], [0.9, 0.2], [0.04, 0.1]]), np.array([[1, 1], [1, 1], [0, 0]], bool), True
    )
    assert predictions.is_right.tolist() == [True, False, True]
    found = confusions(["a", "b"], predictions, np.array([1, 2, 3]), ["x", "y", "z"])
    assert [(one["label"], one["predicted"]) for one in found] == [("b", "")]
    strange = Predictions(np.array([[0.95, 0.02]]), np.array([[0, 1]], bool), True)
    assert suspects(strange) == [(0, 1, -1), (0, -1, 0)]


def test_equal_texts_with_different_labels() -> None:
    labels = [("a",), ("b",), ("a",), ("a",), None]
    assert contradictions(np.array([7, 7, 8, 8, 7]), labels) == [[1, 2]]


def facts(data: DatasetRef | None = None, rows: int = 10_000) -> Facts:
    model = ModelInfo("bert", "BertModel", 22_700_000, 91_000_000, 6, 384, 12, 30522, 512, 40_000)
    return Facts(
        machine=Machine("cpu", 16 * 2**30), model=model, num_rows=rows, lengths=Lengths(14, 50, 90, 16.0), dataset=data
    )


def test_plan_says_why(tmp_path: Path) -> None:
    data = stored(tmp_path, [{"text": f"t {n}", "label": "rare" if n % 40 == 0 else "often"} for n in range(400)])
    made = plan(RECIPE, {}, facts(data))
    assert made.params["class_weights"] == "balanced" and "390" in made.reasons["class_weights"]
    assert made.params["max_length"] == 192 and made.params["learning_rate"] >= 1e-4
    assert made.estimate["total_steps"] > 0 and made.estimate["fits"]
    frozen = plan(RECIPE, {"weights": "frozen", "batch_size": 64}, facts())
    assert frozen.params["learning_rate"] > made.params["learning_rate"] and frozen.params["batch_size"] == 64
    assert "batch_size" not in frozen.reasons and frozen.estimate["trained_weights"] < made.estimate["trained_weights"]
    assert plan(RECIPE, {}, facts(), auto=False).params["max_length"] == 256
