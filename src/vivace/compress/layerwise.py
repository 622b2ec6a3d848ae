"""Quantises a decoder one layer after the other. Needs torch; the settings come from the steps in `quantize.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vivace.compress.layout import ACTIVATION_GROUP
from vivace.compress.quantize import Activations, Correction, Method
from vivace.compress.rounding import Format, measure_weight_error, round_nearest
from vivace.compress.step import Report, Work
from vivace.compress.variant import Variant, find_linears


@dataclass(frozen=True, slots=True)
class Quantization:
    """How one pass over a decoder quantises."""

    format: Format
    method: Method
    correct: Correction
    activations: Activations
    act_order: bool = True
    damping: float = 0.01


def quantize_layers(variant: Variant, work: Work, how: Quantization) -> Report:
    """Quantise every linear of every layer; the report has a row for each linear."""
    rows: list[dict[str, Any]] = []
    layers = variant.layers
    linears = [linear for layer in layers for _, linear in find_linears(layer)]
    fitting = all(linear.in_features % ACTIVATION_GROUP == 0 for linear in linears)
    variant.activations = how.activations == "int8" and fitting
    names = {module: name for name, module in variant.model.named_modules()}
    with torch.no_grad():
        for index, layer in enumerate(layers):
            for _, linear in find_linears(layer):
                weight = linear.weight.clone()
                integers = round_nearest(weight, how.format)
                variant.set_integers(names[linear], integers)
                error = measure_weight_error(weight - linear.weight, weight)
                rows.append({"name": names[linear], "weight_error": error})
            work.progress((index + 1) / len(layers))
    return {"activations_declared": variant.activations, "linears": rows}
