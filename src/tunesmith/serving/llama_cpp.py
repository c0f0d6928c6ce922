"""The engine for CPUs and for GGUF files: llama.cpp's own server, in this process, over a GGUF file that is made when it is
not there yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from tunesmith.core.errors import Unavailable
from tunesmith.core.inference import TemplateLimits, found_limits
from tunesmith.core.serving_spec import ServingSpec
from tunesmith.recipes.gguf import read_gguf
from tunesmith.serving.process import Process

MARKS = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "*.jinja", "adapter_config.json")
"""Files of a folder that decide what is in its GGUF."""
QUIET = 1
"""llama.cpp tells errors only."""


def serve(process: Process) -> None:
    """Answer until the process is told to end. Raises `TunesmithError` for a model that cannot be loaded."""
    spec = process.spec
    base = base_file(spec)
    adapters = [adapter_file(spec, Path(adapter), base) for adapter in spec.adapters]
    import xllamacpp

    params = _params(xllamacpp, spec, base, adapters)
    params.api_keys = [process.token]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise Unavailable("llama.cpp cannot load the model.", hint=str(error)[:300]) from None
    tools, limits = template_facts(server.listening_address, process.token)
    process.ready(int(server.listening_address.rpartition(":")[2]), tools=tools, limits=limits)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    over.wait()
    os._exit(0)  # llama.cpp's own way to its end may wait for requests whose callers have left


def template_facts(address: str, token: str) -> tuple[bool, TemplateLimits]:
    """Whether the chat template has a place for tools, as llama.cpp has found, and what else it does not take."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=60) as client:
        caps = client.get("/props").json().get("chat_template_caps", {})
        limits = found_limits(
            lambda messages: client.post("/apply-template", json={"messages": messages}).status_code >= 400
        )
    # llama.cpp puts a system message elsewhere by itself where the template has no place for it.
    no_system = limits.no_system or not caps.get("supports_system_role", True)
    return bool(caps.get("supports_tools", True)), replace(limits, no_system=no_system)


def _params(xllamacpp: Any, spec: ServingSpec, base: Path, adapters: list[Path]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(base), {"base"}
    params.port, params.hostnames = 0, ["127.0.0.1"]
    context = min(spec.context_tokens, trained_context(base) or spec.context_tokens)
    params.n_ctx, params.n_parallel = context * spec.parallel, spec.parallel
    params.prefill_assistant = False  # an assistant's turn at the end is one, with every engine
    params.use_jinja, params.ui, params.endpoint_slots, params.verbosity = True, False, False, QUIET
    params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    for cpu in (params.cpuparams, params.cpuparams_batch):
        if spec.threads:
            cpu.n_threads = spec.threads
    found = []
    for adapter in adapters:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 0.0
        found.append(info)
    if found:
        params.lora_adapters, params.lora_init_without_apply = found, True
    return params


def trained_context(gguf: Path) -> int | None:
    """The longest context that a file was trained for, tokens."""
    return read_gguf(gguf).context_length or None


def base_file(spec: ServingSpec) -> Path:
    """The GGUF of the base model: the file itself, or one made from a folder and kept in the cache."""
    base = Path(spec.base_path)
    if base.suffix == ".gguf":
        return base
    if not base.is_absolute():
        import huggingface_hub

        base = Path(huggingface_hub.snapshot_download(spec.base_path, revision=spec.revision))
    merged = Path(spec.merged_adapter) if spec.merged_adapter else None
    marks = [base, *([merged] if merged else [])]
    return _cached(spec, spec.quantization, marks, {"model": base, "adapter": merged})


def adapter_file(spec: ServingSpec, adapter: Path, base: Path) -> Path:
    """The GGUF of an adapter over `base`."""
    folder = Path(spec.base_path)
    if folder.suffix == ".gguf":
        raise Unavailable(
            "An adapter cannot be laid over a GGUF file that was made elsewhere.", hint="Deploy it over its base model."
        )
    return _cached(spec, "lora", [folder, adapter], {"model": folder, "adapter": adapter, "lora": True})


def _cached(spec: ServingSpec, kind: str, marks: list[Path], told: dict[str, Any]) -> Path:
    """The file, made once: others that need it meanwhile wait for it."""
    cache = Path(spec.cache_dir) / "gguf"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{fingerprint(marks)}-{kind}.gguf"
    if target.is_file():
        target.touch()  # so that a clean-up sees that it is used
        return target
    with (cache / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_file():
            from tunesmith.recipes.blocks import to_gguf

            if told.get("lora"):
                to_gguf.write_lora_gguf(told["adapter"], told["model"], target)
            else:
                to_gguf.write_gguf(told["model"], target, kind, adapter=told["adapter"], checked=True)
    return target


def fingerprint(folders: list[Path]) -> str:
    """Changes when a file that counts is another one: by name, size and time."""
    files = sorted({path for folder in folders for mark in MARKS for path in folder.glob(mark)})
    told = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
