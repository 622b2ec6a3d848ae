"""A Llama decoder: RMSNorm, rotary positions, grouped queries, SwiGLU, head tied to the embedding.

Its parameters bear the names of a Hugging Face checkpoint. Sequences are packed: all of a batch's tokens lie in one
row [tokens, hidden], and attention alone knows where documents begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.config import DecoderConfig


@dataclass(frozen=True)
class Layout:
    """Which tokens see each other: those before, of the same document."""

    positions: Tensor
    """Of each token in its document, [tokens]."""
    bounds: Sequence[tuple[int, int]]
    """Of each document in the row of tokens: attention is computed document by document, and nothing is wasted."""
    mask: Tensor | None = None
    """For a device that wants few large calls: [sequences, 1, length, length], and then `bounds` is not looked at."""


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        size, wide, narrow = config.hidden_size, config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(size, wide, bias=False)
        self.k_proj = nn.Linear(size, narrow, bias=False)
        self.v_proj = nn.Linear(size, narrow, bias=False)
        self.o_proj = nn.Linear(wide, size, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        split = (len(x), -1, self.config.head_dim)
        query = rotate(self.q_proj(x).view(split), rotation)
        groups = self.config.heads // self.config.kv_heads
        key = rotate(self.k_proj(x).view(split), rotation).repeat_interleave(groups, dim=1)
        value = self.v_proj(x).view(split).repeat_interleave(groups, dim=1)
        return self.o_proj(attend(query, key, value, layout).reshape(len(x), -1))


class Layer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = GatedMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.norm_epsilon)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.norm_epsilon)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, layout)
        return x + self.mlp(self.post_attention_layernorm(x))


class GatedMLP(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.down_proj = nn.Linear(config.mlp_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Decoder(nn.Module):
    """Tokens in, hidden states out; `logits` takes those of the positions one wants."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_epsilon)
        self._initialise()

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """[tokens] in, [tokens, hidden] out."""
        rotation = find_rotation(layout.positions, self.config)
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, rotation, layout)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed_tokens.weight)

    def _initialise(self) -> None:
        """Normal with 0.02; what adds to the residual stream less, by how much is added (Radford et al., 2019)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.layers) ** 0.5 if adds else 0.02)


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Causal attention inside each document: [tokens, heads, head_dim] in and out."""
    if layout.mask is not None:
        rows = layout.mask.shape[0]
        packed = [x.unflatten(0, (rows, -1)).transpose(1, 2) for x in (query, key, value)]
        return F.scaled_dot_product_attention(*packed, attn_mask=layout.mask).transpose(1, 2).flatten(0, 1)
    lengths = [end - start for start, end in layout.bounds]
    # Split, not sliced: the gradient of a slice is as large as what it was cut from.
    documents = zip(*(x.transpose(0, 1)[None].split(lengths, dim=2) for x in (query, key, value)), strict=True)
    seen = [F.scaled_dot_product_attention(*document, is_causal=True) for document in documents]
    return torch.cat(seen, dim=2)[0].transpose(0, 1)


def find_rotation(positions: Tensor, config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine of rotary positions (Su et al., 2021), [tokens, 1, head_dim / 2]."""
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32) / config.head_dim
    angles = positions[:, None].float() / config.rope_theta**exponents
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Pairs are a head's first and second half, as in Llama checkpoints."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(x.dtype)
