"""What a request may demand of every token before it is chosen: constrained decoding, as the engine sees it.

A `Grammar` is plain text and travels with a request. The constraint that is compiled from it has state, and lives on
the engine's side of the bridge: only the engine's thread calls it, once the request is sent. Knows no grammar's
syntax, no text of an answer, and not how a mask is obeyed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like from its first token to its last."""

    syntax: Literal["json_schema", "regex", "lark"]
    text: str


class Constraint(Protocol):
    """Says which tokens may come next in one sequence. An exception in it ends that sequence, and no other.

    It is told of every generated token once, and never of one twice: a sequence that lost its blocks and is computed
    again does not repeat what it generated.
    """

    def mask(self) -> bytes:
        """The tokens that may come next, at least one: bit t % 8 of byte t // 8 for token t, and no bit beyond."""
        ...

    def accept(self, token: int) -> None:
        """`token` was chosen, and another is to follow."""
        ...


Compile = Callable[[Grammar], Constraint]
"""Makes a constraint for one request, on any thread. Raises `RequestError` for a grammar that cannot be obeyed."""


def ask_mask(constraint: Constraint, vocab_size: int) -> bytes:
    """The constraint's mask. Raises what it raises, or `ValueError` for a mask that allows nothing or does not fit."""
    mask = constraint.mask()
    if len(mask) != -(-vocab_size // 8) or mask[-1] >> (vocab_size - 1) % 8 + 1:
        raise ValueError(f"its mask of {len(mask)} bytes is not that of {vocab_size} tokens")
    if not mask.strip(b"\0"):
        raise ValueError("it allows no token at all")
    return mask
