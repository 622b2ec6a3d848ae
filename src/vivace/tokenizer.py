"""Text to tokens and back, by the tokenizer.json and the chat template of a Hugging Face directory.

Knows no model: whether the ids are inside its vocabulary is checked where a request is built.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from vivace.chat_template import ChatTemplate
from vivace.detokenizer import Spelling, TextStream, read_spelling
from vivace.errors import CheckpointError, RequestError
from vivace.models.fields import MAX_JSON_BYTES, Fields, read_fields

__all__ = ["TextStream", "Tokenizer"]

MAX_TOKENIZER_BYTES = 1 << 28

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_SEAM = "\ufdd0"
"""A code point that no text may hold. It marks where a special token's name in a message is cut in two."""


class Tokenizer:
    """One checkpoint's tokenizer. Any number of threads may use it at once."""

    def __init__(
        self, vocabulary: tokenizers.Tokenizer, spelling: Spelling, template: ChatTemplate, names: Mapping[str, str]
    ) -> None:
        """`names` are the special tokens that tokenizer_config.json names, as in `bos_token`."""
        self._vocabulary = vocabulary
        self._spelling = spelling
        self._template = template
        self._names = dict(names)
        self._control = _control_pattern(vocabulary)

    @staticmethod
    def open(directory: Path) -> Tokenizer:
        """Read tokenizer.json, tokenizer_config.json and the chat template, in either of its places.

        Raises `CheckpointError` for a file that is missing or broken, `UnsupportedModelError` for a decoder that is
        not known.
        """
        path = directory / "tokenizer.json"
        vocabulary = _read_vocabulary(path)
        config = directory / "tokenizer_config.json"
        fields = read_fields(config) if config.exists() else Fields(config, {})
        names = _read_names(fields, directory / "special_tokens_map.json")
        return Tokenizer.build(path, vocabulary, _read_templates(fields, directory / "chat_template.jinja"), names)

    @staticmethod
    def build(
        path: Path, vocabulary: tokenizers.Tokenizer, templates: Mapping[str, str], names: Mapping[str, str]
    ) -> Tokenizer:
        """From parts that were read from `path`: `templates` by name, special tokens by role.

        Raises `UnsupportedModelError` for a decoder that is not known.
        """
        return Tokenizer(vocabulary, read_spelling(vocabulary, path), ChatTemplate(templates, names), names)

    def is_same(self, other: Tokenizer) -> bool:
        """Whether both make the same tokens of every text and every conversation."""
        return self is other or (
            self.has_same_vocabulary(other) and self._template.is_same(other._template) and self._names == other._names
        )

    def has_same_vocabulary(self, other: Tokenizer) -> bool:
        """Whether a token of one is the same piece of text in the other, whatever templates make of conversations."""
        return self is other or self._vocabulary.to_str() == other._vocabulary.to_str()

    @property
    def bos_token(self) -> str | None:
        return self._names.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self._names.get("eos_token")

    @property
    def has_chat_template(self) -> bool:
        return bool(self._template)

    @property
    def tool_template(self) -> str | None:
        """The chat template's text for requests with tools; None if it takes none."""
        return self._template.tool_source

    def prepare_chat(self) -> None:
        """Compile the chat template now, so that the first conversation waits for nothing."""
        self._template.prepare()

    @property
    def special_names(self) -> frozenset[str]:
        """What the tokens that are no text are called."""
        names = (self._vocabulary.id_to_token(id) for id in self._spelling.skipped)
        return frozenset(name for name in names if name)

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text."""
        return self._spelling.skipped

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids. `special` adds what the tokenizer puts around a text, such as a BOS token.

        Names of special tokens in the text become those tokens: a raw prompt is the caller's to write. Raises
        `RequestError` for half a surrogate pair, which is no text.
        """
        try:
            ids: list[int] = self._vocabulary.encode(text, add_special_tokens=special).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError("The text holds half a surrogate pair, which is no character. Send UTF-8.") from error
        except BaseException as error:
            _refuse_panic(error)
            raise
        return ids

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of a conversation, as the template writes it; it adds BOS itself where the model wants one.

        Texts are brought to Unicode's composed form first, and lose what no text holds; see `normalize_text`. The name
        of a special token inside a message is encoded as the plain text it is, in two pieces, so nobody
        can end a turn or begin another by typing it. This holds for special tokens of two characters or more that
        the tokenizer finds in the text as written, before any normalisation. Raises `RequestError` when there is no
        template or it refuses the messages.
        """
        text = self._template.render(
            _guard(messages, self._control),
            add_generation_prompt=add_generation_prompt,
            tools=_guard(tools, self._control),
        )
        return [id for piece in text.split(_SEAM) if piece for id in self.encode(piece, special=False)]

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The text that the template makes of a conversation. Raises `RequestError` as `encode_chat` does."""
        return self._template.render(list(messages), add_generation_prompt=add_generation_prompt, tools=tools)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones. Bytes that are no UTF-8 become U+FFFD."""
        try:
            text: str = self._vocabulary.decode(list(ids), skip_special_tokens=True)
        except BaseException as error:
            _refuse_panic(error)
            raise
        return text

    def spell(self, id: int) -> bytes:
        """What one token stands for by itself, which may be half a character; of a special token, its name."""
        piece = self._spelling.piece(id)
        if isinstance(piece, bytes):
            return piece
        name: str = piece or self._vocabulary.id_to_token(id) or ""
        return (name.replace(self._spelling.space, " ") if piece and self._spelling.space else name).encode()

    def stream(self, stop: Sequence[str] = ()) -> TextStream:
        """A new incremental decoder that ends before the first of the stop strings."""
        return TextStream(self._spelling, stop)


def is_panic(error: BaseException) -> bool:
    """Whether the tokenizers library failed in the middle of its work, as it does over a file that contradicts itself.

    Its panics are no `Exception`, and it exports no name for them.
    """
    return type(error).__name__ == "PanicException"


def _refuse_panic(error: BaseException) -> None:
    """Raise `CheckpointError` in place of a panic in using a vocabulary."""
    if is_panic(error):
        raise CheckpointError(
            f"The model's tokenizer failed at its work ({error}); its tokenizer file contradicts itself. Download it "
            "again."
        ) from error


def _read_vocabulary(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing. If the model has only a tokenizer.model, save its tokenizer again with transformers, "
            "which writes tokenizer.json."
        )
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_TOKENIZER_BYTES >> 20} MiB; this is no tokenizer.")
    try:
        vocabulary = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # the library raises nothing more precise than Exception, and panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise CheckpointError(f"{path} cannot be read ({error}); download the file again.") from error
    vocabulary.no_truncation()
    vocabulary.no_padding()
    return vocabulary


def _read_names(config: Fields, fallback: Path) -> dict[str, str]:
    """Special tokens by their roles; older directories keep them in a file of their own."""
    older = read_fields(fallback) if fallback.exists() else Fields(fallback, {})
    names = {}
    for role in _SPECIAL_TOKENS:
        fields = config if role in config else older
        value = fields.values.get(role)
        if value is not None:
            names[role] = fields.child(role).text("content") if isinstance(value, dict) else fields.text(role)
    return names


def _read_templates(config: Fields, path: Path) -> dict[str, str]:
    """Templates by name, from a file of their own or else from tokenizer_config.json: one, or a list with names."""
    if path.is_file():
        return {"default": _read_text(path)}
    value = config.values.get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if not isinstance(value, list):
        raise config.error("chat_template", "a string or a list of templates with names")
    templates = [Fields(config.path, entry if isinstance(entry, dict) else {}, "chat_template.") for entry in value]
    if not all(isinstance(fields.values.get("template"), str) for fields in templates):
        raise config.error("chat_template", "a list of objects, each with a name and a template")
    return {fields.text("name"): fields.values["template"] for fields in templates}


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB; this is no chat template.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download the file again.") from error


def _control_pattern(vocabulary: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    """Matches the first character of every special token's name, wherever names overlap."""
    added = vocabulary.get_added_tokens_decoder().values()
    names = [re.escape(token.content) for token in added if token.special and len(token.content) > 1]
    return re.compile(f"(?=(?:{'|'.join(names)}))(.)", re.DOTALL) if names else None


_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufeff\ufffe\uffff]")


def normalize_text(text: str) -> str:
    """NFC, with lines ended by a line feed alone, and without control characters, byte order marks and noncharacters.

    Tabs stay, and so does what joins or directs characters, which some scripts and emoji need.
    """
    if text.isascii() and text.isprintable():
        return text
    return _NO_TEXT.sub("", unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")))


def _guard(value: Any, control: re.Pattern[str] | None) -> Any:
    """A copy, normalised, in which every special token's name has a seam after its first character."""
    if isinstance(value, str):
        text = normalize_text(value)
        return control.sub(rf"\1{_SEAM}", text) if control else text
    if isinstance(value, Mapping):
        return {key: _guard(entry, control) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_guard(entry, control) for entry in value]
    return value
