"""The kinds of language models, and what their training measures."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from tunesmith.core.errors import NotFound, TunesmithError
from tunesmith.core.model_kind import Description, ModelKind
from tunesmith.core.recipe import MetricSpec
from tunesmith.recipes.adapter_info import read_adapter_info
from tunesmith.recipes.gguf import read_gguf
from tunesmith.recipes.model_info import read_header, read_json, read_model_info, refuse_unsafe_files, weight_files

LANGUAGE_METRICS = (
    MetricSpec(name="loss", title="Loss", unit="nats a token", better="lower", is_primary=True),
    MetricSpec(name="perplexity", title="Perplexity", better="lower"),
    MetricSpec(name="token_accuracy", title="Token accuracy", unit="share", better="higher"),
)
ADAPTER_FILE, CONFIG_FILE = "adapter_config.json", "config.json"
USE_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{folder}")
"""
USE_MODEL = """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{folder}")
"""


def gguf_file(path: Path) -> Path:
    """The file of a GGUF model, whose folder or file `path` is. Raises `NotFound`."""
    found = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    if not found:
        raise NotFound("The version has no GGUF file.", hint="Register it again.")
    return found[0]


def base_of_adapter(path: Path) -> str | None:
    """What an adapter's own configuration calls its base model."""
    try:
        name = read_json(path / ADAPTER_FILE).get("base_model_name_or_path")
    except TunesmithError:
        return None
    return name if isinstance(name, str) and name else None


def _describe_adapter(path: Path, base: Path | None) -> Description:
    refuse_unsafe_files(path)
    read_adapter_info(path)
    tensors = [tensor["shape"] for file in weight_files(path) for tensor in read_header(file).values()]
    return Description(_architecture(base), sum(prod(shape) for shape in tensors))


def _describe_model(path: Path, _base: Path | None) -> Description:
    refuse_unsafe_files(path)
    return Description(_architecture(path), read_model_info(path).num_parameters)


def _architecture(folder: Path | None) -> dict[str, Any]:
    """Of a folder with a configuration; empty where there is none to read."""
    if folder is None:
        return {}
    try:
        info = read_model_info(folder)
        config = read_json(folder / CONFIG_FILE)
    except TunesmithError:
        return {}
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    num_kv_heads = text.get("num_key_value_heads")
    return {
        "family": info.family,
        "num_layers": info.num_layers,
        "hidden_size": info.hidden_size,
        "num_heads": info.num_heads,
        "num_kv_heads": num_kv_heads if type(num_kv_heads) is int else info.num_heads,
        "vocab_size": info.vocab_size,
        "context_length": info.context_length,
    }


def _describe_gguf(path: Path, _base: Path | None) -> Description:
    info = read_gguf(gguf_file(path))
    numbers = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "context_length", "vocab_size")
    told = {name: value for name in numbers if (value := getattr(info, name))}
    return Description({"family": info.architecture or "unknown", **told}, info.num_parameters)


ADAPTER = ModelKind(
    name="adapter",
    title="LoRA adapter",
    framework="peft",
    tasks=("text-generation",),
    matches=lambda path: (path / ADAPTER_FILE).is_file(),
    describe=_describe_adapter,
    engines=("llama.cpp", "vllm", "transformers"),
    needs_base=True,
    exports=("merged", "gguf"),
    usage=USE_ADAPTER,
)
LANGUAGE_MODEL = ModelKind(
    name="model",
    title="Language model",
    framework="transformers",
    tasks=("text-generation",),
    matches=lambda path: (path / CONFIG_FILE).is_file(),
    describe=_describe_model,
    engines=("llama.cpp", "vllm", "transformers"),
    exports=("gguf", "awq", "gptq", "torchao"),
    usage=USE_MODEL,
)
GGUF = ModelKind(
    name="gguf",
    title="GGUF file",
    framework="llama.cpp",
    tasks=("text-generation",),
    matches=lambda path: (
        path.suffix == ".gguf" if path.is_file() else path.is_dir() and len(list(path.glob("*.gguf"))) == 1
    ),
    describe=_describe_gguf,
    engines=("llama.cpp",),
    opens=gguf_file,
)
