"""Linears and embeddings that were quantised before: checkpoints of the compressed-tensors library, read without
quantising anew.

Two layouts are read, as `compressed_tensors/compressors` of that library (0.20) writes them:

- `pack-quantized`: `weight_packed`, int32, holds each output's codes one after the other, 32 / bits in a word, the
  first in the lowest bits; a code is the integer plus 2 ** (bits - 1). `weight_scale` is [out, groups].
  `weight_zero_point`, of asymmetric weights, is packed likewise, but along the outputs. `weight_shape` is [out, in].
- `int-quantized` (and `naive-quantized`): `weight` is int8, `weight_scale` is [out, groups] or one number for all.

A weight is (code - zero) * scale. Which linears are quantised is read off the tensors that are there, so the
config's lists of targets and exceptions, which may be regular expressions, are never evaluated. How a checkpoint wants
activations quantised is not heeded: a runner has its own way. Knows no runner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.checkpoint import Tensor, TensorSource
from vivace.models.fields import Fields

MAX_GROUPS_OF_SETTINGS = 64
GROUP_SIZES = (32, 64, 128)
MAX_SCALE = 1e36
"""Below this, no code makes an infinite weight."""

_REMEDY = "Quantise the original model again, or give the original."


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """A matrix [out, in] as integers: (code - zero) * scale."""

    name: str
    bits: Literal[4, 8]
    codes: NDArray[Any]
    """8 bits: int8 [out, in]. 4 bits: uint8 [out, in / 2], input 2 i in the lower half of a byte, 2 i + 1 in the upper;
    each 0 to 15."""
    scales: NDArray[np.float32]
    """[out, groups]; one group: a scale for each output."""
    zeros: NDArray[np.uint8] | None
    """[out, groups] of 0 to 15. None: 8 for 4 bits, 0 for 8 bits."""
    group_size: int
    """Inputs that share a scale."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)"""
        return len(self.codes), self.codes.shape[1] * (2 if self.bits == 4 else 1)

    def rows(self, begin: int, end: int) -> QuantizedTensor:
        """Some outputs: a view."""
        return replace(
            self,
            name=f"{self.name}[{begin}:{end}]",
            codes=self.codes[begin:end],
            scales=self.scales[begin:end],
            zeros=None if self.zeros is None else self.zeros[begin:end],
        )

    def split_groups(self, limit: int) -> QuantizedTensor:
        """The same weights with at most `limit` inputs to a scale, which is repeated; the last group may be smaller."""
        if self.group_size <= limit:
            return self
        assert self.scales.shape[1] == 1, "a group that is neither small nor a whole row"
        groups = -(-self.shape[1] // limit)
        zeros = None if self.zeros is None else np.repeat(self.zeros, groups, axis=1)
        return replace(self, scales=np.repeat(self.scales, groups, axis=1), zeros=zeros, group_size=limit)

    def to_f32(self) -> NDArray[np.float32]:
        """The weights, float32 [out, in]."""
        weights = (self.codes if self.bits == 8 else unpack_nibbles(self.codes)).astype(np.float32)
        for group, first in enumerate(range(0, self.shape[1], self.group_size)):
            part = weights[:, first : first + self.group_size]
            if self.bits == 4:
                part -= 8 if self.zeros is None else self.zeros[:, group : group + 1]
            part *= self.scales[:, group : group + 1]
        return weights


def unpack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[rows, bytes] to [rows, 2 * bytes], the lower half of each byte first."""
    return np.stack([codes & np.uint8(15), codes >> np.uint8(4)], axis=-1).reshape(len(codes), -1)


@dataclass(frozen=True, slots=True)
class Setting:
    """How the linears of one of a config's groups are stored."""

    bits: Literal[4, 8]
    packed: bool
    symmetric: bool
    group_size: int
    """0: one scale for each output, or for all."""

    def __str__(self) -> str:
        layout = "pack-quantized" if self.packed else "int-quantized"
        group = f"groups of {self.group_size}" if self.group_size else "channels"
        return f"{layout} {self.bits} bits {'symmetric' if self.symmetric else 'asymmetric'} in {group}"


Scheme = tuple[Setting, ...]
"""Those of a checkpoint: mostly one."""


def read_quantization(config: Fields) -> Scheme | None:
    """What config.json says of its quantised linears; None: there are none.

    Raises `UnsupportedModelError` for settings that this engine does not run, `CheckpointError` for those that cannot
    be; both name the field.
    """
    if "quantization_config" not in config:
        return None
    fields = config.child("quantization_config")
    _expect(fields, "quant_method", fields.text("quant_method", ""), "compressed-tensors")
    for name in ("kv_cache_scheme", "transform_config", "moe_sparsity_config"):
        if fields.values.get(name):
            raise _unsupported(fields, name, "none")
    if fields.child("sparsity_config").text("format", "dense") != "dense":
        raise _unsupported(fields, "sparsity_config", "format dense")
    groups = fields.child("config_groups")
    if not 1 <= len(groups.values) <= MAX_GROUPS_OF_SETTINGS:
        raise fields.error("config_groups", f"an object of 1 to {MAX_GROUPS_OF_SETTINGS} groups")
    return tuple(dict.fromkeys(_read_setting(fields, groups.child(name)) for name in groups))


def _read_setting(config: Fields, group: Fields) -> Setting:
    layout = group.text("format", config.text("format", ""))
    _expect(group, "format", layout, "pack-quantized", "int-quantized", "naive-quantized")
    if group.child("output_activations").values:
        raise _unsupported(group, "output_activations", "none")
    inputs = group.child("input_activations")
    if inputs.values and not inputs.boolean("dynamic", False):
        raise _unsupported(inputs, "dynamic", "true: scales of activations found as they come")
    weights = group.child("weights")
    _expect(weights, "type", weights.text("type", "int"), "int")
    bits = weights.integer("num_bits", 1, 64)
    _expect(weights, "num_bits", bits, 4, 8)
    symmetric, group_size = weights.boolean("symmetric", True), _read_group_size(weights)
    if not symmetric and (bits == 8 or _strategy(weights) == "tensor"):
        raise _unsupported(weights, "symmetric", "true for 8 bits, and for one scale for a whole matrix")
    if bits == 8 and group_size:
        raise _unsupported(weights, "strategy", "channel and tensor for 8 bits")
    return Setting(cast(Literal[4, 8], bits), layout == "pack-quantized", symmetric, group_size)


def _read_group_size(weights: Fields) -> int:
    """0 for one scale an output."""
    strategy = _strategy(weights)
    _expect(weights, "strategy", strategy, "group", "channel", "tensor")
    if strategy != "group":
        return 0
    size = weights.integer("group_size", -1, 2**20, -1)
    _expect(weights, "group_size", size, *GROUP_SIZES)
    return size


def _strategy(weights: Fields) -> str:
    """Where none is named, the group size implies it, as the library has it."""
    size = weights.integer("group_size", -1, 2**20, 0)
    return weights.text("strategy", "group" if size > 0 else "channel" if size < 0 else "tensor")


def _expect(fields: Fields, name: str, value: object, *supported: object) -> None:
    if value not in supported:
        raise _unsupported(fields, name, ", ".join(map(str, supported)))


def _unsupported(fields: Fields, name: str, supported: str) -> UnsupportedModelError:
    shown = repr(fields.values.get(name))[:100]
    return UnsupportedModelError(
        f"{fields.path}: {fields.prefix}{name} is {shown}; supported for weights that are quantised already is "
        f"{supported}. {_REMEDY}"
    )


def read_linear(
    checkpoint: TensorSource, name: str, out: int, width: int, scheme: Scheme | None
) -> Tensor | QuantizedTensor:
    """The matrix [out, width] of the linear `name`, as integers if it is stored so.

    Raises `CheckpointError` for tensors that are missing or contradict the config or each other.
    """
    if scheme is not None and f"{name}.weight_packed" in checkpoint:
        return _Reader(checkpoint, name, out, width, scheme).read_packed()
    weight = checkpoint.tensor(f"{name}.weight", (out, width))
    if scheme is not None and weight.dtype == "I8":
        return _Reader(checkpoint, name, out, width, scheme).read_plain(weight)
    if weight.dtype not in ("F32", "F16", "BF16"):
        raise CheckpointError(
            f"{checkpoint.directory}: tensor {weight.name!r} is stored as {weight.dtype}, and config.json does not say "
            f"how it was quantised. {_REMEDY}"
        )
    return weight


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one quantised linear."""

    checkpoint: TensorSource
    name: str
    out: int
    width: int
    scheme: Scheme

    def read_packed(self) -> QuantizedTensor:
        scales = self._scales()
        words = self.checkpoint.tensor(f"{self.name}.weight_packed")
        setting = self._find_setting(packed=True, groups=scales.shape[1], words=words)
        self._check_shape()
        self._check_order(setting)
        codes = np.ascontiguousarray(words.data).view(np.uint8)[:, : self.width * setting.bits // 8]
        if setting.bits == 8:
            codes = (codes ^ np.uint8(0x80)).view(np.int8)
        zeros = None if setting.symmetric else self._packed_zeros(scales.shape[1])
        return self._tensor(setting, np.ascontiguousarray(codes), scales, zeros)

    def read_plain(self, weight: Tensor) -> QuantizedTensor:
        scales = self._scales()
        setting = self._find_setting(packed=False, groups=scales.shape[1])
        self._check_order(setting)
        if setting.bits == 8:
            return self._tensor(setting, weight.data, scales, None)
        zeros = None if setting.symmetric else self._shift(self._zeros((self.out, scales.shape[1]), "I8").data)
        codes = self._shift(weight.data)
        return self._tensor(setting, codes[:, ::2] | (codes[:, 1::2] << np.uint8(4)), scales, zeros)

    def _tensor(
        self, setting: Setting, codes: NDArray[Any], scales: NDArray[np.float32], zeros: NDArray[np.uint8] | None
    ) -> QuantizedTensor:
        size = setting.group_size or self.width
        return QuantizedTensor(f"{self.name}.weight", setting.bits, codes, scales, zeros, size)

    def _scales(self) -> NDArray[np.float32]:
        """[out, groups]; one for all is repeated."""
        tensor = self.checkpoint.tensor(f"{self.name}.weight_scale")
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise self._error(f"weight_scale is stored as {tensor.dtype}; it must be F32, F16 or BF16")
        scales = tensor.to_f32()
        if scales.size == 1:
            scales = np.broadcast_to(scales.reshape(1, 1), (self.out, 1))
        elif scales.ndim == 1:
            scales = scales[:, None]
        if scales.ndim != 2 or len(scales) != self.out or not 1 <= scales.shape[1] <= self.width:
            raise self._error(f"weight_scale has shape {list(tensor.shape)}; it must be [{self.out}, groups]")
        if not (np.abs(scales) < MAX_SCALE).all():
            raise self._error(f"weight_scale holds what is no number, or one of {MAX_SCALE:g} or more")
        return np.ascontiguousarray(scales)

    def _find_setting(self, *, packed: bool, groups: int, words: Tensor | None = None) -> Setting:
        """The config's group that these tensors are of."""
        asymmetric = f"{self.name}.weight_zero_point" in self.checkpoint
        for setting in self.scheme:
            size = setting.group_size or self.width
            fits = setting.packed == packed and groups * size == self.width and self.width * setting.bits % 8 == 0
            fits &= setting.symmetric or asymmetric
            if words is not None:
                fits &= words.dtype == "I32" and words.shape == (self.out, -(-self.width * setting.bits // 32))
            if fits:
                return setting
        raise self._error(
            f"its tensors ({'' if words is None else f'{words.dtype} {list(words.shape)}, '}{groups} scales an output, "
            f"{'with' if asymmetric else 'without'} zero points) are of none of the kinds that config.json's "
            f"quantization_config describes: {'; '.join(map(str, self.scheme))}"
        )

    def _check_shape(self) -> None:
        shape = self.checkpoint.tensor(f"{self.name}.weight_shape", (2,))
        if shape.dtype not in ("I32", "I64") or shape.data.tolist() != [self.out, self.width]:
            raise self._error(
                f"weight_shape is {shape.data.tolist()}, but config.json makes it {[self.out, self.width]}"
            )

    def _check_order(self, setting: Setting) -> None:
        """Groups of inputs must follow one another; older GPTQ checkpoints shuffle them (`actorder` `group`)."""
        name = f"{self.name}.weight_g_idx"
        if name not in self.checkpoint:
            return
        order = self.checkpoint.tensor(name, (self.width,))
        if not np.array_equal(order.data, np.arange(self.width) // (setting.group_size or self.width)):
            raise UnsupportedModelError(
                f"{self.checkpoint.directory}: tensor {name!r} puts inputs into groups out of their order; supported "
                "is actorder null or weight. Quantise the model again with one of these."
            )

    def _zeros(self, shape: tuple[int, int], dtype: str) -> Tensor:
        tensor = self.checkpoint.tensor(f"{self.name}.weight_zero_point", shape)
        if tensor.dtype != dtype:
            raise self._error(f"weight_zero_point is stored as {tensor.dtype}; it must be {dtype}")
        return tensor

    def _packed_zeros(self, groups: int) -> NDArray[np.uint8]:
        """From int32 [out / 8, groups] to [out, groups]."""
        words = self._zeros((-(-self.out // 8), groups), "I32").data.view(np.uint32)
        nibbles = words[:, None, :] >> np.arange(0, 32, 4, dtype=np.uint32)[:, None] & np.uint32(15)
        return np.ascontiguousarray(nibbles.reshape(-1, groups)[: self.out].astype(np.uint8))

    def _shift(self, integers: NDArray[np.int8]) -> NDArray[np.uint8]:
        """Integers of -8 to 7, of the shape they have, as 0 to 15."""
        if integers.size and not -8 <= integers.min() <= integers.max() <= 7:
            raise self._error(
                "a weight or zero point is outside of -8 to 7, and config.json says that they have 4 bits"
            )
        return (integers + np.int8(8)).view(np.uint8)

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.checkpoint.directory}: the quantised linear {self.name!r} cannot be read: {what}. Download the "
            "checkpoint again, or quantise the original model again."
        )
