"""Activation-aware weight quantisation (Lin et al., 2023, arXiv:2306.00978): room for the weights of large inputs.

Inputs of linears are divided by a scale and the weights that read them multiplied by it, so that the function stays the
same and weights that matter lose less in rounding. The division goes into what makes the inputs: a norm's weight, or
the outputs of the linear before (value before output, up before down). With fewer value heads than heads, those that
share one share its scales.

A scale is E[x²] ** (alpha / 2), alpha from a grid; what is minimised is the squared error of the outputs, summed over
the linears that read the same inputs, each relative to its own outputs. The paper uses E|x| and the error of the whole
block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vivace.compress.rounding import Format, round_nearest
from vivace.compress.walk import Moments

ALPHAS = tuple(step / 20 for step in range(20))
MAX_OUTPUTS = 512
"""Of a linear, looked at in the search for a scale."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Where a scale of some linears' inputs can go."""

    consumers: tuple[str, ...]
    producer: str
    """A norm, or a linear whose outputs from `first_row` on are the inputs of the consumers, or multiply into them."""
    norm_offset: float = 0.0
    """A norm multiplies with its weight plus this."""
    first_row: int | None = None
    """None: the producer is a norm."""
    repeats: int = 1
    """Heads of the consumer that read one head of the producer."""
    head_dim: int = 1


def find_folds(config: Any, layer: Any) -> Iterator[Fold]:
    """Those of a decoder layer of a transformers model with this config; none for parts that it lacks."""
    parts = dict(layer.named_modules())
    family = config.model_type
    offset = 1.0 if family == "gemma3_text" else 0.0
    before_mlp = "pre_feedforward_layernorm" if family == "gemma3_text" else "post_attention_layernorm"
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    fused = "self_attn.qkv_proj" in parts
    value, up = ("self_attn.qkv_proj", "mlp.gate_up_proj") if fused else ("self_attn.v_proj", "mlp.up_proj")
    readers = (value,) if fused else ("self_attn.q_proj", "self_attn.k_proj", value)
    folds = [
        Fold(readers, "input_layernorm", offset),
        Fold(
            ("self_attn.o_proj",),
            value,
            first_row=(heads + kv_heads) * head_dim if fused else 0,
            repeats=heads // kv_heads,
            head_dim=head_dim,
        ),
        Fold((up,) if fused else ("mlp.gate_proj", up), before_mlp, offset),
        Fold(("mlp.down_proj",), up, first_row=parts[up].out_features // 2 if fused and up in parts else 0),
    ]
    for fold in folds:
        linears = (*fold.consumers, *(() if fold.first_row is None else (fold.producer,)))
        whole = all(isinstance(parts.get(name), torch.nn.Linear) for name in linears)
        if whole and fold.producer in parts:
            yield fold


def fold_scales(layer: Any, fold: Fold, moments: Moments, formats: Mapping[str, Format], dtype: Any) -> float:
    """Find the best scale for the consumers that have a format, and fold it in; alpha, 0 where nothing is gained.

    The moments become those of the new inputs. `dtype` is the type that norms are stored in.
    """
    targets = [(layer.get_submodule(name).weight, formats[name]) for name in fold.consumers if name in formats]
    alpha, scales = _search(targets, moments, fold)
    if alpha > 0:
        exact = _divide_producer(layer.get_submodule(fold.producer), fold, scales, dtype)
        for name in fold.consumers:
            layer.get_submodule(name).weight.mul_(exact)
        moments.scale(1 / exact)
    return alpha


def _search(targets: list[tuple[Any, Format]], moments: Moments, fold: Fold) -> tuple[float, Any]:
    """Judged by evenly spread outputs where there are many: what is compared is their sum."""
    rows = [(weight[:: -(-len(weight) // MAX_OUTPUTS)], format) for weight, format in targets]
    wholes = [float(((weight @ moments.second) * weight).sum()) or 1.0 for weight, _ in rows]
    best, least, found = 0.0, float("inf"), torch.ones_like(moments.power)
    for alpha in ALPHAS:
        scales = _find_scales(moments.power, alpha, fold)
        error = 0.0
        for (weight, format), whole in zip(rows, wholes, strict=True):
            off = round_nearest(weight * scales, format).to_floats() / scales - weight
            error += float(((off @ moments.second) * off).sum()) / whole
        if error < least:
            best, least, found = alpha, error, scales
    return best, found


def _find_scales(power: Any, alpha: float, fold: Fold) -> Any:
    """[in], with the geometric mean of largest and smallest 1; equal for heads that read the same."""
    shared = power.reshape(-1, fold.repeats, fold.head_dim).mean(1, keepdim=True)
    shared = shared.expand(-1, fold.repeats, -1).reshape(-1)
    scales = shared.clamp(min=shared.max() * 1e-8).clamp(min=1e-30).pow(alpha / 2)
    return scales / (scales.max() * scales.min()).sqrt()


def _divide_producer(producer: Any, fold: Fold, scales: Any, dtype: Any) -> Any:
    """Divide what makes the inputs; the scales that consumers must take, [in], so that nothing changes.

    Norms are kept in the checkpoint's type: their weights are rounded to it here, and the scales follow.
    """
    if fold.first_row is None:
        whole = producer.weight + fold.norm_offset
        stored = (whole / scales - fold.norm_offset).to(dtype).float()
        divided = stored + fold.norm_offset
        keep = (divided == 0) | (whole == 0)
        producer.weight.copy_(torch.where(keep, producer.weight, stored))
        return torch.where(keep, torch.ones_like(whole), whole / torch.where(keep, torch.ones_like(whole), divided))
    rows = scales.reshape(-1, fold.repeats, fold.head_dim)[:, 0].reshape(-1)
    part = slice(fold.first_row, fold.first_row + len(rows))
    producer.weight[part] /= rows[:, None]
    if producer.bias is not None:
        producer.bias[part] /= rows
    return scales


def find_moments(moments: list[Moments]) -> Mapping[str, Moments]:
    """By the name of the linear."""
    return {name: found for found in moments for name in found.linears}
