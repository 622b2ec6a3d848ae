"""What every source of training text yields: one conversation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Message(NamedTuple):
    role: str
    """`system`, `user` or `assistant`."""
    content: str


class Conversation(NamedTuple):
    messages: tuple[Message, ...]
    source: str


def converse(source: str, turns: Iterable[tuple[str, str]], system: str | None = None) -> Conversation:
    """A conversation from pairs of what the user says and what the assistant answers."""
    messages = [] if system is None else [Message("system", system)]
    for said, answered in turns:
        messages += [Message("user", said), Message("assistant", answered)]
    return Conversation(tuple(messages), source)
