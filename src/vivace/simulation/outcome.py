"""What became of simulated requests, and what that amounts to. Pure arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from vivace.engine.admission import AdmissionStats
from vivace.engine.engine import EngineStats


class Ending(StrEnum):
    """What became of a request."""

    KEPT = "kept"
    """Finished unforced, inside its budget; without a budget, finished."""
    LATE = "late"
    """Finished unforced, outside its budget."""
    TRUNCATED = "truncated"
    """Its deadline ended an answer that had begun, as was asked."""
    EXPIRED = "expired"
    """Its deadline ended it, with nothing to show."""
    REFUSED = "refused"
    """Told at once to come back later."""
    UNREACHABLE = "unreachable"
    """Told at once that no moment is better: the machine alone could not keep the budget."""


class Outcome(NamedTuple):
    """Of one request. Times count from its arrival; they are infinite where the moment never came."""

    kind: int
    ending: Ending
    arrived: float
    """Seconds from the start."""
    tokens: int
    """Of the answer."""
    first_ms: float = math.inf
    total_ms: float = math.inf
    """To its end, whatever it was; 0 if it was refused."""
    retry_after_ms: float = 0.0
    """If it was refused."""

    @property
    def tpot_ms(self) -> float:
        """A token after the first, on the average; 0 of a single token."""
        return (self.total_ms - self.first_ms) / (self.tokens - 1) if self.tokens > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """One simulated run."""

    outcomes: tuple[Outcome, ...]
    """In the order of arrival."""
    duration_s: float
    """From the start to the last answer's end, or the last arrival."""
    busy_s: float
    """Of it, with a step under way."""
    engine: EngineStats
    admission: AdmissionStats

    def of_kind(self, kind: int) -> Result:
        """The requests of one kind; the rest as it was."""
        return replace(self, outcomes=tuple(outcome for outcome in self.outcomes if outcome.kind == kind))

    def between(self, start: float, end: float) -> Result:
        """The requests that came in this part of the run, of its length; the rest as it was."""
        outcomes = tuple(outcome for outcome in self.outcomes if start <= outcome.arrived < end)
        return replace(self, outcomes=outcomes, duration_s=end - start)

    @property
    def counts(self) -> dict[Ending, int]:
        found = Counter(outcome.ending for outcome in self.outcomes)
        return {ending: found[ending] for ending in Ending}

    @property
    def goodput(self) -> float:
        """Requests kept, a second."""
        return self.counts[Ending.KEPT] / self.duration_s if self.duration_s else 0.0

    @property
    def accepted(self) -> int:
        counts = self.counts
        return len(self.outcomes) - counts[Ending.REFUSED] - counts[Ending.UNREACHABLE]

    @property
    def kept_share(self) -> float:
        """Of all requests, those kept; 1 of none."""
        return self.counts[Ending.KEPT] / len(self.outcomes) if self.outcomes else 1.0

    @property
    def attainment(self) -> float:
        """Of the accepted requests, those kept; 1 of none."""
        return self.counts[Ending.KEPT] / self.accepted if self.accepted else 1.0

    @property
    def utilisation(self) -> float:
        """The share of the time with a step under way."""
        return self.busy_s / self.duration_s if self.duration_s else 0.0

    def percentile(self, metric: str, quantile: float) -> float:
        """Of `first_ms`, `tpot_ms` or `total_ms`, over the requests that finished: the order statistic of rank
        ceil(q n); NaN of none."""
        finished = (Ending.KEPT, Ending.LATE)
        values = sorted(getattr(outcome, metric) for outcome in self.outcomes if outcome.ending in finished)
        return values[max(0, math.ceil(quantile * len(values) - 1e-9) - 1)] if values else math.nan
