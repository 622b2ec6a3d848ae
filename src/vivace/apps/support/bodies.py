"""What requests may say: one frozen struct for each body, with the bounds of every field. Unknown fields are refused.

Pure functions on bytes and values.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from vivace.apps.support.settings import LocalText
from vivace.errors import InvalidError

T = TypeVar("T")

ClientId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Tenant = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Language = Literal["en", "zh"]
Line = Annotated[str, Meta(min_length=1, max_length=200)]
Secret = Annotated[str, Meta(min_length=1, max_length=512)]
Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,80}$")]
Format = Literal["markdown", "html", "csv", "text"]
Version = Annotated[int, Meta(ge=0, le=2**31 - 1)]
ArticleText = Annotated[str, Meta(min_length=1, max_length=1_000_000)]


class Body(Struct, frozen=True, forbid_unknown_fields=True):
    """Of a request."""


class Empty(Body, frozen=True):
    """Nothing to say."""


class NewGuest(Body, frozen=True):
    tenant: Tenant | None = None
    language: Language = "en"


class NewAccount(Body, frozen=True):
    email: Annotated[str, Meta(max_length=300)]
    password: Secret
    name: Line
    language: Language = "en"
    tenant: Tenant | None = None


class SignIn(Body, frozen=True):
    email: Annotated[str, Meta(max_length=300)]
    password: Secret
    tenant: Tenant | None = None


class Refresh(Body, frozen=True):
    refresh_token: Annotated[str, Meta(max_length=300)]


class ChangedAccount(Body, frozen=True):
    name: Line | None = None
    language: Language | None = None
    personal: bool | None = None


class NewPassword(Body, frozen=True):
    current: Secret
    new: Secret


class ResetPassword(Body, frozen=True):
    token: Annotated[str, Meta(min_length=1, max_length=200)]
    password: Secret


class Confirmation(Body, frozen=True):
    confirm: Literal[True] | bool

    def __post_init__(self) -> None:
        if self.confirm is not True:
            raise ValueError('write {"confirm": true}')


class NewConversation(Body, frozen=True):
    language: Language | None = None


class Said(Body, frozen=True):
    text: Annotated[str, Meta(min_length=1, max_length=20_000)]
    client_id: ClientId


class Opinion(Body, frozen=True):
    rating: Literal["up", "down"]
    reason: Literal["wrong", "incomplete", "unclear", "slow", "other"] | None = None
    text: Annotated[str, Meta(max_length=1000)] | None = None


class Claim(Body, frozen=True):
    version: Version


class Release(Body, frozen=True):
    to: Literal["waiting_human", "bot"]


class NewArticle(Body, frozen=True):
    title: Line
    format: Format
    text: ArticleText


class ChangedArticle(Body, frozen=True):
    title: Line
    format: Format
    text: ArticleText
    version: Version


class Restored(Body, frozen=True):
    version: Version


class SavedIntent(Body, frozen=True):
    action: Literal["answer", "reply", "orders", "handover"]
    replies: LocalText = msgspec.field(default_factory=LocalText)
    examples: Annotated[list[Annotated[str, Meta(min_length=1, max_length=500)]], Meta(max_length=1000)] = (
        msgspec.field(default_factory=list)
    )


class Tried(Body, frozen=True):
    text: Annotated[str, Meta(min_length=1, max_length=2000)]


class NewStaff(Body, frozen=True):
    email: Annotated[str, Meta(max_length=300)]
    password: Secret
    name: Line
    role: Literal["customer", "agent", "admin"]


class ChangedStaff(Body, frozen=True):
    role: Literal["customer", "agent", "admin"] | None = None
    disabled: bool | None = None


class NewWebhook(Body, frozen=True):
    url: Annotated[str, Meta(max_length=500)]


class SwitchedWebhook(Body, frozen=True):
    active: bool


def decode(body: bytes, type: type[T]) -> T:
    """Raises `InvalidError`, which names the field."""
    try:
        return msgspec.json.decode(body or b"{}", type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidError(f"The body cannot be used: {error}.") from error


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def clean_text(text: str, most: int) -> str:
    """Without control characters but for line ends. Raises `InvalidError` when nothing is left, or too much.

    PostgreSQL takes no NUL, and half a surrogate pair is no text.
    """
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")
    kept = "".join(
        character for character in text if character in "\n\t" or (ord(character) >= 32 and ord(character) != 127)
    )
    if not 1 <= len(kept.strip()) <= most:
        raise InvalidError(f"A text has 1 to {most} characters.")
    return kept.strip()
