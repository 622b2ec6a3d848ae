"""What a step asks the runner to compute of one sequence. Each row carries only what the runner does not have yet.

Knows no batch, and not who goes along.
"""

from __future__ import annotations

from collections import abc

from vivace.batch import Row, Want
from vivace.engine.sequence import Sequence

_SAMPLE = Want.SAMPLE  # an enumeration is slow to look its members up, and this is every token's path


def decode_row(sequence: Sequence, limit: int) -> Row:
    """The next token, or up to `limit` of them in a burst."""
    blocks = () if sequence.sent == len(sequence.blocks) else _unsent_blocks(sequence)
    if sequence.mask is None:
        return Row(sequence.slot, sequence.computed, (), blocks, _SAMPLE, limit)
    return Row(sequence.slot, sequence.computed, (), blocks, _SAMPLE, limit, mask=sequence.mask)


def verify_row(sequence: Sequence, proposed: abc.Sequence[int]) -> Row:
    """The next token, and whether those proposed follow it."""
    blocks = () if sequence.sent == len(sequence.blocks) else _unsent_blocks(sequence)
    return Row(sequence.slot, sequence.computed, [sequence.tokens[-1], *proposed], blocks, Want.VERIFY)


def chunk_row(sequence: Sequence, budget: int) -> Row:
    """Up to `budget` tokens of what a sequence has to compute; the last token of a scored prompt comes by itself."""
    first, end, want = sequence.computed, len(sequence.tokens), Want.SAMPLE
    scored = sequence.prompt_length - 1
    if sequence.scores is not None and first < scored:
        end, want = scored, Want.SCORE
    if first + budget < end:
        end = first + budget
        want = want if want is Want.SCORE else Want.NOTHING
    opens = None if sequence.sent else sequence.sampling
    return Row(
        sequence.slot,
        first,
        sequence.tokens[first:end],
        opens=opens,
        blocks=_unsent_blocks(sequence),
        want=want,
        targets=sequence.tokens[first + 1 : end + 1] if want is Want.SCORE else (),
        history=sequence.tokens[:first] if opens is not None and opens.reads_history else (),
        mask=sequence.mask if want is Want.SAMPLE else None,
    )


def _unsent_blocks(sequence: Sequence) -> list[int]:
    sent, sequence.sent = sequence.sent, len(sequence.blocks)
    return sequence.blocks[sent:]
