"""A saved variant in memory again, where transformers alone cannot read it: factored linears, widths that differ by
layer.

The model is made from the config and given linears of the sizes that the tensors have. Needs torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from vivace.compress.factored import Factored
from vivace.errors import CheckpointError


def needs_rebuild(directory: Path) -> bool:
    """Whether a directory holds what only this engine and this module read."""
    if not (directory / "model.safetensors").is_file():
        return False
    if isinstance(_read_config(directory).get("intermediate_size"), list):
        return True
    from vivace.models.checkpoint import Checkpoint

    return any(name.endswith(("_proj.up.weight", "_proj.down.weight")) for name in Checkpoint.open(directory).names)


def rebuild(directory: Path) -> Any:
    """The model, in float32. Raises `CheckpointError` if config and tensors do not fit together."""
    values = _read_config(directory)
    widths = values.get("intermediate_size")
    if isinstance(widths, list):
        values["intermediate_size"] = max(widths)
    values.pop("quantization_config", None)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    tensors = load_file(directory / "model.safetensors")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            _fit(model, name, module, tensors)
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    model.tie_weights()
    left = [name for name in missing if not (name == "lm_head.weight" and config.tie_word_embeddings)]
    if left or unexpected:
        raise CheckpointError(f"{directory}: tensor {(left or list(unexpected))[0]!r} does not fit its config.json.")
    return model


def read_changes(directory: Path) -> dict[str, Any]:
    """Fields of a config that transformers' own would refuse."""
    widths = _read_config(directory).get("intermediate_size")
    return {"intermediate_size": widths} if isinstance(widths, list) else {}


def _read_config(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return values


def _fit(model: Any, name: str, linear: Any, tensors: dict[str, Any]) -> None:
    up, down, whole = (tensors.get(f"{name}.{part}weight") for part in ("up.", "down.", ""))
    if up is not None and down is not None:
        model.set_submodule(name, Factored(len(up), down.shape[0], down.shape[1], tensors.get(f"{name}.bias")))
    elif whole is not None and whole.shape != linear.weight.shape:
        model.set_submodule(name, torch.nn.Linear(whole.shape[1], whole.shape[0], bias=linear.bias is not None))
