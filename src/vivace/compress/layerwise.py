"""Quantises a decoder one layer after the other. Needs torch; settings come from the steps in `quantize.py`.

Each layer is written to the step's scratch directory once it is done, and read from there when a run is resumed. With
`gptq` a layer sees what the quantised layers before it make of the text; with the other methods, what the original
ones do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vivace.compress.awq import find_folds, find_moments, fold_scales
from vivace.compress.correct import add_biases, correct_bias, measure_branch
from vivace.compress.gptq import round_in_turn
from vivace.compress.layout import ACTIVATION_GROUP
from vivace.compress.quantize import Activations, Correction, Method, Tables
from vivace.compress.rounding import (
    Format,
    Integers,
    apply_scales,
    measure_output_error,
    measure_weight_error,
    round_nearest,
    search_scales,
)
from vivace.compress.step import Report, Work
from vivace.compress.variant import Variant, find_linears
from vivace.compress.walk import LayerWalk, Moments


@dataclass(frozen=True, slots=True)
class Quantization:
    """How one pass over a decoder quantises."""

    method: Method
    correct: Correction
    activations: Activations
    tables: Tables = "float"
    act_order: bool = True
    damping: float = 0.01
    branch_rank: int = 0


def quantize_layers(variant: Variant, work: Work, how: Quantization, formats: Mapping[str, Format]) -> Report:
    """Quantise the linears that have a format, by name in the model; the report has a row for each."""
    if how.correct == "bias":
        add_biases(variant)
    fitting = all(variant.model.get_submodule(name).in_features % ACTIVATION_GROUP == 0 for name in formats)
    variant.activations = how.activations == "int8" and fitting
    walk = None if work.calibration is None else LayerWalk(variant.model, work.calibration.sequences)
    rows: list[Report] = []
    with torch.no_grad():
        for index in range(len(variant.layers)):
            rows += _do_layer(variant, work, how, formats, walk, index)
            work.progress((index + 1) / len(variant.layers))
        if how.tables == "int8":
            rows += _quantize_tables(variant)
    report: Report = {"activations_declared": variant.activations} | _summarize(rows)
    if how.branch_rank:
        report["branch_note"] = (
            f"branch_error is what a branch of rank {how.branch_rank} beside each linear would leave. Neither a "
            "standard checkpoint nor the engine has a place for one, so that none was written."
        )
    return report | {"linears": rows}


def name_linears(variant: Variant) -> list[str]:
    """All linears of the decoder that can be quantised, by name in the model."""
    return [
        _find_prefix(variant, index) + name
        for index, layer in enumerate(variant.layers)
        for name, _ in find_linears(layer)
    ]


def _summarize(rows: list[Report]) -> Report:
    """Means over all linears of what each row measures."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name.endswith("_error")]
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {f"mean_{name}": sum(found) / len(found) for name, found in values.items()}


def _do_layer(
    variant: Variant,
    work: Work,
    how: Quantization,
    formats: Mapping[str, Format],
    walk: LayerWalk | None,
    index: int,
) -> list[Report]:
    """Quantise one layer, or take it from an earlier run, and go past it."""
    layer, prefix = variant.layers[index], _find_prefix(variant, index)
    own = {name: formats[prefix + name] for name, _ in find_linears(layer) if prefix + name in formats}
    saved = work.scratch / f"layer-{index:05d}"
    after: list[Any] = []
    if saved.with_suffix(".json").is_file():
        if walk is not None and how.method != "gptq":
            after = walk.run(index)
        rows = _load_layer(variant, prefix, layer, own, saved)
    else:
        moments: list[Moments] = []
        if walk is not None:
            moments, after = walk.observe(index)
        rows = _quantize_layer(variant, how, prefix, layer, own, moments)
        _save_layer(variant, prefix, layer, own, saved, rows)
    if walk is not None:
        walk.states = walk.run(index) if how.method == "gptq" else after
    return rows


def _quantize_tables(variant: Variant) -> list[Report]:
    """Embedding and head in int8, with a scale for each token; after all else, since the layers are walked with the
    embedding as it was."""
    rows, format = [], Format(8, 0, variant.dtype)
    for name in variant.name_tables()[: 1 if variant.tied else 2]:
        weight = variant.model.get_submodule(name).weight.clone()
        variant.set_integers(name, round_nearest(weight, format))
        off = weight - variant.quantized[name].to_floats()
        rows.append({"name": name, "bits": 8, "weight_error": measure_weight_error(off, weight)})
    return rows


def _find_prefix(variant: Variant, index: int) -> str:
    layer = variant.layers[index]
    name: str = next(name for name, module in variant.model.named_modules() if module is layer)
    return f"{name}."


def _quantize_layer(
    variant: Variant,
    how: Quantization,
    prefix: str,
    layer: Any,
    formats: Mapping[str, Format],
    moments: list[Moments],
) -> list[Report]:
    by_name = find_moments(moments)
    rows = {name: _measure_nearest(layer.get_submodule(name), formats[name], by_name.get(name)) for name in formats}
    if how.method == "awq":
        for fold in find_folds(variant.model.config, layer):
            quantized = [name for name in fold.consumers if name in formats]
            if quantized:
                alpha = fold_scales(layer, fold, by_name[quantized[0]], formats, variant.dtype)
                for name in quantized:
                    rows[name]["alpha"] = alpha
    for name, format in formats.items():
        linear = layer.get_submodule(name)
        weight = linear.weight.clone()
        variant.set_integers(prefix + name, round_weight(weight, by_name.get(name), format, how))
        rows[name] |= _correct(linear, weight, by_name.get(name), how, variant.dtype)
    return [{"name": prefix + name, "bits": formats[name].bits} | row for name, row in rows.items()]


def round_weight(weight: Any, moments: Moments | None, format: Format, how: Quantization) -> Integers:
    """One matrix, float32 [out, in], by a method."""
    if format.bits == 8 or how.method == "rtn":
        return round_nearest(weight, format)
    if moments is None or how.method == "mse":
        return apply_scales(weight, search_scales(weight, format), format)
    if how.method == "importance":
        return apply_scales(weight, search_scales(weight, format, importance=moments.power), format)
    if how.method == "awq":
        return apply_scales(weight, search_scales(weight, format, moment=moments.second), format)
    return round_in_turn(weight, moments.second, format, act_order=how.act_order, damping=how.damping)


def _measure_nearest(linear: Any, format: Format, moments: Moments | None) -> Report:
    """What rounding to nearest would cost."""
    off = round_nearest(linear.weight, format).to_floats() - linear.weight
    row: Report = {"nearest_weight_error": measure_weight_error(off, linear.weight)}
    if moments is not None:
        row["nearest_output_error"] = measure_output_error(off, linear.weight, moments.second)
    return row


def _correct(linear: Any, weight: Any, moments: Moments | None, how: Quantization, dtype: Any) -> Report:
    """Errors relative to the outputs before, and after what correction was asked for."""
    off = weight - linear.weight
    row: Report = {"weight_error": measure_weight_error(off, weight)}
    if moments is None:
        return row
    row["output_error"] = measure_output_error(off, weight, moments.second)
    if how.branch_rank:
        row["branch_error"] = measure_branch(off, weight, moments.second, how.branch_rank)
    if how.correct == "bias" and linear.bias is not None:
        whole = ((weight @ moments.second) * weight).sum()
        about_mean = correct_bias(linear, off, moments, dtype)
        row["corrected_output_error"] = float((((off @ about_mean) * off).sum()).clamp(min=0) / whole)
    return row


def _save_layer(
    variant: Variant, prefix: str, layer: Any, formats: Mapping[str, Format], path: Path, rows: list[Report]
) -> None:
    tensors: dict[str, Any] = {}
    for name in formats:
        integers = variant.quantized[prefix + name]
        tensors |= {f"codes.{name}": integers.codes.contiguous(), f"scales.{name}": integers.scales.contiguous()}
    for name, tensor in layer.state_dict().items():
        if name.removesuffix(".weight") not in formats:
            tensors[f"float.{name}"] = tensor.contiguous()
    save_file(tensors, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path.with_suffix(".safetensors"))
    path.with_suffix(".json.new").write_text(json.dumps(rows), encoding="utf-8")
    os.replace(path.with_suffix(".json.new"), path.with_suffix(".json"))


def _load_layer(variant: Variant, prefix: str, layer: Any, formats: Mapping[str, Format], path: Path) -> list[Report]:
    state = layer.state_dict()
    with safe_open(path.with_suffix(".safetensors"), "pt") as file:
        for name, format in formats.items():
            integers = Integers(format, file.get_tensor(f"codes.{name}"), file.get_tensor(f"scales.{name}"))
            variant.set_integers(prefix + name, integers)
        for key in file.keys():  # noqa: SIM118 - it is no dict
            if key.startswith("float."):
                state[key.removeprefix("float.")].copy_(file.get_tensor(key))
    rows: list[Report] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return rows
