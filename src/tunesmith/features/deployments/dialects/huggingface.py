"""Hugging Face's inference API at a model's own address, as `huggingface_hub.InferenceClient` speaks it: how each task is asked,
and the form of its answers.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field

from tunesmith.core.errors import BadRequest, UnsupportedFormat
from tunesmith.core.inference import Ask
from tunesmith.features.deployments.dialects.base import MAX_NUMBER, DecodingFields, Refused, checked, read, wrong
from tunesmith.recipes.model_about import ModelAbout

MEDIA = ("image", "audio", "video")
HARMLESS = frozenset({"use_cache", "wait_for_model", "use_gpu", "dont_load_model"})
"""Options about the hub's own servers, which change no answer."""
ROOT = frozenset({"inputs", "parameters", "options", "table", "stream"})
FEATURE_FIELDS = frozenset(
    {"normalize", "prompt_name", "truncate", "truncation_direction", "dimensions", "encoding_format"}
)
"""Parameters of feature extraction, which stand beside `inputs`."""


class Request(NamedTuple):
    """One request for a model that does not chat."""

    inputs: list[Any]
    parameters: dict[str, Any]
    is_single: bool
    """Whether one input was sent by itself, and so one answer comes by itself."""


def parse(content: bytes, content_type: str, about: ModelAbout) -> Request:
    """Raises `BadRequest`, `InvalidInput` or `UnsupportedFormat`."""
    is_media = about.asked in MEDIA
    if is_media and not content_type.startswith(("application/json", "text/json")):
        if not content:
            raise BadRequest("The request is empty.", hint=f"Send the {about.asked} as it is, or as base64 in inputs.")
        return Request([base64.b64encode(content).decode()], {}, True)
    body = read_body(content)
    parameters = {name: body[name] for name in FEATURE_FIELDS & body.keys() if body[name] is not None}
    given = body.get("parameters") or {}
    if not isinstance(given, dict):
        raise wrong("parameters", "must be an object")
    if unknown := body.keys() - ROOT - (FEATURE_FIELDS if about.task == "feature-extraction" else frozenset()):
        raise wrong(min(unknown), "is not a known field", f"There are: {', '.join(sorted(ROOT))}.")
    if odd := dict(body.get("options") or {}).keys() - HARMLESS:
        raise wrong(f"options.{min(odd)}", "is not offered here", "Leave it out.")
    if body.get("stream"):
        raise wrong("stream", "is not offered for this task", "Leave it out.")
    inputs, is_single = _inputs(body, about)
    return Request(inputs, {**parameters, **given}, is_single)


def read_body(content: bytes) -> dict[str, Any]:
    """Raises `BadRequest` for what is no JSON object."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise BadRequest("The request is not JSON.", hint='Send {"inputs": …}.') from None
    if not isinstance(body, dict):
        raise BadRequest("The request is not a JSON object.", hint='Send {"inputs": …}.')
    return body


def _inputs(body: Mapping[str, Any], about: ModelAbout) -> tuple[list[Any], bool]:
    given = body.get("inputs")
    if about.asked == "row":
        return _rows(given if body.get("table") is None else body["table"])
    if given is None:
        raise wrong("inputs", "is missing")
    if about.asked == "texts":
        one = given if isinstance(given, dict) else {}
        query, texts = one.get("source_sentence", one.get("query")), one.get("sentences", one.get("texts"))
        if not isinstance(query, str) or not isinstance(texts, list):
            raise wrong("inputs", "must have source_sentence and sentences")
        return [{"query": query, "texts": texts}], True
    if about.asked in MEDIA:
        for number, each in enumerate(given if isinstance(given, list) else [given]):
            _check_base64(each, f"inputs.{number}" if isinstance(given, list) else "inputs")
    return (given, False) if isinstance(given, list) else ([given], True)


def _rows(given: Any) -> tuple[list[Any], bool]:
    """A table as columns (`{"age": [30, 41]}`, also within `data`), a list of rows, or one row."""
    if isinstance(given, dict) and set(given) == {"data"}:
        given = given["data"]
    if isinstance(given, list):
        return given, False
    if not isinstance(given, dict) or not given:
        raise wrong(
            "table", "must have the columns with their values", 'Such as {"age": [30, 41], "city": ["Rome", "Oslo"]}.'
        )
    if not any(isinstance(values, list) for values in given.values()):
        return [given], True
    lengths = {len(values) if isinstance(values, list) else -1 for values in given.values()}
    if len(lengths) != 1:
        raise wrong("table", "must have columns of the same length")
    return [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)], False


def _check_base64(given: Any, place: str) -> None:
    try:
        base64.b64decode(given.encode() if isinstance(given, str) else b"!", validate=True)
    except (binascii.Error, ValueError):
        raise wrong(place, "must be base64") from None


# -- answers ----------------------------------------------------------------------------------------------------------


def render(outputs: Sequence[Any], about: ModelAbout, *, is_single: bool) -> Any:
    """As JSON. Lists hold one answer for each input; texts have lists of labels, and vectors lists of vectors, also for one.
    Raises `UnsupportedFormat` for answers of a form that the API has not."""
    answered, asked = about.answered, about.asked
    try:
        if asked == "row" and answered == "labels":
            return [labels[0]["label"] if labels else None for labels in outputs]
        if answered == "value":
            return [told["value"] for told in outputs]
        if (answered, asked) == ("labels", "text") or answered == "vector":
            return list(outputs)
        if answered == "spans":
            outputs = [[_span(span) for span in spans] for spans in outputs]
        elif answered == "text":
            outputs = [{"text": text} for text in outputs]
    except (KeyError, TypeError, IndexError):
        raise UnsupportedFormat(f"The model's answer is not of the form for {about.task}.") from None
    return outputs[0] if is_single else list(outputs)


def image_of(outputs: Sequence[Any]) -> bytes:
    """The PNG of a task that makes images; one a request. Raises `UnsupportedFormat` for more."""
    if len(outputs) != 1:
        raise UnsupportedFormat("One image comes back for each request.", hint="Send one input.")
    return base64.b64decode(outputs[0])


def _span(span: Mapping[str, Any]) -> dict[str, Any]:
    told = {"entity_group": span["label"], "score": span["score"], "word": span["text"]}
    return told | {name: value for name, value in span.items() if name not in ("label", "score", "text")}


# -- text generation --------------------------------------------------------------------------------------------------

_NO_DETAILS = Refused("the text comes alone.", (False,))
NOT_OFFERED = {
    "details": _NO_DETAILS,
    "decoder_input_details": _NO_DETAILS,
    "best_of": Refused("there is one answer.", (1,)),
    "watermark": Refused("answers have none.", (False,)),
    "adapter_id": Refused("a deployment has its own."),
    "grammar": Refused("/v1/chat/completions takes response_format."),
    "truncate": Refused("a prompt that is too long is refused."),
    "typical_p": Refused("top_p and min_p are.", (1.0,)),
    "top_n_tokens": Refused("the text comes alone."),
}


class GenerationFields(DecodingFields):
    """`parameters` of text generation."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    max_new_tokens: int | None = Field(None, ge=1, le=MAX_NUMBER)
    do_sample: bool | None = None
    return_full_text: bool = False
    frequency_penalty: float | None = Field(None, ge=-2, le=2)


class Generation(NamedTuple):
    """A text that is to go on."""

    ask: Ask
    with_prompt: bool
    """Whether the answer begins with what was asked."""


def parse_generation(content: bytes, name: str) -> Generation:
    """Raises `BadRequest` or `InvalidInput`."""
    body = read_body(content)
    prompt = body.get("inputs")
    if not isinstance(prompt, str) or not prompt:
        raise wrong("inputs", "must be a text")
    if body.get("stream"):
        raise wrong("stream", "is not offered here", "Streams come from /v1/chat/completions and /v1/completions.")
    given = body.get("parameters") or {}
    if not isinstance(given, dict):
        raise wrong("parameters", "must be an object")
    told = read({**given, "model": name}, GenerationFields, NOT_OFFERED)
    decoding = replace(told.decoding(told.max_new_tokens, None), frequency_penalty=told.frequency_penalty)
    if told.do_sample is False:
        decoding = replace(decoding, temperature=0.0)
    return Generation(checked(Ask(name, prompts=(prompt,), decoding=decoding)), told.return_full_text)
