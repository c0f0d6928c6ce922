"""llama.cpp's own C functions, from the library inside the `xllamacpp` package: quantising, tokenising, and the model's logits.

Structures that travel by value are declared larger than they are, which is sound where large structures travel in memory (x86-64, aarch64).
Of them only leading numbers are written, and only after they were seen to hold the known defaults.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from tunesmith.core.errors import BadData, Unavailable

DEFAULT_WINDOW, DEFAULT_BATCH, DEFAULT_PART = 512, 2048, 512
"""What `llama_context_default_params` says of n_ctx, n_batch and n_ubatch: by these the structure is known."""
HOW = "Install it with: pip install xllamacpp"


class _Params(ctypes.Structure):
    _fields_ = [("numbers", ctypes.c_uint32 * 256)]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("num_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("num_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
        ("room", ctypes.c_uint64 * 16),
    ]


def is_here() -> bool:
    """Whether the package with the library is installed."""
    return find_spec("xllamacpp") is not None


@cache
def library() -> Any:
    """The loaded library. Raises `Unavailable` with how to get it."""
    try:
        from xllamacpp import xllamacpp as module
    except ImportError as error:
        raise Unavailable(f"llama.cpp cannot be loaded here: {error}.", hint=HOW) from None
    found = ctypes.CDLL(module.__file__)
    pointers = ("llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab", "llama_get_logits_ith", "llama_get_memory", "llama_adapter_lora_init")  # fmt: skip
    for name in pointers:
        getattr(found, name).restype = ctypes.c_void_p
    found.llama_model_default_params.restype = found.llama_context_default_params.restype = _Params
    found.llama_batch_init.restype = _Batch
    found.ggml_quantize_chunk.restype = ctypes.c_size_t
    return found


def quantize(rows: np.ndarray, kind: GGMLQuantizationType, importance: np.ndarray | None = None) -> bytes:
    """Float32 rows as a ggml type; a row is a multiple of the type's block. `importance`: how much an error in each column
    counts. Raises `Unavailable` without the library.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    height, width = rows.shape
    block, block_bytes = GGML_QUANT_SIZES[kind]
    row_bytes = width // block * block_bytes
    out = np.empty(height * row_bytes, dtype=np.uint8)
    native = library()
    native.ggml_quantize_init(ctypes.c_int(kind))
    count = max(1, min(threads(), height))
    weighed = None
    if importance is not None and importance.shape == (width,):
        importance = np.ascontiguousarray(importance, dtype=np.float32)
        weighed = importance.ctypes.data_as(ctypes.c_void_p)

    def some(part: int) -> None:
        first, last = height * part // count, height * (part + 1) // count
        native.ggml_quantize_chunk(
            ctypes.c_int(kind), rows.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(first * width), ctypes.c_int64(last - first), ctypes.c_int64(width), weighed,
        )  # fmt: skip

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(some, range(count)))
    return out.tobytes()


def threads() -> int:
    """How many threads to compute with: what `OMP_NUM_THREADS` allows, else all cores."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return int(allowed) if allowed.isdigit() and int(allowed) else os.cpu_count() or 1


class NativeModel:
    """One GGUF file in llama.cpp, for numbers that its server does not give. Made by `open_model`."""

    def __init__(self, native: Any, model: int, window: int) -> None:
        self._native, self._model = native, ctypes.c_void_p(model)
        self._vocab = ctypes.c_void_p(native.llama_model_get_vocab(self._model))
        self.vocab_size = int(native.llama_vocab_n_tokens(self._vocab))
        params = native.llama_context_default_params()
        if tuple(params.numbers[:4]) == (DEFAULT_WINDOW, DEFAULT_BATCH, DEFAULT_PART, 1):
            params.numbers[0] = params.numbers[1] = window
        context = native.llama_init_from_model(self._model, params)
        if not context:
            native.llama_model_free(self._model)
            raise BadData(
                "llama.cpp could not make room for the model.", hint="Close other programs, or use a smaller format."
            )
        self._context = ctypes.c_void_p(context)
        self.window = min(window, int(native.llama_n_ctx(self._context)), int(native.llama_n_batch(self._context)))
        native.llama_set_n_threads(self._context, threads(), threads())

    def put_over(self, adapter: Path) -> None:
        """Lay a LoRA adapter over the model; it goes when the model is closed. Raises `BadData` when it does not fit."""
        found = self._native.llama_adapter_lora_init(self._model, os.fsencode(adapter))
        if not found:
            raise BadData(f"llama.cpp cannot lay {adapter.name} over this model.", hint="Make it for this base model.")
        adapters, scales = (ctypes.c_void_p * 1)(found), (ctypes.c_float * 1)(1.0)
        if self._native.llama_set_adapters_lora(self._context, adapters, ctypes.c_size_t(1), scales):
            raise BadData(f"llama.cpp cannot lay {adapter.name} over this model.")

    def tokenize(self, text: str, *, adds_special: bool = True) -> list[int]:
        """As llama.cpp cuts the text, special tokens in it read as such."""
        data = text.encode()
        room = len(data) + 16
        out = (ctypes.c_int32 * room)()
        count = self._native.llama_tokenize(self._vocab, data, len(data), out, room, adds_special, True)
        if count < 0:
            raise BadData("llama.cpp could not cut the text into tokens.")
        return list(out[:count])

    def log_probabilities(self, row: Sequence[int]) -> np.ndarray:
        """Natural logarithm of the probability of each token of `row` but the first, given those before it."""
        row = row[: self.window]
        logits = self._logits(row)
        best = logits.max(axis=1, keepdims=True)
        norms = best[:, 0] + np.log(np.exp(logits - best).sum(axis=1))
        return logits[np.arange(len(row) - 1), list(row[1:])] - norms

    def _logits(self, row: Sequence[int]) -> np.ndarray:
        """(tokens - 1, vocabulary) float64, of a row that is read from an empty memory."""
        native, count = self._native, len(row)
        native.llama_memory_clear(ctypes.c_void_p(native.llama_get_memory(self._context)), True)
        batch = native.llama_batch_init(count, 0, 1)
        try:
            batch.num_tokens = count
            for at, token in enumerate(row):
                batch.token[at], batch.pos[at], batch.num_seq_id[at] = token, at, 1
                batch.seq_id[at][0], batch.logits[at] = 0, 1
            if native.llama_decode(self._context, batch):
                raise BadData("llama.cpp could not compute with this model.")
            found = np.empty((count - 1, self.vocab_size))
            for at in range(count - 1):
                pointer = native.llama_get_logits_ith(self._context, at)
                found[at] = np.ctypeslib.as_array(
                    ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self.vocab_size,)
                )
            return found
        finally:
            native.llama_batch_free(batch)

    def close(self) -> None:
        self._native.llama_free(self._context)
        self._native.llama_model_free(self._model)


@contextmanager
def open_model(path: Path, window: int) -> Iterator[NativeModel]:
    """Load a checked GGUF file; `window` is the longest row, tokens. Raises `BadData` when llama.cpp refuses it.

    A forged file may end the process: call it in a process of its own (`llama_cpp.py`).
    """
    native = library()
    native.llama_backend_init()
    model = native.llama_model_load_from_file(os.fsencode(path), native.llama_model_default_params())
    if not model:
        raise BadData(f"llama.cpp cannot load {path.name}.", hint="Make the file again.")
    loaded = NativeModel(native, model, window)
    try:
        yield loaded
    finally:
        loaded.close()
