"""A decoder and its tokenizer as a Hugging Face directory, and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from training.config import DecoderConfig
from training.model import Decoder
from training.tokenizer import END, END_OF_TEXT, SPECIAL, TEMPLATE


def export(model: Decoder, tokenizer: Tokenizer, directory: Path) -> None:
    """Weights in bfloat16, under the names of transformers' Llama."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    _write(directory / "config.json", describe(model.config))
    tokens = {"bos_token_id": END_OF_TEXT, "eos_token_id": END, "pad_token_id": END_OF_TEXT}
    _write(directory / "generation_config.json", {**tokens, "do_sample": False})
    names = {"bos_token": SPECIAL[END_OF_TEXT], "eos_token": SPECIAL[END], "pad_token": SPECIAL[END_OF_TEXT]}
    settings = {"model_max_length": model.config.context_length, "tokenizer_class": "PreTrainedTokenizerFast"}
    _write(directory / "tokenizer_config.json", {**names, **settings})


def describe(config: DecoderConfig) -> dict[str, Any]:
    """`config.json`"""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": END_OF_TEXT,
        "dtype": "bfloat16",
        "eos_token_id": END,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.mlp_size,
        "max_position_embeddings": config.context_length,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "pad_token_id": END_OF_TEXT,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": config.vocab_size,
    }


def load_weights(model: Decoder, directory: Path) -> None:
    """Start from an exported checkpoint. Raises `ValueError` if its shape is not the model's."""
    found = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    wanted = describe(model.config)
    free = {"max_position_embeddings", "dtype"}
    other = {key for key in wanted.keys() & found.keys() - free if wanted[key] != found[key]}
    if other:
        raise ValueError(f"The checkpoint in {directory} differs from {asdict(model.config)} in {sorted(other)}.")
    weights = load_file(directory / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in weights.items()})


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
