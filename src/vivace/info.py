"""What a model needs and how fast this machine could possibly run it, from its files alone: nothing is packed.

The floor is the time to read every weight once, which a decoding step must, at the read bandwidth measured here for
that many bytes. It knows no kernel: how close a run comes to the floor is for benchmarks to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from vivace.machine import allowed_cores
from vivace.models.checkpoint import Tensor
from vivace.models.fields import read_fields
from vivace.models.model import Model
from vivace.models.weights import ModelWeights, read_weights
from vivace.native import measure_read_bandwidth
from vivace.runners.native import QUANTIZE, count_kv_bytes

MAX_MEASURED_BYTES = 1 << 30
"""More than any cache holds: beyond it, the bandwidth no longer depends on the size."""

RECIPE = "recipe.json"
"""What `vivace compress` did, beside the checkpoint that it wrote."""

_FLOAT_BYTES = {"none": 4, "bf16": 2}


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """A model in one of the engine's formats."""

    name: str
    step_bytes: int
    """Read by one decoding step at batch 1: every matrix once, of an embedding that is not the head one row."""
    compression_ratio: float
    """Bytes in bf16 over bytes in this format."""
    bandwidth_gb_per_s: float
    """Measured now, reading as many bytes."""
    floor_ms: float
    """A token cannot come faster."""


@dataclass(frozen=True, slots=True)
class Compression:
    """CR = N_original / N_compressed, by parameters and by bytes of the weights' files."""

    original: str
    parameter_ratio: float
    byte_ratio: float
    original_parameters: int
    original_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    name: str
    family: str
    parameters: int
    layers: int
    hidden_size: int
    intermediate_sizes: tuple[int, ...]
    """The different ones, ascending."""
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    tied: bool
    kv_bytes_per_token: int
    """In f16, as every format but `none` keeps it."""
    formats: tuple[FormatInfo, ...]
    stored_bytes: int
    """Of the files that hold the weights."""
    compression: Compression | None = None
    """Against a model that was named, or else against the one that the checkpoint's recipe.json says it was made of."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_model(model: Model, against: Model | None = None) -> ModelInfo:
    """Read a model's files and measure. Raises `CheckpointError` for files that do not fit together."""
    config, weights = model.config, read_weights(model.config, model.open_checkpoint())
    matrices = list(_step_matrices(weights))
    parameters, stored_bytes = _count_parameters(weights), count_stored_bytes(model)
    original = _read_original(model.directory) if against is None else _measure_original(against)
    return ModelInfo(
        name=model.name,
        family=config.family,
        parameters=parameters,
        layers=len(config.layers),
        hidden_size=config.hidden_size,
        intermediate_sizes=tuple(sorted({layer.intermediate_size for layer in config.layers})),
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        tied=config.tied,
        kv_bytes_per_token=count_kv_bytes(config, "int8"),
        formats=tuple(_describe_format(name, matrices) for name in QUANTIZE),
        stored_bytes=stored_bytes,
        compression=None if original is None else _compare(*original, parameters, stored_bytes),
    )


def count_stored_bytes(model: Model) -> int:
    """Of the safetensors files of its directory, or of its GGUF file."""
    place = model.open_checkpoint().directory
    files = [place] if place.is_file() else list(place.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files)


def _compare(name: str, parameters: int, size: int, left_parameters: int, left_bytes: int) -> Compression:
    return Compression(name, parameters / left_parameters, size / left_bytes, parameters, size, left_bytes)


def _measure_original(model: Model) -> tuple[str, int, int]:
    weights = read_weights(model.config, model.open_checkpoint())
    return model.name, _count_parameters(weights), count_stored_bytes(model)


def _read_original(directory: Path) -> tuple[str, int, int] | None:
    """Name, parameters and bytes of what a compressed checkpoint was made of; None for any other."""
    if not (directory / RECIPE).is_file():
        return None
    fields = read_fields(directory / RECIPE)
    before = fields.child("before")
    sizes = [before.integer(name, 1, 2**56) for name in ("parameters", "weight_bytes")]
    return fields.text("model"), sizes[0], sizes[1]


def _count_parameters(weights: ModelWeights) -> int:
    return sum(_count(tensor.shape) for tensor in _tensors(weights))


def _int8_bytes(rows: int, columns: int) -> float:
    return rows * columns + 4 * rows


def _int4_bytes(rows: int, columns: int) -> float:
    return rows * columns * (0.5 + 2 / 32)


def _matrix_bytes(kind: str, rows: int, columns: int, head: bool) -> float:
    """Of a matrix in one of the formats, its scales included; int4 keeps the head in int8."""
    if kind == "int8" or (kind == "int4" and head):
        return _int8_bytes(rows, columns)
    return _int4_bytes(rows, columns) if kind == "int4" else rows * columns * _FLOAT_BYTES[kind]


def _describe_format(name: str, matrices: list[tuple[int, int, bool]]) -> FormatInfo:
    step_bytes, reference = (int(sum(_matrix_bytes(kind, *matrix) for matrix in matrices)) for kind in (name, "bf16"))
    bandwidth = measure_read_bandwidth(min(step_bytes, MAX_MEASURED_BYTES), allowed_cores(), 5)
    return FormatInfo(name, step_bytes, reference / step_bytes, bandwidth, step_bytes / bandwidth / 1e6)


def _step_matrices(weights: ModelWeights) -> Iterator[tuple[int, int, bool]]:
    """Rows, columns, and whether it is the head, of every matrix that a decoding step reads whole."""
    for tensor in _tensors(weights.layers):
        if len(tensor.shape) == 2:
            yield tensor.shape[0], tensor.shape[1], False
    head = weights.embedding if weights.head is None else weights.head.weight
    yield head.shape[0], head.shape[1], True


def _tensors(part: Any) -> Iterator[Any]:
    """Everything in a tree of weights that has a shape: tensors, and the arrays of norms."""
    if isinstance(part, Tensor) or hasattr(part, "shape"):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from _tensors(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _tensors(getattr(part, field.name))


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
