"""The pool of KV-cache blocks: who holds which, and which full ones can be shared with later sequences.

A block is *free* (nothing of use in it), *used* (at least one sequence holds it) or *cached* (nobody holds it, but it
is published and a later prompt may begin with it). Free and cached blocks are both available; cached ones are
evicted least recently used first.

A published block is known by its parent and its own tokens. The parent is the serial of the published block before
it, or the salt for a sequence's first block. A serial is never used twice, so equal keys mean equal prefixes: a
lookup compares tokens, never digests.

The pool knows block numbers and token ids. It knows no sequence, no memory, and no model.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from vivace.batch import BLOCK_SIZE

Parent = int | str
"""What a block continues: the serial of a published block, or a salt when it begins a sequence."""

_Key = tuple[Parent, tuple[int, ...]]


class Prefix(NamedTuple):
    """The published blocks that a prompt begins with; the caller holds a reference to each."""

    blocks: list[int]
    parent: Parent
    """What the prompt's next block continues."""


@dataclass(slots=True)
class _Published:
    block: int
    key: _Key
    children: set[int] = field(default_factory=set)
    """Serials of the published blocks that continue this one."""


class BlockPool:
    """Hands out blocks 0 to `blocks` - 1. Every operation costs a constant time per block it touches."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self._references = [0] * blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # published, held by nobody; least recently used first
        self._serials = [0] * blocks  # by block; 0 is not published
        self._published: dict[int, _Published] = {}  # by serial
        self._index: dict[_Key, int] = {}  # to the serial
        self._next_serial = count(1)

    @property
    def available(self) -> int:
        """Blocks that `allocate` can hand out now."""
        return len(self._free) + len(self._idle)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return len(self._idle)

    @property
    def used(self) -> int:
        return self.total - self.available

    def match(self, tokens: Sequence[int], salt: str) -> Prefix:
        """Take a reference to each published block that `tokens` begins with.

        The last token is never covered: it has to be computed, for the next one to be sampled from.
        """
        blocks: list[int] = []
        parent: Parent = salt
        for start in range(0, len(tokens) - BLOCK_SIZE, BLOCK_SIZE):
            serial = self._index.get((parent, tuple(tokens[start : start + BLOCK_SIZE])))
            if serial is None:
                break
            blocks.append(self._published[serial].block)
            parent = serial
        for block in blocks:
            if self._references[block] == 0:
                del self._idle[block]
            self._references[block] += 1
        return Prefix(blocks, parent)

    def allocate(self, blocks: int) -> list[int] | None:
        """Take that many blocks to write to, evicting cached ones as needed; None, and no change, if too few exist."""
        if blocks > self.available:
            return None
        while len(self._free) < blocks:
            self._withdraw(self._serials[next(iter(self._idle))])
        taken = [self._free.pop() for _ in range(blocks)]
        for block in taken:
            self._references[block] = 1
        return taken

    def publish(self, block: int, parent: Parent, tokens: Sequence[int]) -> int | None:
        """Let later prompts share a block that is computed to its end, and return what its successor continues.

        Where an equal block is published already, that one stays and this one remains private; the successor then
        continues the published one. None means that `parent` was evicted meanwhile, so nothing that follows it can
        be found any more.
        """
        before = None
        if isinstance(parent, int):
            before = self._published.get(parent)
            if before is None:
                return None
        key = (parent, tuple(tokens))
        assert len(key[1]) == BLOCK_SIZE, "only a full block can be published"
        assert self._references[block] > 0, "only a block that somebody holds can be published"
        assert self._serials[block] == 0, "a block is published once"
        serial = self._index.get(key)
        if serial is None:
            serial = next(self._next_serial)
            self._index[key] = serial
            self._published[serial] = _Published(block, key)
            self._serials[block] = serial
            if before is not None:
                before.children.add(serial)
        return serial

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one reference to each block of a sequence's table, the last one first.

        So children become evictable before their parents, and the longest-lived part of a cached prefix is its head.
        """
        for block in reversed(blocks):
            self._references[block] -= 1
            assert self._references[block] >= 0, f"block {block} was released more often than taken"
            if self._references[block] == 0:
                if self._serials[block]:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def _withdraw(self, serial: int) -> None:
        """Unpublish a block and all that continue it; those that nobody holds become free.

        A continuation may outlive its parent's last holder: its own holder computed an equal parent privately.
        """
        parent = self._published[serial].key[0]
        if isinstance(parent, int):
            self._published[parent].children.discard(serial)
        serials = [serial]
        while serials:
            entry = self._published.pop(serials.pop())
            serials.extend(entry.children)
            del self._index[entry.key]
            self._serials[entry.block] = 0
            if self._references[entry.block] == 0:
                del self._idle[entry.block]
                self._free.append(entry.block)

    def check_integrity(self, tables: Iterable[Sequence[int]] | None = None) -> None:
        """Raise AssertionError unless every block is accounted for once and every published chain reaches its root.

        With `tables`, all block tables in existence, the references must be exactly theirs.
        """
        used = [block for block, references in enumerate(self._references) if references > 0]
        everywhere = [*self._free, *self._idle, *used]
        assert len(everywhere) == self.total, "free + used + cached is not the total"
        assert len(set(everywhere)) == self.total, "a block is in two states at once"
        assert all(self._serials[block] == 0 for block in self._free), "a free block is published"
        assert all(self._serials[block] for block in self._idle), "a cached block is not published"
        self._check_chains()
        if tables is not None:
            held = Counter(block for table in tables for block in table)
            assert held == {block: self._references[block] for block in used}, "references differ from the tables"

    def _check_chains(self) -> None:
        assert {s: e.block for s, e in self._published.items()} == {s: b for b, s in enumerate(self._serials) if s}
        assert {e.key: s for s, e in self._published.items()} == self._index
        for serial, entry in self._published.items():
            parent = entry.key[0]
            assert isinstance(parent, str) or serial in self._published[parent].children, "a chain lost its parent"
            assert entry.children <= self._published.keys(), "a parent names a child that is not published"
