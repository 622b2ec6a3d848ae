from __future__ import annotations

import pytest
import torch

from training.config import DecoderConfig
from training.growth import draw_codes, find_residual, grow
from training.model import Decoder, find_rotation, rotate
from training.packing import Batch, join
from training.tokenizer import Document

TINY = DecoderConfig(vocab_size=200, hidden_size=192, layers=1, heads=4, kv_heads=2, mlp_size=64)
"""Heads as wide as the embedded model's own circuit needs: 48 numbers, 24 rotary pairs."""


def random_batch(seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    documents = []
    for _ in range(24):
        half = torch.randint(3, 200, (40,)).tolist()
        documents.append(Document([1, *half, *half], [1.0] * 81))
    return join([documents])


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    model = Decoder(TINY)
    torch.nn.init.normal_(model.embed_tokens.weight, std=1.0)
    return model


@torch.no_grad()
def logits(model: Decoder, batch: Batch) -> torch.Tensor:
    return model.logits(model(batch.tokens, batch.layout))


def attention_to(model: Decoder, batch: Batch, layer: int, distance: int) -> float:
    """Mean weight of a layer's first head on the token so far before, inside documents."""
    block = model.layers[layer].self_attn
    inputs = model.layers[layer].input_layernorm(find_residual(model, batch, layer))
    rotation = find_rotation(batch.layout.positions, model.config)
    width = model.config.head_dim
    query = rotate(block.q_proj(inputs).unflatten(1, (-1, width)), rotation)[:, 0]
    key = rotate(block.k_proj(inputs).unflatten(1, (-1, width)), rotation)[:, 0]
    found = []
    for start, end in batch.layout.bounds:
        scores = query[start:end] @ key[start:end].T / width**0.5
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        found.append(float(scores.masked_fill(hidden, -1e9).softmax(-1).diagonal(-distance)[distance:].mean().detach()))
    return sum(found) / len(found)


def test_two_silent_layers_change_nothing(model: Decoder) -> None:
    batch = random_batch()
    grown = grow(model, batch, loudness=0.0, strength=0.0)
    assert len(grown.layers) == len(model.layers) + 2
    torch.testing.assert_close(logits(grown, batch), logits(model, batch), rtol=1e-4, atol=1e-4)


def test_the_first_layer_looks_at_the_token_before(model: Decoder) -> None:
    batch = random_batch()
    assert attention_to(grow(model, batch, loudness=0.5, strength=0.0), batch, 1, 1) > 0.6


def test_the_second_looks_at_what_came_next_last_time(model: Decoder) -> None:
    batch = random_batch()
    grown = grow(model, batch, loudness=0.5, strength=0.0)
    # In a text said twice, what followed this token stands one less than the period before.
    assert attention_to(grown, batch, 2, 39) > 0.4


def test_a_text_said_twice_is_likelier_the_second_time(model: Decoder) -> None:
    batch, other = random_batch(), random_batch(1)
    grown = grow(model, batch, loudness=0.5, strength=1.0)
    second = other.layout.positions >= 42
    second &= other.layout.positions < 80
    before, after = (
        torch.nn.functional.cross_entropy(logits(m, other)[second], other.targets[second]) for m in (model, grown)
    )
    assert after < before - 1.0


def test_codes_of_different_tokens_are_unrelated(model: Decoder) -> None:
    codes = draw_codes(model.embed_tokens.weight.detach())
    likeness = codes @ codes.T / codes.shape[1]
    assert float(likeness.diagonal().mean()) == pytest.approx(1, abs=0.1)
    assert abs(float(likeness.mean())) < 0.1
