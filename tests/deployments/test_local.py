"""Models in use on this machine, as programs see them: official clients, many adapters, deaths, damage, rollouts."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.deployments.conftest import BASE, Served

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}


@pytest.fixture(scope="module")
def smol(served: Served) -> Iterator[openai.OpenAI]:
    """The official client against a deployment called `smol`."""
    served.deploy("smol", BASE)
    with openai.OpenAI(base_url=f"{served.server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, model: str, **settings: Any) -> str:
    asked = {"max_tokens": 12, "temperature": 0, "messages": QUESTION} | settings
    return str(client.chat.completions.create(model=model, **asked).choices[0].message.content)


def test_the_official_client_chats(smol: openai.OpenAI) -> None:
    assert "smol" in [model.id for model in smol.models.list()]
    assert smol.models.retrieve("smol").id == "smol"
    answer = smol.chat.completions.create(
        model="smol", messages=QUESTION, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3
    )
    assert "Paris" in str(answer.choices[0].message.content)
    assert answer.usage and answer.usage.completion_tokens > 3
    assert answer.choices[0].logprobs and len(answer.choices[0].logprobs.content[0].top_logprobs) == 3  # type: ignore[index]
    text, told = "", None
    stream = smol.chat.completions.create(
        model="smol",
        messages=QUESTION,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        told = chunk.usage or told
    assert text == answer.choices[0].message.content and told is not None
    assert "Paris" not in ask(smol, "smol", stop=["Paris"])
    first = [ask(smol, "smol", temperature=1.5, seed=7) for _ in range(2)]
    assert first[0] == first[1] != ask(smol, "smol", temperature=1.5, seed=8)


def test_the_official_client_completes_embeds_and_gets_json(smol: openai.OpenAI) -> None:
    done = smol.completions.create(model="smol", prompt="The capital of France is", max_tokens=4, temperature=0)
    assert "Paris" in done.choices[0].text
    vectors = smol.embeddings.create(model="smol", input=["a cat", "a kitten", "tax law"]).data
    near, far = (sum(a * b for a, b in zip(vectors[0].embedding, vectors[n].embedding, strict=True)) for n in (1, 2))
    assert near > far
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    person = json.loads(ask(smol, "smol", response_format=schema, max_tokens=60))
    assert set(person) == {"name", "age"} and isinstance(person["age"], int)


def test_the_official_client_has_a_tool_called(served: Served, smol: openai.OpenAI) -> None:
    weather = {"name": "get_weather", "description": "The weather in a city.", "parameters": CITY}
    turns: list[Any] = []
    for city in ("Rome", "Madrid", "Berlin", "Paris"):
        called = {"name": "get_weather", "arguments": json.dumps({"city": city})}
        turns += [
            {"role": "user", "content": f"How is the weather in {city}?"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": city, "type": "function", "function": called}]},
        ]
    asked: Any = {"messages": turns[:-1], "tools": [{"type": "function", "function": weather}]}
    with pytest.raises(openai.BadRequestError, match="has no place for tools"):
        ask(smol, "smol", **asked)
    tools = served.deploy("tools", "with-tools")
    more: Any = {"model": "tools", "max_tokens": 60, "temperature": 0}
    answer = smol.chat.completions.create(**asked, **more).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.tool_calls, answer
    made: Any = answer.message.tool_calls[0].function
    assert made.name == "get_weather" and json.loads(made.arguments) == {"city": "Paris"}
    pieces: list[Any] = []
    for chunk in smol.chat.completions.create(**asked, **more, stream=True):
        pieces += (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []
    assert "".join(piece.function.arguments or "" for piece in pieces) == made.arguments
    items: list[Any] = []
    for turn in turns[:-1]:
        items += [{"role": "user", "content": turn["content"]}] if turn["role"] == "user" else []
        items += [
            {"type": "function_call", "call_id": call["id"], **call["function"]} for call in turn.get("tool_calls", [])
        ]
    functions: Any = [{"type": "function", **weather}]
    same: Any = {"model": "tools", "input": items, "tools": functions, "max_output_tokens": 60, "temperature": 0}
    [call] = [item for item in smol.responses.create(**same).output if item.type == "function_call"]
    assert (call.name, call.arguments) == (made.name, made.arguments)
    done = [event for event in smol.responses.create(**same, stream=True) if event.type.endswith("arguments.done")]
    assert [event.arguments for event in done] == [made.arguments]
    told = {"role": "tool", "tool_call_id": "Paris", "content": "Sunny, 21 degrees."}
    assert ask(smol, "tools", messages=[*turns, told])
    served.forget(tools)


def test_generate_and_errors(served: Served, smol: openai.OpenAI) -> None:
    body = {"model": "smol", "prompt": "What is the capital of France?", "max_tokens": 12, "temperature": 0}
    assert "Paris" in httpx.post(f"{served.server.url}/generate", json=body, timeout=60).json()["text"]
    assert httpx.post(f"{served.server.url}/generate", json=body | {"messages": QUESTION}).status_code == 422
    with pytest.raises(openai.NotFoundError, match="There are: smol"):
        ask(smol, "nobody")
    with pytest.raises(openai.BadRequestError):
        ask(smol, "smol", messages=[])
    with pytest.raises(openai.BadRequestError):
        ask(smol, "smol", temperature="hot")
    for content in (b"{", b"[]", b"\xff", b'{"model": 7}', b'{"model": "smol", "messages": "no"}'):
        answer = httpx.post(f"{served.server.url}/v1/chat/completions", content=content)
        assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_adapters_share_one_base_and_answer_for_themselves(served: Served, smol: openai.OpenAI) -> None:
    refs = [served.register(f"tuned-{seed}", f"adapter-{seed}") for seed in (1, 2)]
    ids = [served.deploy(f"tuned-{n}", ref) for n, ref in enumerate(refs)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda name: (name, ask(smol, name)), ["smol", "tuned-0", "tuned-1"] * 4))
    by_name = {name: {answer for who, answer in answers if who == name} for name in ("smol", "tuned-0", "tuned-1")}
    assert all(len(told) == 1 for told in by_name.values()), "each name has one model, whoever else asks"
    assert len(set.union(*by_name.values())) == 3 and "Paris" in by_name["smol"].pop()
    deadline = time.monotonic() + 60
    while len(served.engines()) > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    [engine] = served.engines()
    assert len(json.loads((engine / "serving.json").read_bytes())["adapters"]) == 2
    for deployment_id in ids:
        served.forget(deployment_id)


def test_a_killed_process_is_back_and_no_request_hangs(served: Served, smol: openai.OpenAI) -> None:
    """kill -9 under load: whole requests are answered all the same, streams end with an error, in seconds."""
    over, outcomes, gaps = threading.Event(), Counter[str](), []

    def load(number: int) -> None:
        while not over.is_set():
            began_s = time.monotonic()
            try:
                if number % 2:
                    list(smol.chat.completions.create(model="smol", messages=QUESTION, max_tokens=12, stream=True))
                else:
                    ask(smol, "smol")
                outcomes["answered"] += 1
            except openai.APIError as error:
                outcomes[type(error).__name__] += 1
            gaps.append(time.monotonic() - began_s)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(2)
        for engine in served.engines():
            process = json.loads((engine / "process.json").read_bytes())
            psutil.Process(process["pid"]).kill()
    time.sleep(1)
    before = outcomes["answered"]
    deadline = time.monotonic() + 40
    while outcomes["answered"] < before + 8 and time.monotonic() < deadline:
        time.sleep(0.1)
    over.set()
    for thread in threads:
        thread.join(60)
    assert outcomes["answered"] >= before + 8, outcomes
    assert outcomes.total() - outcomes["answered"] <= 2 * len(threads), f"only what was under way: {outcomes}"
    assert max(gaps) < 45 and not any(thread.is_alive() for thread in threads)


def test_a_process_outlives_the_server_and_is_found_again(served: Served, smol: openai.OpenAI) -> None:
    pids = [json.loads((engine / "process.json").read_bytes())["pid"] for engine in served.engines()]
    served.server.kill()
    served.server.start()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            assert "Paris" in ask(smol, "smol")
            break
        except openai.APIStatusError:
            time.sleep(0.1)
    assert [json.loads((engine / "process.json").read_bytes())["pid"] for engine in served.engines()] == pids


def test_a_broken_model_never_gets_a_request(served: Served, smol: openai.OpenAI) -> None:
    """Weights that are no numbers are found by trying them; what was live stays."""
    good, bad = served.register("careful", "adapter-1"), served.register("careful", "damaged")
    deployment_id = served.deploy("careful", good)
    before = ask(smol, "careful")
    served.roll_out(deployment_id, bad)
    served.wait(deployment_id, lambda _told: any("failed" in line for line in served.history(deployment_id)))
    told = served.get(deployment_id)
    assert told["model"] == good and told["status"] == "ready"
    assert ask(smol, "careful") == before
    assert f"{good} stays live" in " ".join(served.history(deployment_id))
    served.forget(deployment_id)


def test_a_damaged_byte_refuses_to_load(served: Served) -> None:
    ref = served.register("rotten", "adapter-2")
    version = served.client.get(f"/registry/rotten/versions/{ref.partition('@')[2]}").json()
    digest = next(file["sha256"] for file in version["files"] if file["path"] == "adapter_model.safetensors")
    [view] = (served.server.home / "registry" / "blobs").rglob(digest)
    view.chmod(0o644)
    data = bytearray(view.read_bytes())
    data[len(data) // 2] ^= 1
    view.write_bytes(data)
    body = {"name": "rotten", "model": ref, "settings": {"threads": 1}}
    answer = served.client.post("/deployments/", json=body)
    assert answer.status_code == 409 and "adapter_model.safetensors" in answer.text


def test_canary_goes_step_by_step_and_a_caller_stays_with_its_variant(served: Served, smol: openai.OpenAI) -> None:
    one, two = served.register("bird", "adapter-1"), served.register("bird", "adapter-2")
    deployment_id = served.deploy("bird", one)
    served.roll_out(deployment_id, two, strategy="canary", steps=[30, 60], step_s=1, min_requests=6, max_slower=50)
    served.wait(
        deployment_id, lambda told: any(r["status"] == "ready" and r["role"] == "candidate" for r in told["revisions"])
    )

    def send(session: str) -> tuple[str, str]:
        answer = smol.chat.completions.with_raw_response.create(
            model="bird", messages=QUESTION, max_tokens=4, temperature=0, extra_headers={"X-Session-Id": session}
        )
        return session, str(answer.headers["x-tunesmith-model"])

    first = dict(send(f"s{n}") for n in range(16))
    assert {one, two} == set(first.values())
    share = sum(model == two for model in first.values())
    assert 1 <= share <= 11, "about 30 % of them"
    deadline = time.monotonic() + 60
    while served.get(deployment_id)["model"] != two and time.monotonic() < deadline:
        seen = dict(send(f"s{n}") for n in range(16))
        assert all(seen[session] == two for session, model in first.items() if model == two), "once with it, always"
    told = served.get(deployment_id)
    assert told["model"] == two, served.history(deployment_id)
    assert any("gets 60 %" in line for line in served.history(deployment_id))
    served.client.post(f"/deployments/{deployment_id}/rollback")
    assert served.wait(deployment_id, lambda told: told["model"] == one)
    served.forget(deployment_id)


def test_limits_cache_recording_and_the_next_dataset(served: Served, smol: openai.OpenAI) -> None:
    deployment_id = served.deploy("kept", BASE, cache_s=60, requests_per_minute=6, record_conversations=True)
    asked = {"model": "kept", "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    answers = [httpx.post(f"{served.server.url}/v1/chat/completions", json=asked, timeout=60) for _ in range(3)]
    assert [answer.headers.get("x-cache") for answer in answers] == [None, "hit", "hit"]
    rated = f"/deployments/{deployment_id}/requests/{answers[0].headers['x-request-id']}/rating"
    assert served.client.put(rated, json={"verdict": "up"}).status_code == 204, "at once"
    list(smol.chat.completions.create(**asked, stream=True))  # type: ignore[call-overload]
    served.server.wait_for(f"/deployments/{deployment_id}/requests", lambda page: len(page["items"]) == 4)
    made = served.client.post(f"/deployments/{deployment_id}/dataset", json={"name": "liked"})
    assert made.status_code == 201, made.text
    dataset = served.server.wait_for(f"/datasets/{made.json()['id']}", lambda told: told["status"] == "ready")
    assert dataset["num_rows"] == 1
    codes = [
        httpx.post(f"{served.server.url}/v1/chat/completions", json=asked, timeout=60).status_code for _ in range(4)
    ]
    assert codes[-1] == 429
    metrics = served.client.get(f"/deployments/{deployment_id}/metrics").json()
    assert metrics["total"]["requests"] >= 4 and metrics["variants"]["1"]["up"] == 1
    served.forget(deployment_id)


def test_the_engine_of_transformers_does_what_it_can(served: Served) -> None:
    deployment_id = served.deploy("plain", BASE, engine="transformers")
    with openai.OpenAI(base_url=f"{served.server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="plain", messages=QUESTION, max_tokens=10, temperature=0, logprobs=True, top_logprobs=2
        )
        assert "Paris" in str(answer.choices[0].message.content)
        assert answer.choices[0].logprobs and answer.choices[0].logprobs.content[0].token == "The"  # type: ignore[index]
        stream = client.chat.completions.create(
            model="plain", messages=QUESTION, max_tokens=10, temperature=0, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == answer.choices[0].message.content
        done = client.completions.create(model="plain", prompt="The capital of France is", max_tokens=3, temperature=0)
        assert "Paris" in done.choices[0].text
        vectors = client.embeddings.create(model="plain", input=["a cat", "a kitten"]).data
        assert len(vectors) == 2 and len(vectors[0].embedding) > 100
        schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
        person = json.loads(ask(client, "plain", response_format=schema, max_tokens=60))
        assert set(person) == {"name", "age"} and isinstance(person["age"], int)
        tool: Any = {"type": "function", "function": {"name": "x", "parameters": {"type": "object", "properties": {}}}}
        with pytest.raises(openai.BadRequestError, match=r"llama\.cpp"):
            ask(client, "plain", tools=[tool])
    served.forget(deployment_id)
