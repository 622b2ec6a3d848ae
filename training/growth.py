"""Two layers added to a trained decoder, set by hand to an induction circuit, so that copying need not be discovered.

The first new layer writes, at every token, which token stood before it and which before that. The second looks for
places where the tokens before were the ones that stand here now, and makes what came next there likelier: the circuit
of Elhage et al. (2021) and Olsson et al. (2022), which training from nothing finds only after many more tokens.

What a token is, is read from the last residual by ridge regression over some real text. The new layers' other heads
and their MLPs begin as nothing, and everything is trained afterwards.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from training.model import Attention, Decoder, Layer, find_rotation
from training.packing import Batch
from training.tokenizer import START

CODE = 16
"""Numbers that stand for a token where tokens are compared; half as many for the one before."""
RECOGNISE = 128
"""Principal components of the embedding that codes are drawn from."""
SHARPNESS = 100.0
"""Of the attention to a fixed distance, in units of the score."""
DISTANCE_PAIRS = torch.tensor([1.0, 1.0, 0.8, 0.6, 0.4, 0.3])
"""Shares of the fastest rotary pairs in it: the fast ones tell neighbours apart, the slower ones far tokens."""
MATCH = 20.0
"""Of the attention to equal tokens."""
SINK = 6.0
"""Of the attention to a turn's start, which says nothing: where nothing matches, it gets the most."""


@torch.no_grad()
def grow(model: Decoder, batch: Batch, *, loudness: float, strength: float) -> Decoder:
    """The same decoder with two more layers. `loudness` is how much of the residual's size the notes on previous
    tokens take, `strength` how much likelier a copied token becomes; with both 0 the function is unchanged."""
    config = replace(model.config, layers=model.config.layers + 2)
    grown = Decoder(config)
    grown.load_state_dict(model.state_dict(), strict=False)
    notes, induction = list(grown.layers)[-2:]
    assert isinstance(notes, Layer)
    assert isinstance(induction, Layer)
    for layer in (notes, induction):
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    codes = draw_codes(model.embed_tokens.weight)
    residual = find_residual(grown, batch, config.layers - 2)
    _set_notes(notes.self_attn, residual, codes[batch.tokens], loudness)
    residual = find_residual(grown, batch, config.layers - 1)
    _set_induction(induction.self_attn, residual, codes, batch, grown, strength)
    return grown


def draw_codes(embedding: Tensor) -> Tensor:
    """[vocabulary, CODE]: unrelated for different tokens, of unit variance."""
    centred = embedding - embedding.mean(0)
    _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
    white = centred @ directions[:RECOGNISE].T / spread[:RECOGNISE] * math.sqrt(len(embedding))
    codes = white @ torch.randn(RECOGNISE, CODE, generator=torch.Generator().manual_seed(0))
    return codes / codes.std(0)


def find_residual(model: Decoder, batch: Batch, depth: int) -> Tensor:
    """After so many layers, [tokens, hidden]."""
    rotation = find_rotation(batch.layout.positions, model.config)
    x: Tensor = model.embed_tokens(batch.tokens)
    for layer in list(model.layers)[:depth]:
        x = layer(x, rotation, batch.layout)
    return x


def normalise(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def regress(inputs: Tensor, targets: Tensor) -> Tensor:
    """[outputs, inputs]: the linear map that best gives `targets` (ridge)."""
    gram = inputs.T @ inputs + 10 * torch.eye(inputs.shape[1])
    return torch.linalg.solve(gram, inputs.T @ targets).T


def _set_notes(attention: Attention, residual: Tensor, codes: Tensor, loudness: float) -> None:
    """Head 0 attends to one token before, the first head of the next group to two before. They write into the
    directions in which the residual varies least, so little is disturbed and the notes are easily read."""
    inputs = normalise(residual)
    constant = regress(inputs, torch.ones(len(inputs), 1))[0]
    _, directions = torch.linalg.eigh(inputs.T @ inputs)
    read = regress(inputs, codes)
    size = loudness * float(residual.pow(2).mean().sqrt())
    width, group = attention.config.head_dim, attention.config.heads // attention.config.kv_heads
    for distance, first, count in ((1, 0, CODE), (2, CODE, CODE // 2)):
        head, kv = (distance - 1) * group, distance - 1
        _attend_to_distance(attention, head, kv, distance, constant)
        attention.v_proj.weight[kv * width : kv * width + count] = read[:count]
        columns = slice(head * width, head * width + count)
        attention.o_proj.weight[:, columns] = size * directions[:, first : first + count]


def _attend_to_distance(attention: Attention, head: int, kv: int, distance: int, constant: Tensor) -> None:
    """Queries and keys are constants but for their rotation, and a query is turned back by `distance`."""
    config = attention.config
    half = config.head_dim // 2
    shares = DISTANCE_PAIRS / DISTANCE_PAIRS.sum()
    sizes = torch.sqrt(SHARPNESS * shares * math.sqrt(config.head_dim))
    query, key = torch.zeros(config.head_dim), torch.zeros(config.head_dim)
    for pair, size in enumerate(sizes):
        angle = -distance * config.rope_theta ** (-pair / half)
        query[pair], query[half + pair] = size * math.cos(angle), size * math.sin(angle)
        key[pair] = size
    rows = slice(head * config.head_dim, (head + 1) * config.head_dim)
    attention.q_proj.weight[rows] = query[:, None] * constant
    attention.k_proj.weight[kv * config.head_dim : (kv + 1) * config.head_dim] = key[:, None] * constant


def _set_induction(
    attention: Attention, residual: Tensor, codes: Tensor, batch: Batch, model: Decoder, strength: float
) -> None:
    """Query: this token and the one before it. Key: the token before and the one before that. Value: the token."""
    config = attention.config
    inputs = normalise(residual)
    now = codes[batch.tokens]
    positions = batch.layout.positions[:, None]
    before = torch.where(positions > 0, now.roll(1, 0), 0.0)
    earlier = torch.where(positions > 1, now.roll(2, 0), 0.0)[:, : CODE // 2]
    opens = (batch.tokens == START).float()[:, None]
    wanted = regress(inputs, torch.cat([now, before[:, : CODE // 2], torch.full_like(opens, SINK), 0 * opens], 1))
    offered = regress(inputs, torch.cat([before, earlier, opens, 0 * opens], 1))
    half, pairs = config.head_dim // 2, (CODE + CODE // 2) // 2 + 1
    # The slowest rotary pairs: they hardly turn over a few hundred tokens.
    places = torch.cat([torch.arange(half - pairs, half), torch.arange(2 * half - pairs, 2 * half)])
    places = places.view(2, pairs).flip(1).T.reshape(-1)  # slowest first
    embedding = model.embed_tokens.weight
    centred = embedding - embedding.mean(0)
    parts = torch.linalg.svd(centred, full_matrices=False)[2][: config.kv_heads * config.head_dim]
    spell = regress(inputs, (1 - opens) * centred[batch.tokens] @ parts.T)
    gain = model.norm.weight.clamp(min=0.1)
    size = strength * float(residual.pow(2).mean().sqrt())
    for kv in range(config.kv_heads):
        head = kv * config.heads // config.kv_heads
        attention.q_proj.weight[head * config.head_dim : (head + 1) * config.head_dim] = 0.0
        attention.k_proj.weight[kv * config.head_dim : (kv + 1) * config.head_dim] = 0.0
        attention.q_proj.weight[head * config.head_dim + places] = math.sqrt(MATCH) * wanted
        attention.k_proj.weight[kv * config.head_dim + places] = math.sqrt(MATCH) * offered
        rows = slice(kv * config.head_dim, (kv + 1) * config.head_dim)
        attention.v_proj.weight[rows] = spell[rows]
        columns = slice(head * config.head_dim, (head + 1) * config.head_dim)
        attention.o_proj.weight[:, columns] = size * parts[rows].T / gain[:, None]
