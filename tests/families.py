"""Tiny random checkpoints of the families beside Llama and Qwen2, and of low-rank linears.

Knows nothing of the package under test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import (
    Dialect,
    Dtype,
    dialect_fields,
    normal_source,
    random_tensors,
    read_tensors,
    shape_fields,
    write_checkpoint,
    write_tensors,
)


def write_mistral(
    directory: Path, *, dialect: Dialect = "published", window: int | None = 24, layer_types: list[str] | None = None
) -> Path:
    """A Mistral checkpoint: windows in all layers, in those that `layer_types` names, or in none."""
    config = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    if layer_types is not None:
        config |= {"layer_types": layer_types, "head_dim": 16}
    config |= shape_fields(tied=False) | dialect_fields(dialect)
    return write_checkpoint(directory, config)


def write_qwen3(
    directory: Path, *, dialect: Dialect = "published", tied: bool = True, attention_bias: bool = False, **more: Any
) -> Path:
    """A Qwen3 checkpoint: norms of query and key heads, which are wider than the hidden size asks for."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 24,
        "attention_bias": attention_bias,
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 2,
    }
    config |= shape_fields(tied=tied) | dialect_fields(dialect, theta=1e6) | more
    return write_checkpoint(directory, config, ("q_proj", "k_proj", "v_proj", "o_proj") if attention_bias else ())


def write_smollm3(directory: Path, *, dialect: Dialect = "published", **more: Any) -> Path:
    """A SmolLM3 checkpoint, its second layer without rope."""
    config = {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "no_rope_layers": [1, 0, 1],
        "pad_token_id": 256,
    }
    config |= shape_fields(layers=3) | dialect_fields(dialect, theta=5e6) | more
    return write_checkpoint(directory, config)


def write_gemma3(
    directory: Path,
    *,
    dialect: Dialect = "published",
    dtype: Dtype = "float32",
    hidden: int = 80,
    layers: int = 4,
    window: int = 24,
    layer_types: list[str] | None = None,
    rope_scaling: Mapping[str, Any] | None = None,
    images: bool = False,
) -> Path:
    """A Gemma 3 checkpoint: each third layer is a full one, unless `layer_types` says otherwise.

    With `images` it is the text part of a larger model, the rest of whose weights are left out.
    """
    config: dict[str, Any] = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 24,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 20,
        "rms_norm_eps": 1e-6,
        "sliding_window": window,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
    if layer_types is None and dialect == "published":
        config["sliding_window_pattern"] = 3
    else:
        kinds = ["sliding_attention", "sliding_attention", "full_attention"] * layers
        config["layer_types"] = layer_types or kinds[:layers]
    config |= shape_fields(hidden=hidden, layers=layers)
    del config["hidden_act"]
    config |= dialect_fields(dialect, dtype, 1e6, rope_scaling)
    if dialect == "published":
        config["rope_local_base_freq"] = 5000.0
    else:
        local = {"rope_type": "default", "rope_theta": 5000.0}
        config["rope_parameters"] = {"full_attention": config["rope_parameters"], "sliding_attention": local}
    if not images:
        return write_checkpoint(directory, config, dtype=dtype)
    prefix = "language_model." if dialect == "published" else "model.language_model."
    tensors = {prefix + name: tensor for name, tensor in random_tensors(config).items()}
    return write_checkpoint(directory, _add_images(config), dtype=dtype, tensors=tensors)


def _add_images(text: dict[str, Any]) -> dict[str, Any]:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": text,
        "vision_config": vision | {"image_size": 28, "patch_size": 14, "vision_use_head": False},
        "mm_tokens_per_image": 4,
        "image_token_index": 300,
        "eos_token_id": 258,
    }


def write_phi3(
    directory: Path,
    *,
    dialect: Dialect = "published",
    context: int = 512,
    original: int = 512,
    longrope: bool = True,
    partial: float = 1.0,
    window: int | None = None,
    **scaling: Any,
) -> Path:
    """A Phi-3 checkpoint, query, key and value fused, and gate and up; with factors of a long rope of its own."""
    random = np.random.default_rng(3)
    pairs = int(16 * partial) // 2
    factors = {
        "short_factor": [round(float(factor), 3) for factor in random.uniform(1.0, 1.5, pairs)],
        "long_factor": [round(float(factor), 3) for factor in random.uniform(1.0, 12.0, pairs)],
    }
    config: dict[str, Any] = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "rms_norm_eps": 1e-5,
        "sliding_window": window,
        "original_max_position_embeddings": original,
        "pad_token_id": 256,
    }
    kind = {"type" if dialect == "published" else "rope_type": "longrope"}
    config |= shape_fields(tied=False, context=context)
    config |= dialect_fields(dialect, scaling=kind | factors | scaling if longrope else None)
    if dialect == "published":
        config["partial_rotary_factor"] = partial
    else:
        config["rope_parameters"]["partial_rotary_factor"] = partial
    return write_checkpoint(directory, config)


def write_gpt2(
    directory: Path,
    *,
    dialect: Dialect = "published",
    tied: bool = True,
    inner: int | None = None,
    prefix: str = "transformer.",
    dtype: Dtype = "float32",
) -> Path:
    """A GPT-2 checkpoint: its own names for sizes and tensors, matrices stored [in, out]."""
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "n_embd": 64,
        "n_head": 4,
        "n_inner": inner,
        "n_layer": 2,
        "n_positions": 512,
        "vocab_size": 320,
        "tie_word_embeddings": tied,
        "bos_token_id": 256,
        "eos_token_id": 258,
        "torch_dtype" if dialect == "published" else "dtype": dtype,
    }
    return write_checkpoint(directory, config, dtype=dtype, tensors=_gpt2_tensors(config, prefix))


def factor_linears(directory: Path, rank: int, *names: str, transposed: bool = False) -> dict[str, NDArray[np.float32]]:
    """Replace linears of a float32 checkpoint, named without `.weight`, by random factors of a rank.

    Returns the tensors as they would be with the products in place of the factors.
    """
    tensors = read_tensors(directory / "model.safetensors")
    random, products = np.random.default_rng(7), dict(tensors)
    for name in names:
        out, width = tensors.pop(f"{name}.weight").shape
        if transposed:
            out, width = width, out
        up = random.standard_normal((out, rank)).astype(np.float32)
        down = (random.standard_normal((rank, width)) * (rank * width) ** -0.5).astype(np.float32)
        tensors |= {f"{name}.up.weight": up, f"{name}.down.weight": down}
        products[f"{name}.weight"] = (up @ down).T if transposed else up @ down
    write_tensors(directory / "model.safetensors", tensors)
    return products


def _gpt2_tensors(config: Mapping[str, Any], prefix: str) -> dict[str, NDArray[Any]]:
    random, hidden = np.random.default_rng(0), config["n_embd"]
    normal, inner = normal_source(random), config["n_inner"] or 4 * hidden
    linears = {
        "attn.c_attn": (3 * hidden, hidden, 1.5),
        "attn.c_proj": (hidden, hidden, 2.0),
        "mlp.c_fc": (inner, hidden, 1.0),
        "mlp.c_proj": (hidden, inner, 2.0),
    }
    embeddings = {"wte.weight": normal(config["vocab_size"], hidden, scale=0.3)}
    tensors = embeddings | {"wpe.weight": normal(config["n_positions"], hidden, scale=0.3)}
    norms = ["ln_f"]
    for layer in range(config["n_layer"]):
        norms += [f"h.{layer}.ln_1", f"h.{layer}.ln_2"]
        for name, (out, width, gain) in linears.items():
            tensors[f"h.{layer}.{name}.weight"] = normal(width, out, scale=gain * width**-0.5)
            tensors[f"h.{layer}.{name}.bias"] = normal(out, scale=0.3)
    for name in norms:
        tensors[f"{name}.weight"] = random.uniform(0.5, 1.5, hidden).astype(np.float32)
        tensors[f"{name}.bias"] = normal(hidden, scale=0.2)
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = normal(config["vocab_size"], hidden, scale=0.3)
    return tensors
