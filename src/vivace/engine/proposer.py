"""Who proposes tokens to be verified, and the proposer that needs no model: what followed last time follows again.

Prompt lookup (Saxena 2023, "Prompt Lookup Decoding") finds the last few tokens of a sequence earlier in its own prompt
and answer and proposes what came after them. Earlier places are found as LZ77 compressors find them: by chains of
places that end with the same few tokens, newest first, of which a bounded number is compared (RFC 1951, section 4).

Knows tokens only: neither what a proposal costs nor whether it was right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vivace.batch import Sampling


class Ask(NamedTuple):
    """A sequence that could take proposed tokens."""

    id: str
    tokens: Sequence[int]
    """All of it, prompt and answer. Until it ends, it only grows."""
    limit: int
    """Most tokens to propose, at least 1."""
    sampling: Sampling = Sampling()
    """How the model chooses what is proposed."""


class Proposal(NamedTuple):
    """What may come next."""

    tokens: Sequence[int]
    strength: int
    """How sure the proposer is, in classes of its own: one strength's proposals count as equally likely right."""


class Proposer(Protocol):
    """Proposes tokens for many sequences at once, and is told of the end of each that it was asked about.

    A sequence is not asked about at every step: `tokens` has grown by any number since. Its time is part of the step's.
    """

    @property
    def computes(self) -> bool:
        """Whether each token proposed takes time, as with a model (`draft.DraftProposer`), so that how many to ask for
        is to be thought over before; else asking costs next to nothing."""
        ...

    def propose(self, asks: Sequence[Ask]) -> Sequence[Proposal | None]:
        """A proposal of 1 to `limit` tokens for each, or None."""
        ...

    def forget(self, id: str) -> None:
        """The sequence has ended; it may never have been asked about."""
        ...


class PromptLookup:
    """Proposes what followed the longest recent match of a sequence's end in the sequence itself.

    A token costs one entry in a dict and one in a list when it is first seen. At most `max_indexed` tokens are held
    over all sequences; one that does not fit gets no proposals until others have ended.
    """

    computes = False

    def __init__(
        self, min_match: int = 3, max_match: int = 16, candidates: int = 8, max_indexed: int = 1 << 18
    ) -> None:
        self._min_match = min_match
        self._max_match = max_match
        self._candidates = candidates
        self._max_indexed = max_indexed
        self._indexed = 0
        self._indices: dict[str, _Index] = {}

    def propose(self, asks: Sequence[Ask]) -> list[Proposal | None]:
        return [self._look_up(ask) for ask in asks]

    def forget(self, id: str) -> None:
        index = self._indices.pop(id, None)
        if index is not None:
            self._indexed -= len(index.previous)

    def _look_up(self, ask: Ask) -> Proposal | None:
        tokens = ask.tokens
        index = self._indices.get(ask.id)
        known = len(index.previous) if index is not None else 0
        if self._indexed + len(tokens) - known > self._max_indexed:
            return None
        if index is None:
            index = self._indices[ask.id] = _Index(self._min_match)
        self._indexed += len(tokens) - known
        index.catch_up(tokens)
        place, length = self._longest_match(tokens, index.previous)
        if place < 0:
            return None
        return Proposal(_continue(tokens, place + 1, ask.limit), length)

    def _longest_match(self, tokens: Sequence[int], previous: list[int]) -> tuple[int, int]:
        """Where a match ends, and how long it is: of equally long ones the newest; -1 if there is none."""
        last = len(tokens) - 1
        best, longest = -1, 0
        place = previous[last]
        for _ in range(self._candidates):
            if place < 0:
                break
            length = self._min_match
            most = min(self._max_match, place + 1)
            while length < most and tokens[place - length] == tokens[last - length]:
                length += 1
            if length > longest:
                best, longest = place, length
                if length == self._max_match:
                    break
            place = previous[place]
        return best, longest


class _Index:
    """Chains of the places in one sequence that end with the same `width` tokens."""

    __slots__ = ("heads", "key", "mask", "previous", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.mask = (1 << 32 * width) - 1
        self.key = 0
        """The last `width` tokens, 32 bits each."""
        self.heads: dict[int, int] = {}
        """By key, the newest place that ends so."""
        self.previous: list[int] = []
        """Of each place, the one before it that ends as it does; -1 if there is none."""

    def catch_up(self, tokens: Sequence[int]) -> None:
        key, mask, heads, previous = self.key, self.mask, self.heads, self.previous
        for place in range(len(previous), len(tokens)):
            key = (key << 32 | tokens[place]) & mask
            if place < self.width - 1:
                previous.append(-1)
                continue
            previous.append(heads.get(key, -1))
            heads[key] = place
        self.key = key


def _continue(tokens: Sequence[int], first: int, count: int) -> list[int]:
    """`count` tokens from `first` on; past the end, the copy goes on with itself, so that a loop is unrolled."""
    found = list(tokens[first : first + count])
    period = len(found)
    while len(found) < count:
        found.append(found[-period])
    return found
