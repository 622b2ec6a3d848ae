"""Rotary position embeddings: the inverse frequencies that a checkpoint's rope settings describe.

Frequencies are computed in float32, step by step as transformers does, because models were trained and are published
with those values. Powers are taken in float64 and rounded once, which is what the vector libraries under PyTorch
agree with to one unit in the last place. Knows nothing of layers or attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.fields import Fields

MAX_CONTEXT = 2**31 - 1

Frequencies = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rope:
    """Token p turns pair i (dimensions i and i + n of a head, for n pairs) by p * inverse_frequencies[i] radians."""

    inverse_frequencies: tuple[float, ...]
    """One for each rotated pair; a head's first 2 * len dimensions are rotated. Each is a float32 value."""
    scale: float = 1.0
    """Multiplies cosine and sine (yarn, longrope)."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """What every kind of rope needs: its fields and the model's sizes."""

    fields: Fields
    theta: float
    dims: int
    context_length: int
    original_length: int
    """The context that the model was trained on before its rope was stretched."""

    @property
    def plain(self) -> Frequencies:
        """theta ** (-2i / dims), float32 [dims / 2]."""
        return np.float32(1.0) / self.wavelengths

    @property
    def wavelengths(self) -> Frequencies:
        """theta ** (2i / dims), float32 [dims / 2]: wave lengths over 2 pi."""
        exponents = np.arange(0, self.dims, 2).astype(np.float32) / np.float32(self.dims)
        return np.power(self.theta, exponents.astype(np.float64)).astype(np.float32)


def read_rope(
    config: Fields,
    head_dim: int,
    context_length: int,
    *,
    kinds: Collection[str] | None = None,
    partial: bool = False,
) -> Rope:
    """The rope of a model that has one for all layers.

    Reads `rope_theta` and `rope_scaling` of published config files, or `rope_parameters` of newer ones. `kinds` are
    those that the family may ask for, all known ones by default; `partial` allows a `partial_rotary_factor`, of which
    heads are rotated by their first dimensions only. Raises `UnsupportedModelError` for a kind of rope that is not
    known, `CheckpointError` for values that cannot be.
    """
    name = "rope_scaling" if config.values.get("rope_scaling") else "rope_parameters"
    fields = config.child(name).with_defaults(rope_theta=config.number("rope_theta", 10000.0, above=1.0))
    share = 1.0
    for holder in (config, fields):
        share = holder.number("partial_rotary_factor", share, above=0.0)
    if share > 1 or (share != 1 and not partial):
        supported = "a share of at most 1" if partial else "1, heads that are rotated whole"
        raise UnsupportedModelError(
            f"{config.path}: partial_rotary_factor is {share:g}; supported for this family is {supported}."
        )
    return _read_kind(config, fields, int(head_dim * share), context_length, kinds or tuple(_KINDS))


def read_rope_pair(config: Fields, head_dim: int, context_length: int) -> tuple[Rope, Rope]:
    """The ropes of full and of sliding layers, for a model that has one for each kind of layer.

    Published config files give `rope_theta` and `rope_scaling` to full layers, `rope_local_base_freq` to sliding ones;
    newer ones have `rope_parameters` with an object for each. Raises as `read_rope` does.
    """
    parameters = config.child("rope_parameters")
    if parameters.text("rope_type", "default") != "default":
        raise config.error("rope_parameters", "an object with one each for full_attention and sliding_attention")
    full, sliding = parameters.child("full_attention"), parameters.child("sliding_attention")
    if config.values.get("rope_scaling"):
        full = config.child("rope_scaling").with_defaults(**full.values)
    full = full.with_defaults(rope_theta=config.number("rope_theta", above=1.0))
    sliding = sliding.with_defaults(rope_theta=config.number("rope_local_base_freq", above=1.0))
    both = [_read_kind(config, fields, head_dim, context_length, tuple(_KINDS)) for fields in (full, sliding)]
    return both[0], both[1]


def _read_kind(config: Fields, fields: Fields, dims: int, context_length: int, kinds: Collection[str]) -> Rope:
    """The rope that one object describes, `rope_theta` among its fields."""
    kind = fields.text("rope_type", fields.text("type", "default"))
    if kind not in kinds or any(isinstance(value, dict) for value in fields.values.values()):
        raise UnsupportedModelError(
            f"{config.path}: {fields.prefix.rstrip('.')} asks for rope of type {kind!r}, or for several; supported is "
            f"one of {', '.join(kinds)} for all layers."
        )
    if dims < 2 or dims % 2:
        raise CheckpointError(
            f"{config.path}: {dims} dimensions of each head are to be rotated (head_dim, times partial_rotary_factor); "
            "they must be an even number from 2."
        )
    theta = fields.number("rope_theta", above=1.0)
    return _KINDS[kind](_Setting(fields, theta, dims, context_length, _original_length(config, fields, context_length)))


def _original_length(config: Fields, fields: Fields, context_length: int) -> int:
    holder = config if "original_max_position_embeddings" in config else fields
    return holder.integer("original_max_position_embeddings", 1, MAX_CONTEXT, context_length)


def _rope(frequencies: Frequencies, scale: float = 1.0) -> Rope:
    return Rope(tuple(float(value) for value in frequencies), scale)


def _default(setting: _Setting) -> Rope:
    """Also `dynamic`, which differs only beyond the model's context, and there this engine does not go."""
    return _rope(setting.plain)


def _linear(setting: _Setting) -> Rope:
    return _rope(setting.plain / np.float32(setting.fields.number("factor", above=0.0)))


def _llama3(setting: _Setting) -> Rope:
    """Llama 3.1: long waves slowed by `factor`, short ones kept, those between blended."""
    fields, plain = setting.fields, setting.plain
    factor, low = fields.number("factor", above=0.0), fields.number("low_freq_factor", above=0.0)
    high = fields.number("high_freq_factor", above=low)
    length = setting.original_length
    waves = np.float32(1.0) / plain * np.float32(2 * math.pi)
    slowed = np.where(waves > np.float32(length / low), plain / np.float32(factor), plain)
    blend = (np.float32(1.0) / waves * np.float32(length) - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1.0) - blend) * slowed / np.float32(factor) + blend * slowed
    between = (waves >= np.float32(length / high)) & (waves <= np.float32(length / low))
    return _rope(np.where(between, blended, slowed))


def _yarn(setting: _Setting) -> Rope:
    """YaRN (arXiv 2309.00071): a ramp over the dimensions from kept to slowed by `factor`."""
    fields, waves = setting.fields, setting.wavelengths
    factor = fields.number("factor", setting.context_length / setting.original_length, above=0.0)
    kept, slowed = np.float32(1.0) / waves, np.float32(1.0) / (np.float32(factor) * waves)
    low, high = _yarn_range(setting)
    ramp = (np.arange(setting.dims // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    keep = np.float32(1.0) - np.clip(ramp, np.float32(0.0), np.float32(1.0))
    return _rope(slowed * (np.float32(1.0) - keep) + kept * keep, _yarn_scale(fields, factor))


def _yarn_range(setting: _Setting) -> tuple[float, float]:
    """The dimensions between which the ramp runs; those that turn `beta_fast` and `beta_slow` times in training."""

    def dimension(turns: float) -> float:
        turning = math.log(setting.original_length / (turns * 2 * math.pi))
        return setting.dims * turning / (2 * math.log(setting.theta))

    low = dimension(setting.fields.number("beta_fast", 32.0, above=0.0))
    high = dimension(setting.fields.number("beta_slow", 1.0, above=0.0))
    if setting.fields.boolean("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, setting.dims - 1)
    return low, high + 0.001 if low == high else high


def _yarn_scale(fields: Fields, factor: float) -> float:
    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if "attention_factor" in fields:
        return fields.number("attention_factor", above=0.0)
    one, all_dims = fields.number("mscale", 0.0), fields.number("mscale_all_dim", 0.0)
    return magnitude(one) / magnitude(all_dims) if one and all_dims else magnitude(1.0)


def _longrope(setting: _Setting) -> Rope:
    """LongRoPE (arXiv 2402.13753): each wave slowed by a factor of its own, from one of two lists.

    transformers takes `short_factor` until a sequence outgrows the original context, and `long_factor` from then on,
    so that a row's past is rotated in one way and its present in another. Here the choice is made once, by the context
    that is served: short if that is at most the original one, else long. What a token computes thus never depends on
    how long its sequence is, or becomes.
    """
    fields, length, pairs = setting.fields, setting.original_length, setting.dims // 2
    factors = {name: fields.numbers(name, pairs, above=0.0) for name in ("short_factor", "long_factor")}
    chosen = factors["long_factor" if setting.context_length > length else "short_factor"]
    factor = fields.number("factor", setting.context_length / length, above=0.0)
    implied = math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 and length > 1 else 1.0
    frequencies = np.float32(1.0) / (np.array(chosen, np.float32) * setting.wavelengths)
    return _rope(frequencies, fields.number("attention_factor", implied, above=0.0))


_KINDS: dict[str, Callable[[_Setting], Rope]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
