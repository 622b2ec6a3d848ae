"""The timeline of one answer: how long each part took, on one clock, so that the parts add up to the whole."""

from __future__ import annotations

import time
from collections.abc import Callable


class Stopwatch:
    """Names each stretch of time when it ends. `began` is the moment the question came, on the same clock."""

    def __init__(self, began: float | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = self._last = clock() if began is None else began
        self.parts_ms: dict[str, float] = {}
        self.first_token_ms: float | None = None

    def mark(self, part: str) -> None:
        """All since the mark before was this part."""
        now = self._clock()
        self.parts_ms[part] = self.parts_ms.get(part, 0.0) + 1000 * (now - self._last)
        self._last = now

    def note_first_token(self) -> None:
        """The customer sees the beginning of the answer; later calls change nothing."""
        if self.first_token_ms is None:
            self.first_token_ms = 1000 * (self._clock() - self._began)

    @property
    def total_ms(self) -> float:
        """Up to the last mark."""
        return 1000 * (self._last - self._began)

    def as_dict(self) -> dict[str, float]:
        """Milliseconds by part, and their total."""
        parts = {part: round(value, 3) for part, value in self.parts_ms.items()}
        return parts | {"total": round(sum(parts.values()), 3)}
