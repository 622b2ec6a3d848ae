"""Write a checkpoint of a named shape with random weights: speed does not depend on their values.

python benchmarks/shapes.py 15m /tmp/15m
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


@dataclass(frozen=True, slots=True)
class Shape:
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Name and [out, in] of every matrix, as a Llama checkpoint names them."""
        keys = self.hidden // self.heads * self.kv_heads
        found = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            found |= {
                prefix + "self_attn.q_proj.weight": (self.hidden, self.hidden),
                prefix + "self_attn.k_proj.weight": (keys, self.hidden),
                prefix + "self_attn.v_proj.weight": (keys, self.hidden),
                prefix + "self_attn.o_proj.weight": (self.hidden, self.hidden),
                prefix + "mlp.gate_proj.weight": (self.intermediate, self.hidden),
                prefix + "mlp.up_proj.weight": (self.intermediate, self.hidden),
                prefix + "mlp.down_proj.weight": (self.hidden, self.intermediate),
            }
        return found

    def norms(self) -> list[str]:
        each = ("input_layernorm", "post_attention_layernorm")
        return [f"model.layers.{i}.{norm}.weight" for i in range(self.layers) for norm in each] + ["model.norm.weight"]


SHAPES = {
    "15m": Shape(8192, 384, 1024, 6, 6, 6),
    "135m": Shape(49152, 576, 1536, 30, 9, 3),  # SmolLM2-135M
    "135m-draft": Shape(49152, 192, 512, 2, 3, 3),
    "qwen0.5b": Shape(151936, 896, 4864, 24, 14, 2),  # Qwen2.5-0.5B without biases
}


def write_checkpoint(shape: Shape, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(_config(shape)))
    _write_tokenizer(directory, shape.vocab)
    _write_weights(shape, directory / "model.safetensors")


def _config(shape: Shape) -> dict[str, object]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "eos_token_id": 258,
    }


def _write_tokenizer(directory: Path, vocab: int) -> None:
    """Bytes and three special tokens; ids above them are decoded to numbers, and never come of a text."""
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    spellings = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *names]
    spellings += [f"\u0120{number}" for number in range(len(spellings), vocab)]  # U+0120 stands for a space
    tokenizer = Tokenizer(models.BPE(vocab={spelling: id for id, spelling in enumerate(spellings)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.save(str(directory / "tokenizer.json"))
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "<|im_end|>"}))


def _write_weights(shape: Shape, path: Path) -> None:
    sizes: dict[str, tuple[int, ...]] = {**shape.matrices(), **dict.fromkeys(shape.norms(), (shape.hidden,))}
    header: dict[str, object] = {}
    offset = 0
    for name, size in sizes.items():
        end = offset + 2 * int(np.prod(size))
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for size in sizes.values():
            values = np.ones(size) if len(size) == 1 else 0.02 * generator.standard_normal(size, np.float32)
            file.write((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    write_checkpoint(SHAPES[arguments.shape], arguments.directory)


if __name__ == "__main__":
    main()
