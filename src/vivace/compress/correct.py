"""What can be given back after rounding: biases, and what a low-rank branch beside a linear would bring.

A branch y += up (down x) beside integers has no place in a standard checkpoint, nor in our engine; what it would
bring is only measured, so that somebody can decide whether it were worth one.
"""

from __future__ import annotations

from typing import Any

import torch

from vivace.compress.variant import Variant, find_linears
from vivace.compress.walk import Moments

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")

OPTIONAL_BIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "llama": {"attention_bias": _ATTENTION, "mlp_bias": _MLP},
    "smollm3": {"attention_bias": _ATTENTION, "mlp_bias": _MLP},
    "qwen3": {"attention_bias": _ATTENTION},
    "gemma3_text": {"attention_bias": _ATTENTION},
}
"""By family, the fields of its config that give linears biases. Families that are not here have those they have."""


def add_biases(variant: Variant) -> None:
    """Give linears biases of 0 where the family's config can say so."""
    for field, names in OPTIONAL_BIASES.get(variant.model.config.model_type, {}).items():
        setattr(variant.model.config, field, True)
        for layer in variant.layers:
            for name, linear in find_linears(layer):
                if name.rpartition(".")[2] in names and linear.bias is None:
                    linear.bias = torch.nn.Parameter(torch.zeros(linear.out_features), requires_grad=False)


def correct_bias(linear: Any, off: Any, moments: Moments, dtype: Any) -> Any:
    """Add what outputs lose on average, off = before - after, to the bias; the loss of second order that remains.

    Returns the moments about the mean, [in, in], by which the remaining error is measured.
    """
    linear.bias.copy_((linear.bias + off @ moments.mean).to(dtype).float())
    return moments.second - torch.outer(moments.mean, moments.mean)


def measure_branch(off: Any, weight: Any, moment: Any, rank: int) -> float:
    """The relative output error that the best branch of that rank would leave: of off · moment · offᵀ, what is not in
    its largest eigenvalues."""
    values = torch.linalg.eigvalsh(off @ moment @ off.T).clamp(min=0)
    whole = ((weight @ moment) * weight).sum()
    return float(values[: max(len(values) - rank, 0)].sum() / whole) if whole > 0 else 0.0
