"""What an agent should know before the first word: taken from the conversation as it stands, with nothing made up.

Pure function; no model writes it, since an agent who trusts a wrong summary does harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vivace.apps.support.conversations import Conversation, Message

MAX_ANSWERS = 5
MAX_CHARACTERS = 300
SMALL_TALK_WORDS = 3


def summarize(conversation: Conversation, messages: Sequence[Message], now: float) -> dict[str, Any]:
    """The question it began with, the last word, subject, mood, what was answered, and why it waits."""
    said = [message for message in messages if message.author == "customer"]
    answers = [message for message in messages if message.author == "bot"]
    intents = dict.fromkeys(message.intent for message in said if message.intent)
    waited = None if conversation.waiting_since is None else 1000 * (now - conversation.waiting_since)
    return {
        "question": _shorten(_find_question(said)),
        "last_text": _shorten(said[-1].text if said else ""),
        "intents": list(intents),
        "sentiment": _find_mood(said),
        "turns": len(said),
        "answers": [{"text": _shorten(answer.text), "feedback": answer.rating} for answer in answers[-MAX_ANSWERS:]],
        "reason": conversation.reason,
        "waited_ms": waited,
    }


def _find_question(said: Sequence[Message]) -> str:
    """The first message that is more than a greeting."""
    first = said[0].text if said else ""
    return next((message.text for message in said if _is_long(message.text)), first)


def _is_long(text: str) -> bool:
    return len(text.split()) > SMALL_TALK_WORDS or (not text.isascii() and len(text) > 2 * SMALL_TALK_WORDS)


def _find_mood(said: Sequence[Message]) -> str:
    """Of the last messages that were judged, the worst."""
    moods = [message.sentiment for message in said[-3:] if message.sentiment]
    return next((mood for mood in ("negative", "positive") if mood in moods), "neutral")


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
