"""Accounts, conversations, messages and events as the API writes them. Pure functions: values in, dicts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vivace.apps.support.accounts import Account
from vivace.apps.support.conversations import Conversation, Event, Message
from vivace.apps.support.hub import Draft
from vivace.apps.support.sessions import Tokens


def show_account(account: Account) -> dict[str, Any]:
    names = ("id", "role", "name", "email", "language", "personal")
    return {name: getattr(account, name) for name in names}


def show_tokens(tokens: Tokens) -> dict[str, Any]:
    return {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "expires_at": tokens.expires_at,
        "account": show_account(tokens.account),
    }


def show_conversation(
    conversation: Conversation, agent: str | None = None, queue_position: int | None = None
) -> dict[str, Any]:
    names = ("id", "state", "version", "reason", "language", "created_at", "updated_at", "closed_at", "last_event")
    shown = {name: getattr(conversation, name) for name in names}
    return shown | {"agent": None if agent is None else {"name": agent}, "queue_position": queue_position}


def show_message(message: Message) -> dict[str, Any]:
    names = (
        "id",
        "author",
        "name",
        "text",
        "language",
        "created_at",
        "client_id",
        "reply_to",
        "citations",
        "source",
        "timeline",
        "redacted",
    )
    return {name: getattr(message, name) for name in names} | {"feedback": show_feedback(message)}


def show_feedback(message: Message) -> dict[str, Any] | None:
    if message.rating is None:
        return None
    return {"rating": message.rating, "reason": message.feedback_reason, "text": message.feedback_text}


def show_event(event: Event) -> Mapping[str, Any]:
    return event.data if event.message is None else show_message(event.message)


def show_draft(draft: Draft | None) -> dict[str, str] | None:
    return None if draft is None else {"reply_to": draft.reply_to, "text": draft.text}
