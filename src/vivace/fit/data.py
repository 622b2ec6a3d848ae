"""Text to calibrate on and text to judge by, kept apart: from the user's file, or written by the model itself.

A file's records are shuffled by the seed; one part is set aside and nothing is ever fitted to it. Without a file the
model writes both parts: it is sampled as it is, at temperature 1, behind a first token drawn evenly (as Liu et al.,
2023, do to quantise without data). On such text the loss of a variant is its divergence from the model's own
distribution, which says how much it has changed, and not how good it is at anything.

Documents are cut by characters, not tokens, so that models with different tokenizers are asked the same.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivace.errors import DataError
from vivace.evaluation.data import Conversation, Data, Question, read_data
from vivace.llm import load
from vivace.models.model import Model
from vivace.tokenizer import Tokenizer

Document = str | Sequence[Mapping[str, str]]
"""A text, or messages."""

SET_ASIDE = 0.3
"""Of all documents, at most this share, and at most so many:"""
MOST_ASIDE = 400
DOCUMENT_CHARACTERS = 1200
LEAST_DOCUMENTS = 8
OWN_TEXTS = 192
OWN_TOKENS = 160
OWN = "text that the model wrote itself"


@dataclass(frozen=True, slots=True)
class Texts:
    """Where both parts are."""

    name: str
    """What the user would know them by."""
    digest: str
    """SHA-256 of the source, as hexadecimal digits."""
    calibration: Path
    held_out: Path


def split_data(source: Path, directory: Path, seed: int = 0) -> Texts:
    """Write both parts of a file into a directory. Raises `DataError` for one that cannot be read, or is too short."""
    data = read_data(source)
    documents = list(_list_documents(data))
    random.Random(f"documents {seed}").shuffle(documents)
    aside = min(MOST_ASIDE, int(SET_ASIDE * len(documents)))
    if aside < LEAST_DOCUMENTS:
        raise DataError(
            f"{source} holds {len(documents)} pieces of text, of which {aside} could be set aside to judge by; it "
            f"takes {LEAST_DOCUMENTS} at least. Give a longer file."
        )
    return _write(directory, data.name, data.digest, documents[aside:], documents[:aside])


def write_own_text(model: Model, name: str, directory: Path, seed: int = 0) -> Texts:
    """Let the model write both parts. Raises a `ModelError`."""
    generator = random.Random(f"own text {seed}")
    firsts = [generator.randrange(model.config.vocab_size) for _ in range(OWN_TEXTS)]
    openings = [text for first in firsts if (text := model.tokenizer.decode([first])).strip()]
    room = min(OWN_TOKENS, model.config.context_length - 16)
    with load(name, max_sequences=64) as llm:
        answers = llm.generate_many(
            openings, max_tokens=room, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed, ignore_eos=True,
            repetition_penalty=1.0,
        )  # fmt: skip
    documents: list[Document] = [
        opening + answer.text for opening, answer in zip(openings, answers, strict=True) if answer.text.strip()
    ]
    if len(documents) < 4 * LEAST_DOCUMENTS:
        raise DataError(f"{name} wrote too little to judge it by. Give text with --data.")
    digest = hashlib.sha256(json.dumps(documents).encode()).hexdigest()
    aside = int(SET_ASIDE * len(documents))
    return _write(directory, OWN, digest, documents[aside:], documents[:aside])


def read_documents(path: Path) -> list[Document]:
    """What `split_data` or `write_own_text` wrote."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line["text"] if "text" in line else line["messages"] for line in lines]


def encode_document(document: Document, tokenizer: Tokenizer, most: int) -> tuple[int, ...]:
    """Tokens as the model would see them, at most so many; conversations in its template, if it has one."""
    if isinstance(document, str) or not tokenizer.has_chat_template:
        text = document if isinstance(document, str) else "\n".join(message["content"] for message in document)
        return tuple(tokenizer.encode(text)[:most])
    return tuple(tokenizer.encode_chat(document, add_generation_prompt=False)[:most])


def _list_documents(data: Data) -> Iterator[Document]:
    if data.kind == "text":
        yield from _cut(data.text)
        return
    for record in data.records:
        if isinstance(record, Conversation):
            yield _shorten(record.messages)
        elif isinstance(record, Question):
            answer = record.answers[0] if record.answers else ""
            yield f"{record.context}\n{record.question}\n{answer}\n"[-DOCUMENT_CHARACTERS:]
        else:
            raise DataError(f"{data.name} holds labelled messages; give conversations, questions or plain text.")


def _cut(text: str) -> Iterator[str]:
    """Whole lines, about as many characters to a document as it may have."""
    piece = ""
    for line in text.splitlines(keepends=True):
        while len(line) > DOCUMENT_CHARACTERS:
            yield line[:DOCUMENT_CHARACTERS]
            line = line[DOCUMENT_CHARACTERS:]
        if piece and len(piece) + len(line) > DOCUMENT_CHARACTERS:
            yield piece
            piece = ""
        piece += line
    if piece.strip():
        yield piece


def _shorten(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The first messages, so far as they fit; two at least, each cut if need be."""
    kept: list[dict[str, str]] = []
    room = DOCUMENT_CHARACTERS
    for message in messages:
        if len(kept) >= 2 and len(message["content"]) > room:
            break
        kept.append({"role": message["role"], "content": message["content"][: max(room, 100)]})
        room -= len(kept[-1]["content"])
    return kept


def _write(
    directory: Path, name: str, digest: str, calibration: Sequence[Document], held_out: Sequence[Document]
) -> Texts:
    directory.mkdir(parents=True, exist_ok=True)
    texts = Texts(name, digest, directory / "calibration.jsonl", directory / "held-out.jsonl")
    for path, documents in ((texts.calibration, calibration), (texts.held_out, held_out)):
        lines = [json.dumps(_as_line(document)) for document in documents]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return texts


def _as_line(document: Document) -> dict[str, Any]:
    return {"text": document} if isinstance(document, str) else {"messages": list(document)}
