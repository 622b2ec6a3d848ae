from __future__ import annotations

import pytest

from vivace.fit.quality import Scored, compare_scores


def test_the_same_scores_lose_nothing() -> None:
    scored = Scored((-10.0, -20.0, -30.0), (5, 10, 15))
    quality = compare_scores(scored, scored)
    assert (quality.loss, quality.low, quality.high) == (0.0, 0.0, 0.0)
    assert quality.perplexity == pytest.approx(2.718281828**2)


def test_a_loss_of_a_tenth_of_a_nat_is_a_rise_of_perplexity() -> None:
    base = Scored((-10.0, -20.0, -30.0), (5, 10, 15))
    worse = Scored((-10.5, -21.0, -31.5), (5, 10, 15))
    quality = compare_scores(worse, base)
    assert quality.loss == pytest.approx(0.105171, rel=1e-4)
    assert quality.low == pytest.approx(quality.high)  # each document lost as much a token
    assert (quality.documents, quality.tokens) == (3, 30)


def test_another_tokenizer_is_held_to_the_tokens_of_the_reference() -> None:
    base, coarse = Scored((-10.0, -10.0), (10, 10)), Scored((-10.0, -10.0), (5, 5))
    assert compare_scores(coarse, base).loss == 0.0
