"""Text for a model to look at while it is compressed: files of conversations or plain text to sequences of tokens.

Records, as `evaluation.data` reads them, are shuffled by the seed, put through the chat template where they are
conversations, and laid end to end into sequences of one length. Imports no torch: data that is too short is refused
before that is loaded.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vivace.errors import ConfigError, DataError, RequestError
from vivace.evaluation.data import Conversation, Data, Intent, Question, read_data
from vivace.models.config import ModelConfig
from vivace.tokenizer import Tokenizer


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
    """SHA-256 of the file as it is stored, as hexadecimal digits."""

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
    data = read_data(path)
    records = _list_records(data)
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
    return Calibration(tuple(kept), tuple(sequences[:aside]), data.digest)


def _count_widest_inputs(model: ModelConfig) -> int:
    attention = model.heads * model.head_dim
    return max(model.hidden_size, attention, *(layer.intermediate_size for layer in model.layers))


def _list_records(data: Data) -> list[Conversation | str]:
    """What can be shuffled: conversations, all else as text."""
    if data.kind == "text":
        return list(_split_text(data.text))
    return [record if isinstance(record, Conversation) else _write_out(record) for record in data.records]


def _write_out(record: Question | Intent) -> str:
    if isinstance(record, Intent):
        return f"{record.text}\n"
    return "\n".join([record.context, record.question, *record.answers[:1], ""])


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


def _encode(path: Path, tokenizer: Tokenizer, record: Conversation | str) -> Sequence[int]:
    try:
        if isinstance(record, str):
            return tokenizer.encode(record)
        if not tokenizer.has_chat_template:
            return tokenizer.encode("\n".join(message["content"] for message in record.messages))
        return tokenizer.encode_chat(record.messages, add_generation_prompt=False)
    except RequestError as error:
        raise DataError(f"{path}: a record cannot become tokens of this model ({error})") from error
