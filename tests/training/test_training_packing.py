from __future__ import annotations

import random
from itertools import count

import pytest
from tokenizers import Tokenizer

from training.config import Phase
from training.packing import Sampler, join, pack
from training.sources import GENERATED
from training.tokenizer import Document, train_tokenizer


def document(first: int, length: int) -> Document:
    return Document(list(range(first, first + length)), [1.0] * length)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the shop opens at nine"] * 4, 280)


@pytest.mark.parametrize("seed", range(5))
def test_sequences_hold_whole_documents_and_never_more_than_their_length(seed: int) -> None:
    lengths = random.Random(seed)
    starts = count(0, 1000)
    sequences = pack(lambda: document(next(starts), lengths.randint(1, 200)), 6, 256)
    assert all(128 < sum(len(document.tokens) for document in sequence) <= 256 for sequence in sequences)
    batch = join(sequences)
    assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == batch.layout.positions.shape
    for start, end in batch.layout.bounds:
        assert int(batch.tokens[start]) % 1000 == 0
        assert batch.layout.positions[start:end].tolist() == list(range(end - start))


def test_no_document_is_asked_to_predict_the_next_one() -> None:
    batch = join([[document(10, 3), document(50, 2)]])
    assert batch.targets.tolist() == [11, 12, 0, 51, 0]
    assert batch.weights.tolist() == [1, 1, 0, 1, 0]


def test_the_mask_shows_a_token_its_own_document_up_to_itself() -> None:
    batch = join([[document(10, 3), document(50, 2)], [document(70, 4)]], padded_length=6)
    assert batch.tokens.tolist() == [10, 11, 12, 50, 51, 0, 70, 71, 72, 73, 0, 0]
    assert batch.layout.mask is not None
    seen = batch.layout.mask[:, 0]
    assert seen[0, 3].tolist() == [False, False, False, True, False, False]
    assert seen[0, 2].tolist() == [True, True, True, False, False, False]
    assert seen[1, 3].tolist() == [True, True, True, True, False, False]
    assert bool(seen.diagonal(dim1=1, dim2=2).all())


def test_a_step_has_the_same_batch_every_time_and_another_step_another(tokenizer: Tokenizer) -> None:
    phase = Phase(1.0, 256, 2, {"shop": 1.0, "small_talk": 1.0, "not there": 9.0})
    one, two = (Sampler(GENERATED, tokenizer, phase, seed=3) for _ in range(2))
    sequences = pack(one.documents(5), 2, 256)
    assert sequences == pack(two.documents(5), 2, 256)
    assert sequences != pack(two.documents(6), 2, 256)


def test_sources_get_the_shares_of_tokens_that_the_mix_asks_for(tokenizer: Tokenizer) -> None:
    phase = Phase(1.0, 4096, 1, {"shop_long": 3.0, "ignorance": 1.0})
    sampler = Sampler(GENERATED, tokenizer, phase, seed=0)
    next_document = sampler.documents(0)
    tokens = sum(len(next_document().tokens) for _ in range(3000))
    long, short = (sampler._mean_length(name) for name in ("shop_long", "ignorance"))
    # Documents drawn with chances 3 / long and 1 / short have this mean length if the shares are right.
    assert tokens / 3000 == pytest.approx(4 / (3 / long + 1 / short), rel=0.15)
