"""How a model is run on this machine: which engine, in which process, and whether it answers."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx

from tunesmith.core.devices import read_gpus
from tunesmith.core.errors import TunesmithError
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.model_kind import PREDICT
from tunesmith.core.prediction import example_of
from tunesmith.core.serving_spec import ServingSpec
from tunesmith.executors.engines import Engine
from tunesmith.executors.serving_process import Endpoint
from tunesmith.features.deployments.targets.base import Health
from tunesmith.recipes.adapter_info import read_adapter_info
from tunesmith.recipes.blocks.endings import ends_in
from tunesmith.recipes.catalog import kind_of_ref
from tunesmith.recipes.chat_template import own_template
from tunesmith.recipes.model_about import ModelAbout, about
from tunesmith.recipes.model_info import read_json, read_model_info
from tunesmith.schemas.deployments import LocalSettings
from tunesmith.settings import Settings

CONVERTED = frozenset(
    ("llama", "mistral", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "phi3", "gpt2")
)
"""`model_type` of the folders that can be turned into a GGUF; see `recipes/blocks/gguf_families.py`."""
SMALL_MODEL = 1_000_000_000
"""Weights under which eight bits are felt."""
LLAMA_CPP_ENDS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>",
     "<|end_of_text|>", "<end_of_utterance>", "<eos>")
)  # fmt: skip
"""Tokens that end an answer for llama.cpp whatever the file says, by their text."""
HEALTH_TIMEOUT_S = 3.0
PROBE = "Say hello."
PROBE_TOKENS = 4
MOST_TOLD = 500
"""Characters of an answer that a probe tells."""


def pick_engine(wanted: str, ref: ModelRef) -> str:
    """`auto` decided for this machine and this model."""
    if wanted != "auto":
        return wanted
    if (kind := kind_of_ref(ref)) and kind.predicts:
        return PREDICT
    if ref.path.endswith(".gguf"):
        return "llama.cpp"
    if read_gpus() and importlib.util.find_spec("vllm"):
        return "vllm"
    return "llama.cpp" if _model_type(ref) in CONVERTED else "transformers"


def why_not(engine: str, ref: ModelRef) -> str:
    """Why an engine cannot run a model here, with the alternative; empty when it can."""
    kind = kind_of_ref(ref)
    if kind and kind.predicts and engine != PREDICT:
        return f"A {kind.title.lower()} is not run by engine {engine}: use engine auto."
    if engine == PREDICT:
        return "" if kind and kind.predicts else "Engine predict is for models that do not chat: use engine auto."
    if engine == "vllm" and not importlib.util.find_spec("vllm"):
        return "vLLM is not installed: pip install 'tunesmith[vllm]' on a machine with an NVIDIA GPU, or use engine llama.cpp."
    if engine == "vllm" and not read_gpus():
        return "vLLM needs an NVIDIA GPU and this machine has none: use engine llama.cpp."
    if ref.path.endswith(".gguf") and engine != "llama.cpp":
        return "A GGUF file is run by engine llama.cpp."
    family = _model_type(ref)
    if engine == "llama.cpp" and family and not ref.path.endswith(".gguf") and family not in CONVERTED:
        return f"Models of type {family} are not turned into GGUF here: use engine transformers."
    try:
        info = read_adapter_info(Path(ref.adapter_path)) if ref.adapter_path else None
    except TunesmithError as error:
        return f"{error.message} {error.hint}".strip()
    if engine == "vllm" and info and not info.is_plain:
        return (
            "vLLM lays nothing but plain LoRA over a model: use engine transformers, or compress the version to merged."
        )
    return ""


def _model_type(ref: ModelRef) -> str:
    config = Path(ref.path) / "config.json"
    return str(read_json(config).get("model_type", "")) if config.is_file() else ""


def spec_of(settings: Settings, local: LocalSettings, ref: ModelRef, gpus: tuple[int, ...]) -> ServingSpec:
    """The process that a model of a deployment needs, with its own adapter alone."""
    engine = pick_engine(local.engine, ref)
    threads = local.threads or max(1, (os.cpu_count() or 2) - 1)
    if engine == PREDICT and (told := about(ref)):
        cache_dir, offline = str(settings.cache_dir.resolve()), settings.hub_offline
        return ServingSpec(
            engine=engine, kind=told.kind, task=told.task, base_path=ref.path, threads=threads, parallel=local.max_concurrent,
            cache_dir=cache_dir, offline=offline,
        )  # fmt: skip
    own = own_template(ref.adapter_path, ref.path)
    merges = bool(ref.adapter_path) and _is_merged(engine, ref, own)
    return ServingSpec(
        engine=engine,
        base_path=ref.path,
        revision=ref.revision,
        adapters=(ref.adapter_path,) if ref.adapter_path and not merges else (),
        merged_adapter=ref.adapter_path if merges else None,
        chat_template=own if engine == "vllm" else "",
        quantization=_quantization(local.quantization, ref) if engine == "llama.cpp" else "",
        context_tokens=local.context_tokens,
        parallel=local.max_concurrent,
        threads=threads,
        gpus=gpus if engine == "vllm" else (),
        cache_dir=str(settings.cache_dir.resolve()),
        offline=settings.hub_offline,
    )


def _quantization(wanted: str, ref: ModelRef) -> str:
    if ref.path.endswith(".gguf"):
        return ""
    if wanted != "auto":
        return wanted
    info = read_model_info(Path(ref.path)) if Path(ref.path).is_dir() else None
    return "f16" if info and info.num_parameters and info.num_parameters < SMALL_MODEL else "q8_0"


def _is_merged(engine: str, ref: ModelRef, own: str) -> bool:
    """Whether an engine needs the adapter in its base, since it cannot lie over it beside others: llama.cpp takes the chat
    template `own` and the end tokens from the file of the base. Of one that cannot be used, `why_not` says so."""
    adapter = Path(str(ref.adapter_path))
    try:
        info = read_adapter_info(adapter)
    except TunesmithError:
        return False
    if engine == "llama.cpp":
        return not info.is_plain or bool(own) or _has_odd_ends(adapter, Path(ref.path))
    return info.is_merged_only and engine == "transformers"


def _has_odd_ends(adapter: Path, base: Path) -> bool:
    """Whether the adapter has learned an end token at which llama.cpp does not stop by itself."""
    learned = ends_in(adapter) - ends_in(base)
    if not learned:
        return False
    path = adapter / "tokenizer.json"
    texts = _added_tokens(str(path), path.stat().st_mtime_ns) if path.is_file() else {}
    return any(texts.get(number) not in LLAMA_CPP_ENDS for number in learned)


@lru_cache(64)
def _added_tokens(path: str, _changed: int) -> dict[int, str]:
    try:
        added = json.loads(Path(path).read_bytes())["added_tokens"]
        return {int(one["id"]): str(one["content"]) for one in added}
    except (ValueError, LookupError, TypeError):
        return {}


def with_adapter(
    body: dict[str, Any], engine: str, adapter: int | None, adapter_path: str | None, num_adapters: int
) -> dict[str, Any]:
    """A request as the engine wants it, so that the right adapter answers."""
    if engine == "llama.cpp" and num_adapters:
        return body | {"lora": [{"id": n, "scale": 1.0 if n == adapter else 0.0} for n in range(num_adapters)]}
    if engine == "vllm":
        ends = sorted(ends_in(adapter_path)) if adapter is not None and "input" not in body else []
        told = {"model": "base" if adapter is None else f"adapter{adapter}"}
        return body | told | ({"stop_token_ids": ends} if ends else {})
    if engine == "transformers":
        return body | {"adapter_path": adapter_path if adapter is not None else None}
    return body


def headers(endpoint: Endpoint) -> dict[str, str]:
    return {"Authorization": f"Bearer {endpoint.token}"}


def is_healthy(endpoint: Endpoint) -> bool:
    """Whether the process answers within a few seconds."""
    try:
        return _client(endpoint, HEALTH_TIMEOUT_S).get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def probe(
    engine: Engine, kind: str, adapter_path: str | None, timeout_s: float, told: ModelAbout | None = None
) -> Health:
    """Let a model say a few words, or answer an example of its task. Ill when it cannot, or when its numbers are none: damaged weights answer, with nonsense."""
    if told is not None:
        return _probe_prediction(engine.endpoint, told, timeout_s)
    adapter = engine.adapters.index(adapter_path) if adapter_path in engine.adapters else None
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": PROBE}], "max_tokens": PROBE_TOKENS, "temperature": 0, "logprobs": True,
        "model": "base",
    }  # fmt: skip
    body = with_adapter(body, kind, adapter, adapter_path, len(engine.adapters))
    answer, problem = _asked(engine.endpoint, "/v1/chat/completions", body, timeout_s)
    if answer is None:
        return Health(False, problem)
    choice = answer.json()["choices"][0]
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if any(token.get("logprob") is None or not math.isfinite(token["logprob"]) for token in tokens):
        return Health(False, "its weights give no numbers: the model is damaged")
    return Health(True, str(choice["message"].get("content") or ""), answer.elapsed.total_seconds())


def _probe_prediction(endpoint: Endpoint, told: ModelAbout, timeout_s: float) -> Health:
    """Of a task that is not known there is no example: whoever loads its model has tried it as far as it goes."""
    example = example_of(told.task, told.columns)
    if example is None:
        return Health(True, "")
    answer, problem = _asked(endpoint, "/predict", {"inputs": [example], "parameters": {}}, timeout_s)
    if answer is None:
        return Health(False, problem)
    return Health(True, json.dumps(answer.json()["outputs"][0])[:MOST_TOLD], answer.elapsed.total_seconds())


def _asked(endpoint: Endpoint, path: str, body: dict[str, Any], timeout_s: float) -> tuple[httpx.Response | None, str]:
    """The answer, or why there is none."""
    try:
        answer = _client(endpoint, timeout_s).post(path, json=body)
        told = answer.json() if answer.content else {}
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        return None, f"it did not answer: {error or type(error).__name__}"
    if answer.status_code != 200:
        said = told.get("error")
        message = said.get("message") if isinstance(said, dict) else told.get("message", said)
        return None, f"it answered with an error: {message}"
    return answer, ""


def _client(endpoint: Endpoint, timeout_s: float) -> httpx.Client:
    return httpx.Client(base_url=endpoint.url, headers=headers(endpoint), timeout=timeout_s, trust_env=False)
