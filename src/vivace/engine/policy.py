"""The order in which work is taken up: pure functions of a sequence, the smaller key first.

The scheduler applies one within each priority. Ties go to the one that arrived first.
"""

from __future__ import annotations

from collections.abc import Callable

from vivace.engine.sequence import Sequence

Policy = Callable[[Sequence], float]


def fifo(sequence: Sequence) -> float:
    """First come, first served, whatever anyone's deadline."""
    return sequence.arrival


def edf(sequence: Sequence) -> float:
    """Earliest deadline first (Liu and Layland 1973): if any order keeps every deadline, this one does."""
    return sequence.due


def shortest(sequence: Sequence) -> float:
    """Least work first: the shortest mean response, at the expense of the long ones."""
    return len(sequence.tokens) - sequence.computed + sequence.remaining()


POLICIES: dict[str, Policy] = {"edf": edf, "fifo": fifo, "shortest": shortest}
