"""A model folder, or an adapter, as one GGUF file. NumPy and the `gguf` package; no torch, no code of the model's.

`python -m tunesmith.recipes.blocks.to_gguf '{"model": …, "target": …, "format": …}'` does it in a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, quants

from tunesmith.core import confinement
from tunesmith.core.errors import BadData, TunesmithError, Unavailable, UnsupportedFormat
from tunesmith.core.job_dir import durable_folder, fsync_dir
from tunesmith.recipes.blocks import gguf_native
from tunesmith.recipes.blocks.adapter_weights import Adapter, fitted, merge, open_adapter
from tunesmith.recipes.blocks.gguf_families import Architecture, is_known
from tunesmith.recipes.blocks.gguf_limits import fitting_name
from tunesmith.recipes.blocks.gguf_types import bytes_of, check_format, type_of
from tunesmith.recipes.blocks.gguf_vocab import read_json_text, read_vocab
from tunesmith.recipes.blocks.gguf_weights import Tensor, of_array, open_weights
from tunesmith.recipes.blocks.llama_cpp import check_tokens
from tunesmith.recipes.blocks.merging import write_merged
from tunesmith.recipes.model_info import read_json

Type = GGMLQuantizationType
Report = Callable[[int, int], None]
"""Called with the bytes written and those to write in all."""

CHUNK_WEIGHTS = 8 * 1024 * 1024
"""Most weights that are in memory at once, as float32."""
CONVERTER, QUANTIZER = "convert_hf_to_gguf.py", "llama-quantize"
CONVERTER_TYPES = ("f32", "f16", "bf16", "q8_0")
"""What llama.cpp's converter writes of itself."""


def write_gguf(
    model: Path,
    target: Path,
    format: str,  # noqa: A002
    *,
    adapter: Path | None = None,
    report: Report | None = None,
    name: str = "",
    importance: Mapping[str, np.ndarray] | None = None,
    checked: bool = False,
) -> None:
    """Write the model in `model`, with `adapter` merged in, to `target`. The file appears whole or not at all.

    `format` is a key of `gguf_types.FORMATS`. `checked`: the file appears only when llama.cpp cuts conversations as the model's
    tokenizer does. `importance`: by the name of a weight, how much an error in each of its columns counts (the mean square of
    what comes in there); with it, formats below 8 bits lose about half as much. llama.cpp's own tools are used where they are
    installed (`LLAMA_CPP_DIR`, or on the PATH). Raises `InvalidInput`, `NotFound`, `BadData`, `UnsupportedFormat`, or `Unavailable`.
    """
    number, _ = check_format(format)
    tools = external_tools(format) if adapter is None else None
    if tools and (importance is None or not is_known(model)):
        if is_known(model):
            Architecture(read_json(model / "config.json"))  # refuses what those drop, too
        with _appearing(target) as temporary:
            _convert_outside(tools, model, temporary, format)
            if checked:
                check_tokens(temporary, model)
        return
    weights, config = open_weights(model), read_json(model / "config.json")
    if adapter:
        weights, config = merge(weights, open_adapter(adapter), config)
    architecture = Architecture(config)
    tensors = dict(architecture.tensors(weights))
    if "token_embd.weight" not in tensors:
        raise BadData(f"{model.name} has no embedding.", hint="Download the model again.")
    shape = architecture.shape(is_tied="output.weight" not in tensors)
    kinds = {title: type_of(format, title, tensor.shape, shape) for title, tensor in tensors.items()}
    num_tokens = tensors["token_embd.weight"].shape[0]
    columns = {architecture.name(theirs): values for theirs, values in (importance or {}).items() if theirs in weights}
    words = adapter if adapter and (adapter / "tokenizer.json").is_file() else model
    vocab = read_vocab(words, num_tokens)
    with _appearing(target) as temporary:
        writer = GGUFWriter(temporary, _arch_name(architecture))
        writer.add_type("model")
        writer.add_name(fitting_name(name or model.name, read_json_text(words / "tokenizer.json")))
        writer.add_file_type(number)
        writer.add_quantization_version(GGML_QUANT_VERSION)
        architecture.write(writer, num_tokens)
        vocab.write(writer)
        _write_tensors(writer, tensors, kinds, report or (lambda _done, _total: None), columns)
        if checked:
            check_tokens(temporary, words)


def write_lora_gguf(adapter: Path, model: Path, target: Path, *, kind: str = "f16") -> None:
    """Write a LoRA adapter for llama.cpp to put over a GGUF file of its base model. `kind`: f32 or f16.

    Raises `UnsupportedFormat` for adapters that hold whole weights too: those must be merged.
    """
    architecture, weights = Architecture(read_json(model / "config.json")), open_weights(model)
    found = fitted(open_adapter(adapter), weights)
    if not found.is_plain:
        raise UnsupportedFormat(
            f"The adapter is more than a change of linear maps ({_more_than_plain(found)}), and cannot lie over a GGUF file.",
            hint="Merge the adapter into its base model instead.",
        )
    alpha = next(iter(found.deltas.values())).alpha
    tensors: dict[str, Tensor] = {}
    for theirs, delta in found.deltas.items():
        ours = architecture.name(theirs)
        if ours is None or ours == "token_embd.weight" or theirs not in weights:  # an output that is the embedding
            raise UnsupportedFormat("Adapters of the embedding are merged, not laid over a GGUF file.")
        turned = architecture.delta(ours, delta)
        # llama.cpp multiplies by alpha / rank, so what else the scale holds goes into b.
        tensors[f"{ours}.lora_a"] = of_array(turned.a)
        tensors[f"{ours}.lora_b"] = of_array(turned.b * np.float32(delta.scale / (alpha / len(delta.a))))
    with _appearing(target) as temporary:
        writer = GGUFWriter(temporary, _arch_name(architecture))
        writer.add_type("adapter")
        writer.add_name(adapter.name)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        main = Type.F32 if kind == "f32" else Type.F16
        writer.add_file_type(check_format(kind)[0])
        _write_tensors(writer, tensors, dict.fromkeys(tensors, main), lambda _done, _total: None)


def convert_in_child(
    model: Path,
    target: Path,
    format: str,  # noqa: A002
    *,
    adapter: Path | None = None,
    lora: bool = False,
    timeout_s: float = 3600,
) -> None:
    """`write_gguf`, or with `lora` `write_lora_gguf`, in a process of its own, so that a server keeps its memory and breath.

    Raises what they raise.
    """
    told = {"model": str(model), "target": str(target), "format": format, "adapter": str(adapter or ""), "lora": lora}
    _in_child(told, timeout_s)


def merge_in_child(model: Path, adapter: Path, target: Path, *, timeout_s: float = 3600) -> None:
    """`merging.write_merged` in a process of its own. Raises what it raises."""
    _in_child({"model": str(model), "target": str(target), "adapter": str(adapter), "merge": True}, timeout_s)


def _in_child(told: dict[str, Any], timeout_s: float) -> None:
    command = confinement.command("tunesmith.recipes.blocks.to_gguf", json.dumps(told))
    environment = confinement.environment("LLAMA_CPP_DIR", "TMPDIR")
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"Writing the model took longer than {timeout_s:.0f} s.", hint="Raise timeout_s.") from None
    if result.returncode:
        raise_told(result.stdout, "The model could not be written.")


def raise_told(output: str, otherwise: str) -> None:
    """Raise the error that a child told in its last line of output."""
    with suppress(ValueError, KeyError, IndexError, TypeError):
        told = json.loads(output.strip().splitlines()[-1])
        raise BadData(told["message"], hint=told["hint"])
    raise BadData(otherwise, hint="The server's log may say more; free some memory and disk, then try again.")


def _arch_name(architecture: Architecture) -> str:
    from gguf import MODEL_ARCH_NAMES

    return MODEL_ARCH_NAMES[architecture.family.arch]


def _more_than_plain(adapter: Adapter) -> str:
    """One thing that makes it so."""
    if names := {*adapter.replaced, *adapter.shifts, *adapter.rows}:
        return min(names)
    return "DoRA"


def _write_tensors(
    writer: GGUFWriter,
    tensors: dict[str, Tensor],
    kinds: dict[str, Type],
    report: Report,
    columns: Mapping[str | None, np.ndarray] = MappingProxyType({}),
) -> None:
    sizes = {name: bytes_of(kinds[name], math.prod(tensor.shape)) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), sizes[name], raw_dtype=kinds[name])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout  # opened by the header
        file: Any = writer.fout[0]
        writer.write_padding(file, file.tell())
        done, total = 0, sum(sizes.values())
        for name, tensor in tensors.items():
            for part in _encoded(name, tensor, kinds[name], columns.get(name)):
                file.write(part)
                done += len(part)
                report(done, total)
            writer.write_padding(file, sizes[name])
        _flush(file)
    finally:
        writer.close()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _encoded(name: str, tensor: Tensor, kind: Type, importance: np.ndarray | None) -> Iterator[bytes]:
    """The tensor's bytes, some rows at a time."""
    step = max(1, CHUNK_WEIGHTS // max(1, tensor.shape[-1]))
    for start in range(0, tensor.num_rows, step):
        rows = tensor.read(start, min(start + step, tensor.num_rows))
        if not np.isfinite(rows).all():
            raise BadData(f"{name} holds values that are not finite.", hint="Train again with a lower learning rate.")
        yield encode(rows, kind, importance)


PLAIN = (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0)
"""What the `gguf` library can write by itself, without llama.cpp."""


def encode(rows: np.ndarray, kind: Type, importance: np.ndarray | None = None) -> bytes:
    """Float32 rows as `kind`. Raises `Unavailable` for K-types where llama.cpp is not installed."""
    if kind == Type.F32:
        return rows.astype("<f4").tobytes()
    if kind == Type.F16:
        return np.clip(rows, -65504, 65504).astype("<f2").tobytes()
    if kind == Type.BF16:
        return bytes(quants.quantize(rows, kind).tobytes())
    if kind in PLAIN and not gguf_native.is_here():
        return bytes(quants.quantize(rows, kind).tobytes())
    return gguf_native.quantize(rows, kind, importance)


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A temporary name beside `target` that is renamed to it when the block ends well, and removed otherwise."""
    durable_folder(target.parent)
    fd, made = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(fd)
    temporary = Path(made)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # in its place by now, when all went well
    fsync_dir(target.parent)


def external_tools(format: str) -> tuple[Path, Path | None] | None:  # noqa: A002
    """llama.cpp's converter, and its quantiser where the format needs it; None where they are not installed."""
    folder = os.environ.get("LLAMA_CPP_DIR")
    where = os.pathsep.join(
        [*([folder, f"{folder}/build/bin", f"{folder}/bin"] if folder else []), os.environ.get("PATH", "")]
    )
    converter = (
        Path(folder, CONVERTER) if folder and Path(folder, CONVERTER).is_file() else shutil.which(CONVERTER, path=where)
    )
    quantizer = shutil.which(QUANTIZER, path=where)
    if converter is None or (format not in CONVERTER_TYPES and quantizer is None):
        return None
    return Path(converter), None if format in CONVERTER_TYPES else Path(str(quantizer))


def _convert_outside(tools: tuple[Path, Path | None], model: Path, target: Path, format: str) -> None:  # noqa: A002
    """By llama.cpp's own programs. Raises `BadData` with their last words."""
    converter, quantizer = tools
    first = target.with_name(f"{target.name}.bf16") if quantizer else target
    try:
        _run(
            [
                sys.executable,
                str(converter),
                str(model),
                "--outfile",
                str(first),
                "--outtype",
                "bf16" if quantizer else format,
            ]
        )
        if quantizer:
            _run([str(quantizer), str(first), str(target), format.upper()])
    finally:
        if quantizer:
            first.unlink(missing_ok=True)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if result.returncode:
        said = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BadData(f"{Path(command[0]).name} could not convert the model: {said[:300]}")


def main(told: dict[str, Any]) -> int:
    """What a child does; its error goes to standard output as one line of JSON."""
    model, target = Path(told["model"]), Path(told["target"])
    adapter = Path(told["adapter"]) if told.get("adapter") else None
    try:
        if told.get("merge") and adapter:
            write_merged(model, adapter, target)
        elif told.get("lora") and adapter:
            write_lora_gguf(adapter, model, target)
        else:
            write_gguf(model, target, told["format"], adapter=adapter, checked=True)
    except TunesmithError as error:
        sys.stdout.write(json.dumps({"message": error.message, "hint": error.hint}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
