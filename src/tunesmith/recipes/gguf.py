"""GGUF headers, checked before any native parser reads the file: every count, size and offset lies within the file."""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.errors import BadData

MAX_KEYS = 65_536
MAX_TENSORS = 1_000_000
MAX_KEY_BYTES = 65_535
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 4096
DEFAULT_ALIGNMENT = 32
VERSIONS = (2, 3)
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type number; strings and arrays have their own lengths."""
SCALAR_FORMS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
UINT32, STRING, ARRAY = 4, 8, 9
MAX_KEPT_BYTES = 4096
"""Longer texts of a header, such as chat templates, are only known to be there."""
QUANTISATIONS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
    22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS",
    31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
"""What `general.file_type` stands for (llama.cpp's list of file types)."""
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Weights in a block and bytes of a block, by the tensor type's number (ggml's table of types)."""


class GgufInfo(NamedTuple):
    """What the header of a GGUF file says, as far as it does; 0 and "" for what it does not."""

    architecture: str
    """`llama`, `qwen2`, `clip`…"""
    name: str
    quantisation: str
    num_parameters: int
    size_bytes: int
    """Of the file."""
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    context_length: int
    vocab_size: int
    licence: str
    has_chat_template: bool
    is_adapter: bool


class _Forged(Exception):
    """What does not fit, in words."""


def check_gguf(path: Path) -> None:
    """Raises `BadData` when anything in the header would lead a reader outside the file, or to endless work."""
    _checked(path)


def read_gguf(path: Path) -> GgufInfo:
    """The header in numbers, once it has been checked. Raises as `check_gguf`."""
    header = _checked(path)
    values, kind = header.values, header.text("general.architecture")

    def number(name: str) -> int:
        found = values.get(f"{kind}.{name}")
        return found if isinstance(found, int) and 0 <= found < 2**53 else 0

    file_type = values.get("general.file_type")
    return GgufInfo(
        architecture=kind[:100],
        name=header.text("general.name")[:200],
        quantisation=QUANTISATIONS.get(file_type, "") if isinstance(file_type, int) else "",
        num_parameters=header.num_weights,
        size_bytes=path.stat().st_size,
        num_layers=number("block_count"),
        hidden_size=number("embedding_length"),
        num_heads=number("attention.head_count"),
        num_kv_heads=number("attention.head_count_kv") or number("attention.head_count"),
        context_length=number("context_length"),
        vocab_size=number("vocab_size") or header.lengths.get("tokenizer.ggml.tokens", 0),
        licence=header.text("general.license")[:100],
        has_chat_template="tokenizer.chat_template" in header.seen,
        is_adapter=header.text("general.type") == "adapter",
    )


def _checked(path: Path) -> _Header:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Header(data)
            header.check()
            return header
    except (_Forged, ValueError) as error:  # an empty file cannot be mapped
        raise BadData(
            f"{path.name} is no GGUF file that can be trusted: {error}.",
            hint="Download the model again, or use one with .safetensors files.",
        ) from None


class _Header:
    """Walks through the header once, from the front."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._size, self._at = data, len(data), 0
        self.values: dict[str, Any] = {}
        """Numbers and short texts, by key."""
        self.lengths: dict[str, int] = {}
        """Of arrays, by key."""
        self.seen: set[str] = set()
        self.num_weights = 0

    def text(self, key: str) -> str:
        """A value that is a text; empty when it is none."""
        found = self.values.get(key)
        return found if isinstance(found, str) else ""

    def check(self) -> None:
        if self._take(4) != b"GGUF":
            raise _Forged("it does not begin with GGUF")
        version, num_tensors, num_keys = self._number("<I"), self._number("<Q"), self._number("<Q")
        if version not in VERSIONS:
            raise _Forged(f"its version is {version}")
        if num_tensors > MAX_TENSORS or num_keys > MAX_KEYS:
            raise _Forged(f"it declares {num_tensors} tensors and {num_keys} keys")
        alignment = self._keys(num_keys)
        tensors = [self._tensor() for _ in range(num_tensors)]
        begin = -(-self._at // alignment) * alignment
        names = {name for name, _, _ in tensors}
        if len(names) != len(tensors):
            raise _Forged("it names a tensor twice")
        for name, offset, size_bytes in tensors:
            if offset % alignment or begin + offset + size_bytes > self._size:
                raise _Forged(f"tensor {_shown(name)} ends beyond the file or is not aligned")

    def _keys(self, num_keys: int) -> int:
        """The alignment that the keys tell."""
        alignment, seen = DEFAULT_ALIGNMENT, set[bytes]()
        for _ in range(num_keys):
            key = self._string(MAX_KEY_BYTES)
            if key in seen:
                raise _Forged(f"it names the key {_shown(key)} twice")
            seen.add(key)
            name = key.decode(errors="replace")
            self.seen.add(name)
            kind = self._number("<I")
            if key == b"general.alignment":
                if kind != UINT32:
                    raise _Forged("its alignment is not a number")
                alignment = self._number("<I")
                if not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
                    raise _Forged(f"its alignment is {alignment}")
            elif kind == ARRAY:
                self.lengths[name] = self._array()
            else:
                self.values[name] = self._value(kind)
        return alignment

    def _array(self) -> int:
        """Its length."""
        kind, length = self._number("<I"), self._number("<Q")
        if kind in SCALAR_BYTES:
            self._take(SCALAR_BYTES[kind] * length)
            return length
        if length > self._size // 8:  # each string has eight bytes of length at least
            raise _Forged(f"it declares an array of {length} values")
        for _ in range(length):
            self._value(kind)
        return length

    def _value(self, kind: int) -> Any:
        """A number, or a text when it is short."""
        if kind == STRING:
            found = self._string(self._size)
            return found.decode(errors="replace") if len(found) <= MAX_KEPT_BYTES else None
        if kind not in SCALAR_BYTES:
            raise _Forged(f"it holds a value of type {kind}")
        return struct.unpack(SCALAR_FORMS[kind], self._take(SCALAR_BYTES[kind]))[0]

    def _tensor(self) -> tuple[bytes, int, int]:
        """`(name, offset, bytes)`."""
        name, num_dimensions = self._string(MAX_KEY_BYTES), self._number("<I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise _Forged(f"tensor {_shown(name)} has {num_dimensions} dimensions")
        shape = [self._number("<Q") for _ in range(num_dimensions)]
        kind, offset = self._number("<I"), self._number("<Q")
        if kind not in BLOCKS:
            raise _Forged(f"tensor {_shown(name)} has the unknown type {kind}")
        block, block_bytes = BLOCKS[kind]
        if not all(shape) or shape[0] % block:
            raise _Forged(f"tensor {_shown(name)} has the shape {shape}")
        self.num_weights += prod(shape)
        return name, offset, prod(shape) // block * block_bytes

    def _string(self, most: int) -> bytes:
        length = self._number("<Q")
        if length > most:
            raise _Forged(f"it declares a text of {length} bytes")
        return self._take(length)

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _take(self, num_bytes: int) -> bytes:
        if num_bytes > self._size - self._at:
            raise _Forged("its header ends beyond the file")
        self._at += num_bytes
        return self._data[self._at - num_bytes : self._at]


def _shown(name: bytes) -> str:
    return ascii(name[:60].decode(errors="replace"))
