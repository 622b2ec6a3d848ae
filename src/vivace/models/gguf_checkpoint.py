"""The tensors of a GGUF file under the names and in the shapes that Hugging Face checkpoints have.

llama.cpp's converter renames tensors, and changes some: it exchanges rows of Llama's query and key, because its
rope turns neighbouring dimensions; it adds 1 to Gemma's norms; it transposes GPT-2's matrices. All this is undone
here, so that a model's weights are read as from any other checkpoint. Knows no shapes: whoever asks says what a
tensor's must be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.checkpoint import Dtype, Tensor
from vivace.models.config import ModelConfig
from vivace.models.gguf import CONVERT, Entry, GgufFile
from vivace.models.gguf_blocks import dequantize

IGNORED = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
"""Part of a model's config, not of its weights."""

_VIEWS: dict[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class _Names:
    """How an architecture's tensors are called in Hugging Face checkpoints, `.weight` and `.bias` left out."""

    whole: Mapping[str, str]
    prefix: str
    """Of layers."""
    layer: Mapping[str, str]
    norm_offset: float = 0.0
    """Was added to the weights of norms."""
    transposed: bool = False
    """The layers' matrices are stored [in, out] in Hugging Face checkpoints."""
    permuted: tuple[str, ...] = ()
    """Layer tensors whose rows were exchanged for llama.cpp's rope."""


_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_LLAMA = _ATTENTION | _MLP | {"ffn_norm": "post_attention_layernorm"}

_ARCHITECTURES: dict[str, _Names] = {
    "gemma3": _Names(
        _WHOLE,
        "model.layers",
        _ATTENTION
        | _HEAD_NORMS
        | _MLP
        | {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        norm_offset=1.0,
    ),
    "gpt2": _Names(
        {
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
            "output": "lm_head",
        },
        "transformer.h",
        {
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        transposed=True,
    ),
    "llama": _Names(_WHOLE, "model.layers", _LLAMA, permuted=("attn_q", "attn_k")),
    "phi3": _Names(
        _WHOLE,
        "model.layers",
        {
            "attn_norm": "input_layernorm",
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
    ),
    "qwen2": _Names(_WHOLE, "model.layers", _LLAMA),
    "qwen3": _Names(_WHOLE, "model.layers", _LLAMA | _HEAD_NORMS),
}


@dataclass(slots=True)
class _Latest:
    """The matrix that was decoded last: a runner looks at each twice, to check and to pack it."""

    owner: LazyTensor | None = None
    data: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.float32))

    def get(self, owner: LazyTensor, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        if self.owner is not owner:
            self.owner, self.data = None, np.empty(0, np.float32)  # freed before the next is made
            data = read()
            data.flags.writeable = False
            self.owner, self.data = owner, data
        return self.data


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to make a tensor's data."""

    shape: tuple[int, ...]
    read: Callable[[int, int], NDArray[Any]]
    """Some rows."""
    latest: _Latest
    turned: LazyTensor | None = None
    """What the tensor is the transpose of."""


class LazyTensor(Tensor):
    """A tensor whose data is decoded when it is asked for.

    Tensors of one checkpoint share room for one decoded matrix, so that a model which is packed matrix by matrix
    takes the memory of one at a time, in one thread. Who keeps `data` keeps its memory. Parts and transposes are lazy.
    """

    __slots__ = ("_plan",)
    _plan: _Plan

    def __init__(self, name: str, dtype: Dtype, plan: _Plan) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "_plan", plan)

    @property
    def data(self) -> NDArray[Any]:
        plan = self._plan
        return plan.latest.get(self, lambda: plan.read(0, plan.shape[0]))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._plan.shape

    def rows(self, begin: int, end: int) -> LazyTensor:
        plan = self._plan
        shape = (end - begin, *plan.shape[1:])
        part = replace(plan, shape=shape, read=lambda low, high: plan.read(begin + low, begin + high), turned=None)
        return LazyTensor(f"{self.name}[{begin}:{end}]", self.dtype, part)

    def transposed(self) -> LazyTensor:
        plan = self._plan
        if plan.turned is not None:
            return plan.turned
        rows, columns = plan.shape
        turned = _Plan((columns, rows), lambda low, high: plan.read(0, rows).T[low:high], plan.latest, self)
        return LazyTensor(self.name, self.dtype, turned)


@dataclass(frozen=True, slots=True)
class _Source:
    """What a Hugging Face tensor is made of."""

    name: str
    """In the file."""
    heads: int = 0
    """Of which the rows were exchanged; 0: they are in order."""
    offset: float = 0.0
    """Was added."""
    transposed: bool = False


class GgufCheckpoint:
    """The tensors of a GGUF file, by their Hugging Face names: a `TensorSource`."""

    def __init__(self, file: GgufFile, architecture: str, config: ModelConfig) -> None:
        """Raises `UnsupportedModelError` for a tensor that models of this architecture do not have."""
        self._file = file
        self._sources = dict(_find_sources(file, architecture, config))
        self._latest = _Latest()

    @property
    def directory(self) -> Path:
        return self._file.path

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor by name. Raises `CheckpointError` when it is missing, or not of the shape it must have,
        `UnsupportedModelError` when its blocks cannot be read."""
        source, path = self._sources.get(name), self._file.path
        if source is None:
            raise CheckpointError(f"{path} holds no tensor for {name!r}; the file is incomplete. Download it again.")
        entry = self._file.entries[source.name]
        real = entry.shape[::-1] if source.transposed else entry.shape
        if shape is not None and real != shape:
            raise CheckpointError(
                f"{path}: tensor {source.name!r} has shape {list(real)}, but the metadata makes it {list(shape)}; the "
                "file contradicts itself. Download it again."
            )
        if entry.blocks.decode is None:
            raise UnsupportedModelError(f"{path}: tensor {source.name!r} is stored as {entry.blocks.name}. {CONVERT}")
        return self._make(name, source, entry)

    def _make(self, name: str, source: _Source, entry: Entry) -> Tensor:
        """A view if the file holds the numbers as they are; a vector as it is; else a matrix in waiting."""
        stored = self._file.rows(source.name)
        view = _VIEWS.get(entry.blocks.name)
        dtype = cast(Dtype, entry.blocks.name) if view and not source.offset else "F32"
        order = _row_order(self._file.path, source, entry) if source.heads else None

        def read(begin: int, end: int) -> NDArray[Any]:
            rows = stored[begin:end] if order is None else stored[order[begin:end]]
            values = rows.view(view) if view else dequantize(entry.blocks, rows)
            return np.require(values, requirements="A")

        if len(entry.shape) != 2:
            return Tensor(name, dtype, _read_vector(stored, entry, order, source.offset))
        if view and order is None:
            tensor = Tensor(name, dtype, read(0, entry.shape[0]))
            return tensor.transposed() if source.transposed else tensor
        lazy = LazyTensor(name, dtype, _Plan(entry.shape, read, self._latest))
        return lazy.transposed() if source.transposed else lazy


def _read_vector(
    stored: NDArray[np.uint8], entry: Entry, order: NDArray[np.intp] | None, offset: float
) -> NDArray[Any]:
    view = _VIEWS.get(entry.blocks.name)
    if view and not offset:
        values: NDArray[Any] = np.require(stored.view(view), requirements="A").reshape(entry.shape)
    else:
        values = dequantize(entry.blocks, stored).reshape(entry.shape) - np.float32(offset)
    return values if order is None else values[order]


def _row_order(path: Path, source: _Source, entry: Entry) -> NDArray[np.intp]:
    """Where in the file each row is.

    Of a head with n dimensions, Hugging Face's rope turns i with i + n / 2, llama.cpp's 2 i with 2 i + 1; row
    i + h n / 2 of a head thus became row 2 i + h, for halves h of 0 and 1.
    """
    rows = entry.shape[0] if entry.shape else 0
    if rows % (2 * source.heads):
        raise CheckpointError(
            f"{path}: tensor {source.name!r} has {rows} rows, which {source.heads} heads cannot share evenly. Download "
            "the file again."
        )
    order: NDArray[np.intp] = np.arange(rows).reshape(source.heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return order


def _find_sources(file: GgufFile, architecture: str, config: ModelConfig) -> Iterator[tuple[str, _Source]]:
    """By Hugging Face name."""
    names = _ARCHITECTURES[architecture]
    heads = {"attn_q": config.heads, "attn_k": config.kv_heads}
    for name, entry in file.entries.items():
        if name in IGNORED:
            continue
        place, _, part = name.rpartition(".")
        block, layer, inner = _split_name(place)
        ours = names.layer.get(inner) if block else names.whole.get(place)
        if part not in ("weight", "bias") or ours is None:
            raise UnsupportedModelError(
                f"{file.path}: tensor {name!r} is none that models of architecture {architecture!r} have here; this "
                "may be a newer kind of model. Use a file that llama.cpp's converter made of a plain one."
            )
        source = _Source(
            name,
            heads=heads[inner] if inner in names.permuted else 0,
            offset=names.norm_offset if place.endswith("_norm") else 0.0,
            transposed=names.transposed and bool(block) and len(entry.shape) == 2,
        )
        yield (f"{names.prefix}.{layer}.{ours}.{part}" if block else f"{ours}.{part}"), source


def _split_name(place: str) -> tuple[str, str, str]:
    """`blk`, the layer and the rest; all but the last empty when it is of no layer."""
    parts = place.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[1].isdecimal() and parts[1].isascii():
        return parts[0], parts[1], parts[2]
    return "", "", place
