"""Whether requests kept a latency budget, as their client saw it. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vivace.bench.observation import Observation
from vivace.bench.stats import share_interval
from vivace.budget import Budget


def is_kept(budget: Budget, seen: Observation) -> bool:
    """Errors and refusals keep nothing. A limit on what a request has not (TPOT of one token) is kept.

    Raises nothing when tokens are unknown: then a limit on TPOT is taken as missed, for it is not shown.
    """
    if not seen.ok or seen.e2e_ms is None or seen.e2e_ms > budget.total_ms:
        return False
    if budget.ttft_ms < math.inf and (seen.ttft_ms is None or seen.ttft_ms > budget.ttft_ms):
        return False
    if budget.tpot_ms == math.inf or (seen.tokens is not None and seen.tokens < 2):
        return True
    return seen.tpot_ms is not None and seen.tpot_ms <= budget.tpot_ms


@dataclass(frozen=True, slots=True)
class Attainment:
    """How many of all offered requests kept the budget."""

    kept: int
    offered: int
    needed: float
    """The share that is to keep it."""

    @property
    def share(self) -> float:
        return self.kept / self.offered if self.offered else 0.0

    @property
    def missed(self) -> bool:
        return self.share < self.needed

    @property
    def verdict(self) -> str:
        """`kept`, `missed`, or `at risk`: kept in the sample, which is too small to say so of the server."""
        if self.missed:
            return "missed"
        return "kept" if share_interval(self.kept, self.offered)[0] >= 1 - 2 * (1 - self.needed) else "at risk"

    def as_dict(self) -> dict[str, object]:
        interval = list(share_interval(self.kept, self.offered))
        return {
            "kept": self.kept,
            "offered": self.offered,
            "attainment": self.share,
            "interval_95": interval,
            "needed": self.needed,
            "verdict": self.verdict,
        }


def attain(budget: Budget, observations: list[Observation], needed: float) -> Attainment:
    """Count over all that were offered."""
    return Attainment(sum(is_kept(budget, seen) for seen in observations), len(observations), needed)
