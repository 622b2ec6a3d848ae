"""Integers as the compressed-tensors library (0.12 and later) stores them, and the config that says so.

int4 in groups is `pack-quantized`: `weight_packed`, int32, eight codes of an output to a word, the first in its lowest
bits, each code plus 8. int8 is `int-quantized`: `weight` is int8. Each group of settings names its own format, since
the library would otherwise infer another from bits and activations. Read by `vivace.models.compressed`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

from vivace.compress.rounding import Format, Integers

ACTIVATION_GROUP = 128
"""Inputs that share a scale in the engine's activations."""


def store_integers(integers: Integers) -> dict[str, Any]:
    """Tensors by the last part of their names."""
    scales = integers.scales.to(integers.format.dtype)
    if integers.format.bits == 8:
        return {"weight": integers.codes.contiguous(), "weight_scale": scales}
    return {
        "weight_packed": pack_nibbles(integers.codes),
        "weight_scale": scales,
        "weight_shape": torch.tensor(integers.codes.shape, dtype=torch.int64),
    }


def pack_nibbles(codes: Any) -> Any:
    """int8 [out, in] of -8 to 7 to int32 [out, in / 8]. The width is a multiple of 8."""
    places = torch.arange(0, 32, 4, dtype=torch.int64)
    words = ((codes.to(torch.int64) + 8).reshape(len(codes), -1, 8) << places).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def describe_quantization(
    quantized: Mapping[str, Integers],
    linears: Collection[str],
    *,
    declare_activations: bool,
    embedding: Format | None = None,
) -> dict[str, Any]:
    """The `quantization_config` of a model with these integers, out of all its `linears`, both by name; `embedding` is
    how embeddings are stored, if as integers.

    With one format for all, every linear has it but those named as exceptions; else each is named with its own.
    Activations are declared as the engine quantises them: int8, symmetric, with a scale for each 128 inputs of a token,
    found as they come.
    """
    named: dict[tuple[int, int], list[str]] = {}
    for name, integers in quantized.items():
        named.setdefault((integers.format.bits, integers.format.group_size), []).append(name)
    groups = {}
    for index, names in enumerate(named.values()):
        targets = ["Linear"] if len(named) == 1 else [f"re:^{_as_pattern(names)}$"]
        groups[f"group_{index}"] = _describe_group(
            quantized[names[0]].format, targets, declare_activations=declare_activations
        )
    if embedding is not None:
        groups["embedding"] = _describe_group(embedding, ["Embedding"], declare_activations=False)
    kinds = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": kinds.pop() if len(kinds) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "ignore": [name for name in linears if name not in quantized],
        "config_groups": groups,
    }


def _describe_group(format: Format, targets: list[str], *, declare_activations: bool) -> dict[str, Any]:
    in_groups = {"strategy": "group", "group_size": format.group_size} if format.group_size else {"strategy": "channel"}
    activations = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "dynamic": True,
        "strategy": "group",
        "group_size": ACTIVATION_GROUP,
    }
    return {
        "format": "pack-quantized" if format.bits == 4 else "int-quantized",
        "targets": targets,
        "weights": {"num_bits": format.bits, "type": "int", "symmetric": True, "dynamic": False} | in_groups,
        "input_activations": activations if declare_activations else None,
        "output_activations": None,
    }


def _as_pattern(names: list[str]) -> str:
    return f"(?:{'|'.join(re.escape(name) for name in names)})"
