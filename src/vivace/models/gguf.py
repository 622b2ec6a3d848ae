"""GGUF files: the metadata and the tensors of one file, over a memory map.

The format is described in ggml's `docs/gguf.md`; versions 2 and 3 in little-endian order are read. Every number is
distrusted: a broken or malicious file ends in a `CheckpointError` that names it, and what is kept in memory is bounded
whatever the file claims. Knows no model: keys and names are just names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.fields import Fields
from vivace.models.gguf_blocks import FORMATS, BlockFormat

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 1 << 28
"""Of everything before the tensors' data; vocabularies take most of it."""
MAX_COUNT = 1 << 16
"""Of keys, and of tensors."""
MAX_STRINGS = 1 << 22
"""In all arrays together."""
MAX_KEY_BYTES = 1 << 16
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16

_SCALARS: dict[int, str] = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY, _F32 = 8, 9, 6


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a file keeps one tensor, checked: bytes begin to end of the file."""

    blocks: BlockFormat
    shape: tuple[int, ...]
    """Rows first, so the reverse of how the file has it. The last is a whole number of blocks."""
    begin: int
    end: int


class GgufFile:
    """One GGUF file: its metadata and entries, checked, and a map of its data."""

    def __init__(self, path: Path, metadata: Fields, entries: dict[str, Entry], data: NDArray[np.uint8]) -> None:
        self.path = path
        self.metadata = metadata
        """Values by key: numbers, strings, lists of strings, and arrays of numbers as numpy's."""
        self.entries = entries
        self._data = data

    @staticmethod
    def open(path: Path) -> GgufFile:
        """Read a file's header. Raises `CheckpointError` when it contradicts itself or is cut off,
        `UnsupportedModelError` when it is of another version, byte order, or one of several parts."""
        try:
            if path.stat().st_size == 0:
                raise CheckpointError(f"{path} is empty; download it again.")
            data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror or error}); download the file again."
            ) from error
        cursor = _Cursor(path, data)
        tensors, keys = _read_counts(cursor)
        metadata = Fields(path, _read_metadata(cursor, keys))
        if metadata.integer("split.count", 0, MAX_COUNT, 0) > 1:
            raise UnsupportedModelError(
                f"{path} is one part of several; join them into one file with `gguf-split --merge` of llama.cpp."
            )
        return GgufFile(path, metadata, _read_entries(cursor, tensors, metadata, len(data)), data)

    def rows(self, name: str) -> NDArray[np.uint8]:
        """A tensor's blocks as they are stored, uint8 [rows, row_bytes]: a view of the file. A vector is one row."""
        entry = self.entries[name]
        width = entry.shape[-1] if entry.shape else 1
        return self._data[entry.begin : entry.end].reshape(-1, entry.blocks.row_bytes(width))


class _Cursor:
    """Reads forward through a file's header."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.path = path
        self.position = 0
        self._data = data[:MAX_HEADER_BYTES]
        self._whole = len(data) <= MAX_HEADER_BYTES
        self._strings_left = MAX_STRINGS

    def take(self, size: int) -> NDArray[np.uint8]:
        if size > len(self._data) - self.position:
            raise CheckpointError(
                f"{self.path} is truncated: its header goes on after the last byte. Download it again."
                if self._whole
                else f"{self.path}: the header takes more than {MAX_HEADER_BYTES >> 20} MiB; this is no model's."
            )
        self.position += size
        return self._data[self.position - size : self.position]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size).tobytes(), "little")

    def text(self, limit: int = MAX_HEADER_BYTES) -> str:
        size = self.integer(8)
        if size > limit:
            raise CheckpointError(f"{self.path}: a name in the header has {size} bytes; this is no whole GGUF file.")
        try:
            return self.take(size).tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.path}: text in the header is no UTF-8 ({error.reason}); download it again, or convert again."
            ) from error

    def value(self, key: str) -> Any:
        kind = self.integer(4)
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            number = self._numbers(key, kind, 1)[0].item()
            return _shortest(number) if kind == _F32 else number
        kind, count = self.integer(4), self.integer(8)
        return self._texts(key, count) if kind == _STRING else self._numbers(key, kind, count)

    def _texts(self, key: str, count: int) -> list[str]:
        self._strings_left -= count
        if self._strings_left < 0:
            raise CheckpointError(
                f"{self.path}: {key} is a list of {count} strings; a header may hold {MAX_STRINGS}. Convert the model "
                "again."
            )
        return [self.text() for _ in range(count)]

    def _numbers(self, key: str, kind: int, count: int) -> NDArray[Any]:
        if kind not in _SCALARS:
            raise CheckpointError(
                f"{self.path}: {key} has a value of unknown type {kind}; the file is damaged, or newer than this "
                "engine. Download it again."
            )
        dtype = np.dtype(_SCALARS[kind])
        data = self.take(count * dtype.itemsize)
        return data != 0 if dtype == np.bool_ else data.view(dtype)


def _shortest(value: float) -> float:
    """The decimal that whoever wrote a float32 most likely meant: 1e-5, not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """The numbers of tensors and of keys."""
    path, magic, version = cursor.path, cursor.take(4).tobytes(), cursor.integer(4)
    if magic != MAGIC:
        raise CheckpointError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}. Download it again.")
    if version not in VERSIONS:
        swapped = version & 0xFFFF == 0
        raise UnsupportedModelError(
            f"{path} is {'in big-endian order' if swapped else f'of GGUF version {version}'}; supported are versions "
            f"{' and '.join(map(str, VERSIONS))} in little-endian order. Convert it with llama.cpp's tools."
        )
    counts = cursor.integer(8), cursor.integer(8)
    if max(counts) > MAX_COUNT:
        raise CheckpointError(
            f"{path}: the header counts {counts[0]} tensors and {counts[1]} keys; each may be {MAX_COUNT}. Download "
            "the file again."
        )
    return counts


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text(MAX_KEY_BYTES)
        if key in values:
            raise CheckpointError(f"{cursor.path}: the key {key[:100]!r} is given twice. Download the file again.")
        values[key] = cursor.value(key[:100])
    return values


def _read_entries(cursor: _Cursor, count: int, metadata: Fields, size: int) -> dict[str, Entry]:
    """Entries whose data lies in order, each aligned, within the file."""
    alignment = metadata.integer("general.alignment", 1, MAX_ALIGNMENT, 32)
    if alignment % 8:
        raise metadata.error("general.alignment", "a multiple of 8")
    found = [_read_entry(cursor) for _ in range(count)]
    start = expected = _align(cursor.position, alignment)
    entries: dict[str, Entry] = {}
    for name, blocks, shape, offset in found:
        begin, row = start + offset, blocks.row_bytes(shape[-1] if shape else 1)
        end = begin + math.prod(shape[:-1]) * row
        if begin != expected or name in entries:
            raise CheckpointError(
                f"{cursor.path}: the data of tensor {name!r} begins at byte {begin} where {expected} should follow, or "
                "is there twice. Download the file again."
            )
        if end > size:
            raise CheckpointError(
                f"{cursor.path} is truncated: it has {size} bytes, and tensor {name!r} ends at byte {end}. Download it "
                "again."
            )
        entries[name] = Entry(blocks, shape, begin, end)
        expected = _align(end, alignment)
    return entries


def _read_entry(cursor: _Cursor) -> tuple[str, BlockFormat, tuple[int, ...], int]:
    name, dimensions = cursor.text(MAX_KEY_BYTES)[:256], cursor.integer(4)
    if dimensions > MAX_DIMENSIONS:
        raise CheckpointError(
            f"{cursor.path}: tensor {name!r} has {dimensions} dimensions; the format allows {MAX_DIMENSIONS}. Download "
            "the file again."
        )
    shape = tuple(cursor.integer(8) for _ in range(dimensions))[::-1]
    kind, offset = cursor.integer(4), cursor.integer(8)
    if kind not in FORMATS:
        raise UnsupportedModelError(
            f"{cursor.path}: tensor {name!r} is of type {kind}, which is not known here. {CONVERT}"
        )
    if 0 in shape or (shape[-1] if shape else 1) % FORMATS[kind].weights:
        raise CheckpointError(
            f"{cursor.path}: tensor {name!r} of shape {list(shape)} has no whole number of {FORMATS[kind].name} "
            "blocks in a row. Download the file again."
        )
    return name, FORMATS[kind], shape, offset


CONVERT = (
    f"Supported are {', '.join(blocks.name for blocks in FORMATS.values() if blocks.decode)}. Take another "
    "quantisation of the model."
)


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
