"""GGUF headers, checked before any native parser reads the file: every count, size and offset lies within the file."""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path

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
UINT32, STRING, ARRAY = 4, 8, 9
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Weights in a block and bytes of a block, by the tensor type's number (ggml's table of types)."""


class _Forged(Exception):
    """What does not fit, in words."""


def check_gguf(path: Path) -> None:
    """Raises `BadData` when anything in the header would lead a reader outside the file, or to endless work."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Header(data).check()
    except (_Forged, ValueError) as error:  # an empty file cannot be mapped
        raise BadData(
            f"{path.name} is no GGUF file that can be trusted: {error}.",
            hint="Download the model again, or use one with .safetensors files.",
        ) from None


class _Header:
    """Walks through the header once, from the front."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._size, self._at = data, len(data), 0

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
            kind = self._number("<I")
            if key == b"general.alignment":
                if kind != UINT32:
                    raise _Forged("its alignment is not a number")
                alignment = self._number("<I")
                if not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
                    raise _Forged(f"its alignment is {alignment}")
            elif kind == ARRAY:
                self._array()
            else:
                self._value(kind)
        return alignment

    def _array(self) -> None:
        kind, length = self._number("<I"), self._number("<Q")
        if kind in SCALAR_BYTES:
            self._take(SCALAR_BYTES[kind] * length)
            return
        if length > self._size // 8:  # each string has eight bytes of length at least
            raise _Forged(f"it declares an array of {length} values")
        for _ in range(length):
            self._value(kind)

    def _value(self, kind: int) -> None:
        if kind == STRING:
            self._string(self._size)
        elif kind in SCALAR_BYTES:
            self._take(SCALAR_BYTES[kind])
        else:
            raise _Forged(f"it holds a value of type {kind}")

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
