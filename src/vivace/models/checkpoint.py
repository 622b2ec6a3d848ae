"""Tensors of a checkpoint directory: a reader of safetensors files, whole or in shards, over memory maps.

Nothing is copied until somebody asks: a tensor is a view of the file. Every number in a header is distrusted, so that
a broken or malicious file ends in a `CheckpointError` that names it. Pickle is never loaded. Knows no model: names
are just names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from vivace.errors import CheckpointError
from vivace.models.fields import parse_json, read_fields

Dtype = Literal["F32", "F16", "BF16", "I8", "U8", "I32", "I64"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MAX_DIMENSIONS = 8
MAX_SIZE = 2**56
"""Of a dimension, an offset, and a tensor's elements: what numpy can index, whatever the type."""

_VIEWS: dict[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1", "I32": "<i4", "I64": "<i8"}
_ITEM_BYTES = {code: np.dtype(view).itemsize for code, view in _VIEWS.items()} | {
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "U32": 4, "F64": 8, "U64": 8,
}  # fmt: skip
"""Every type whose size is known; a file may hold them all, but only those in `_VIEWS` can be read."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named view of a file's data."""

    name: str
    dtype: Dtype
    data: NDArray[Any]
    """Shaped and aligned, not writable. BF16 is held as uint16, the upper halves of float32 values."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def to_f32(self) -> NDArray[np.float32]:
        """The values as float32; a view if that is what they are."""
        if self.dtype == "BF16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return self.data.astype(np.float32, copy=False)

    def rows(self, begin: int, end: int) -> Tensor:
        """Some rows of a matrix, or elements of a vector: a view."""
        return replace(self, name=f"{self.name}[{begin}:{end}]", data=self.data[begin:end])

    def transposed(self) -> Tensor:
        """The matrix with rows and columns exchanged: a view."""
        return replace(self, data=self.data.T)


class TensorSource(Protocol):
    """Tensors by their names in Hugging Face checkpoints, wherever they are kept."""

    @property
    def directory(self) -> Path:
        """Of the checkpoint, or the one file that holds it all: what messages name."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __contains__(self, name: object) -> bool: ...

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor by name. Raises `CheckpointError` when it is missing, or not of the shape it must have."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a file keeps one tensor, checked: bytes begin to end after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class _File:
    """One safetensors file: its header, checked, and a map of its data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            header, start = _read_header(path, size)
            self.entries = _check_entries(path, header, size - start)
            self._data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))[start:]
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror or error}); download the file again."
            ) from error

    def view(self, entry: _Entry) -> NDArray[Any]:
        data = self._data[entry.begin : entry.end].view(_VIEWS[entry.dtype]).reshape(entry.shape)
        return np.require(data, requirements="A")


class Checkpoint:
    """The tensors of a directory, by name."""

    def __init__(self, directory: Path, files: Mapping[str, _File]) -> None:
        self.directory = directory
        self._files = files

    @staticmethod
    def open(directory: Path) -> Checkpoint:
        """Read the headers of model.safetensors, or of the shards that its index names.

        Raises `CheckpointError` when there are none, or when a file contradicts itself.
        """
        if (directory / WEIGHTS).is_file():
            file = _File(directory / WEIGHTS)
            return Checkpoint(directory, dict.fromkeys(file.entries, file))
        if (directory / INDEX).is_file():
            return Checkpoint(directory, _open_shards(directory))
        raise CheckpointError(_explain_absence(directory))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor by name. Raises `CheckpointError` when it is missing, or not of the shape it must have."""
        file = self._files.get(name)
        if file is None:
            raise CheckpointError(
                f"{self.directory / WEIGHTS} or its shards hold no tensor {name!r}; the checkpoint is incomplete, or "
                "its config.json is another model's."
            )
        entry = file.entries[name]
        if shape is not None and entry.shape != shape:
            raise CheckpointError(
                f"{file.path}: tensor {name!r} has shape {list(entry.shape)}, but config.json makes it {list(shape)}; "
                "the two files are of different models."
            )
        if entry.dtype not in _VIEWS:
            raise CheckpointError(
                f"{file.path}: tensor {name!r} is stored as {entry.dtype}; it must be one of {', '.join(_VIEWS)}. "
                "Convert the checkpoint."
            )
        return Tensor(name, cast(Dtype, entry.dtype), file.view(entry))


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header as JSON, and where the data starts: after eight bytes of its length, and itself."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(
                f"{path} is truncated: it has {size} bytes, but its header alone says {length}. Download it again."
            )
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: the header says it has {length} bytes; the format allows {MAX_HEADER_BYTES}. This is no "
                "safetensors file; download it again."
            )
        text = file.read(length)
    header = parse_json(path, text, unique_keys=True)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is no JSON object. This is no safetensors file; download it again.")
    return header, 8 + length


def _check_entries(path: Path, header: dict[str, Any], data_bytes: int) -> dict[str, _Entry]:
    """Entries whose data lies end to end and fills the file, as the format asks."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map names to strings; write the file again with safetensors.")
    entries = {name: _check_entry(path, name, value) for name, value in header.items()}
    expected = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != expected:
            raise CheckpointError(
                f"{path}: the data of tensor {name!r} begins at byte {entry.begin} where {expected} should follow; "
                "tensors overlap or leave a hole. Download the file again."
            )
        expected = entry.end
    if expected != data_bytes:
        raise CheckpointError(
            f"{path} is truncated or too long: its tensors take {expected} bytes, and {data_bytes} follow the "
            "header. Download it again."
        )
    return entries


def _check_entry(path: Path, name: str, value: object) -> _Entry:
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise CheckpointError(
            f"{path}: tensor {name!r} has an unknown dtype; known are {', '.join(_ITEM_BYTES)}. Convert the checkpoint."
        )
    if shape is None or len(shape) > MAX_DIMENSIONS or math.prod(size for size in shape if size) > MAX_SIZE:
        raise CheckpointError(
            f"{path}: tensor {name!r} has no shape of at most {MAX_DIMENSIONS} whole numbers. Download the file again."
        )
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{path}: tensor {name!r} has no data_offsets that go from a byte to a later one. Download the file again."
        )
    begin, end = offsets
    if math.prod(shape) * _ITEM_BYTES[dtype] != end - begin:
        raise CheckpointError(
            f"{path}: tensor {name!r} of type {dtype} and shape {shape} does not take the {end - begin} bytes that "
            "its data_offsets give it. Download the file again."
        )
    return _Entry(dtype, tuple(shape), begin, end)


def _sizes(value: object) -> list[int] | None:
    if not isinstance(value, list) or not all(type(size) is int and 0 <= size <= MAX_SIZE for size in value):
        return None
    return value


def _open_shards(directory: Path) -> dict[str, _File]:
    """For each tensor that the index names, the shard that holds it."""
    path = directory / INDEX
    places = read_fields(path).child("weight_map").values
    shards = {name: _open_shard(path, name) for name in dict.fromkeys(_check_shard_names(path, places))}
    for name, shard in places.items():
        if name not in shards[shard].entries:
            raise CheckpointError(
                f"{path} places tensor {name!r} in {shard}, which does not hold it. Download both again."
            )
    return {name: shards[shard] for name, shard in places.items()}


def _check_shard_names(path: Path, places: Mapping[str, Any]) -> Iterator[str]:
    for name, shard in places.items():
        plain = isinstance(shard, str) and shard.endswith(".safetensors") and shard.isprintable()
        if not plain or "/" in shard or "\\" in shard or ".." in shard or len(shard) > 255:
            raise CheckpointError(
                f"{path} places tensor {name!r} in a file that is not a plain name ending in .safetensors; shards lie "
                "beside their index. Replace it with the published index."
            )
        yield shard


def _open_shard(index: Path, name: str) -> _File:
    path = index.parent / name
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, and {index.name} needs it. Download the missing shard.")
    return _File(path)


def _explain_absence(directory: Path) -> str:
    pickles = sorted(path.name for suffix in ("bin", "pt", "pth") for path in directory.glob(f"*.{suffix}"))
    if pickles:
        return (
            f"{directory} holds its weights only as pickle ({pickles[0]}), which is never loaded because it can run "
            f"code. Convert them to {WEIGHTS} with the safetensors library."
        )
    return f"{directory} holds neither {WEIGHTS} nor {INDEX}. Give the directory of a Hugging Face checkpoint."
