"""Ollama through its official client: against the stand-in, and against the real one where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import free_port
from tests.rows import chat_templates
from tests.targets.ground import make_adapter, make_work
from tests.targets.ollama_server import OllamaServer
from tunesmith.core.errors import Conflict, InvalidInput, Unavailable
from tunesmith.core.job_spec import ModelRef
from tunesmith.features.deployments.targets.ollama import Ollama, host
from tunesmith.recipes.blocks.ollama_template import derive

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}{% set loop_messages = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}{% for m in loop_messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server


def test_a_model_is_created_answers_the_official_client_and_goes(
    tmp_path: Path, ollama: OllamaServer, tiny_model: Path
) -> None:
    from ollama import Client

    target, model = Ollama(), ModelRef(name="job:7", path=str(tiny_model))
    work = make_work(tmp_path / "work", model, target.check_settings({"format": "q8_0"}))
    result = target.deploy(work)
    assert result.is_live and result.details["model"] == "support-bot"
    made = ollama.models["support-bot"]
    assert made["system"] == work.system_prompt
    assert made["parameters"] == {
        "temperature": 0.2, "top_p": 0.9, "num_predict": 8, "repeat_penalty": 1.1, "seed": 7, "num_ctx": 4096,
        "stop": ["<|im_end|>", "END"],
    }  # fmt: skip
    assert "<|im_start|>user\n{{ .Content }}<|im_end|>\n" in made["template"]
    written = (work.folder / "Modelfile").read_text()
    assert "FROM ./support-bot-q8_0.gguf" in written and 'PARAMETER stop "END"' in written
    assert "You help with '''mails'''." in written
    assert target.check(result).ok
    client = Client(host=ollama.url)
    assert [m.model for m in client.list().models] == ["support-bot"]
    assert isinstance(client.generate("support-bot", "Hello", options={"num_predict": 4}).response, str)
    answer = client.chat("support-bot", [{"role": "user", "content": "Hello"}], options={"num_predict": 4})
    assert answer.message.role == "assistant"
    uploads = ollama.uploads
    target.deploy(work)
    assert ollama.uploads == uploads, "a blob that is there is not sent again"
    target.undeploy(result)
    assert not ollama.models and not target.check(result).ok
    target.undeploy(result)


def test_an_adapter_goes_beside_its_base_model(tmp_path: Path, ollama: OllamaServer, tiny_model: Path) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter")
    model = ModelRef(name="job:7", path=str(tiny_model), adapter_path=str(adapter))
    target = Ollama()
    result = target.deploy(
        make_work(tmp_path / "work", model, target.check_settings({"keep_adapter": True, "format": "f16"}))
    )
    made = ollama.models["support-bot"]
    assert list(made["adapters"]) == ["support-bot-adapter.gguf"]
    assert "ADAPTER ./support-bot-adapter.gguf" in (tmp_path / "work" / "Modelfile").read_text()
    assert target.check(result).ok


def test_what_ollama_refuses_is_told_in_its_words(tmp_path: Path, ollama: OllamaServer, tiny_model: Path) -> None:
    ollama.refuses = "unsupported architecture"
    target, model = Ollama(), ModelRef(name="tiny", path=str(tiny_model))
    with pytest.raises(Conflict, match="unsupported architecture"):
        target.deploy(make_work(tmp_path / "work", model, target.check_settings({})))
    with pytest.raises(InvalidInput) as error:
        target.check_settings({"format": "q9", "host": "http://inside"})
    assert {detail["loc"] for detail in error.value.details} == {"settings.format", "settings.host"}


def test_without_ollama_there_is_a_ready_folder(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    target, model = Ollama(), ModelRef(name="tiny", path=str(tiny_model))
    result = target.deploy(make_work(tmp_path / "work", model, target.check_settings({})))
    assert not result.is_live and "ollama create support-bot -f Modelfile" in result.instructions
    assert {"Modelfile", "support-bot-q8_0.gguf"} <= {p.name for p in Path(result.address).iterdir()}
    target.undeploy(result)


@pytest.mark.parametrize(
    ("given", "address"),
    [("", "http://127.0.0.1:11434"), ("0.0.0.0", "http://127.0.0.1:11434"), ("gpu:1234", "http://gpu:1234"),
     ("https://ollama.example.com", "https://ollama.example.com:443"), ("http://gpu:5/base/", "http://gpu:5/base")],
)  # fmt: skip
def test_ollamas_address_is_read_as_ollama_reads_it(given: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", given)
    assert host() == address


def test_when_ollama_goes_away_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.features.deployments.targets.base import TargetResult

    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    result = TargetResult(details={"model": "support-bot"})
    assert "does not answer" in Ollama().check(result).message
    with pytest.raises(Unavailable, match="does not answer"):
        Ollama().undeploy(result)


def test_chat_templates_of_other_kinds_are_carried_over() -> None:
    gemma = derive(GEMMA, "<bos>", "<eos>", adds_bos=True)
    assert gemma.text.endswith("<start_of_turn>model\n") and "<bos>" not in gemma.text
    assert "{{ if $system }}{{ $system }}\n\n" in gemma.text
    assert gemma.stop == ["<end_of_turn>", "<eos>"]
    mistral = derive(MISTRAL, "<s>", "</s>", adds_bos=True)
    assert '{{ if eq .Role "assistant" }}{{ .Content }}</s>{{ end }}' in mistral.text
    odd = "{% for m in messages %}{{ m.content | length }}{% endfor %}"
    assert derive(odd, "", "</s>", adds_bos=False).text == "", "what cannot be told is not guessed"


@pytest.mark.parametrize(
    "name", ["QWEN25", "LLAMA3", "OLMO3", "QWEN3", "DEEPSEEK_R1", "LLAMA2", "PHI3", "PHI4", "GLM4", "COMMAND_R"]
)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_well_known_templates_are_carried_over(name: str, adds_bos: bool) -> None:
    found = derive(getattr(chat_templates, name), "<s>", "</s>", adds_bos=adds_bos)
    assert found.text and "</s>" in found.stop and not [stop for stop in found.stop if "\n" in stop or len(stop) > 24]


def test_a_template_is_the_same_on_any_day() -> None:
    dated = (
        "{% set day = strftime_now('%d %B') if strftime_now is defined else 'a day' %}{{ day }}" + chat_templates.CHATML
    )
    assert derive(dated, "", "</s>", adds_bos=False, is_dated=False).text.startswith("{{ if not .System }}a day")


@pytest.mark.skipif(shutil.which("ollama") is None, reason="Ollama is not installed here")
def test_the_real_ollama(tmp_path: Path, starter_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ollama import Client

    address = f"127.0.0.1:{free_port()}"
    env: dict[str, Any] = {**os.environ, "OLLAMA_HOST": address, "OLLAMA_MODELS": str(tmp_path / "models")}
    process = subprocess.Popen(["ollama", "serve"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("OLLAMA_HOST", address)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx.get(f"http://{address}/api/version", timeout=1)
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        target, model = Ollama(), ModelRef(name="smol", path=str(starter_model))
        result = target.deploy(make_work(tmp_path / "work", model, target.check_settings({}), system_prompt=""))
        assert target.check(result).ok
        said = Client(host=address).chat("support-bot", [{"role": "user", "content": "What is the capital of France?"}])
        assert said.message.content
        target.undeploy(result)
    finally:
        process.terminate()
        process.wait(20)
