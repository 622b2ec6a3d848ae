"""A model on its way through a recipe: in memory with transformers, and from and to a Hugging Face directory.

Weights are float32 in memory, whatever the checkpoint stores; what is written is in the checkpoint's own type again,
and linears that were quantised as `compressed-tensors` has them. The whole model is in memory: 4 bytes a parameter.
Knows no step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from vivace.compress.layout import describe_quantization, store_integers
from vivace.compress.rebuild import needs_rebuild, read_changes, rebuild
from vivace.compress.rounding import Integers
from vivace.errors import CheckpointError, UnsupportedModelError

COPIED = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
)
"""What a checkpoint has besides config and weights."""

_STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(slots=True)
class Variant:
    """A model that steps change in place."""

    model: Any
    """A causal language model of transformers, in float32 and evaluation mode."""
    source: Path
    """The directory it was read from; tokenizer files are taken from here."""
    dtype: Any
    """The torch type that weights are stored in."""
    quantized: dict[str, Integers] = field(default_factory=dict)
    """By the name in the model of a linear, or of the embedding, whose weight is what these make again."""
    activations: bool = False
    """Whether the written config declares the engine's int8 activations."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of config.json that transformers' own config cannot hold."""

    @property
    def layers(self) -> Any:
        """The decoder's layers, a ModuleList."""
        return find_decoder(self.model).layers

    def count_parameters(self) -> int:
        """Tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def name_tables(self) -> tuple[str, str]:
        """The embedding and the head by their names in the model."""
        tables = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        embedding, head = (next(name for name, module in self.model.named_modules() if module is t) for t in tables)
        return embedding, head

    @property
    def tied(self) -> bool:
        """The head is the embedding."""
        return bool(getattr(self.model.config, "tie_word_embeddings", False))

    def set_integers(self, name: str, integers: Integers) -> None:
        """Let a linear or the embedding have these weights from now on."""
        linear = self.model.get_submodule(name)
        with torch.no_grad():
            linear.weight.copy_(integers.to_floats())
        self.quantized[name] = integers


def find_decoder(model: Any) -> Any:
    """The part with `layers`: embedding to final norm. Raises `UnsupportedModelError` for a model that has none."""
    for place in ("model", "model.language_model", "transformer"):
        try:
            decoder = model.get_submodule(place)
        except AttributeError:
            continue
        if isinstance(getattr(decoder, "layers", None), torch.nn.ModuleList):
            return decoder
    raise UnsupportedModelError(
        f"{type(model).__name__} keeps its layers where compression does not look; supported are models of the Llama "
        "kind: Llama, Mistral, Qwen2, Qwen3, SmolLM, Gemma 3 and Phi-3."
    )


def find_linears(layer: Any) -> Iterator[tuple[str, Any]]:
    """The linears of one decoder layer by their names in it, those of a factored one left out."""
    for name, module in layer.named_modules():
        if isinstance(module, torch.nn.Linear) and not re.search(r"\.(up|down)$", name):
            yield name, module


def open_variant(directory: Path, dtype: Any = None) -> Variant:
    """Read a Hugging Face directory, to be stored as `dtype` again, or else as it is stored now. Raises
    `CheckpointError` or `UnsupportedModelError`."""
    if needs_rebuild(directory):
        model = rebuild(directory).eval().requires_grad_(False)
        return Variant(model, directory, dtype or _find_stored_type(directory), changes=read_changes(directory))
    try:
        with _hush():
            model = AutoModelForCausalLM.from_pretrained(
                directory, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{directory} cannot be opened with transformers ({error}).") from error
    model.eval().requires_grad_(False)
    find_decoder(model)
    return Variant(model, directory, dtype or _find_stored_type(directory))


@contextmanager
def _hush() -> Iterator[None]:
    """Without the library's own progress bars, which draw on pipes too."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _find_stored_type(directory: Path) -> Any:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if name not in _STORED:
        raise UnsupportedModelError(
            f"{directory}/config.json: dtype is {name!r}; it must be one of {', '.join(_STORED)}."
        )
    return _STORED[name]


def write_variant(variant: Variant, directory: Path, *, whole: bool = False) -> None:
    """Write config, weights and tokenizer files into a directory that exists; `whole` writes float32."""
    dtype = torch.float32 if whole else variant.dtype
    save_file(collect_tensors(variant, dtype), directory / "model.safetensors", {"format": "pt"})
    os.chmod(directory / "model.safetensors", 0o644)  # the library makes it its owner's alone
    values = variant.model.config.to_dict()
    values["dtype"] = str(dtype).removeprefix("torch.")
    values["architectures"] = [type(variant.model).__name__]
    values.pop("torch_dtype", None)
    values.pop("quantization_config", None)
    values |= variant.changes
    if variant.quantized:
        values["quantization_config"] = _describe_quantization(variant)
    text = json.dumps(values, indent=2, sort_keys=True, default=str)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    for name in COPIED:
        if (variant.source / name).is_file():
            shutil.copyfile(variant.source / name, directory / name)


def _describe_quantization(variant: Variant) -> dict[str, Any]:
    quantized = dict(variant.quantized)
    embedding, head = variant.name_tables()
    table = quantized.pop(embedding, None)
    if table is not None and variant.tied:
        quantized[head] = table
    linears = [name for name, module in variant.model.named_modules() if isinstance(module, torch.nn.Linear)]
    return describe_quantization(
        quantized,
        linears,
        declare_activations=variant.activations,
        embedding=None if table is None else table.format,
    )


def collect_tensors(variant: Variant, dtype: Any) -> dict[str, Any]:
    """What a checkpoint holds: tied weights once, integers packed, all else as `dtype`."""
    tensors: dict[str, Any] = {}
    for name, tensor in _untied(variant.model).items():
        owner = name.removesuffix(".weight")
        if name.endswith(".weight") and owner in variant.quantized:
            tensors |= {f"{owner}.{part}": data for part, data in store_integers(variant.quantized[owner]).items()}
        else:
            kept = tensor.to(dtype) if tensor.is_floating_point() else tensor
            tensors[name] = kept.contiguous().clone()
    embedding, head = variant.name_tables()
    if variant.tied and embedding in variant.quantized:
        # transformers ties the integers, and takes each module's scales from the module's own name
        tensors[f"{head}.weight_scale"] = tensors[f"{embedding}.weight_scale"].clone()
    return tensors


def _untied(model: Any) -> Mapping[str, Any]:
    """The state of a model without a head that is its embedding."""
    state = model.state_dict()
    if getattr(model.config, "tie_word_embeddings", False):
        state.pop("lm_head.weight", None)
    return dict(state)
