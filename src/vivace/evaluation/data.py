"""Data to measure, train or calibrate on: plain text, or JSON lines of texts, conversations, questions, labelled texts.

What a file holds is recognised by its fields. Everything is bounded, `.gz` is read as it is, and a field that nobody
knows is refused by its name: what is silently left out of a measurement makes it a measurement of something else.
Knows no model and no tokens.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import reprlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from vivace.errors import DataError

Kind = Literal["text", "conversations", "questions", "intents"]

MAX_DATA_BYTES = 1 << 30
"""Of a file, unpacked."""
MAX_LINE_BYTES = 1 << 24
MAX_RECORDS = 10**6
MAX_MESSAGES = 4096

ROLES = ("system", "user", "assistant")
CARRIED = frozenset({"id", "source", "title", "domain"})
"""Fields that say where a record comes from; any record may have them, and none is used."""


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Mapping[str, str], ...]
    """Of `role` and `content`; after the first, at least one is the assistant's."""


@dataclass(frozen=True, slots=True)
class Question:
    context: str
    question: str
    answers: tuple[str, ...]
    """Any of these is right; none: the context does not say."""


@dataclass(frozen=True, slots=True)
class Intent:
    text: str
    label: str


Record = Conversation | Question | Intent


@dataclass(frozen=True, slots=True)
class Data:
    """What a file holds: `text`, or else `records`."""

    name: str
    kind: Kind
    digest: str
    """SHA-256 of the file as it is stored, in hexadecimal."""
    text: str = ""
    records: Sequence[Record] = ()

    def sample(self, count: int, seed: int = 0) -> Data:
        """`count` records drawn without replacement, in their own order; all, if there are no more or `count` is 0."""
        if not 0 < count < len(self.records):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.records)), count))
        return Data(self.name, self.kind, self.digest, records=[self.records[index] for index in chosen])


def read_data(path: Path) -> Data:
    """Raises `DataError`, which names the file, the line and the field."""
    packed = _read_file(path)
    data = _unpack(path, packed)
    digest = hashlib.sha256(packed).hexdigest()
    if not data.strip():
        raise DataError(f"{path} is empty; give a file with text or records in it.")
    if _is_lines(path, data):
        kind, records = _read_records(path, data)
        texts = [record for record in records if isinstance(record, str)]
        if texts:
            return Data(path.name, kind, digest, text="".join(f"{text}\n" for text in texts))
        return Data(path.name, kind, digest, records=[record for record in records if not isinstance(record, str)])
    try:
        return Data(path.name, "text", digest, text=data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error}); convert it.") from error


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_DATA_BYTES:
            raise DataError(f"{path} is larger than {MAX_DATA_BYTES >> 20} MiB; give a part of it.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}); give a file of text or JSON lines."
        ) from error


def _unpack(path: Path, packed: bytes) -> bytes:
    if not packed.startswith(b"\x1f\x8b"):
        return packed
    try:
        with gzip.open(path) as file:
            data = file.read(MAX_DATA_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); compress it again with gzip.") from error
    if len(data) > MAX_DATA_BYTES:
        raise DataError(f"{path} is larger than {MAX_DATA_BYTES >> 20} MiB once unpacked; give a part of it.")
    return data


def _is_lines(path: Path, data: bytes) -> bool:
    """By the name where it says so, else by the first character."""
    names = {suffix.lower() for suffix in path.suffixes}
    if names & {".jsonl", ".ndjson", ".json"}:
        return True
    return ".txt" not in names and data.lstrip()[:1] == b"{"


def _read_records(path: Path, data: bytes) -> tuple[Kind, list[Record | str]]:
    kind: Kind | None = None
    records: list[Record | str] = []
    for place, values in _read_lines(path, data):
        if kind is None:
            kind = _recognise(place, values)
        elif (other := _find_kind(values)) not in (None, kind):
            raise DataError(f"{place} holds {other}, and the lines before it {kind}; give one file for each.")
        _check_names(place, values, kind)
        records.append(_READERS[kind](place, values))
    assert kind is not None, "an empty file came this far"
    return kind, records


def _read_lines(path: Path, data: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each object and where it stands. Blank lines count and are left out."""
    found = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        found += 1
        if len(line) > MAX_LINE_BYTES or found > MAX_RECORDS:
            raise DataError(
                f"{place}: a file holds at most {MAX_RECORDS:,} records of {MAX_LINE_BYTES >> 20} MiB; give a part."
            )
        try:
            values = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{place} is no JSON ({error}); each line must be one JSON object.") from error
        if not isinstance(values, dict):
            raise DataError(f"{place} is no JSON object; each line must be one.")
        yield place, values


FIELDS: Mapping[Kind, tuple[str, ...]] = {
    "conversations": ("messages",),
    "questions": ("context", "question", "answers"),
    "intents": ("text", "label"),
    "text": ("text",),
}
"""What each kind of record must have."""

FORMS = "{messages: [{role, content}, ...]}, {context, question, answers}, {text, label} or {text}"


def _find_kind(values: Mapping[str, Any]) -> Kind | None:
    """By the first field of a kind that is there; a `text` is only labelled with a label."""
    kind = next((kind for kind, names in FIELDS.items() if any(name in values for name in names)), None)
    return "text" if kind == "intents" and "label" not in values else kind


def _recognise(place: str, values: Mapping[str, Any]) -> Kind:
    kind = _find_kind(values)
    if kind is None:
        raise DataError(f"{place} has the fields {_name(values)}, which make no known record; known are {FORMS}.")
    return kind


def _check_names(place: str, values: Mapping[str, Any], kind: Kind) -> None:
    known = FIELDS[kind]
    if unknown := [name for name in values if name not in known and name not in CARRIED]:
        raise DataError(
            f"{place} has the unknown field {_name(unknown)}; a record of {kind} has {', '.join(known)}, and may have "
            f"{', '.join(sorted(CARRIED))}. Remove it."
        )
    if missing := [name for name in known if name not in values]:
        raise DataError(f"{place} lacks {', '.join(missing)}; a record of {kind} has {', '.join(known)}. Add it.")


def _name(names: Any) -> str:
    shown = ", ".join(reprlib.repr(name) for name in list(names)[:8])
    return shown or "none"


def _text(place: str, values: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = values[name]
    if not isinstance(value, str) or not (value.strip() or empty):
        raise DataError(f"{place}: {name} is {reprlib.repr(value)}; it must be a string that is not empty.")
    return value


def _read_conversation(place: str, values: Mapping[str, Any]) -> Conversation:
    messages = values["messages"]
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise DataError(f"{place}: messages must be a list of 1 to {MAX_MESSAGES} of them.")
    read = tuple(_read_message(f"{place}: messages[{index}]", message) for index, message in enumerate(messages))
    if all(message["role"] != "assistant" for message in read[1:]):
        raise DataError(f"{place} has no answer of the assistant, so there is nothing to measure. Remove it.")
    return Conversation(read)


def _read_message(place: str, message: object) -> Mapping[str, str]:
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise DataError(f"{place} is no object of role and content alone; make it one.")
    if message["role"] not in ROLES:
        raise DataError(f"{place}: role is {reprlib.repr(message['role'])}; it must be one of {', '.join(ROLES)}.")
    return {"role": message["role"], "content": _text(place, message, "content", empty=True)}


def _read_question(place: str, values: Mapping[str, Any]) -> Question:
    answers = values["answers"]
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{place}: answers must be a list of strings; an empty one says that there is no answer.")
    return Question(_text(place, values, "context"), _text(place, values, "question"), tuple(answers))


def _read_intent(place: str, values: Mapping[str, Any]) -> Intent:
    return Intent(_text(place, values, "text"), _text(place, values, "label"))


def _read_text(place: str, values: Mapping[str, Any]) -> str:
    return _text(place, values, "text")


_READERS: Mapping[Kind, Callable[[str, Mapping[str, Any]], Record | str]] = {
    "conversations": _read_conversation,
    "questions": _read_question,
    "intents": _read_intent,
    "text": _read_text,
}
