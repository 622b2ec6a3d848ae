"""Tokens to text, one at a time: what `decode` gives for all of them, as soon as it is certain.

A tokenizer's decoder is resolved once into a `Spelling`: what each token contributes, text or bytes. After that a
token costs a look-up; nothing is decoded twice. Knows tokens and stop strings; knows no model and no template.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from vivace.errors import UnsupportedModelError

REPLACEMENT = "\ufffd"

_FALLBACK_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Spelling:
    """What each token of a vocabulary contributes to the text."""

    vocabulary: tokenizers.Tokenizer
    byte_level: bool
    """A token's characters stand for bytes; the text is all tokens' bytes as UTF-8, with U+FFFD for what is none."""
    space: str = ""
    """The character that stands for a space, if any."""
    byte_fallback: bool = False
    """Tokens such as <0x0A> are bytes; a run of them that is not UTF-8 becomes one U+FFFD a byte."""
    leading: tuple[str, int] = ("", 0)
    """A character, and how many of it are cut from the beginning of the text."""
    drops_first_space: bool = False
    """The first token's space characters are left out."""
    skipped: frozenset[int] = frozenset()
    """Special tokens, which are not text."""
    _pieces: dict[int, str | bytes] = field(default_factory=dict, repr=False, compare=False)

    def piece(self, token: int) -> str | bytes:
        """Bytes, if the token stands for some, else text. Nothing for special and unknown tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._spell(token)
        return piece

    def _spell(self, token: int) -> str | bytes:
        text: str | None = None if token in self.skipped else self.vocabulary.id_to_token(token)
        if text is None:
            return ""
        if self.byte_level:
            known = all(character in _BYTES for character in text)
            return bytes(_BYTES[character] for character in text) if known else text.encode()
        if self.byte_fallback and (match := _FALLBACK_BYTE.fullmatch(text)):
            return bytes.fromhex(match[1])
        return text.replace(self.space, " ") if self.space and not self.drops_first_space else text


def read_spelling(vocabulary: tokenizers.Tokenizer, path: Path) -> Spelling:
    """Resolve the decoder of a tokenizer that was read from `path`.

    Raises `UnsupportedModelError` for a decoder that is neither byte-level nor one of the metaspace kind.
    """
    skipped = frozenset(id for id, token in vocabulary.get_added_tokens_decoder().items() if token.special)
    stages = _stages(vocabulary)
    match [stage.get("type") for stage in stages]:
        case ["ByteLevel"]:
            return Spelling(vocabulary, byte_level=True, skipped=skipped)
        case ["Metaspace"]:
            drops = stages[0].get("prepend_scheme") != "never"
            return Spelling(vocabulary, False, stages[0]["replacement"], drops_first_space=drops, skipped=skipped)
        case _ if (settings := _read_stages(stages)) is not None:
            return Spelling(vocabulary, byte_level=False, skipped=skipped, **settings)
    raise UnsupportedModelError(
        f"{path}: the decoder is {[stage.get('type') for stage in stages]}; supported are ByteLevel, Metaspace, and a "
        "sequence of Replace (a character by a space), ByteFallback, Fuse and Strip (at the start)."
    )


def _stages(vocabulary: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    if vocabulary.decoder is None:
        return []
    decoder = json.loads(vocabulary.decoder.__getstate__())
    stages: list[dict[str, Any]] = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
    return stages


def _read_stages(stages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The settings that a sequence of stages amounts to; None if it is not of the kind that is known."""
    settings: dict[str, Any] = {}
    rest = list(stages)
    if rest and rest[0].get("type") == "Replace":
        stage = rest.pop(0)
        settings["space"] = stage["pattern"].get("String", "")
        if not settings["space"] or stage["content"] != " ":
            return None
    if rest and rest[0].get("type") == "ByteFallback":
        rest.pop(0)
        settings["byte_fallback"] = True
    if not rest or rest.pop(0).get("type") != "Fuse":
        return None
    if rest and rest[0].get("type") == "Strip":
        stage = rest.pop(0)
        settings["leading"] = (stage["content"], stage["start"])
        if stage["stop"]:
            return None
    return None if rest else settings


class TextStream:
    """Tokens in, text out. Joined, what `push` and `finish` return is `decode` of all the tokens, cut before the
    first stop string; how tokens are grouped into pushes makes no difference.

    The first stop string is the one that is whole first; of those whole with the same character, the one that began
    first.
    """

    def __init__(self, spelling: Spelling, stop: Sequence[str] = ()) -> None:
        self._detokenizer = _detokenizer(spelling)
        self._stop = tuple(stop)
        self._pending = ""
        self._stopped = False
        self._count = 0

    @property
    def stopped(self) -> bool:
        """A stop string was met: it and all that follows is dropped."""
        return self._stopped

    @property
    def token_count(self) -> int:
        """Tokens taken, up to and including the one that completed a stop string."""
        return self._count

    def push(self, tokens: Sequence[int]) -> str:
        """New text that no later token can change: no part of a character, no part of a possible stop string."""
        for token in tokens:
            if self._stopped:
                break
            self._count += 1
            self._pending += self._detokenizer.feed(token)
            if self._stop:
                self._seek_stop(self._pending + self._detokenizer.tentative)
        return self._release(0 if self._stopped else _partial_stop(self._pending, self._stop))

    def finish(self) -> str:
        """The rest, now that no token follows. What was left of a character becomes U+FFFD."""
        if not self._stopped:
            self._pending += self._detokenizer.finish()
            self._seek_stop(self._pending)
        return self._release(0)

    def _seek_stop(self, text: str) -> None:
        met = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if met:
            self._stopped = True
            self._pending = text[: min(met)[1]]

    def _release(self, keep: int) -> str:
        cut = len(self._pending) - keep
        text, self._pending = self._pending[:cut], self._pending[cut:]
        return text


def _partial_stop(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of the text may be the beginning of a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest


class _ByteDetokenizer:
    """Byte-level vocabularies. Nothing is ever tentative: a character is whole or it is not there."""

    tentative = ""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        piece = self._spelling.piece(token)
        return self._utf8.decode(piece) if isinstance(piece, bytes) else piece

    def finish(self) -> str:
        return self._utf8.decode(b"", True)


class _TextDetokenizer:
    """Metaspace vocabularies, with bytes for what they cannot spell.

    A run of byte tokens is certain only once it ends, because one byte that is no UTF-8 makes U+FFFD of them all.
    """

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._first = True
        self._leading = spelling.leading[1]
        self._begin_run()

    def _begin_run(self) -> None:
        self._run_bytes = 0
        self._run_text = ""
        self._utf8: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")("strict")

    @property
    def tentative(self) -> str:
        """What `finish` would return, if that is whole characters."""
        return self._cut_leading(self._run_text)[0] if self._run_text and self._run_is_whole() else ""

    def feed(self, token: int) -> str:
        piece = self._spelling.piece(token)
        if isinstance(piece, bytes):
            self._feed_byte(piece)
            return ""
        return self._settle(self._end_run() + self._replace_spaces(piece)) if piece else ""

    def finish(self) -> str:
        return self._settle(self._end_run())

    def _feed_byte(self, byte: bytes) -> None:
        self._first = False
        self._run_bytes += 1
        try:
            self._run_text += self._utf8.decode(byte) if self._utf8 else ""
        except UnicodeDecodeError:
            self._utf8 = None

    def _run_is_whole(self) -> bool:
        return self._utf8 is not None and not self._utf8.getstate()[0]

    def _end_run(self) -> str:
        if not self._run_bytes:
            return ""
        text = self._run_text if self._run_is_whole() else REPLACEMENT * self._run_bytes
        self._begin_run()
        return text

    def _replace_spaces(self, piece: str) -> str:
        if self._spelling.drops_first_space:
            piece = piece.replace(self._spelling.space, "" if self._first else " ")
        self._first = False
        return piece

    def _settle(self, text: str) -> str:
        text, self._leading = self._cut_leading(text)
        return text

    def _cut_leading(self, text: str) -> tuple[str, int]:
        """The text without the leading characters that are still to be cut, and how many remain to be cut."""
        left = self._leading
        if not left or not text:
            return text, left
        character = self._spelling.leading[0]
        count = min(left, len(text) - len(text.lstrip(character)))
        return text[count:], left - count if count == len(text) else 0


def _detokenizer(spelling: Spelling) -> _ByteDetokenizer | _TextDetokenizer:
    return _ByteDetokenizer(spelling) if spelling.byte_level else _TextDetokenizer(spelling)


def _byte_alphabet() -> dict[str, int]:
    """The character that byte-level vocabularies write for each byte: itself if it prints, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_alphabet()
