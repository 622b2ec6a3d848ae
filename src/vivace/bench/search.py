"""The highest rate at which a server keeps a budget, found by bisection.

`find_max` knows only a function that tries a rate; `try_rate` is that function over HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from vivace.bench.calibrate import Calibration
from vivace.bench.experiment import Experiment, run
from vivace.bench.processes import OnProgress
from vivace.bench.stats import SequentialTest

MAX_TRIALS = 40
ALONE = 0.1
"""So few requests under way in the mean, and hardly one meets another."""
MIN_REQUESTS = 5
"""Of a segment, however low the rate."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one rate."""

    rate: float
    kept: bool
    decided: bool
    """Whether the test was sure; if not, the share seen decides."""
    hits: int
    offered: int
    seconds: float
    valid: bool = True
    """Whether the client kept up."""
    ttft_ms_p50: float | None = None
    e2e_ms_p50: float | None = None
    tokens_per_s: float | None = None
    in_flight: float = math.inf
    """Requests under way, in the mean (Little's law)."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Highest:
    """The highest rate that keeps the budget lies between the two; 0 and infinity where no such rate was met."""

    low: float
    high: float
    trials: tuple[Trial, ...]
    stopped: str = ""


def find_max(try_rate: Callable[[float], Trial], start: float, precision: float, highest: float = 1e5) -> Highest:
    """Double or halve from `start` until the budget is missed on one side and kept on the other; then bisect, in
    ratios, until the two rates are within `precision` of each other."""
    low, high = 0.0, math.inf
    trials: list[Trial] = []
    rate = start
    while len(trials) < MAX_TRIALS:
        trial = try_rate(rate)
        trials.append(trial)
        if not trial.valid and not trial.kept:  # once may be what else the machine did
            trial = try_rate(rate)
            trials.append(trial)
        if not trial.valid and not trial.kept:
            return Highest(low, high, tuple(trials), f"The client could not keep up at {rate:g} requests/s.")
        low, high = (rate, high) if trial.kept else (low, rate)
        if low and high / low <= 1 + precision:
            break
        if not low and (trial.in_flight < ALONE or high < start / 256):
            return Highest(low, high, tuple(trials), "The budget is missed even by requests that are alone.")
        if math.isinf(high) and low >= highest:
            return Highest(low, high, tuple(trials), f"It is kept at {low:g} requests/s, and no more was tried.")
        rate = rate * 2 if math.isinf(high) else rate / 2 if not low else math.sqrt(low * high)
    return Highest(low, high, tuple(trials))


def try_rate(
    experiment: Experiment,
    calibration: Calibration | None,
    rate: float,
    segment_s: float,
    most_s: float,
    on_progress: OnProgress | None = None,
) -> Trial:
    """Offer that rate, a segment at a time and each twice as long, until the sequential test knows or time is up."""
    test = SequentialTest(1 - experiment.needed)
    spent_s, segment, valid = 0.0, 0, True
    document: dict[str, Any] = {}
    while test.verdict is None and (spent_s < most_s or not spent_s):
        length_s = min(segment_s * 2**segment, max(segment_s, most_s - spent_s))
        requests = max(MIN_REQUESTS, round(rate * length_s))
        load = replace(experiment.load, rate=rate, duration_s=0.0, requests=requests, concurrency=0)
        asked = replace(
            experiment,
            load=load,
            seed=experiment.seed + segment,
            first=experiment.first + 1_000_000 * segment,
            timeout_s=min(experiment.timeout_s, patience_s(experiment)),
            warmup=experiment.warmup if segment == 0 else 1,
        )
        document, _ = run(asked, calibration, on_progress)
        budget = document["budget"]
        test.add(budget["kept"], budget["offered"] - budget["kept"])
        valid = valid and document["client"]["valid"]
        spent_s += length_s
        segment += 1
        if document["stopped_early"]:
            break
    offered = test.hits + test.misses
    share_kept = offered > 0 and test.hits / offered >= experiment.needed
    kept = share_kept if test.verdict is None else test.verdict
    return Trial(
        rate=rate,
        kept=kept and not document["stopped_early"],
        decided=test.verdict is not None,
        hits=test.hits,
        offered=offered,
        seconds=spent_s,
        valid=valid,
        ttft_ms_p50=(document["ttft_ms"] or {}).get("p50"),
        e2e_ms_p50=(document["e2e_ms"] or {}).get("p50"),
        tokens_per_s=document["throughput"]["output_tokens_per_s"],
        in_flight=rate * (document["e2e_ms"] or {"mean": math.inf})["mean"] / 1e3,
    )


def patience_s(experiment: Experiment) -> float:
    """No request is waited for much longer than the budget allows it: by then it has missed it, and an overloaded
    server is left alone before the next rate."""
    limits = experiment.limits
    tokens = max(experiment.workload.output_tokens.a, experiment.workload.output_tokens.b)
    longest_ms = min(
        limits.total_ms,
        (limits.ttft_ms if limits.ttft_ms < math.inf else 1e4)
        + tokens * (limits.tpot_ms if limits.tpot_ms < math.inf else 100.0),
    )
    return max(2.0, 4e-3 * longest_ms)
