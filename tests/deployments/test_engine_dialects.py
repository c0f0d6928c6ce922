"""What vLLM is asked and how its answers are read, which cannot run here; and events of responses that call tools."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response

from tunesmith.core.inference import Decoding, Reply, TemplateLimits, Usage
from tunesmith.features.deployments.dialects import chat, completions, responses
from tunesmith.features.deployments.engine_dialects import chat_body, completion_body, error_of, reply_of

SAY = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def test_what_vllm_is_asked() -> None:
    asked = {
        "model": "bot", "max_completion_tokens": 5, "n": 2, "seed": 7, "stop": "END", "tools": [TOOL], "stream": True,
        "tool_choice": {"type": "function", "function": {"name": "weather"}}, "response_format": SCHEMA, "logprobs": True,
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
            *SAY, {"role": "assistant", "content": None}, {"role": "user", "content": "Go on"},
        ],
    }  # fmt: skip
    body = chat_body("vllm", chat.parse(asked), 1, TemplateLimits(takes_turns=True))
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello\n\nGo on"},
    ]
    assert (body["max_tokens"], body["seed"], body["stop"]) == (5, 8, ["END"]), "the second answer has its own seed"
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0.7, 0.95, -1, 0.0)
    assert body["stream_options"] == {"include_usage": True} and body["tool_choice"]["function"]["name"] == "weather"
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (body["logprobs"], body["top_logprobs"]) == (True, 0) and "n" not in body and "model" not in body
    text = completions.parse({"model": "bot", "prompt": [[1, 2], [3]], "logprobs": 2, "max_tokens": 3})
    told = completion_body("vllm", text, text.prompts[0], 0)
    assert told["prompt"] == [1, 2] and told["logprobs"] == 2 and told["max_tokens"] == 3


def test_a_deployments_settings_fill_in_what_is_not_said() -> None:
    decoding = Decoding(temperature=0.0).completed(
        {"temperature": 1.0, "top_k": 5, "stop": [], "seed": None, "other": 1}
    )
    assert decoding == Decoding(temperature=0.0, top_k=5)


def test_how_vllms_log_probabilities_are_read() -> None:
    told = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "top_logprobs": [{"c": -3.0, "a": -1.0}, {"b": -2.0}]}
    reply = reply_of({"choices": [{"text": "ab", "logprobs": told, "finish_reason": "length"}]}, 1)
    assert [each["token"] for each in reply.logprobs] == ["a", "b"] and reply.text == "ab"
    assert [[top["token"] for top in each["top_logprobs"]] for each in reply.logprobs] == [["a"], ["b"]]
    assert completions.legacy_logprobs(reply.logprobs, 4)["text_offset"] == [4, 5]


@pytest.mark.parametrize(
    "said",
    [
        "request (600 tokens) exceeds the available context size (512 tokens), try increasing it",
        "This model's maximum context length is 512 tokens. However, you requested 616 tokens (600 in the messages, 16 in the"
        " completion).",
        "You passed 600 input tokens and requested 16 output tokens. However, the model's context length is only 512 tokens.",
        "input (600 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
    ],
)
def test_too_long_is_told_in_one_way(said: str) -> None:
    error = error_of(500, {"error": {"message": said}}, "bot")
    assert error.status == 422 and "bot takes at most 512 tokens" in error.message


def test_a_template_that_refuses_is_the_callers_affair() -> None:
    error = error_of(500, {"error": {"message": "Jinja Exception: roles must alternate"}}, "bot")
    assert error.status == 422 and "roles must alternate" in error.message
    assert error_of(500, {"error": {"message": "out of memory"}}, "bot").status == 503


def test_a_response_that_calls_a_tool() -> None:
    """In pieces, after words, as engines stream them."""
    ask = responses.parse({"model": "bot", "input": "Hello", "tools": [{"type": "function", "name": "weather"}]})
    call: dict[str, Any] = {
        "index": 0,
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": ""},
    }
    parts = [
        Reply(text="Let me"),
        Reply(text=" look."),
        Reply(tool_calls=[call]),
        Reply(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
        Reply(tool_calls=[{"index": 0, "function": {"arguments": '"Rome"}'}}]),
        Reply(finish_reason="tool_calls"),
    ]
    writer = responses.ResponseWriter(ask, {})
    events = [*writer.begin(), *(event for part in parts for event in writer.part(0, part)), *writer.end(Usage(3, 4))]
    told = [json.loads(json.dumps(data)) for _, data in events]
    assert [event["type"] for event in told][2:] == [
        "response.output_item.added", "response.content_part.added", "response.output_text.delta", "response.output_text.delta",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.output_item.added",
        "response.function_call_arguments.delta", "response.function_call_arguments.delta",
        "response.function_call_arguments.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    whole = Reply()
    for part in parts:
        whole.add(part)
    for last in (told[-1]["response"], responses.ResponseWriter(ask, {}).whole([whole], Usage(3, 4))):
        response = Response.model_validate(last)
        assert response.output_text == "Let me look." and response.status == "completed"
        [made] = [item for item in response.output if item.type == "function_call"]
        assert (made.call_id, made.name, made.arguments) == ("c1", "weather", '{"city": "Rome"}')
    again = responses.parse(
        {"model": "bot", "input": [*last["output"], {"type": "function_call_output", "call_id": "c1", "output": "21"}]}
    )
    assert again.messages[0]["content"] == "Let me look." and again.messages[0]["tool_calls"][0]["id"] == "c1"
    assert again.messages[1] == {"role": "tool", "content": "21", "tool_call_id": "c1"}
