"""Request bodies: bytes to typed values, and what is wrong with them in words that name the field and the remedy.

Knows no API: the types are the caller's. A field that nobody defines is refused by its name; so is one that an API
defines and this server does not act on, unless its value asks for nothing.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from msgspec import Struct

from vivace.errors import RequestError

T = TypeVar("T")


class FieldError(RequestError):
    """A request that can never be answered because of one of its fields."""

    def __init__(self, message: str, field: str | None, code: str) -> None:
        super().__init__(message)
        self.field = field
        """A path such as `messages[0].role`; None when the body as a whole is at fault."""
        self.code = code


_encoder = msgspec.json.Encoder()


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except RecursionError:
        raise FieldError("The body is nested too deeply. Send flatter JSON.", None, "invalid_json") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"The body is not valid JSON in UTF-8 ({error}). Send a JSON object."
        raise FieldError(message, None, "invalid_json") from None


_PATH = re.compile(r" - at `(?:key` in `)?\$\.?([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`$", re.DOTALL)


def _explain(text: str) -> FieldError:
    """A decoder's complaint as ours: the field by its path, and what to do."""
    found = _PATH.search(text)
    parent = found[1] if found else ""
    problem = text[: found.start()] if found else text
    prefix = f"{parent}." if parent else ""
    if match := _UNKNOWN.match(problem):
        field = prefix + match[1]
        return FieldError(f"Unknown field {field!r}. Remove it, or check its spelling.", field, "unknown_parameter")
    if match := _MISSING.match(problem):
        field = prefix + match[1]
        return FieldError(f"The field {field!r} is missing. Add it.", field, "missing_required_parameter")
    message = f"{parent or 'The body'} cannot be used: {problem[:1].lower()}{problem[1:]}. Change it and send again."
    return FieldError(message, parent or None, "invalid_value")


def refuse_unsupported(struct: Struct, refused: dict[str, tuple[object, ...]], prefix: str) -> None:
    for name, harmless in refused.items():
        value = getattr(struct, name)
        if value is None or value in harmless:
            continue
        remedy = f"Leave it out or send {quote(harmless[0])}." if harmless else "Leave it out."
        message = f"{prefix}{name} = {quote(value)} is not supported by this server. {remedy}"
        raise FieldError(message, prefix + name, "unsupported_parameter")


def quote(value: object) -> str:
    text = _encoder.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
