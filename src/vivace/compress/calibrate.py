"""Text for a model to look at while it is compressed: files of conversations or plain text to sequences of tokens.

Read are JSON lines, each with `messages`, `text`, or `context`, `question` and `answers`, and plain text; either may be
compressed with gzip. Records are shuffled by the seed, put through the chat template where they are conversations,
and laid end to end into sequences of one length. Imports no torch: data that is too short is refused before that is
loaded.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivace.errors import ConfigError, DataError, RequestError
from vivace.models.config import ModelConfig
from vivace.tokenizer import Tokenizer

MAX_DATA_BYTES = 1 << 30
"""Of text, once unpacked."""


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    """How much is looked at. Raises `ConfigError` for values that cannot be."""

    tokens: int = 16_384
    """Over which statistics are taken."""
    length: int = 256
    """Of a sequence, in tokens."""
    held_out: int = 4_096
    """Tokens set aside, over which the loss before and after is measured."""

    def __post_init__(self) -> None:
        if not 8 <= self.length <= 1 << 20:
            raise ConfigError(f"length is {self.length}; it must be 8 to {1 << 20} tokens.")
        if not self.length <= self.tokens <= 1 << 26:
            raise ConfigError(f"tokens is {self.tokens}; it must be {self.length} (one sequence) to {1 << 26}.")
        if not 0 <= self.held_out <= 1 << 26:
            raise ConfigError(f"held_out is {self.held_out}; it must be 0 to {1 << 26}.")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Sequences of one length, as token ids."""

    sequences: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]
    digest: str
    """SHA-256 of the file, as hexadecimal digits."""

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))


def read_calibration(
    path: Path, tokenizer: Tokenizer, model: ModelConfig, config: CalibrationConfig, seed: int
) -> Calibration:
    """Draw sequences from a file.

    Raises `DataError` for a file that cannot be read or holds too little: for statistics of full rank it takes as many
    tokens as the model's widest linear has inputs.
    """
    length = min(config.length, model.context_length)
    needed = max(length, _count_widest_inputs(model))
    wanted = max(config.tokens, needed)
    data = _read(path)
    records = list(_parse(path, data))
    random.Random(seed).shuffle(records)
    ids: list[int] = []
    for record in records:
        ids += _encode(path, tokenizer, record)
        if len(ids) >= wanted + config.held_out + length:
            break
    if len(ids) < needed + length:
        raise DataError(
            f"{path} holds {len(ids):,} tokens of this model; calibration takes {needed + length:,} at least (the "
            f"inputs of its widest linear, and a sequence of {length} to measure on). Give a longer file."
        )
    sequences = [tuple(ids[place : place + length]) for place in range(0, len(ids) - length + 1, length)]
    aside = min(config.held_out // length, len(sequences) - -(-needed // length))
    kept = sequences[aside : aside + -(-wanted // length)]
    return Calibration(tuple(kept), tuple(sequences[:aside]), hashlib.sha256(data).hexdigest())


def _count_widest_inputs(model: ModelConfig) -> int:
    attention = model.heads * model.head_dim
    return max(model.hidden_size, attention, *(layer.intermediate_size for layer in model.layers))


def _read(path: Path) -> bytes:
    """The text of a file, unpacked. Bounded, so that a small file cannot unpack into all memory."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data: bytes = file.read(MAX_DATA_BYTES + 1)
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}). Give a file of JSON lines or of text.") from error
    if len(data) > MAX_DATA_BYTES:
        raise DataError(f"{path} holds more than {MAX_DATA_BYTES >> 20} MiB of text; give a part of it.")
    return data


def _parse(path: Path, data: bytes) -> Iterator[Any]:
    """Records: conversations as lists of messages, all else as text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}). Convert it.") from error
    if ".jsonl" not in path.suffixes and ".json" not in path.suffixes:
        yield from (paragraph for paragraph in _split_text(text) if paragraph.strip())
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _parse_line(f"{path}, line {number}", line)


def _split_text(text: str, size: int = 4096) -> Iterator[str]:
    """Pieces of whole lines, about `size` characters each, so that the seed can shuffle them."""
    piece: list[str] = []
    length = 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        length += len(line)
        if length >= size:
            yield "".join(piece)
            piece, length = [], 0
    yield "".join(piece)


def _parse_line(place: str, line: str) -> Any:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is no JSON ({error}). Each line must be one JSON object.") from error
    record = record if isinstance(record, dict) else {}
    messages = record.get("messages")
    if isinstance(messages, list) and messages and all(_is_message(message) for message in messages):
        return messages
    if isinstance(record.get("text"), str):
        return record["text"] + "\n"
    parts = [record.get("context"), record.get("question")]
    if all(isinstance(part, str) for part in parts):
        answers = record.get("answers")
        first = answers[0] if isinstance(answers, list) and answers and isinstance(answers[0], str) else ""
        return "\n".join([*map(str, parts), first, ""])
    raise DataError(
        f"{place} has none of the fields that are read: messages (each with a role and content), text, or context, "
        "question and answers."
    )


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(name), str) for name in ("role", "content"))


def _encode(path: Path, tokenizer: Tokenizer, record: Any) -> Sequence[int]:
    try:
        if isinstance(record, str) or not tokenizer.has_chat_template:
            text = record if isinstance(record, str) else "\n".join(message["content"] for message in record)
            return tokenizer.encode(text)
        return tokenizer.encode_chat(record, add_generation_prompt=False)
    except RequestError as error:
        raise DataError(f"{path}: a record cannot become tokens of this model ({error})") from error
