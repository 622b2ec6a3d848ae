"""Whatever is sampled under a grammar keeps to it, and what cannot be held to is refused in words."""

from __future__ import annotations

import json
import random
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import metaspace_tokenizer, write_tokenizer
from vivace.engine.constraint import Grammar, ask_mask
from vivace.errors import RequestError
from vivace.grammar import MAX_KEPT, GrammarCompiler, json_rule
from vivace.tokenizer import Tokenizer

END = 258
VOCAB_SIZE = 300
"""More than the tokenizer has: models pad their vocabularies."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.open(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, VOCAB_SIZE, (END,))


def sample(compiler: GrammarCompiler, tokenizer: Tokenizer, grammar: Grammar, seed: int = 0, end: int = END) -> str:
    """A text at random that the grammar allows, to its end."""
    constraint, rng, tokens = compiler(grammar), random.Random(seed), list[int]()
    for _ in range(3000):
        mask = ask_mask(constraint, VOCAB_SIZE)
        allowed = [id for id in range(VOCAB_SIZE) if mask[id // 8] >> id % 8 & 1]
        token = end if end in allowed and (len(tokens) > 40 or rng.random() < 0.3) else rng.choice(allowed)
        if token == end:
            return tokenizer.decode(tokens)
        constraint.accept(token)
        tokens.append(token)
    raise AssertionError("it never ended")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pattern", ["[a-c]{3}-[0-9]{2}", "(yes|no)", "你好[a-z]?", "é+", r"\d{4}-\d{2}"])
def test_a_text_under_a_regular_expression_matches_it_whole(
    compiler: GrammarCompiler, tokenizer: Tokenizer, pattern: str, seed: int
) -> None:
    assert re.fullmatch(pattern, sample(compiler, tokenizer, Grammar("regex", pattern), seed))


PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "李"]}, "age": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(10))
def test_a_text_under_a_schema_is_json_that_keeps_to_it(
    compiler: GrammarCompiler, tokenizer: Tokenizer, seed: int
) -> None:
    person = json.loads(sample(compiler, tokenizer, Grammar("json_schema", json.dumps(PERSON)), seed))
    assert person.keys() == {"name", "age"}
    assert person["name"] in ("Ada", "李")
    assert 0 <= person["age"] <= 9


def test_a_schema_is_a_part_of_a_larger_grammar(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    text = sample(compiler, tokenizer, Grammar("lark", f'start: "<" {json_rule(PERSON)} ">"'))
    assert (text[0], text[-1]) == ("<", ">")
    assert json.loads(text[1:-1])["name"]


def test_space_in_json_is_bounded(compiler: GrammarCompiler) -> None:
    constraint = compiler(Grammar("json_schema", '{"type": "object"}'))
    for byte in b"{\n" + b" " * 16:
        constraint.accept(byte)
    mask = ask_mask(constraint, VOCAB_SIZE)
    assert not mask[ord(" ") // 8] >> ord(" ") % 8 & 1


def test_only_the_end_of_the_turn_may_follow_what_is_whole(compiler: GrammarCompiler) -> None:
    constraint = compiler(Grammar("regex", "ab"))
    for byte in b"ab":
        constraint.accept(byte)
    mask = ask_mask(constraint, VOCAB_SIZE)
    assert [id for id in range(VOCAB_SIZE) if mask[id // 8] >> id % 8 & 1] == [END]


def test_special_tokens_are_no_text_of_any_grammar(compiler: GrammarCompiler) -> None:
    mask = ask_mask(compiler(Grammar("regex", r"(.|\n)*")), VOCAB_SIZE)
    allowed = {id for id in range(VOCAB_SIZE) if mask[id // 8] >> id % 8 & 1}
    assert allowed >= {ord("<"), ord("a"), END}
    assert not allowed & {256, 257, *range(260, VOCAB_SIZE)}


def test_a_vocabulary_whose_spaces_are_marked_spells_the_same_texts(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    metaspace_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.open(tmp_path)
    end = min(tokenizer.special_ids)
    compiler = GrammarCompiler(tokenizer, VOCAB_SIZE, (end,))
    for seed in range(5):
        assert re.fullmatch("[hé]{2} [a-z]", sample(compiler, tokenizer, Grammar("regex", "[hé]{2} [a-z]"), seed, end))


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar("regex", "(("), "regular expression cannot be held to"),
        (Grammar("json_schema", '{"type": "objct"}'), "objct"),
        (Grammar("json_schema", '{"type": "array", "uniqueItems": true}'), "uniqueItems"),
        (Grammar("json_schema", '{"$ref": "http://elsewhere/schema"}'), "does not fetch"),
        (Grammar("json_schema", "nope"), "JSON schema cannot be held to"),
        (Grammar("json_schema", '{"a":' * 300 + "1" + "}" * 300), "JSON schema cannot be held to"),
        (Grammar("lark", "start: nobody"), "nobody"),
    ],
)
def test_what_cannot_be_held_to_is_refused_in_words(compiler: GrammarCompiler, grammar: Grammar, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        compiler(grammar)


def test_without_an_end_of_the_turn_no_grammar_could_end(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="no end-of-turn token"):
        GrammarCompiler(tokenizer, VOCAB_SIZE, ())(Grammar("regex", "a"))


def test_a_token_that_was_not_allowed_is_an_error_and_no_crash(compiler: GrammarCompiler) -> None:
    constraint = compiler(Grammar("regex", "ab"))
    with pytest.raises(ValueError, match=r"\w"):
        constraint.accept(ord("z"))


def test_two_answers_under_one_grammar_do_not_meet(compiler: GrammarCompiler) -> None:
    first, second = compiler(Grammar("regex", "xy")), compiler(Grammar("regex", "xy"))
    first.accept(ord("x"))
    assert ask_mask(first, VOCAB_SIZE) != ask_mask(second, VOCAB_SIZE)


def test_grammars_that_are_kept_are_bounded(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, VOCAB_SIZE, (END,))
    for index in range(MAX_KEPT + 10):
        compiler(Grammar("regex", f"a{index}"))
    assert len(compiler._kept) == MAX_KEPT


_schemas: Any = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "boolean"}, {"enum": [1, "x"]}, True, 7, "type", None]),
    lambda inner: (
        st.dictionaries(st.sampled_from(["type", "properties", "items", "anyOf", "$ref", "pattern"]), inner, max_size=3)
        | st.lists(inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(text=_schemas.map(json.dumps) | st.text(max_size=40), syntax=st.sampled_from(["json_schema", "regex", "lark"]))
def test_any_grammar_is_compiled_or_refused_and_soon(compiler: GrammarCompiler, text: str, syntax: Any) -> None:
    began = time.monotonic()
    with suppress(RequestError):
        ask_mask(compiler(Grammar(syntax, text)), VOCAB_SIZE)
    assert time.monotonic() - began < 10
