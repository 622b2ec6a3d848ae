"""The tokenizer that a GGUF file describes, rebuilt from its list of tokens.

Two kinds are read: `gpt2`, byte-level pieces joined by a list of merges after a split by a pattern that the file only
names; and `llama`, SentencePiece's pieces with scores, where the pair whose joint has the best score is joined first,
which a list of merges in the order of scores does too. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Vocabulary

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.config import MAX_VOCAB
from vivace.models.fields import Fields
from vivace.models.gguf import GgufFile
from vivace.tokenizer import Tokenizer, is_panic

MAX_PIECE_CHARACTERS = 1024
MAX_MERGES = 1 << 22

_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
"""Kinds of tokens; the rest stand for bytes or are not in use."""

_ROLES = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
    "seperator": "sep_token",
    "mask": "mask_token",
}
"""By the word in a key, as the format spells it."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The list of tokens, checked."""

    fields: Fields
    texts: list[str]
    kinds: list[int]

    def named(self, role: str) -> int | None:
        """The id of a special token."""
        key = f"tokenizer.ggml.{role}_token_id"
        return self.fields.integer(key, 0, len(self.texts) - 1) if key in self.fields else None

    @property
    def vocabulary(self) -> dict[str, int]:
        return {text: id for id, text in enumerate(self.texts) if text}

    def flag(self, name: str, default: bool) -> bool:
        return self.fields.boolean(f"tokenizer.ggml.{name}", default)


def read_gguf_tokenizer(file: GgufFile, architecture: str) -> Tokenizer:
    """The tokenizer and chat template of a file.

    Raises `CheckpointError` for lists that contradict each other, `UnsupportedModelError` for a kind of tokenizer that
    is not known.
    """
    fields = file.metadata
    tokens = _read_tokens(fields)
    kind = fields.text("tokenizer.ggml.model")
    if kind not in _KINDS:
        raise UnsupportedModelError(
            f"{file.path}: tokenizer.ggml.model is {kind!r}; supported are {', '.join(_KINDS)}."
        )
    try:
        vocabulary = _KINDS[kind](tokens, architecture)
        _add_special_tokens(vocabulary, tokens, strips=architecture == "phi3")
    except (UnsupportedModelError, CheckpointError):
        raise
    except BaseException as error:  # the library raises nothing more precise than Exception, and panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise CheckpointError(
            f"{file.path}: the tokens make no tokenizer ({error}). Download the file again."
        ) from error
    names = {role: tokens.texts[id] for word, role in _ROLES.items() if (id := tokens.named(word)) is not None}
    return Tokenizer.build(file.path, vocabulary, _read_templates(fields), names)


def _read_tokens(fields: Fields) -> _Tokens:
    texts = fields.values.get("tokenizer.ggml.tokens")
    if not isinstance(texts, list) or not texts or len(texts) > MAX_VOCAB:
        raise fields.error("tokenizer.ggml.tokens", f"a list of at most {MAX_VOCAB} strings")
    kinds = _read_numbers(fields, "token_type", len(texts), "iu")
    written = [text for text in texts if text]
    if len(set(written)) != len(written):
        raise CheckpointError(
            f"{fields.path}: tokenizer.ggml.tokens holds a token twice; the file was converted wrongly. Take another."
        )
    return _Tokens(fields, texts, [_NORMAL] * len(texts) if kinds is None else [int(kind) for kind in kinds])


def _read_numbers(fields: Fields, name: str, count: int, kinds: str) -> Any:
    """An array with a number for each token, or None."""
    value = fields.values.get(f"tokenizer.ggml.{name}")
    if value is not None and not (isinstance(value, np.ndarray) and value.dtype.kind in kinds and len(value) == count):
        raise fields.error(f"tokenizer.ggml.{name}", f"a list of {count} numbers, one for each token")
    return value


def _read_templates(fields: Fields) -> dict[str, str]:
    """The default one, and others by their names."""
    key = "tokenizer.chat_template"
    found = {name: fields.values[name] for name in fields if name == key or name.startswith(f"{key}.")}
    for name, value in found.items():
        if not isinstance(value, str):
            raise fields.error(name, "a string")
    return {"default" if name == key else name.removeprefix(f"{key}."): value for name, value in found.items()}


def _add_special_tokens(vocabulary: Vocabulary, tokens: _Tokens, strips: bool) -> None:
    """`strips`: control tokens take the spaces after them, as Phi-3's do, three excepted."""
    kept = ("<unk>", "<s>", "<|endoftext|>")
    special, plain = [], []
    for text, kind in zip(tokens.texts, tokens.kinds, strict=True):
        if text and kind in (_CONTROL, _UNKNOWN):
            special.append(AddedToken(text, special=True, normalized=False, rstrip=strips and text not in kept))
        elif text and kind == _USER_DEFINED:
            plain.append(AddedToken(text, special=False, normalized=False))
    vocabulary.add_special_tokens(special)
    vocabulary.add_tokens(plain)


def _surround(vocabulary: Vocabulary, tokens: _Tokens, begins: bool) -> None:
    """Put BOS before each text, EOS after it, where the file says so; `begins` is what silence on BOS means."""
    bos = tokens.named("bos") if tokens.flag("add_bos_token", begins) else None
    eos = tokens.named("eos") if tokens.flag("add_eos_token", False) else None
    if bos is None and eos is None:
        return
    around = {"bos": bos, "eos": eos}
    names = {role: (tokens.texts[id], id) for role, id in around.items() if id is not None}
    vocabulary.post_processor = processors.TemplateProcessing(
        single=[*(["bos"] if bos is not None else []), "$A", *(["eos"] if eos is not None else [])],
        special_tokens=[{"id": role, "ids": [id], "tokens": [text]} for role, (text, id) in names.items()],
    )


@dataclass(frozen=True, slots=True)
class _Split:
    """How a text is cut before its bytes are merged."""

    pattern: str | None
    """None: GPT-2's own."""
    digits: bool = False
    """Each digit alone, before the rest is cut."""
    normalizes: bool = False
    """To composed characters (NFC)."""
    begins: bool = False
    """Texts begin with BOS unless the file says otherwise."""
    ignores_merges: bool = False
    """A piece that is a token as it stands is not merged anew."""


_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2, _DIGITS = _Split(None), _Split(None, digits=True)
_LLAMA3 = _Split(_WORDS % "{1,3}", begins=True, ignores_merges=True)
_QWEN2 = _Split(_WORDS % "", normalizes=True)

_SPLITS: dict[str, _Split] = {
    "gpt-2": _GPT2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "megrez": _QWEN2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "tekken": _Split(_CASED_WORDS, begins=True, ignores_merges=True),
}
"""By `tokenizer.ggml.pre`. The patterns are those of the models' tokenizer.json."""

_SPLIT_OF_ARCHITECTURE = {"gpt2": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}
"""Where a file, being old, names none; architectures that occur with several are not here."""


def _build_byte_level(tokens: _Tokens, architecture: str) -> Vocabulary:
    fields = tokens.fields
    name = fields.text("tokenizer.ggml.pre", "default")
    split = _SPLITS.get(_SPLIT_OF_ARCHITECTURE.get(architecture, name) if name == "default" else name)
    if split is None:
        raise UnsupportedModelError(
            f"{fields.path}: tokenizer.ggml.pre is {name!r}; supported are {', '.join(_SPLITS)}. Take a file that a "
            "recent converter made, or the model's Hugging Face directory."
        )
    model = models.BPE(tokens.vocabulary, list(_read_merges(fields)), ignore_merges=split.ignores_merges)
    vocabulary = Vocabulary(model)
    if split.normalizes:
        vocabulary.normalizer = normalizers.NFC()
    vocabulary.pre_tokenizer = pre_tokenizers.Sequence(list(_cut(split, tokens.flag("add_space_prefix", False))))
    vocabulary.decoder = decoders.ByteLevel()
    _surround(vocabulary, tokens, split.begins)
    return vocabulary


def _cut(split: _Split, space_prefix: bool) -> Iterator[Any]:
    if split.digits:
        yield pre_tokenizers.Digits(individual_digits=True)
    if split.pattern is not None:
        yield pre_tokenizers.Split(Regex(split.pattern), "isolated")
    yield pre_tokenizers.ByteLevel(add_prefix_space=space_prefix, use_regex=split.pattern is None)


def _read_merges(fields: Fields) -> Iterator[tuple[str, str]]:
    """Pairs with a space between; a piece may begin with one."""
    merges = fields.values.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise fields.error("tokenizer.ggml.merges", "a list of strings")
    for merge in merges:
        cut = merge.find(" ", 1)
        if cut < 0:
            raise CheckpointError(
                f"{fields.path}: tokenizer.ggml.merges holds {merge[:50]!r}, which is no pair. Download the file again."
            )
        yield merge[:cut], merge[cut + 1 :]


def _build_scored(tokens: _Tokens, architecture: str) -> Vocabulary:
    fields = tokens.fields
    scores = _read_numbers(fields, "scores", len(tokens.texts), "f")
    if scores is None or not np.isfinite(scores).all():
        raise fields.error("tokenizer.ggml.scores", "a list of finite numbers, one for each token")
    unknown = tokens.named("unknown")
    model = models.BPE(
        tokens.vocabulary,
        _merges_of_scores(tokens, scores.tolist()),
        unk_token=None if unknown is None else tokens.texts[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    vocabulary = Vocabulary(model)
    prefix = tokens.flag("add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    vocabulary.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    stages = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    vocabulary.decoder = decoders.Sequence([*stages, decoders.Strip(" ", 1, 0)] if prefix else stages)
    _surround(vocabulary, tokens, begins=True)
    return vocabulary


def _merges_of_scores(tokens: _Tokens, scores: list[float]) -> list[tuple[str, str]]:
    """Each way to join two pieces into a third, those of the best third first, and of one third the best halves."""
    joinable = (_NORMAL, _USER_DEFINED)
    pieces = {
        text: (scores[id], -id)
        for id, (text, kind) in enumerate(zip(tokens.texts, tokens.kinds, strict=True))
        if text and kind in joinable
    }
    if any(len(text) > MAX_PIECE_CHARACTERS for text in pieces):
        raise CheckpointError(
            f"{tokens.fields.path}: tokenizer.ggml.tokens holds a piece of more than {MAX_PIECE_CHARACTERS} "
            "characters; this is no tokenizer. Download the file again."
        )
    joins = (
        (pieces[text], min(pieces[left], pieces[right]), left, right)
        for text in pieces
        for left, right in _halves(text)
        if left in pieces and right in pieces
    )
    merges = sorted(islice(joins, MAX_MERGES + 1), key=lambda merge: merge[:2], reverse=True)
    if len(merges) > MAX_MERGES:
        raise CheckpointError(
            f"{tokens.fields.path}: the pieces of tokenizer.ggml.tokens join in more than {MAX_MERGES} ways; this is "
            "no tokenizer. Download the file again."
        )
    return [(left, right) for _, _, left, right in merges]


def _halves(text: str) -> Iterator[tuple[str, str]]:
    return ((text[:cut], text[cut:]) for cut in range(1, len(text)))


_KINDS: dict[str, Callable[[_Tokens, str], Vocabulary]] = {"gpt2": _build_byte_level, "llama": _build_scored}
