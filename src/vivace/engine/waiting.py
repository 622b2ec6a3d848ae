"""The sequences that wait for a place, in the order in which they should get one.

First, when those with deadlines can wait no longer, each in time behind all that must start before it, the one that
must start soonest; then by priority, and within one by the policy. Whoever has waited for long rises by one priority,
so that nobody waits for ever: priority orders the work that waits, and spends only the time that deadlines leave over.

Knows no blocks, no slots, and no running sequence.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator

from vivace.engine.policy import Policy
from vivace.engine.request import PRIORITIES
from vivace.engine.sequence import Sequence

LOOK_AHEAD = 64
"""Of those with a deadline, so many are looked at for whether they still have time."""

_Entry = tuple[float, int, Sequence]
"""Key, order of arrival (which no two share), and whose they are."""


class WaitingQueue:
    """Every operation takes time logarithmic in the number that wait, moves of list cells aside."""

    def __init__(self, policy: Policy, ageing_s: float) -> None:
        self._policy = policy
        self._ageing_s = ageing_s
        self._levels: list[list[_Entry]] = [[] for _ in PRIORITIES]
        self._entered: list[OrderedDict[str, tuple[float, Sequence]]] = [OrderedDict() for _ in PRIORITIES]
        self._starts: list[_Entry] = []  # of those with a deadline, by the latest instant to start
        self._sequences: dict[str, tuple[Sequence, float]] = {}  # with the key it was filed under

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        """In no particular order."""
        return (sequence for sequence, _ in self._sequences.values())

    def __contains__(self, id: str) -> bool:
        return id in self._sequences

    def add(self, sequence: Sequence, now: float) -> None:
        key = self._policy(sequence)
        self._sequences[sequence.id] = sequence, key
        self._file(sequence, key, now)
        if sequence.limited:
            insort(self._starts, (sequence.latest_start, sequence.arrival, sequence))

    def remove(self, sequence: Sequence) -> None:
        _, key = self._sequences.pop(sequence.id)
        self._unfile(sequence, key)
        if sequence.limited:
            _discard(self._starts, (sequence.latest_start, sequence.arrival, sequence))

    def first(self, now: float) -> Sequence | None:
        """Who should get a place at the instant `now`; None if nobody waits."""
        if self.pressed(now):
            return self._starts[0][2]
        self._age(now)
        return next((level[0][2] for level in reversed(self._levels) if level), None)

    def pressed(self, now: float) -> bool:
        """Whether the work with deadlines can wait no longer: each must start in time behind all that start before."""
        for start, _, sequence in self._starts[:LOOK_AHEAD]:
            if start <= now:
                return True
            now += sequence.work_s
        return False

    def _age(self, now: float) -> None:
        for level in range(len(self._levels) - 1):
            entered = self._entered[level]
            while entered:
                since, sequence = next(iter(entered.values()))
                if now - since < self._ageing_s:
                    break
                key = self._sequences[sequence.id][1]
                self._unfile(sequence, key)
                sequence.level = level + 1
                self._file(sequence, key, now)

    def _file(self, sequence: Sequence, key: float, now: float) -> None:
        insort(self._levels[sequence.level], (key, sequence.arrival, sequence))
        self._entered[sequence.level][sequence.id] = now, sequence

    def _unfile(self, sequence: Sequence, key: float) -> None:
        _discard(self._levels[sequence.level], (key, sequence.arrival, sequence))
        del self._entered[sequence.level][sequence.id]

    def check_integrity(self) -> None:
        """Raise AssertionError unless everyone is filed exactly once, and in order."""
        for level, entries in enumerate(self._levels):
            assert entries == sorted(entries), "a level is out of order"
            assert {entry[2].id for entry in entries} == self._entered[level].keys()
            assert all(entry[2].level == level for entry in entries), "a sequence is at another level"
        filed = [entry[2].id for entries in self._levels for entry in entries]
        assert sorted(filed) == sorted(self._sequences), "a waiting sequence is lost"
        limited = sorted(sequence.id for sequence in self if sequence.limited)
        assert sorted(entry[2].id for entry in self._starts) == limited, "a deadline is lost"


def _discard(entries: list[_Entry], entry: _Entry) -> None:
    place = bisect_left(entries, entry)
    assert entries[place][1] == entry[1], "a waiting sequence is not where it was filed"
    del entries[place]
