"""What a training leaves: the calibrated model, measured on its held-out rows, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.recipe import RunContext
from tunesmith.recipes.blocks.model_card import write_card
from tunesmith.recipes.blocks.report import write_report
from tunesmith.recipes.blocks.scoring import wilson
from tunesmith.recipes.blocks.text_classifier import load
from tunesmith.recipes.classifiers import UNSURE_BELOW, USE_CLASSIFIER
from tunesmith.recipes.text_classification import label_errors
from tunesmith.recipes.text_classification.calibration import (
    THRESHOLDS,
    Calibrated,
    Threshold,
    calibrate,
    choose_threshold,
    coverage,
    loss_of,
    probabilities_of,
    reliability,
)
from tunesmith.recipes.text_classification.data import Data
from tunesmith.recipes.text_classification.head import parts_of
from tunesmith.recipes.text_classification.model import final_layer
from tunesmith.recipes.text_classification.report import sections
from tunesmith.recipes.text_classification.scores import Predictions, confusions, macro_f1, per_class, resampled
from tunesmith.recipes.text_classification.spec import METRICS, RECIPE, TextClassificationParams
from tunesmith.recipes.text_classification.task import ClassificationTask, Examples

MOST_LOOKED_AT = 50_000
"""Training rows that are looked through for wrong labels."""
MOST_IN_MATRIX = 200
"""Labels up to which the report holds the whole matrix."""
SAME = 0.01
"""How far a probability of the saved model may be from what was measured."""
TRIED = 8
"""Held-out texts that the saved model is asked."""
MOST_CONTRADICTIONS = 100


class Measured(NamedTuple):
    """The finished model on the held-out rows."""

    logits: np.ndarray
    """(rows, labels), before the temperature."""
    calibrated: Calibrated
    predictions: Predictions
    """After it."""
    threshold: Threshold


def logits_of(task: ClassificationTask, rows: Examples, device: torch.device, size: int) -> np.ndarray:
    """(rows, labels), fp32, in the order of the rows."""
    task.model.eval()
    parts = list(parts_of(rows.lengths, size))
    if not parts:
        return np.zeros((0, rows.truth.shape[1]), np.float32)
    found = np.empty((len(rows.ids), rows.truth.shape[1]), np.float32)
    found[np.concatenate(parts)] = task.logits_of(rows, parts, device)
    return found


def measure(task: ClassificationTask, params: TextClassificationParams, device: torch.device) -> Measured:
    """Scores, temperature and threshold on the held-out rows; folds the temperature into the last layer."""
    rows, is_multi = task.held_out, task.goal.is_multi
    logits = logits_of(task, rows, device, params.batch_size)
    calibrated = calibrate(logits, rows.truth, is_multi=is_multi) if len(logits) else Calibrated(1.0, 0.0, 0.0)
    if calibrated.temperature != 1.0 and not _fold(task, calibrated.temperature, device):
        calibrated = Calibrated(1.0, calibrated.error_before, calibrated.error_before)
    found = probabilities_of(logits, is_multi=is_multi, temperature=calibrated.temperature)
    predictions = Predictions(found, rows.truth, is_multi)
    return Measured(
        logits, calibrated, predictions, choose_threshold(predictions, params.unsure_below, params.sure_accuracy)
    )


def _fold(task: ClassificationTask, temperature: float, device: torch.device) -> bool:
    """Divide the last layer by `temperature`. False, and nothing done, where that does not divide the logits."""
    layer = final_layer(task.model)
    weights = [layer.weight, *([layer.bias] if layer.bias is not None else [])]
    kept = [weight.detach().clone() for weight in weights]
    place = np.array([0])
    before = task.logits_of(task.held_out, [place], device)
    with torch.no_grad():
        for weight in weights:
            weight.div_(temperature)
    after = task.logits_of(task.held_out, [place], device) * temperature
    if np.allclose(before, after, rtol=1e-3, atol=1e-3 * float(np.abs(before).max() + 1e-9)):
        return True
    with torch.no_grad():
        for weight, old in zip(weights, kept, strict=True):
            weight.copy_(old)
    return False


def final_scores(measured: Measured) -> dict[str, float]:
    """Under the names of final numbers. The loss is that before the temperature, which was chosen on the same rows."""
    if not len(measured.logits):
        return {}
    predictions = measured.predictions
    numbers = {
        "eval_loss": loss_of(measured.logits, predictions.truth, is_multi=predictions.is_multi),
        "eval_accuracy": float(predictions.is_right.mean()),
        "eval_macro_f1": macro_f1(predictions),
        "eval_ece": measured.calibrated.error_after,
        "temperature": measured.calibrated.temperature,
    }
    if measured.threshold.value is not None:
        told = coverage(predictions, measured.threshold.value)
        numbers["unsure_below"] = measured.threshold.value
        numbers["sure_share"] = told["answered"]
        numbers |= {} if told["accuracy"] is None else {"sure_accuracy": told["accuracy"]}
    return numbers


def findings(
    task: ClassificationTask, params: TextClassificationParams, data: Data, names: tuple[str, ...], measured: Measured, device: torch.device
) -> dict[str, Any]:  # fmt: skip
    """What `report.json` holds."""
    predictions, numbers = measured.predictions, data.held_out + 1
    texts = [data.held_out_rows.texts[number] for number in data.held_out]
    found: dict[str, Any] = {
        "measured_on": data.held_out_name if data.held_out_rows is not data.rows else f"{data.held_out_name} (held out)",
        "held_out_rows": len(numbers), "training_rows": len(data.train), "labels": list(names), "several_labels": data.is_multi,
        "scores": _scores(predictions, measured, params.seed) if len(numbers) else {},
        "per_class": per_class(names, predictions, task.train.truth.sum(0).tolist()),
        "confusions": confusions(names, predictions, numbers, texts),
        "contradictions": label_errors.contradictions(data.contents, data.rows.labels)[:MOST_CONTRADICTIONS],
    }  # fmt: skip
    if len(names) <= MOST_IN_MATRIX and not data.is_multi and len(numbers):
        matrix = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(matrix, (predictions.truth.argmax(1), predictions.given.argmax(1)), 1)
        found["confusion_matrix"] = {"rows": "label", "columns": "predicted", "counts": matrix.tolist()}
    if len(numbers):
        calibrated, threshold = measured.calibrated, measured.threshold
        found["calibration"] = {
            "temperature": calibrated.temperature, "ece_before": calibrated.error_before, "ece_after": calibrated.error_after,
            "reliability": reliability(predictions),
        }  # fmt: skip
        steps = sorted({*THRESHOLDS, *([threshold.value] if threshold.value is not None else [])})
        found["unsure"] = {
            "threshold": threshold.value, "how": threshold.how, "coverage": [coverage(predictions, step) for step in steps],
        }  # fmt: skip
    if params.find_label_errors:
        found["label_errors"] = _label_errors(task, params, data, names, measured, device)
    return found


def _label_errors(
    task: ClassificationTask, params: TextClassificationParams, data: Data, names: tuple[str, ...], measured: Measured, device: torch.device
) -> dict[str, Any]:  # fmt: skip
    """Held-out rows by what the model says of them, and training rows by what it has not come to believe."""
    texts = [data.held_out_rows.texts[number] for number in data.held_out]
    listed = label_errors.listed(names, measured.predictions, data.held_out + 1, texts, learned=False)
    looked_at = np.arange(len(data.train))
    if len(looked_at) > MOST_LOOKED_AT:
        looked_at = np.sort(np.random.default_rng(params.seed).choice(looked_at, MOST_LOOKED_AT, replace=False))
    rows = Examples([task.train.ids[place] for place in looked_at], task.train.truth[looked_at])
    found = probabilities_of(logits_of(task, rows, device, params.batch_size), is_multi=data.is_multi)
    numbers = data.train[looked_at]
    predictions = Predictions(found, rows.truth, data.is_multi)
    listed += label_errors.listed(names, predictions, numbers + 1, [data.rows.texts[n] for n in numbers], learned=True)
    listed.sort(key=lambda one: -label_errors.doubt_of(one))
    return {
        "is_guess": True,
        "total": len(listed),
        "training_rows_looked_at": len(looked_at),
        "held_out_rows_of": data.held_out_name,
        "rows": listed[: label_errors.MOST_LISTED],
    }


def _scores(predictions: Predictions, measured: Measured, seed: int) -> dict[str, dict[str, Any]]:
    count = len(predictions.truth)
    right = int(predictions.is_right.sum())
    ends = {"accuracy": wilson(right, count), "macro_f1": resampled(predictions, seed)}
    values = {"accuracy": right / count, "macro_f1": macro_f1(predictions), "ece": measured.calibrated.error_after}
    found = {}
    for metric in METRICS:
        if metric.name in values:
            low, high = ends.get(metric.name, (None, None))
            found[metric.name] = {
                "value": values[metric.name], "num_samples": count, "title": metric.title, "unit": metric.unit,
                "higher_is_better": metric.better == "higher", **({} if low is None else {"low": low, "high": high}),
            }  # fmt: skip
    return found


def leave(
    run: RunContext, params: TextClassificationParams, task: ClassificationTask, tokenizer: Any, data: Data, measured: Measured,
    found: dict[str, Any], metrics: dict[str, float],
) -> None:  # fmt: skip
    """The model folder, checked by asking it, and the report."""
    run.phase("saving", RECIPE.produces)
    settings = params.model_dump(mode="json")
    model: Any = task.model
    whole = np.flatnonzero(task.held_out.lengths < params.max_length)[:TRIED]
    if measured.threshold.value is not None:
        setattr(model.config, UNSURE_BELOW, measured.threshold.value)
    with run.artifact(RECIPE.produces) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        usage = USE_CLASSIFIER.replace("{folder}", "path/to/this/folder").strip()
        write_card(folder, run.spec, settings, metrics, task=RECIPE.task, usage=usage)
        validate(folder, data, measured, whole)
    with run.artifact("report") as folder:
        (folder / "report.json").write_text(json.dumps(found, indent=1, ensure_ascii=False))
        write_report(
            folder,
            run.spec.name,
            run.spec,
            settings,
            run.dir.events,
            metrics,
            measured=METRICS,
            sections=sections(found),
        )


def validate(folder: Path, data: Data, measured: Measured, places: np.ndarray) -> None:
    """Load the folder as serving does and ask it the held-out texts at `places`, which are not cut: the answers must be those
    that were measured. Writes `validation.json`. Raises `JobFailure`."""
    classifier = load(folder, torch.get_num_threads())
    asked = [data.held_out_rows.texts[data.held_out[place]] for place in places] or [data.rows.texts[data.train[0]]]
    answers = classifier.predict(asked, {"unsure_below": 0.0})
    found = np.array(
        [[{one["label"]: one["score"] for one in each}[name] for name in classifier.labels] for each in answers]
    )
    expected = measured.predictions.probabilities[places] if len(places) else found
    if not np.isfinite(found).all() or np.abs(found - expected).max() > SAME:
        raise JobFailure(
            FailureCode.INTERNAL, "The finished classifier does not answer as it did while it was measured.",
            hint="The last checkpoint is kept; resume the job to try the last part again.",
        )  # fmt: skip
    files = sorted(path.name for path in folder.iterdir())
    result = {"files": files, "loads": True, "predicts": True, "sample": answers[0][:3]}
    (folder / "validation.json").write_text(json.dumps(result, indent=1, ensure_ascii=False))
