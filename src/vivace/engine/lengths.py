"""How long answers get, learned from those that ended.

An answer that ran into its limit says only that it would have been longer. The Kaplan-Meier estimator (1958) takes
both kinds into account: the share of answers longer than n is the product, over the lengths up to n at which some
ended by themselves, of the share of those that got so far and did not end there.
"""

from __future__ import annotations

from collections import Counter, deque

WINDOW = 1000
QUANTILE = 0.95
"""Of all answers that many are no longer than what is counted on."""
ENOUGH = 50
"""Before this many answers ended, nothing is known."""
REFIT = 25


class Lengths:
    """A high quantile of the lengths of recent answers."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, bool]] = deque(maxlen=WINDOW)
        self._quantile: int | None = None
        self._since_fit = 0

    def observe(self, tokens: int, ended: bool) -> None:
        """An answer of so many tokens; `ended` if the model ended it, and not a limit."""
        self._seen.append((tokens, ended))
        self._since_fit += 1
        if self._since_fit >= REFIT and len(self._seen) >= ENOUGH:
            self._since_fit = 0
            self._quantile = estimate_quantile(self._seen, QUANTILE)

    def expect(self, max_tokens: int) -> int:
        """The length to count on for an answer of at most `max_tokens`."""
        return max_tokens if self._quantile is None else max(1, min(max_tokens, self._quantile))


def estimate_quantile(seen: deque[tuple[int, bool]], quantile: float) -> int | None:
    """None if too few ended by themselves to tell."""
    ended = Counter(length for length, by_itself in seen if by_itself)
    all_lengths = Counter(length for length, _ in seen)
    at_risk, longer = len(seen), 1.0
    for length in sorted(all_lengths):
        longer *= 1 - ended[length] / at_risk
        if longer <= 1 - quantile + 1e-9:
            return length
        at_risk -= all_lengths[length]
    return None
