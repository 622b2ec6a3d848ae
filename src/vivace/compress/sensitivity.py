"""What it costs to quantise some linears alone, measured: the KL divergence of the next token from the original's.

Linears that read the same input are one unit, since the engine packs them as one where their formats agree. Costs are
taken to add up, which they nearly do while they are small. For a unit, all layers from its own on are run, so that the
whole takes as many runs of half the model as there are units.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vivace.compress.manifest import write_json
from vivace.compress.rounding import Format, apply_scales, search_scales
from vivace.compress.step import Work
from vivace.compress.variant import Variant, find_decoder
from vivace.compress.walk import LayerWalk


@dataclass(frozen=True, slots=True)
class Unit:
    """Linears that are quantised together."""

    linears: list[str]
    """Names in the model."""
    loss: float
    """Mean KL(original || model with these alone in int4) of a token, in nats."""


def measure_sensitivity(variant: Variant, work: Work, format: Format, tokens: int) -> list[Unit]:
    """Every unit of the decoder, from the first layer to the last. Kept in the scratch directory."""
    saved = work.scratch / "sensitivity.json"
    if saved.is_file():
        return [Unit(**unit) for unit in json.loads(saved.read_text(encoding="utf-8"))["units"]]
    assert work.calibration is not None, "a step that needs data runs with some"
    sequences = work.calibration.sequences
    walk = LayerWalk(variant.model, sequences[: max(1, tokens // len(sequences[0]))])
    units: list[Unit] = []
    with torch.no_grad():
        original = [_predict(variant, walk, 0, batch) for batch in range(len(walk.states))]
        for index in range(len(variant.layers)):
            units += _measure_layer(variant, walk, index, format, original)
            work.progress((index + 1) / len(variant.layers) / 2)
    write_json(saved, {"units": [asdict(unit) for unit in units]})
    return units


def _measure_layer(
    variant: Variant, walk: LayerWalk, index: int, format: Format, original: Sequence[Any]
) -> list[Unit]:
    layer = variant.layers[index]
    prefix = next(name for name, module in variant.model.named_modules() if module is layer)
    moments, after = walk.observe(index)
    units = []
    for found in moments:
        linears = [layer.get_submodule(name) for name in found.linears]
        kept = [linear.weight.clone() for linear in linears]
        for linear in linears:
            scales = search_scales(linear.weight, format)
            linear.weight.copy_(apply_scales(linear.weight, scales, format).to_floats())
        losses = [_diverge(before, _predict(variant, walk, index, batch)) for batch, before in enumerate(original)]
        for linear, weight in zip(linears, kept, strict=True):
            linear.weight.copy_(weight)
        units.append(Unit([f"{prefix}.{name}" for name in found.linears], sum(losses) / len(losses)))
    walk.states = after
    return units


def _predict(variant: Variant, walk: LayerWalk, index: int, batch: int) -> Any:
    """Log-probabilities of the next token, [sequences, length, vocab]."""
    states = find_decoder(variant.model).norm(walk.run_rest(index, batch))
    return torch.log_softmax(variant.model.get_output_embeddings()(states), -1)


def _diverge(original: Any, other: Any) -> float:
    return float((original.exp() * (original - other)).sum(-1).mean())


def choose_formats(
    variant: Variant, units: Sequence[Unit], linears: Sequence[str], small: Format, large: Format, average_bits: float
) -> dict[str, Format]:
    """Begin with all in the smaller format, and give the larger to the units that cost most for the bytes it takes, as
    long as the mean bits of a weight stay in the budget."""
    shapes = {name: tuple(variant.model.get_submodule(name).weight.shape) for name in linears}
    formats = dict.fromkeys(linears, small)
    spare = average_bits * sum(out * width for out, width in shapes.values()) / 8
    spare -= sum(small.count_bytes(*shape) for shape in shapes.values())

    def count_more(unit: Unit) -> int:
        return sum(large.count_bytes(*shapes[name]) - small.count_bytes(*shapes[name]) for name in unit.linears)

    for unit in sorted(units, key=lambda unit: unit.loss / count_more(unit), reverse=True):
        if count_more(unit) <= spare:
            spare -= count_more(unit)
            formats |= dict.fromkeys(unit.linears, large)
    return formats
