"""Text classifiers: what they learn, what they say of it, and what others make of the folder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recipes.ground import Ground, events, losses, train
from tests.recipes.text_classifiers import ROWS, TOPICS, make_causal, make_encoder, rows_of
from tunesmith.core.completion import Finished, RegisterModel
from tunesmith.core.errors import JobFailure
from tunesmith.core.job_spec import Control
from tunesmith.recipes.blocks.text_classifier import load
from tunesmith.recipes.classifiers import TEXT_CLASSIFIER
from tunesmith.recipes.text_classification.spec import on_completed
from tunesmith.worker.run import Run

LEARNING = {"learning_rate": 3e-3, "batch_size": 16, "bf16": False, "head_epochs": 0, "validation_split": 0.2}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def ground(tmp_path: Path, encoder: Path) -> Ground:
    return Ground(tmp_path, encoder)


def start(ground: Ground, rows: list[dict[str, Any]], **params: Any) -> Run:
    mapping = {"text": "text", "label": "label"}
    return ground.run(rows, recipe="text-classification", shape="text_label", mapping=mapping, **params)


def report_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.dir.artifacts / "report" / "report.json").read_text())
    return found


def model_of(run: Run) -> Path:
    return run.dir.artifacts / "classifier_model"


def notices(run: Run) -> dict[str, Any]:
    return {event.code: event for event in events(run, "notice")}


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Run:
    """A classifier that has learned its rows, of which a few are labelled wrong."""
    rows, rng = rows_of(240), random.Random(3)
    wrong = sorted(rng.sample(range(240), 12))
    for number in wrong:
        others = [label for label in TOPICS if label != rows[number]["label"]]
        rows[number] = {**rows[number], "label": rng.choice(others)}
    ground = Ground(tmp_path_factory.mktemp("learned"), encoder)
    run = start(ground, rows, max_steps=110, unsure_below=0.5, **LEARNING)
    assert train(run) == "completed"
    run.wrong = wrong  # type: ignore[attr-defined]
    return run


def test_learns_what_can_be_told_apart(ground: Ground) -> None:
    run = start(ground, rows_of(150), max_steps=120, eval_steps=40, save_steps=120, **LEARNING)
    assert train(run) == "completed"
    metrics = run.final_metrics
    assert metrics["eval_accuracy"] == metrics["eval_macro_f1"] == 1.0 and metrics["train_steps"] == 120
    assert {"loss", "accuracy", "macro_f1"} == set(events(run, "evaluation")[-1].values)
    assert not report_of(run)["confusions"] and report_of(run)["scores"]["accuracy"]["low"] < 1.0


def test_wrong_labels_are_found(learned: Run) -> None:
    """At least half of them, those that were learned too, and nearly nothing else."""
    wrong = {number + 1 for number in learned.wrong}  # type: ignore[attr-defined]
    listed = report_of(learned)["label_errors"]
    found = [one["row"] for one in listed["rows"]]
    assert listed["is_guess"] and len(wrong.intersection(found)) >= max(len(wrong) / 2, 0.8 * len(found))
    assert {one["learned"] for one in listed["rows"]} == {True, False}
    for one in listed["rows"]:
        assert one["label"] != one["likelier"] and one["likelier_score"] > one["label_score"]


def test_report_adds_up(learned: Run) -> None:
    found = report_of(learned)
    counts = np.array(found["confusion_matrix"]["counts"])
    assert counts.sum() == found["held_out_rows"] == 48
    accuracy = found["scores"]["accuracy"]["value"]
    assert accuracy == pytest.approx(np.trace(counts) / 48) == learned.final_metrics["eval_accuracy"]
    for number, one in enumerate(found["per_class"]):
        if one["recall"] is not None:
            assert one["recall"] == pytest.approx(counts[number, number] / counts[number].sum())
    mistakes = sum(one["count"] for one in found["confusions"])
    assert mistakes == 48 - np.trace(counts) and all(one["examples"] for one in found["confusions"])
    assert sum(row["rows"] for row in found["calibration"]["reliability"]) == 48
    page = (learned.dir.artifacts / "report" / "report.html").read_text()
    assert "Most frequent mistakes" in page and "probably wrong" in page


def test_others_load_it_and_get_the_same(learned: Run) -> None:
    from transformers import pipeline

    folder = model_of(learned)
    texts = [row["text"] for row in rows_of(12, seed=9)]
    theirs = pipeline("text-classification", model=str(folder), top_k=None)(texts)
    ours = load(folder, 1).predict(texts, {"unsure_below": 0.0})
    for mine, other in zip(ours, theirs, strict=True):
        assert {one["label"] for one in mine} == set(TOPICS)
        scores = {one["label"]: one["score"] for one in other}
        for one in mine:
            assert one["score"] == pytest.approx(scores[one["label"]], abs=1e-5)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "billing", "1": "delivery", "2": "login"}
    assert config["tunesmith_unsure_below"] == 0.5 and not any("tunesmith_packed" in str(v) for v in config.values())


def test_goes_into_the_registry_with_scores(learned: Run) -> None:
    (result,) = on_completed(Finished(learned.dir, learned.spec, learned.final_metrics))
    assert isinstance(result, RegisterModel) and result.kind == TEXT_CLASSIFIER.name
    score = result.scores["rows (held out)"]["accuracy"]
    assert score["low"] < score["value"] < score["high"] and score["num_samples"] == 48 and score["higher_is_better"]
    assert TEXT_CLASSIFIER.describe(model_of(learned), None).labels == ("billing", "delivery", "login")


@pytest.mark.parametrize("weights", ["all", "lora", "frozen"])
def test_resumed_is_uninterrupted(ground: Ground, weights: str) -> None:
    """To the last digit, with a head that is trained first."""
    settings = {**LEARNING, "head_epochs": 2, "weights": weights, "max_steps": 8, "eval_steps": 4, "save_steps": 3}
    whole = start(ground, ROWS, **settings)
    assert train(whole) == "completed"
    halved = start(ground, ROWS, **settings)
    halved.observe(lambda event: _pause(halved) if event.type == "step" and event.step == 5 else None)
    assert train(halved) == "paused"
    halved.dir.control.unlink()
    rest = ground.again(halved)
    assert train(rest) == "completed"
    assert losses(whole) == losses(rest)
    for name in ("eval_loss", "eval_accuracy", "eval_ece"):
        assert whole.final_metrics[name] == rest.final_metrics[name]
    assert (model_of(whole) / "model.safetensors").read_bytes() == (model_of(rest) / "model.safetensors").read_bytes()


def _pause(run: Run) -> None:
    run.dir.control.write_text(Control(pause=True).model_dump_json())


@pytest.mark.parametrize("weights", ["lora", "frozen"])
def test_a_part_is_trained_and_a_whole_is_left(ground: Ground, encoder: Path, weights: str) -> None:
    from safetensors.torch import load_file

    run = start(ground, ROWS, max_steps=10, weights=weights, **LEARNING)
    assert train(run) == "completed"
    base, tuned = load_file(encoder / "model.safetensors"), load_file(model_of(run) / "model.safetensors")
    assert not any("lora" in name for name in tuned)
    changed = {name for name, weight in base.items() if not weight.equal(tuned[f"bert.{name}"])}
    inner = {name for name in changed if name.startswith("encoder.")}
    assert inner == (
        {n for n in base if ".weight" in n and "encoder" in n and "LayerNorm" not in n} if weights == "lora" else set()
    )
    assert any(name.startswith("pooler.") for name in changed)


def test_a_language_model_gets_a_head(tmp_path: Path) -> None:
    ground = Ground(tmp_path, make_causal(tmp_path / "causal"))
    run = start(ground, ROWS, max_steps=12, **LEARNING)
    assert train(run) == "completed" and "packing_fallback" not in notices(run)
    config = json.loads((model_of(run) / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"] and config["pad_token_id"] is not None
    assert load(model_of(run), 1).predict(["how do i pay"], {})[0]


def test_several_labels(ground: Ground) -> None:
    rows = []
    for number, (one, other) in enumerate(zip(rows_of(120), rows_of(120, seed=5), strict=True)):
        both = f"{one['text']} {other['text']}"
        labels = sorted({one["label"], other["label"]}) if number % 3 else [one["label"]]
        rows.append({"text": both if number % 3 else one["text"], "label": labels})
    rows[7]["label"] = []
    run = start(ground, rows, max_steps=60, **LEARNING)
    assert train(run) == "completed"
    config = json.loads((model_of(run) / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and len(config["id2label"]) == 3
    answer = load(model_of(run), 1).predict([rows[0]["text"]], {"unsure_below": 0.0})[0]
    assert sum(one["score"] for one in answer) != pytest.approx(1.0, abs=1e-4)
    assert report_of(run)["several_labels"] and 0 <= run.final_metrics["eval_accuracy"] <= 1


def test_labels_in_one_cell_are_split_where_it_is_said(ground: Ground) -> None:
    rows = [{**row, "label": f"{row['label']}|{'long' if len(row['text']) > 40 else 'short'}"} for row in ROWS]
    run = start(ground, rows, max_steps=2, label_separator="|", **LEARNING)
    train(run)
    assert report_of(run)["labels"] == ["billing", "delivery", "login", "long", "short"]


def test_numbers_are_labels_in_the_order_of_their_values(ground: Ground) -> None:
    numbers = {"billing": 10, "delivery": 2, "login": -1}
    run = start(ground, [{**row, "label": numbers[row["label"]]} for row in ROWS], max_steps=2, **LEARNING)
    train(run)
    config = json.loads((model_of(run) / "config.json").read_text())
    assert config["id2label"] == {"0": "-1", "1": "2", "2": "10"}


def test_bad_rows_are_named_or_skipped(ground: Ground) -> None:
    rows: list[dict[str, Any]] = [dict(row) for row in ROWS]
    rows[4]["text"], rows[9]["label"] = "  ", None
    with pytest.raises(JobFailure, match="rows 5 and 10") as failure:
        train(start(ground, rows, max_steps=2, **LEARNING))
    assert failure.value.failure == "bad_data" and failure.value.hint
    run = start(ground, rows, max_steps=2, skip_bad_rows=True, **LEARNING)
    assert train(run) == "completed" and run.final_metrics["rows_skipped"] == 2
    assert notices(run)["rows_skipped"].rows == [5, 10]


def test_cut_texts_and_rare_labels_are_named(ground: Ground) -> None:
    rows = [*ROWS, {"text": "what is this " * 30, "label": "odd"}]
    run = start(ground, rows, max_steps=2, max_length=32, **LEARNING)
    train(run)
    found = notices(run)
    assert found["texts_cut"].rows == [61] and found["rare_labels"].rows == [61]
    assert "odd" in found["labels_not_measured"].message


def test_one_label_is_not_enough(ground: Ground) -> None:
    with pytest.raises(JobFailure, match="one label only: billing"):
        train(start(ground, [{**row, "label": "billing"} for row in ROWS], max_steps=2, **LEARNING))


def test_goes_on_from_a_classifier(learned: Run, tmp_path: Path) -> None:
    """With its head where it knows the labels, else with another."""
    ground = Ground(tmp_path, model_of(learned))
    same = start(
        ground, [row for row in ROWS if row["label"] != "login"], max_steps=1, **{**LEARNING, "learning_rate": 1e-6}
    )
    train(same)
    assert report_of(same)["labels"] == ["billing", "delivery", "login"]
    assert "labels_kept" in notices(same) and same.final_metrics["eval_accuracy"] > 0.8
    other = start(ground, [{**row, "label": row["label"].upper()} for row in ROWS], max_steps=1, **LEARNING)
    train(other)
    assert report_of(other)["labels"] == ["BILLING", "DELIVERY", "LOGIN"]
    assert "BILLING" in notices(other)["head_made_anew"].message
