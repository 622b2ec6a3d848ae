"""What is measured, as pure functions of answers, log-probabilities and tokens. Knows no model."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vivace.bench.stats import interval_of, resample_ratios

Floats = NDArray[np.float64]


# Answers


def normalise(text: str) -> str:
    """As SQuAD compares answers: lower case, without punctuation and articles (Rajpurkar et al., 2016)."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def find_exact(reply: str, answers: Sequence[str]) -> float:
    """1 if the reply is one of the answers, else 0."""
    return float(normalise(reply) in {normalise(answer) for answer in answers})


def find_f1(reply: str, answer: str) -> float:
    """The harmonic mean of precision and recall over words."""
    found, wanted = normalise(reply).split(), normalise(answer).split()
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def find_best_f1(reply: str, answers: Sequence[str]) -> float:
    return max(find_f1(reply, answer) for answer in answers)


def count_repeats(tokens: Sequence[int]) -> tuple[int, int]:
    """How many of a reply's 4-grams stood in it before, and how many there are."""
    grams = list(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False))
    return len(grams) - len(set(grams)), len(grams)


def find_repeats(replies: Sequence[Sequence[int]]) -> float:
    """Share of 4-grams of tokens that stood in the same reply before."""
    counts = [count_repeats(tokens) for tokens in replies]
    return sum(repeated for repeated, _ in counts) / max(1, sum(total for _, total in counts))


# Distributions


class Prediction(NamedTuple):
    """A model's distributions over the next token at n places."""

    ids: NDArray[np.int64] | None
    """[n, k]: the likeliest tokens, likeliest first. None: all tokens, in their order."""
    log_probabilities: NDArray[np.float64]
    """[n, k], or [n, vocabulary]"""

    def likeliest(self) -> NDArray[np.int64]:
        return self.log_probabilities.argmax(1) if self.ids is None else self.ids[:, 0]


def find_divergence(base: Prediction, other: Prediction) -> Floats:
    """[n]: KL(base || other) in nats.

    Of whole distributions it is exact. Of the k likeliest tokens each, those that both name are told apart and all
    others are one lump, which can only make it smaller (the data processing inequality): a lower bound.
    """
    if base.ids is None and other.ids is None:
        p, q = base.log_probabilities, other.log_probabilities
        return np.asarray((np.exp(p) * (p - q)).sum(1))
    assert base.ids is not None, "a whole distribution beside a part of one"
    assert other.ids is not None, "a whole distribution beside a part of one"
    return np.array(
        [
            _diverge(*rows)
            for rows in zip(base.ids, base.log_probabilities, other.ids, other.log_probabilities, strict=True)
        ]
    )


def _diverge(base_ids: NDArray[np.int64], base: Floats, other_ids: NDArray[np.int64], other: Floats) -> float:
    _, ours, theirs = np.intersect1d(base_ids, other_ids, assume_unique=True, return_indices=True)
    p, q = np.exp(base[ours]), np.exp(other[theirs])
    rest = max(1e-12, 1 - p.sum()), max(1e-12, 1 - q.sum())
    return float((p * (base[ours] - other[theirs])).sum() + rest[0] * np.log(rest[0] / rest[1]))


# Figures


class Tally(NamedTuple):
    """A mean in parts, by document, so that documents can be drawn again."""

    sums: Floats
    counts: Floats

    @property
    def mean(self) -> float:
        """NaN of nothing."""
        count = self.counts.sum()
        return float(self.sums.sum() / count) if count else float("nan")


def tally(sums: Sequence[float], counts: Sequence[float] | None = None) -> Tally:
    """`counts`: one each, unless said."""
    return Tally(np.asarray(sums, np.float64), np.ones(len(sums)) if counts is None else np.asarray(counts, np.float64))


def _keep(mean: Floats) -> Floats:
    return mean


def _find_perplexity(mean: Floats) -> Floats:
    return np.exp(-mean)


def _subtract(ours: Floats, base: Floats) -> Floats:
    return ours - base


def _find_rise(ours: Floats, base: Floats) -> Floats:
    return ours / base - 1


@dataclass(frozen=True, slots=True)
class Measure:
    """How a tally becomes a figure, and two of them a change."""

    says: str
    transform: Callable[[Floats], Floats] = _keep
    change: Callable[[Floats, Floats], Floats] = _subtract
    relative: bool = False
    """The change is a share of the base's figure."""


MEASURES: Mapping[str, Measure] = {
    "perplexity": Measure("perplexity of all tokens", _find_perplexity, _find_rise, True),
    "assistant_perplexity": Measure("perplexity of the assistant's tokens", _find_perplexity, _find_rise, True),
    "log_probability": Measure("Q: mean log-probability of the assistant's tokens, nats"),
    "exact_match": Measure("answers that match exactly"),
    "f1": Measure("F1 of answers, by words"),
    "answer_log_probability": Measure("mean log-probability of right answers' tokens, nats"),
    "accuracy": Measure("intents whose label is the likeliest"),
    "accuracy_per_token": Measure("the same, by label tokens' mean"),
    "ended": Measure("replies that end by themselves"),
    "repeats": Measure("4-grams that stood in the reply before"),
    "kl": Measure("KL of the base from this model, nats a token"),
    "agreement": Measure("places where both have one likeliest token"),
}
"""By name, in the order they are shown in."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95% interval by bootstrap over documents; no interval of a single document."""

    value: float
    interval: tuple[float, float] | None
    documents: int
    base: float | None = None
    """The other model's value."""
    change: float | None = None
    change_interval: tuple[float, float] | None = None
    """Paired: the same documents of both."""


def find_figure(name: str, ours: Tally, base: Tally | None = None) -> Figure:
    measure, documents = MEASURES[name], int((ours.counts > 0).sum())
    value = measure.transform(np.array(ours.mean))
    drawn = [measure.transform(draw) for draw in resample_ratios([ours] if base is None else [ours, base])]
    interval = _find_interval(drawn[0], documents)
    if base is None:
        return Figure(float(value), interval, documents)
    base_value = measure.transform(np.array(base.mean))
    return Figure(
        float(value),
        interval,
        documents,
        float(base_value),
        float(measure.change(value, base_value)),
        _find_interval(measure.change(*drawn), documents),
    )


def _find_interval(values: Floats, documents: int) -> tuple[float, float] | None:
    known = values[np.isfinite(values)]
    return interval_of(known) if documents > 1 and len(known) else None
