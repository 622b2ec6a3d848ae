"""Grammars to constraints: JSON schemas, regular expressions and Lark grammars, by llguidance.

Knows the vocabulary's spelling and its end-of-turn tokens; knows no request, no engine and no runner.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import llguidance

from vivace.engine.constraint import Constraint, Grammar
from vivace.errors import RequestError
from vivace.tokenizer import Tokenizer, is_panic

MAX_KEPT = 128
"""Compiled grammars that are kept for the next request that brings the same one."""

WHITESPACE = r"( |\n {0,16})?"
"""Between the parts of a JSON text: a space or a line break with its indent. A small model may never leave more."""


class GrammarCompiler:
    """Compiles grammars for one vocabulary. Any number of threads may call it.

    The vocabulary is read when the first grammar comes.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_token_ids: Sequence[int]) -> None:
        """`stop_token_ids` end a turn: they may follow once the grammar is satisfied."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stops = [token for token in stop_token_ids if token < vocab_size]
        self._lock = threading.Lock()
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._kept: OrderedDict[Grammar, llguidance.LLMatcher] = OrderedDict()

    def __call__(self, grammar: Grammar) -> Constraint:
        """Raises `RequestError`, in the words of the library, for a grammar that it cannot read or hold to."""
        if not self._stops:
            raise RequestError("This model names no end-of-turn token, so no grammar could end. Leave the grammar out.")
        with self._lock:
            matcher = self._kept.get(grammar)
            if matcher is None:
                matcher = self._kept[grammar] = self._compile(grammar)
                if len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(grammar)
            return _Matching(matcher.deep_copy(), self._vocab_size)

    def _compile(self, grammar: Grammar) -> llguidance.LLMatcher:
        if self._vocabulary is None:
            self._vocabulary = llguidance.LLTokenizer(
                llguidance.TokenizerWrapper(_Spelled(self._tokenizer, self._vocab_size, self._stops[0])),
                n_vocab=self._vocab_size,
                eos_token=self._stops,
            )
        try:
            matcher = llguidance.LLMatcher(self._vocabulary, _write(grammar), log_level=0, limits=_LIMITS)
            problem = matcher.get_error()
            if not problem:
                matcher.compute_bitmask()
                problem = matcher.get_error()
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            problem = str(error)
        if problem:
            raise RequestError(f"The {_NAMES[grammar.syntax]} cannot be held to: {_shorten(problem)}. Change it.")
        return matcher


_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}
_LIMITS = llguidance.LLParserLimits(verbose_errors=False)


def _write(grammar: Grammar) -> str:
    """The grammar as the library takes it."""
    if grammar.syntax == "regex":
        return llguidance.LLMatcher.grammar_from_regex(grammar.text)
    if grammar.syntax == "lark":
        return llguidance.LLMatcher.grammar_from_lark(grammar.text)
    options: Any = {"whitespace_pattern": WHITESPACE}
    return llguidance.LLMatcher.grammar_from_json_schema(grammar.text, overrides=options)


def json_rule(schema: object) -> str:
    """A JSON schema as a part of a Lark grammar, with the same bound on its whitespace."""
    held = schema if isinstance(schema, dict) else {"allOf": [schema]}
    return f"%json {json.dumps(held | {'x-guidance': {'whitespace_pattern': WHITESPACE}})}"


def _shorten(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(".") or "the library gave no reason"


class _Matching:
    """One answer's way through a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._mask_bytes = -(-vocab_size // 8)

    def mask(self) -> bytes:
        mask: bytes = _shield(self._matcher.compute_bitmask)[: self._mask_bytes]
        if self._matcher.is_error():
            raise ValueError(_shorten(self._matcher.get_error()))
        return mask

    def accept(self, token: int) -> None:
        if not _shield(self._matcher.consume_token, token):
            raise ValueError(_shorten(self._matcher.get_error()))


def _shield(call: Any, *arguments: Any) -> Any:
    """The library's own panics are no `Exception`, and would end whoever calls it."""
    try:
        return call(*arguments)
    except BaseException as error:
        if is_panic(error):
            raise ValueError(_shorten(str(error))) from error
        raise


class _Spelled:
    """A vocabulary in the words of `llguidance.TokenizerWrapper`."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_id: int) -> None:
        self.eos_token_id = eos_token_id
        self.bos_token_id = None
        self.tokens = [tokenizer.spell(id) for id in range(vocab_size)]
        self.special_token_ids = [id for id in sorted(tokenizer.special_ids) if id < vocab_size]
        self._tokenizer = tokenizer
        self._longest = max(map(len, self.tokens))
        special = tokenizer.special_ids
        self._ids = {spelling: id for id, spelling in reversed([*enumerate(self.tokens)]) if id not in special}

    def __call__(self, text: bytes) -> list[int]:
        """Tokens that spell exactly this, as the tokenizer has them unless it adds to a text or changes it."""
        try:
            ids = self._tokenizer.encode(text.decode(), special=False)
        except UnicodeDecodeError:
            return self._spell_greedily(text)
        spelled = b"".join(self.tokens[id] for id in ids if id < len(self.tokens))
        return ids if spelled == text else self._spell_greedily(text)

    def _spell_greedily(self, text: bytes) -> list[int]:
        """The longest token at each place; bytes that no token spells are left out."""
        ids, start = [], 0
        while start < len(text):
            longest = range(min(self._longest, len(text) - start), 0, -1)
            size = next((size for size in longest if text[start : start + size] in self._ids), 0)
            if size:
                ids.append(self._ids[text[start : start + size]])
            start += size or 1
        return ids
