"""Budgets, deadlines and timelines: pure arithmetic on times, no clock and no I/O.

A *budget* limits a request's times. A *deadline* is a budget made absolute for one request. A *timeline* is what
one request's times turned out to be. All instants are seconds of one monotonic clock; all durations say `_ms`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where one request's response time went, in milliseconds.

    T_response = T_preprocess + T_queue + T_compute + T_flush, and T_compute = prefill + decode. Time a request
    spends preempted counts as queue.
    """

    preprocess_ms: float = 0.0
    """Chat template and tokenizer."""
    queue_ms: float = 0.0
    """Admitted, but nothing of it in any step."""
    prefill_ms: float = 0.0
    """From its first step to its first token."""
    decode_ms: float = 0.0
    """From its first token to its last."""
    flush_ms: float = 0.0
    """From its last token to the last byte handed to the reader."""

    @property
    def total_ms(self) -> float:
        return self.preprocess_ms + self.queue_ms + self.prefill_ms + self.decode_ms + self.flush_ms

    def as_dict(self) -> dict[str, float]:
        """Every part, rounded to a microsecond, and their exact sum, ready for JSON."""
        parts_us = {name: round(1000 * getattr(self, name)) for name in self.__slots__}
        return {name: value / 1000 for name, value in (parts_us | {"total_ms": sum(parts_us.values())}).items()}
