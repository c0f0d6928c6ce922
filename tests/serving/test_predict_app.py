"""A serving process of a model that does not chat: requests that wait are computed together, and answered as each alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.predictors import LABELS, RowModel, make_classifier, predict_engine
from tunesmith.core.errors import InvalidInput, UnsupportedFormat
from tunesmith.core.prediction import MOST_INPUTS
from tunesmith.recipes.blocks.text_classifier import TextClassifier, load
from tunesmith.recipes.catalog import get_kind, kind_of
from tunesmith.serving.predict_app import Batcher

TEXTS = ["the question", "the answer of user and assistant " * 3, "question", "user", "the answer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("predict") / "classifier")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> TextClassifier:
    return load(folder, 1)


def scores_of(labels: list[dict[str, Any]]) -> dict[str, float]:
    return {one["label"]: one["score"] for one in labels}


def test_a_folder_with_a_head_for_labels_is_a_text_classifier(folder: Path, tmp_path: Path) -> None:
    kind = kind_of(folder)
    assert kind.name == "text-classifier" and kind.predicts and kind is get_kind("text-classifier")
    told = kind.describe(folder, None)
    assert told.labels == LABELS and told.architecture["context_length"] == 32 and (told.num_parameters or 0) > 10_000
    ranker = make_classifier(tmp_path / "ranker", ["score"])
    with pytest.raises(UnsupportedFormat, match="one output"):
        kind_of(ranker).describe(ranker, None)
    two = make_classifier(
        tmp_path / "two", ["LABEL_0", "LABEL_1"]
    )  # transformers leaves these names out of config.json
    assert kind_of(two).describe(two, None).labels == ("LABEL_0", "LABEL_1")


def test_scores_are_those_of_transformers_whatever_stands_beside_a_text(
    folder: Path, classifier: TextClassifier
) -> None:
    from transformers import pipeline

    reference = pipeline("text-classification", model=str(folder), top_k=None)
    together = classifier.predict(TEXTS, {})
    for text, found in zip(TEXTS, together, strict=True):
        (alone,) = classifier.predict([text], {})
        theirs = scores_of(reference([text], truncation=True, max_length=32)[0])
        assert scores_of(found) == pytest.approx(theirs, abs=1e-5)
        assert scores_of(found) == pytest.approx(scores_of(alone), abs=1e-5)
        assert found[0]["score"] == pytest.approx(max(theirs.values()), abs=1e-5)
    assert len({found[0]["score"] for found in together}) == len(TEXTS)


def test_parameters_choose_what_is_told(folder: Path, classifier: TextClassifier, tmp_path: Path) -> None:
    (best,) = classifier.predict(["the question"], {"top_k": 1})
    assert len(best) == 1
    score = best[0]["score"]
    (unsure,) = classifier.predict(["the question"], {"top_k": 1, "unsure_below": min(1.0, score + 0.001)})
    assert [one["label"] for one in unsure] == ["unsure", best[0]["label"]]
    assert unsure[0]["score"] == pytest.approx(1 - score)
    (certain,) = classifier.predict(["the question"], {"threshold": score})
    assert certain == best
    (sigmoid,) = classifier.predict(["the question"], {"function_to_apply": "sigmoid"})
    assert sum(scores_of(sigmoid).values()) != pytest.approx(1.0, abs=1e-3)
    with pytest.raises(InvalidInput) as wrong:
        classifier.predict(["x"], {"top_k": 0, "wanted": 3})
    assert {one["loc"] for one in wrong.value.details} == {"parameters.top_k", "parameters.wanted"}
    assert "unsure_below" in wrong.value.hint
    multi = load(
        make_classifier(tmp_path / "m", problem_type="multi_label_classification", tunesmith_unsure_below=1.0), 1
    )
    (found,) = multi.predict(["the question"], {})
    assert found[0]["label"] == "unsure" and sum(one["score"] for one in found[1:]) != pytest.approx(1.0, abs=1e-3)


def test_a_text_that_is_cut_says_so(classifier: TextClassifier) -> None:
    long = "the question and the answer " * 40
    short, cut = classifier.predict(["the question", long], {})
    assert all(one["cut"] for one in cut) and not any("cut" in one for one in short)
    with pytest.raises(InvalidInput, match=r"inputs.1 has \d+ tokens, and the model takes 32"):
        classifier.predict(["the question", long], {"truncate": False})
    with pytest.raises(InvalidInput, match=r"inputs.1 is no text"):
        classifier.predict(["the question", 3], {})


class Slow:
    """Answers when it is let, and counts what it is asked."""

    def __init__(self) -> None:
        self.gate, self.asked = threading.Event(), list[list[Any]]()

    def predict(self, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        self.gate.wait(10)
        self.asked.append(list(inputs))
        if "bad" in inputs:
            raise InvalidInput(f"inputs.{list(inputs).index('bad')} is bad.")
        return [[text, parameters.get("k")] for text in inputs]


def test_what_waits_is_computed_together_and_a_bad_request_spoils_no_other() -> None:
    model = Slow()
    batcher = Batcher(model)
    first = batcher.submit(["first"], {})
    while batcher.num_computed == 0:
        threading.Event().wait(0.01)
    others = [batcher.submit([f"a{n}", f"b{n}"], {"k": n % 2}) for n in range(6)]
    bad = batcher.submit(["good", "bad"], {"k": 0})
    model.gate.set()
    assert first.result(10) == [["first", None]]
    for n, other in enumerate(others):
        assert other.result(10) == [[f"a{n}", n % 2], [f"b{n}", n % 2]]
    with pytest.raises(InvalidInput, match=r"inputs.1 is bad"):
        bad.result(10)
    # the first; those of k=0 with the bad one, then its four alone; those of k=1
    assert [len(asked) for asked in model.asked] == [1, 8, 2, 2, 2, 2, 6]


def test_the_endpoints_say_what_is_wrong() -> None:
    class Damaged(RowModel):
        def _one(self, number: int, row: Any) -> Any:
            return (
                [{"label": "x", "score": math.nan}]
                if row == "nan"
                else 1 / 0
                if row == "crash"
                else super()._one(number, row)
            )

    with predict_engine(Damaged(40, "tabular-classification"), "tabular-classification") as endpoint:
        headers = {"Authorization": f"Bearer {endpoint.token}"}
        with httpx.Client(base_url=endpoint.url, headers=headers, trust_env=False) as client:
            assert httpx.post(f"{endpoint.url}/predict", json={"inputs": [1]}, trust_env=False).status_code == 401
            assert client.get("/health").json()["task"] == "tabular-classification"
            good = client.post("/predict", json={"inputs": [{"age": 50}]}).json()
            assert good["outputs"][0][0]["label"] == "old"
            many = client.post("/predict", json={"inputs": [{}] * (MOST_INPUTS + 1)})
            assert (
                many.status_code == 400
                and "1,001 inputs" in many.json()["message"]
                and "1,000" in many.json()["message"]
            )
            bad = client.post("/predict", json={"inputs": [{"age": 1}, {"age": "x"}]})
            assert bad.status_code == 400 and bad.json()["details"][0]["loc"] == "inputs.1.age"
            assert client.post("/predict", json={"inputs": []}).status_code == 400
            damaged = client.post("/predict", json={"inputs": ["nan"]})
            assert damaged.status_code == 503 and "damaged" in damaged.json()["message"]
            crashed = client.post("/predict", json={"inputs": ["crash"]})
            assert crashed.status_code == 500 and "ZeroDivisionError" in crashed.json()["message"]
            assert client.post("/predict", json={"inputs": [{"age": 50}]}).json() == good
