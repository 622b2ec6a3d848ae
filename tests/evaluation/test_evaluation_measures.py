"""Figures that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vivace.evaluation.measures import (
    Prediction,
    count_repeats,
    find_best_f1,
    find_divergence,
    find_exact,
    find_f1,
    find_figure,
    find_repeats,
    normalise,
    tally,
)


def test_answers_are_compared_as_squad_compares_them() -> None:
    assert normalise("The  Shop's, an OWL!") == "shops owl"
    assert find_exact("At nine.", ["ten", "at Nine"]) == 1
    assert find_exact("nine", ["at nine"]) == 0
    assert find_f1("It opens at nine", "at nine") == pytest.approx(2 * 2 / (4 + 2))
    assert find_f1("", "nine") == 0
    assert find_best_f1("nine", ["ten", "at nine"]) == pytest.approx(2 / 3)


def test_repeats_are_the_grams_that_stood_in_the_same_reply_before() -> None:
    assert count_repeats([1, 1, 1, 1, 1, 1]) == (2, 3)
    assert find_repeats([[1, 2, 3, 4, 5], [1, 2, 3, 4]]) == 0.0
    assert find_repeats([[1, 1, 1, 1, 1, 1], [1]]) == pytest.approx(2 / 3)
    assert find_repeats([[1]]) == 0.0


P, Q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.25, 0.25, 0.5]])


def test_divergence_of_whole_distributions_is_exact() -> None:
    by_hand = 0.5 * math.log(2) + 0.3 * math.log(0.3 / 0.25) + 0.2 * math.log(0.2 / 0.5)
    found = find_divergence(Prediction(None, np.log(P)), Prediction(None, np.log(Q)))
    assert found == pytest.approx([by_hand])
    assert find_divergence(Prediction(None, np.log(P)), Prediction(None, np.log(P))) == pytest.approx([0])


def test_of_the_likeliest_tokens_those_not_named_by_both_are_one_lump() -> None:
    base = Prediction(np.array([[0, 1]]), np.log(P[:, :2]))
    other = Prediction(np.array([[2, 0]]), np.log(Q[:, [2, 0]]))
    lumped = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    assert find_divergence(base, other) == pytest.approx([lumped])
    assert lumped < 0.5 * math.log(2) + 0.3 * math.log(0.3 / 0.25) + 0.2 * math.log(0.2 / 0.5)


def test_the_likeliest_token_is_known_either_way() -> None:
    assert Prediction(None, np.log(Q)).likeliest() == [2]
    assert Prediction(np.array([[7, 1]]), np.log(P[:, :2])).likeliest() == [7]


def test_perplexity_is_over_tokens_and_its_change_a_share() -> None:
    base = tally([-2 * math.log(4), -6 * math.log(4)], [2, 6])
    ours = tally([-2 * math.log(5), -6 * math.log(5)], [2, 6])
    found = find_figure("perplexity", ours, base)
    assert (found.value, found.base, found.change) == pytest.approx((5, 4, 0.25))
    assert found.interval == pytest.approx((5, 5))
    assert found.change_interval == pytest.approx((0.25, 0.25))


def test_a_single_document_has_no_interval() -> None:
    assert find_figure("accuracy", tally([1.0])).interval is None


def test_changes_are_paired_by_document() -> None:
    """Documents differ a hundred times more than the models do: only pairs show the difference."""
    generator = np.random.default_rng(0)
    easy = generator.normal(-3, 1, 200)
    worse = easy - 0.02 + generator.normal(0, 0.01, 200)
    found = find_figure("log_probability", tally(list(worse)), tally(list(easy)))
    assert found.interval is not None
    assert found.change_interval is not None
    assert found.interval[1] - found.interval[0] > 0.2
    assert -0.025 < found.change_interval[0] < found.change_interval[1] < -0.015
