"""The same requests by OpenAI's own client to each engine that runs here: the answers have the same form, whatever computes them."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.deployments.conftest import TOOL_TEMPLATE
from tests.serving.engines import Records, gateway_over, llama_cpp_engine, route, transformers_engine
from tests.tiny import CHATML, make_tiny_model
from tunesmith.recipes.blocks.to_gguf import write_gguf

STRICT = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}" + CHATML
)  # fmt: skip
TEMPLATES = {"plain": CHATML, "strict": STRICT, "tools": TOOL_TEMPLATE}
ENGINES = ("llama.cpp", "transformers")
SAY: list[Any] = [{"role": "user", "content": "the question"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["xx"]}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
AS_JSON: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Records]]:
    """Deployments `<engine>-<template>`, all of one small model."""
    folder, routes = tmp_path_factory.mktemp("models"), []
    with ExitStack() as held:
        for name, template in TEMPLATES.items():
            model = make_tiny_model(folder / name)
            (model / "chat_template.jinja").write_text(template)
            write_gguf(model, folder / f"{name}.gguf", "f32")
            for engine in ENGINES:
                made: Any = transformers_engine(model) if engine == "transformers" else None
                endpoint = held.enter_context(made or llama_cpp_engine(Path(folder / f"{name}.gguf")))
                routes.append(route(f"{engine}-{name}", engine, endpoint, len(routes) + 1))
        defaults: dict[str, Any] = {"sampling": {"max_tokens": 3, "temperature": 0}, "system_prompt": "the answer"}
        routes.append(route("with-defaults", "transformers", endpoint, 99, **defaults))
        yield held.enter_context(gateway_over(*routes))


@pytest.fixture(scope="module")
def client(served: tuple[str, Records]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bot(engine: str) -> str:
    return f"{engine}-plain"


def chat(client: openai.OpenAI, model: str, **asked: Any) -> Any:
    return client.chat.completions.create(
        **{"model": model, "messages": SAY, "max_tokens": 4, "temperature": 0} | asked
    )


def complete(client: openai.OpenAI, model: str, **asked: Any) -> Any:
    return client.completions.create(
        **{"model": model, "prompt": "the answer", "max_tokens": 4, "temperature": 0} | asked
    )


def post(client: openai.OpenAI, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{str(client.base_url).rstrip('/')}{path}", json=body, timeout=60)


# -- chat --------------------------------------------------------------------------------------------------------------


def test_lengths_choices_and_the_name_in_the_answer(client: openai.OpenAI, bot: str) -> None:
    whole = chat(client, bot, max_tokens=None, max_completion_tokens=3)
    assert whole.model == bot and whole.object == "chat.completion" and whole.id.startswith("chatcmpl-")
    [choice] = whole.choices
    assert choice.finish_reason == "length" and choice.message.role == "assistant"
    assert whole.usage.completion_tokens == 3 and whole.usage.total_tokens == whole.usage.prompt_tokens + 3
    several = chat(client, bot, n=3, temperature=2, seed=5)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in several.choices}) > 1
    assert several.usage.prompt_tokens == whole.usage.prompt_tokens and several.usage.completion_tokens <= 12
    again = chat(client, bot, n=3, temperature=2, seed=5)
    assert [c.message.content for c in again.choices] == [c.message.content for c in several.choices]


def test_without_a_limit_an_answer_ends_with_the_context(client: openai.OpenAI, bot: str) -> None:
    answer = chat(client, bot, max_tokens=None)
    assert answer.choices[0].finish_reason == "length" and answer.usage.total_tokens >= 255
    assert chat(client, bot, max_tokens=5000).usage.total_tokens == answer.usage.total_tokens


def test_contents_are_read_as_text(client: openai.OpenAI, bot: str) -> None:
    plain = [{"role": "system", "content": "the answer"}, *SAY]
    parts: list[Any] = [
        {"role": "developer", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "answer"}]},
        {"role": "user", "content": [{"type": "text", "text": "the question"}]},
    ]
    told = [chat(client, bot, messages=messages) for messages in (plain, parts)]
    assert told[0].usage == told[1].usage and told[0].choices[0].message == told[1].choices[0].message
    stopped = [*SAY, {"role": "assistant", "content": None}, {"role": "assistant", "content": " "}]
    assert chat(client, bot, messages=stopped).usage.prompt_tokens == chat(client, bot).usage.prompt_tokens
    ends_with_answer = [*SAY, {"role": "assistant", "content": "the"}]
    assert chat(client, bot, messages=ends_with_answer).usage.prompt_tokens > chat(client, bot).usage.prompt_tokens


def test_a_conversation_goes_on_after_an_answer_that_was_stopped(client: openai.OpenAI, engine: str) -> None:
    strict = f"{engine}-strict"
    joined = chat(client, strict, messages=[{"role": "user", "content": "the question\n\nthe answer"}])
    for stopped in ([], [{"role": "assistant", "content": ""}], [{"role": "assistant", "content": None}]):
        turns = [*SAY, *stopped, {"role": "user", "content": "the answer"}]
        assert chat(client, strict, messages=turns).usage == joined.usage
        assert chat(client, f"{engine}-plain", messages=turns).usage.prompt_tokens > joined.usage.prompt_tokens
    led = [{"role": "system", "content": "the question"}, {"role": "user", "content": "the answer"}]
    assert chat(client, strict, messages=led).usage == joined.usage, "its template has no place for a system message"
    with pytest.raises(openai.BadRequestError, match="template refuses the conversation"):
        chat(client, strict, messages=[{"role": "assistant", "content": "the"}, *SAY])


def test_a_stream_begins_with_the_role_and_tells_usage_when_asked(client: openai.OpenAI, bot: str) -> None:
    whole = chat(client, bot, max_tokens=6)
    chunks = list(chat(client, bot, max_tokens=6, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert not any(chunk.choices[0].delta.role for chunk in chunks[1:])
    assert all(chunk.usage is None and chunk.model == bot and chunk.choices for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert len({chunk.id for chunk in chunks}) == 1
    asked = list(chat(client, bot, max_tokens=6, stream=True, stream_options={"include_usage": True}))
    assert asked[-1].choices == [] and asked[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in asked[:-1])


def test_several_answers_stream_side_by_side(client: openai.OpenAI, bot: str) -> None:
    whole = chat(client, bot, n=5, temperature=2, seed=3)
    told = dict.fromkeys(range(5), "")
    ends = []
    for chunk in chat(client, bot, n=5, temperature=2, seed=3, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            told[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
    assert told == {choice.index: choice.message.content for choice in whole.choices} and sorted(ends) == list(range(5))
    assert chunk.usage == whole.usage


def test_logprobs_of_chats(client: openai.OpenAI, bot: str) -> None:
    for top in (None, 0, 2):
        answer = chat(client, bot, logprobs=True, **({} if top is None else {"top_logprobs": top}))
        told = answer.choices[0].logprobs.content
        assert len(told) == 4 and all(len(each.top_logprobs) == (top or 0) and each.logprob <= 0 for each in told)
    assert [each.top_logprobs[0].logprob for each in told] == [each.logprob for each in told], "the likeliest"
    chunks = list(chat(client, bot, logprobs=True, stream=True))
    streamed = [each for chunk in chunks if chunk.choices[0].logprobs for each in chunk.choices[0].logprobs.content]
    assert [each.token for each in streamed] == [each.token for each in told]
    assert chat(client, bot).choices[0].logprobs is None


def test_what_is_chosen_can_be_steered(client: openai.OpenAI, bot: str) -> None:
    assert chat(client, bot, logit_bias={"70": 100}).choices[0].message.content == "dddd"
    both = {"logit_bias": {"70": 50, "71": 48}, "max_tokens": 8}
    assert chat(client, bot, **both).choices[0].message.content == "dddddddd"
    assert set(chat(client, bot, **both, frequency_penalty=2).choices[0].message.content) == {"d", "e"}
    assert "d" not in chat(client, bot, stop=["d"], logit_bias={"70": 100}).choices[0].message.content
    assert chat(client, bot, top_p=0, temperature=2).choices == chat(client, bot).choices


def test_json_is_whole_or_said_to_be_cut(client: openai.OpenAI, bot: str) -> None:
    answer = chat(client, bot, response_format=AS_JSON, max_tokens=100).choices[0]
    assert answer.finish_reason == "stop" and set(json.loads(answer.message.content)) == {"a", "b"}
    assert isinstance(
        json.loads(
            chat(client, bot, response_format={"type": "json_object"}, max_tokens=200, logit_bias={"93": 9})
            .choices[0]
            .message.content
        ),
        dict,
    )
    for cut in ({"max_tokens": 3}, {"stop": ["xx"]}, {"stop": ["}"]}):
        for stream in (False, True):
            told: Any = chat(client, bot, response_format=AS_JSON, **{"max_tokens": 100, "stream": stream} | cut)
            assert (list(told)[-1] if stream else told).choices[0].finish_reason == "length", cut
    with pytest.raises(openai.BadRequestError, match="JSON schema cannot be used"):
        chat(
            client,
            bot,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "odd"}}},
        )


def test_turns_of_tools(client: openai.OpenAI, engine: str) -> None:
    turns = [*SAY, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    answered = [*turns, {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "21 degrees"}]}]
    tokens = [chat(client, f"{engine}-tools", messages=told).usage.prompt_tokens for told in (SAY, turns, answered)]
    assert tokens[0] + 10 < tokens[1] < tokens[2], "the call and its answer are read"
    with pytest.raises(openai.BadRequestError, match="no place for tools"):
        chat(client, f"{engine}-plain", messages=answered)
    with pytest.raises(openai.BadRequestError, match="no turn before it has called"):
        chat(client, f"{engine}-tools", messages=[*SAY, answered[-1]])


# -- completions and embeddings ----------------------------------------------------------------------------------------


def test_texts_go_on_one_by_one_and_in_lists(client: openai.OpenAI, bot: str) -> None:
    alone = [complete(client, bot, prompt=text) for text in ("the answer", "the question")]
    both = complete(client, bot, prompt=["the answer", "the question"])
    assert [choice.text for choice in both.choices] == [each.choices[0].text for each in alone]
    assert both.usage.prompt_tokens == sum(each.usage.prompt_tokens for each in alone)
    twice = complete(client, bot, prompt=["the answer", "the question"], n=2, temperature=2, seed=1)
    assert [choice.index for choice in twice.choices] == [0, 1, 2, 3]
    assert twice.usage.prompt_tokens == both.usage.prompt_tokens
    tokens = [complete(client, bot, prompt=told) for told in ([60, 61, 62], [[60, 61, 62], [63]])]
    assert tokens[0].choices[0].text == tokens[1].choices[0].text and tokens[1].usage.prompt_tokens == 4
    assert complete(client, bot, max_tokens=None, temperature=2, seed=1).usage.completion_tokens == 16, (
        "OpenAI's default"
    )
    assert complete(client, bot).object == "text_completion" and complete(client, bot).model == bot


def test_echo_tells_the_prompt_again(client: openai.OpenAI, bot: str) -> None:
    plain = complete(client, bot).choices[0].text
    assert complete(client, bot, echo=True).choices[0].text == "the answer" + plain
    both = complete(client, bot, prompt=[[60, 61], [62]], echo=True, n=2).choices
    assert [choice.text[: len(told)] for choice, told in zip(both, ("Z[", "Z[", "\\", "\\"), strict=True)] == [
        "Z[",
        "Z[",
        "\\",
        "\\",
    ]
    with pytest.raises(openai.BadRequestError, match="together with logprobs"):
        complete(client, bot, echo=True, logprobs=1)


def test_logprobs_of_texts_have_their_own_form(client: openai.OpenAI, bot: str) -> None:
    for top in (0, 2):
        choice = complete(client, bot, logprobs=top).choices[0]
        told = choice.logprobs
        assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == len(told.top_logprobs) == 4
        assert "".join(told.tokens) == choice.text and all(len(each) == top for each in told.top_logprobs)
        assert told.text_offset[0] == 0 and told.text_offset[1] == len(told.tokens[0])
    chunks = list(complete(client, bot, logprobs=2, stream=True))
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs.tokens]
    assert [token for part in parts for token in part.tokens] == told.tokens
    assert [place for part in parts for place in part.text_offset] == told.text_offset


def test_texts_stream(client: openai.OpenAI, bot: str) -> None:
    whole = complete(client, bot, prompt=["the answer", "the question"])
    told = {0: "", 1: ""}
    for chunk in complete(
        client, bot, prompt=["the answer", "the question"], stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            told[choice.index] += choice.text
    assert [told[0], told[1]] == [choice.text for choice in whole.choices] and chunk.usage == whole.usage


def test_embeddings(client: openai.OpenAI, bot: str) -> None:
    told = client.embeddings.create(model=bot, input=["the answer", "the question"])
    assert told.model == bot and len(told.data) == 2 and told.usage.prompt_tokens == told.usage.total_tokens > 2
    plain = client.embeddings.create(model=bot, input="the answer", encoding_format="float").data[0].embedding
    assert plain == pytest.approx(told.data[0].embedding, abs=1e-5)
    assert sum(number**2 for number in plain) == pytest.approx(1, abs=1e-4)
    tokens = client.embeddings.create(model=bot, input=[[60, 61], [62]])
    assert len(tokens.data) == 2 and tokens.usage.prompt_tokens == 3
    raw = post(client, "/embeddings", model=bot, input="the answer", encoding_format="base64").json()["data"][0][
        "embedding"
    ]
    data = base64.b64decode(raw)
    assert list(struct.unpack(f"<{len(data) // 4}f", data)) == pytest.approx(plain, abs=1e-5)


# -- responses ---------------------------------------------------------------------------------------------------------


def test_responses(client: openai.OpenAI, bot: str) -> None:
    asked: Any = {"model": bot, "max_output_tokens": 4, "temperature": 0}
    told = client.responses.create(**asked, input="the question", instructions="the answer", metadata={"a": "b"})
    same = chat(client, bot, messages=[{"role": "system", "content": "the answer"}, *SAY])
    assert told.output_text == same.choices[0].message.content and told.model == bot
    assert told.usage and told.usage.input_tokens == same.usage.prompt_tokens and told.usage.output_tokens == 4
    assert (
        told.status == "incomplete" and told.incomplete_details and told.metadata == {"a": "b"} and told.store is False
    )
    items: Any = [{"role": "user", "content": [{"type": "input_text", "text": "the question"}]}, *told.output]
    more = client.responses.create(
        **asked, instructions="the answer", input=[*items, {"role": "user", "content": "the answer"}]
    )
    assert more.output_text and more.usage and more.usage.input_tokens > told.usage.input_tokens
    form: Any = {"format": {"type": "json_schema", "name": "thing", "schema": SCHEMA}}
    whole = client.responses.create(**asked | {"max_output_tokens": 100}, input="the question", text=form)
    assert set(json.loads(whole.output_text)) == {"a", "b"} and whole.status == "completed"


def test_responses_stream(client: openai.OpenAI, bot: str) -> None:
    asked: Any = {"model": bot, "max_output_tokens": 4, "temperature": 0, "input": "the question"}
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text and events[-1].response.usage == whole.usage
    form: Any = {"format": {"type": "json_schema", "name": "thing", "schema": SCHEMA}}
    with client.responses.stream(**asked | {"max_output_tokens": 100, "text": form}) as stream:
        assert set(json.loads(stream.get_final_response().output_text)) == {"a", "b"}


# -- what is refused ---------------------------------------------------------------------------------------------------

IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}]}]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/chat/completions", {"messages": IMAGE}, "messages.0.content.0 has type image_url, and this deployment reads text only"),
    ("/chat/completions", {"messages": SAY, "colour": "red"}, "colour is not a known field"),
    ("/chat/completions", {"messages": SAY, "temperature": 2.5}, "temperature must be at most 2"),
    ("/chat/completions", {"messages": SAY, "temperature": "hot"}, "temperature must be a number"),
    ("/chat/completions", {"messages": SAY, "store": True}, "store is not offered here: answers are not stored"),
    ("/chat/completions", {"messages": SAY, "lora": [{"id": 0, "scale": 1}]}, "lora is not a known field"),
    ("/chat/completions", {"messages": SAY, "adapter_path": "/etc"}, "adapter_path is not a known field"),
    ("/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role must be one of"),
    ("/chat/completions", {"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages.0.weight is not a known"),
    ("/chat/completions", {"messages": []}, "messages must have at least 1 item"),
    ("/chat/completions", {}, "messages is missing"),
    ("/chat/completions", {"messages": SAY, "n": 500}, "n must be at most 128"),
    ("/chat/completions", {"messages": SAY, "max_tokens": 0}, "max_tokens must be at least 1"),
    ("/completions", {"prompt": []}, "prompt must be a text"),
    ("/completions", {"prompt": "x", "suffix": "y"}, "suffix is not offered here"),
    ("/completions", {"prompt": [60, 999999]}, ""),
    ("/embeddings", {"input": "x", "dimensions": 3}, "dimensions is not offered here"),
    ("/embeddings", {"input": ["x", ""]}, "input.1 is empty"),
    ("/embeddings", {"input": "x", "encoding_format": "hex"}, "encoding_format must be"),
    ("/responses", {"input": "x", "store": True}, "store is not offered here: responses are not stored"),
    ("/responses", {"input": "x", "previous_response_id": "resp_1"}, "responses are not stored; send the whole conversation"),
    ("/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "only functions are offered"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "said"), REFUSED)
def test_what_cannot_be_done_is_said(
    client: openai.OpenAI, bot: str, path: str, body: dict[str, Any], said: str
) -> None:
    answer = post(client, path, model=bot, **body)
    told = answer.json()["error"]
    assert answer.status_code == 400 and said in told["message"], answer.text
    assert told["type"] == "invalid_request_error"


def test_too_long_names_the_limit(client: openai.OpenAI, bot: str) -> None:
    long = "the question " * 200
    for stream in (False, True):
        for ask, told in ((chat, {"messages": [{"role": "user", "content": long}]}), (complete, {"prompt": long})):
            with pytest.raises(openai.BadRequestError, match=r"\d{3} tokens.*256"):
                ask(client, bot, stream=stream, **told)


def test_harmless_fields_and_nulls_change_nothing(client: openai.OpenAI, bot: str) -> None:
    harmless = {
        "store": False,
        "service_tier": "auto",
        "modalities": ["text"],
        "metadata": {},
        "parallel_tool_calls": True,
    }
    nulls = dict.fromkeys(("max_tokens", "stop", "n", "seed", "tools", "functions", "logit_bias", "user", "odd_one"))
    plain = chat(client, bot, max_tokens=None, max_completion_tokens=4)
    body = {"model": bot, "messages": SAY, "temperature": 0, "max_completion_tokens": 4, **harmless, **nulls}
    answer = post(client, "/chat/completions", **body)
    assert answer.json()["choices"][0]["message"]["content"] == plain.choices[0].message.content


def test_errors_have_one_shape(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no deployment 'nobody'"):
        chat(client, "nobody")
    with pytest.raises(openai.NotFoundError, match="responses are not stored"):
        client.responses.retrieve("resp_1")
    base = str(client.base_url).rstrip("/")
    for answer in (
        httpx.get(f"{base}/nothing"),
        httpx.get(f"{base}/embeddings"),
        httpx.post(f"{base}/completions", content=b"{"),
    ):
        assert answer.status_code in (400, 404, 405) and answer.json()["error"]["message"], answer.text


def test_who_leaves_takes_no_place_from_others(client: openai.OpenAI, served: tuple[str, Records]) -> None:
    """More leave than may be inside at once."""
    bot = "transformers-plain"
    body = {"model": bot, "prompt": ["the answer"] * 100, "max_tokens": 200, "stream": True}
    before = len(served[1].rows)
    for _ in range(5):
        with httpx.stream("POST", f"{str(client.base_url).rstrip('/')}/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())
    assert chat(client, bot, timeout=60).usage.completion_tokens == 4
    deadline_s = time.monotonic() + 20
    while len(served[1].rows) < before + 6 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert sorted(row["status"] for row in served[1].rows[before:]) == [200, *[499] * 5]


def test_what_is_no_json_is_said(client: openai.OpenAI, bot: str) -> None:
    for content in (b'{"model": NaN}', b'{"model": "x", "a": "\\ud800"}', b"\xff", b"[1]"):
        answer = httpx.post(f"{str(client.base_url).rstrip('/')}/chat/completions", content=content)
        assert answer.status_code == 400 and "not" in answer.json()["error"]["message"]
    huge = post(client, "/chat/completions", model=bot, messages=SAY, max_tokens=10**30)
    assert huge.status_code == 400 and "max_tokens" in huge.json()["error"]["message"]


def test_a_deployments_own_settings_and_what_is_written_down(
    client: openai.OpenAI, served: tuple[str, Records]
) -> None:
    answer = client.chat.completions.create(model="with-defaults", messages=SAY)
    assert answer.usage and answer.usage.completion_tokens == 3
    row = served[1].rows[-1]
    assert row["messages"] == [{"role": "system", "content": "the answer"}, *SAY]
    assert row["answer"] == answer.choices[0].message.content and row["completion_tokens"] == 3
    list(client.chat.completions.create(model="with-defaults", messages=SAY, stream=True))
    streamed = served[1].rows[-1]
    assert (
        streamed["answer"] == row["answer"]
        and streamed["prompt_tokens"] == row["prompt_tokens"]
        and streamed["first_token_s"]
    )
