"""Weights to integers and back, and how much was lost.

Symmetric throughout: a weight is code * scale. int8 has a scale for each output and codes of -127 to 127; int4 has one
for each group of inputs of an output, and codes of -8 to 7. Scales are rounded to the type the checkpoint stores them
in, and to f16, in which the engine holds those of int4, *before* codes are chosen: what is measured here is what will
run.

- `round_nearest`: the largest weight decides the scale.
- `search_scales`: of a list of scales, for each group the one with the least error; either plain squared error of the
  weights, or weighted by how large each input is (importance), or that of the outputs themselves, group by group.

The largest weight of an int4 group may stand on code -8 as well as on 7: a scale may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    Tensor = Any  # torch's types are not followed

Bits = Literal[4, 8]

SHRINKS = tuple(percent / 100 for percent in range(100, 48, -4))
"""Shares of the scale at which nothing is clipped."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a linear's weights are stored."""

    bits: Bits
    group_size: int
    """Inputs that share a scale; 0: all of an output."""
    dtype: Any
    """The torch type of scales in the checkpoint."""

    @property
    def lowest(self) -> int:
        return -8 if self.bits == 4 else -127

    @property
    def highest(self) -> int:
        return 7 if self.bits == 4 else 127

    def split(self, weight: Tensor) -> Tensor:
        """[out, in] to [out, groups, group_size]"""
        return weight.reshape(len(weight), -1, self.group_size or weight.shape[1])

    def count_bytes(self, out: int, width: int) -> int:
        """Of codes and scales of a linear."""
        groups = width // self.group_size if self.group_size else 1
        return out * width * self.bits // 8 + out * groups * int(self.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Integers:
    """A quantised matrix."""

    format: Format
    codes: Tensor
    """int8 [out, in]"""
    scales: Tensor
    """float32 [out, groups]; each exact in the format's own type."""

    def to_floats(self) -> Tensor:
        """float32 [out, in]"""
        return (self.format.split(self.codes).float() * self.scales[..., None]).reshape(self.codes.shape)


def round_scales(scales: Tensor, format: Format) -> Tensor:
    """As they will be held: f16 first where the engine holds them so, since bf16 of an f16 value is exact in f16."""
    if format.bits == 4:
        limit = torch.finfo(torch.float16).max
        scales = scales.clamp(-limit, limit).half().float()
    return scales.to(format.dtype).float()


def apply_scales(weight: Tensor, scales: Tensor, format: Format) -> Integers:
    """The nearest codes under given scales, which are rounded already. A group of zeros may have the scale 0."""
    groups = format.split(weight)
    safe = torch.where(scales == 0, torch.ones_like(scales), scales)[..., None]
    codes = (groups / safe).round_().clamp_(format.lowest, format.highest)
    codes = torch.where(scales[..., None] == 0, torch.zeros_like(codes), codes)
    return Integers(format, codes.to(torch.int8).reshape(weight.shape), scales)


def find_scales(weight: Tensor, format: Format) -> Tensor:
    """Those at which nothing is clipped, [out, groups]: the largest weight on the highest code, but for int4 half a
    step further, as the compressed-tensors library has it."""
    largest = format.split(weight).abs().amax(-1)
    return round_scales(largest / (7.5 if format.bits == 4 else 127.0), format)


def round_nearest(weight: Tensor, format: Format) -> Integers:
    """float32 [out, in] to integers."""
    return apply_scales(weight, find_scales(weight, format), format)


def search_scales(
    weight: Tensor, format: Format, *, importance: Tensor | None = None, moment: Tensor | None = None
) -> Tensor:
    """For each group the scale with the least error, [out, groups].

    `importance` [in] weighs the squared error of each input's weights; `moment` [in, in], E[x xᵀ], makes it the squared
    error of the outputs that the group causes alone. The scale of `round_nearest` is among those tried, so that none is
    worse than it.
    """
    groups = format.split(weight)
    weigh = _error_weights(groups, format, importance, moment)
    best = find_scales(weight, format)
    least = weigh(groups - _requantize(groups, best, format))
    for scales in _candidates(groups, format):
        rounded = round_scales(scales, format)
        error = weigh(groups - _requantize(groups, rounded, format))
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, rounded, best)
    return best


def _candidates(groups: Tensor, format: Format) -> list[Tensor]:
    """Scales that put the extreme weight on either end, or a little beyond it."""
    place = groups.abs().argmax(-1, keepdim=True)
    extreme = groups.gather(-1, place).squeeze(-1)
    ends = (-8.0, 7.0) if format.bits == 4 else (127.0,)
    whole = [extreme / end if format.bits == 4 else extreme.abs() / end for end in ends]
    return [scales * shrink for scales in whole for shrink in SHRINKS]


def _requantize(groups: Tensor, scales: Tensor, format: Format) -> Tensor:
    safe = torch.where(scales == 0, torch.ones_like(scales), scales)[..., None]
    return (groups / safe).round_().clamp_(format.lowest, format.highest).mul_(scales[..., None])


def _error_weights(groups: Tensor, format: Format, importance: Tensor | None, moment: Tensor | None) -> Any:
    """A function from differences [out, groups, size] to errors [out, groups]."""
    count, size = groups.shape[1:]
    if moment is not None:
        blocks = torch.stack([moment[i * size : (i + 1) * size, i * size : (i + 1) * size] for i in range(count)])
        return lambda off: (torch.einsum("ogi,gij->ogj", off, blocks) * off).sum(-1)
    if importance is not None:
        weights = importance.reshape(1, count, size)
        return lambda off: off.square_().mul_(weights).sum(-1)
    return lambda off: off.square_().sum(-1)


def measure_output_error(off: Tensor, weight: Tensor, moment: Tensor) -> float:
    """E|off @ x|² / E|weight @ x|² for inputs with E[x xᵀ] = moment."""
    lost = ((off @ moment) * off).sum()
    whole = ((weight @ moment) * weight).sum()
    return float(lost.clamp(min=0) / whole) if whole > 0 else 0.0


def measure_weight_error(off: Tensor, weight: Tensor) -> float:
    """|off|² / |weight|²"""
    whole = weight.square().sum()
    return float(off.square().sum() / whole) if whole > 0 else 0.0
