"""Statistics of latencies: pure functions of numbers, and of a seed where chance is used.

A percentile is the sample's order statistic of rank ceil(q n). Knows no requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.99
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
RESAMPLES = 2000


@cache
def required_sample(quantile: float, confidence: float = CONFIDENCE) -> int:
    """The least n at which, with `confidence`, two values or more lie above the true quantile.

    The number above it is binomial(n, 1 - q). Two, not one: a percentile that is the largest value seen is no
    percentile. 662 for p99 and 6,636 for p99.9 at 99%.
    """
    tail = 1 - quantile

    def shortfall(n: int) -> float:
        return float(quantile**n + n * tail * quantile ** (n - 1))

    low, high = 1, 2
    while shortfall(high) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if shortfall(middle) > 1 - confidence else (low, middle)
    return high


def rank(n: int, q: float) -> int:
    """From 1. The small allowance keeps 0.99 of 1,000 at 990, whatever the product's last bit."""
    return min(n, max(1, math.ceil(q * n - 1e-9)))


def quantile(ordered: Floats, q: float) -> float:
    """Of sorted values, at least one."""
    return float(ordered[rank(len(ordered), q) - 1])


def quantile_interval(ordered: Floats, q: float, seed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap's interval of a quantile.

    Resampling n values and taking the k-th is drawing the k-th of n uniform numbers, which is Beta(k, n - k + 1), and
    reading the sample there: the same distribution without the resampling (Efron & Tibshirani, 1993, chapter 13).
    """
    n = len(ordered)
    k = rank(n, q)
    drawn = np.random.default_rng(seed).beta(k, n - k + 1, RESAMPLES)
    values = np.sort(ordered[np.minimum((drawn * n).astype(np.int64), n - 1)])
    return interval_of(values, confidence)


def interval_of(values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """The middle of some estimates: the percentile bootstrap's interval."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], method="nearest")
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample in a few numbers. A percentile is missing where the sample is too small for it."""

    n: int
    mean: float
    max: float
    percentiles: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95%, by bootstrap; requests are taken as independent of each other."""

    def as_dict(self) -> dict[str, object]:
        """p50, p90 and p99 are always named, and null when not supported; `needs` says from how many."""
        found: dict[str, object] = {name: self.percentiles.get(name) for name in ("p50", "p90", "p95", "p99", "p99.9")}
        needs = {name: required_sample(q) for name, q in QUANTILES.items() if name not in self.percentiles}
        intervals = {name: list(interval) for name, interval in self.intervals.items()}
        return found | {"mean": self.mean, "max": self.max, "n": self.n, "interval_95": intervals, "needs": needs}


def summarize(values: ArrayLike, seed: int = 0) -> Summary | None:
    """None for nothing. NaN is left out."""
    array = np.asarray(values, dtype=np.float64)
    ordered = np.sort(array[~np.isnan(array)])
    n = len(ordered)
    if n == 0:
        return None
    supported = {name: q for name, q in QUANTILES.items() if n >= required_sample(q)}
    return Summary(
        n=n,
        mean=float(ordered.mean()),
        max=float(ordered[-1]),
        percentiles={name: quantile(ordered, q) for name, q in supported.items()},
        intervals={name: quantile_interval(ordered, q, seed) for name, q in supported.items()},
    )


def resample_ratios(tallies: Sequence[tuple[Floats, Floats]], seed: int = 0) -> list[Floats]:
    """The bootstrap over clusters of sum(sums) / sum(counts), for each tally of (sums, counts) by cluster.

    The same clusters are drawn for all tallies, so what is worked out between two of them is paired. Tokens of one
    document are no independent draws; documents are (Davison & Hinkley, 1997, chapter 3.8). Each result has
    `RESAMPLES` values; NaN where all counts drawn are zero.
    """
    n = len(tallies[0][0])
    generator = np.random.default_rng(seed)
    stacked = np.array([part for tally in tallies for part in tally]).T
    drawn = [generator.multinomial(n, np.full(n, 1 / n), 50) @ stacked for _ in range(RESAMPLES // 50)]
    totals = np.concatenate(drawn)
    with np.errstate(invalid="ignore", divide="ignore"):
        return list((totals[:, ::2] / totals[:, 1::2]).T)


def highest_supported(n: int) -> tuple[str, float] | None:
    """The furthest percentile, up to p99, that n values support."""
    supported = [(name, q) for name, q in QUANTILES.items() if q <= 0.99 and n >= required_sample(q)]
    return max(supported, key=lambda pair: pair[1], default=None)


def share_interval(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, 1927); 95% unless told otherwise."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Effect:
    """How b stands to a, over pairs."""

    ratio: float
    """exp of the mean of log(b / a), the extreme tenth at either end left out."""
    low: float
    high: float
    """The interval of `ratio`."""
    effect_size: float
    """Mean over standard deviation of the log-ratios (Cohen's d of pairs)."""
    pairs: int


def compare_pairs(
    a: ArrayLike, b: ArrayLike, blocks: ArrayLike | None = None, *, confidence: float = 0.99, seed: int = 0
) -> Effect:
    """The paired bootstrap of the ratio of b to a, both above zero and pair by pair of the same request.

    Neighbours in time share what the machine did to them, so whole blocks of pairs are resampled (Künsch, 1989):
    those numbered in `blocks`, or else runs of about sqrt(n) of them. The mean is trimmed: a stall that met one of a
    pair is no property of a server's usual speed, and tails have their own figures.
    """
    logs = np.log(np.asarray(b, dtype=np.float64) / np.asarray(a, dtype=np.float64))
    n = len(logs)
    if n < 2:
        return Effect(math.exp(float(logs[0])) if n else 1.0, 0.0, math.inf, 0.0, n)
    labels = _even_blocks(n) if blocks is None else np.unique(np.asarray(blocks), return_inverse=True)[1]
    groups = [logs[labels == label] for label in range(int(labels.max()) + 1)]
    generator = np.random.default_rng(seed)
    estimates = np.array(
        [
            _trimmed_mean(np.concatenate([groups[i] for i in generator.integers(0, len(groups), len(groups))]))
            for _ in range(RESAMPLES // 2)
        ]
    )
    low, high = interval_of(estimates, confidence)
    spread = float(logs.std(ddof=1))
    centre = _trimmed_mean(logs)
    return Effect(math.exp(centre), math.exp(low), math.exp(high), centre / spread if spread else 0.0, n)


def _even_blocks(n: int) -> NDArray[np.int64]:
    count = max(2, min(n, round(math.sqrt(n))))
    return np.arange(n) * count // n


def _trimmed_mean(values: Floats) -> float:
    cut = len(values) // 10
    ordered = np.sort(values)
    return float(ordered[cut : len(values) - cut].mean())


def verdict_of(effect: Effect, smallest: float) -> str:
    """`worse`, `better` or `no evidence`. `smallest` is the least relative difference that matters.

    A difference is claimed when the whole interval lies beyond it.
    """
    if effect.low > 1 + smallest:
        return "worse"
    if effect.high < 1 / (1 + smallest):
        return "better"
    return "no evidence"


class SequentialTest:
    """Wald's sequential probability ratio test of a share of misses (Wald, 1945).

    It tells misses of at most half of `allowed` from misses of at least twice it, with 5% error on either side, and
    needs a few hundred requests for 1%, fewer when it is plain. Requests are taken as independent: in an overload
    they are not, and the misses then come so thick that it does not matter.
    """

    def __init__(self, allowed: float, error: float = 0.05) -> None:
        assert 0 < allowed <= 0.4
        good, bad = allowed / 2, 2 * allowed
        self._miss = math.log(bad / good)
        self._hit = math.log((1 - bad) / (1 - good))
        self._bound = math.log((1 - error) / error)
        self._score = 0.0
        self.hits = self.misses = 0

    def add(self, hits: int, misses: int) -> None:
        self.hits += hits
        self.misses += misses
        self._score += hits * self._hit + misses * self._miss

    @property
    def verdict(self) -> bool | None:
        """Whether the share is kept; None while that is open."""
        if self._score >= self._bound:
            return False
        return True if self._score <= -self._bound else None
