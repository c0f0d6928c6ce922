"""Hugging Face's own client asks models at their addresses, task by task: what it sends is read, and what it gets it can read."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

from tests.serving.engines import Records, gateway_over, route, transformers_engine
from tests.serving.predictors import COLUMNS, LABELS, RowModel, make_classifier, predict_engine
from tests.tiny import make_tiny_model
from tunesmith.core.errors import InvalidInput
from tunesmith.recipes.blocks.text_classifier import load
from tunesmith.recipes.model_about import ModelAbout

BOX = {"label": "cat", "score": 0.9, "box": {"xmin": 0, "ymin": 1, "xmax": 9, "ymax": 8}}
SPAN = {"label": "PER", "score": 0.5, "start": 0, "end": 5, "text": "Marie"}
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


class Canned:
    """Answers in the form of a task, with what it was sent in it, where there is room."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.sent, self.parameters = answer, list[Any](), dict[str, Any]()

    def predict(self, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        self.sent, self.parameters = list(inputs), dict(parameters)
        if "unknown" in parameters:
            raise InvalidInput("parameters.unknown is not known.", hint="There are: top_k.")
        return [self.answer for _ in inputs]


MODELS = {
    "token-classification": Canned([SPAN]),
    "feature-extraction": Canned([0.25, 0.5]),
    "text-ranking": Canned([0.9, 0.1]),
    "image-classification": Canned([{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}]),
    "object-detection": Canned([BOX]),
    "audio-classification": Canned([{"label": "bark", "score": 1.0}]),
    "automatic-speech-recognition": Canned("the question"),
    "text-to-image": Canned(base64.b64encode(PICTURE).decode()),
    "fortune-telling": Canned({"tomorrow": "rain"}),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Records]]:
    folder = tmp_path_factory.mktemp("models")
    predictors: dict[str, tuple[Any, ModelAbout]] = {
        "text-classification": (load(make_classifier(folder / "c"), 1), ModelAbout("text-classifier", "Text classifier", "text-classification", LABELS)),
    }  # fmt: skip
    for task in ("tabular-classification", "tabular-regression"):
        predictors[task] = (RowModel(40, task), ModelAbout("rows", "Row model", task, columns=COLUMNS))
    predictors |= {task: (model, ModelAbout("canned", "Canned", task)) for task, model in MODELS.items()}
    routes = []
    with ExitStack() as held:
        for number, (task, (model, about)) in enumerate(predictors.items(), start=1):
            made = route(task, "predict", held.enter_context(predict_engine(model, task)), number)
            routes.append(replace(made, variants=(replace(made.variants[0], about=about),)))
        chat = held.enter_context(transformers_engine(make_tiny_model(folder / "chat")))
        routes.append(route("bot", "transformers", chat, 99))
        yield held.enter_context(gateway_over(*routes))


@pytest.fixture
def client(served: tuple[str, Records], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # else the client asks nobody, not even this machine

    def of(name: str) -> InferenceClient:
        return InferenceClient(model=f"{served[0]}/models/{name}", token="key")

    return of


def test_texts_are_classified(client: Any, served: tuple[str, Records]) -> None:
    found = client("text-classification").text_classification("the question")
    assert {one.label for one in found} == set(LABELS) and sum(one.score for one in found) == pytest.approx(1)
    (best,) = client("text-classification").text_classification("the question", top_k=1)
    assert best == found[0]
    row = served[1].rows[-1]
    assert (row["path"], row["status"], row["input_chars"], row["caller"]) == ("/models", 200, 12, "system")
    assert row["completion_tokens"] is None and row["latency_s"] > 0 and row["messages"] is None
    many = httpx.post(
        f"{served[0]}/models/text-classification", json={"inputs": ["the question", "x"]}, trust_env=False
    )
    assert [one["label"] for one in many.json()[0]] == [one.label for one in found] and len(many.json()) == 2


def test_tables_are_read_by_their_columns(client: Any, served: tuple[str, Records]) -> None:
    table = {"age": [20, 60, None], "city": ["Rome", "Oslo", "Rome"]}
    assert client("tabular-classification").tabular_classification(table) == ["young", "old", "old"]
    # this release of the client has no regression for servers of one's own, so it is asked as the client would
    numbers = httpx.post(f"{served[0]}/models/tabular-regression", json={"table": {"age": [20, 60]}}, trust_env=False)
    assert numbers.json() == [60.0, 180.0]
    for inputs in ({"data": table}, [{"age": 20}, {"age": 60}, {}], {"age": [20, 60, 40]}):
        answer = httpx.post(f"{served[0]}/models/tabular-classification", json={"inputs": inputs}, trust_env=False)
        assert answer.json()[:2] == ["young", "old"] and len(answer.json()) == 3, answer.text
    with pytest.raises(BadRequestError, match="columns of the same length"):
        client("tabular-classification").tabular_classification({"age": [20, 60], "city": ["Rome"]})


def test_every_other_task_has_the_form_that_the_client_reads(client: Any) -> None:
    (span,) = client("token-classification").token_classification("Marie", aggregation_strategy="simple")
    assert (span.entity_group, span.word, span.start, span.end) == ("PER", "Marie", 0, 5)
    assert MODELS["token-classification"].parameters == {"aggregation_strategy": "simple"}
    assert client("feature-extraction").feature_extraction("x", normalize=True).tolist() == [[0.25, 0.5]]
    assert MODELS["feature-extraction"].parameters == {"normalize": True}
    assert client("feature-extraction").feature_extraction(["x", "y"]).shape == (2, 2)
    assert client("text-ranking").sentence_similarity("a", other_sentences=["b", "c"]) == [0.9, 0.1]
    assert MODELS["text-ranking"].sent == [{"query": "a", "texts": ["b", "c"]}]
    for top_k in (None, 2):  # with parameters the client sends base64 in JSON, else the picture as it is
        cat, dog = client("image-classification").image_classification(PICTURE, top_k=top_k)
        assert (cat.label, cat.score, dog.label) == ("cat", 0.75, "dog")
        assert base64.b64decode(MODELS["image-classification"].sent[0]) == PICTURE
    (box,) = client("object-detection").object_detection(PICTURE)
    assert (box.label, box.box.xmax) == ("cat", 9)
    assert client("audio-classification").audio_classification(b"RIFF")[0].label == "bark"
    assert client("automatic-speech-recognition").automatic_speech_recognition(b"RIFF").text == "the question"
    assert client("text-to-image").text_to_image("a dot").size == (1, 1)


def test_a_task_that_nobody_knows_is_json_both_ways(served: tuple[str, Records]) -> None:
    answer = httpx.post(f"{served[0]}/models/fortune-telling", json={"inputs": {"stars": [1]}}, trust_env=False)
    assert answer.json() == {"tomorrow": "rain"} and MODELS["fortune-telling"].sent == [{"stars": [1]}]


def test_chat_models_go_on_with_a_text_and_chat(client: Any) -> None:
    text = client("bot").text_generation("the question", max_new_tokens=4, do_sample=False, temperature=None)
    assert isinstance(text, str) and text
    whole = client("bot").text_generation("the question", max_new_tokens=4, do_sample=False, return_full_text=True)
    assert whole == "the question" + text
    told = client("bot").chat_completion([{"role": "user", "content": "the question"}], max_tokens=3, temperature=0)
    assert told.choices[0].message.content
    with pytest.raises(BadRequestError, match="details is not offered here"):
        client("bot").text_generation("x", details=True)


def test_what_is_wrong_is_said_in_the_clients_form(client: Any, served: tuple[str, Records]) -> None:
    with pytest.raises(HfHubHTTPError, match="There is no deployment 'nobody'"):
        client("nobody").text_classification("x")
    with pytest.raises(BadRequestError, match=r"inputs\.0 is no text"):
        client("text-classification").text_classification(3)
    url = f"{served[0]}/models"
    for name, body, said in (
        ("text-classification", {"inputs": "x", "parameters": {"top_k": 0}}, "top_k"),
        ("text-classification", {"input": "x"}, "input is not a known field"),
        ("text-classification", {}, "inputs is missing"),
        ("text-classification", {"inputs": "x", "options": {"compress": True}}, "options.compress"),
        ("image-classification", {"inputs": "no base64!"}, "must be base64"),
        ("tabular-regression", {}, "table must have"),
        ("bot", {"inputs": "x", "stream": True}, "stream is not offered here"),
    ):
        answer = httpx.post(f"{url}/{name}", json=body, trust_env=False)
        assert answer.status_code == 400 and said in answer.json()["error"], answer.text
    assert (
        httpx.post(f"{url}/bot", content=b"[1", trust_env=False).json()["error"].startswith("The request is not JSON")
    )
    chat = {"model": "text-classification", "messages": [{"role": "user", "content": "x"}]}
    refused = httpx.post(f"{served[0]}/v1/chat/completions", json=chat, trust_env=False)
    assert refused.status_code == 400 and "/models/text-classification" in refused.json()["error"]["message"]
