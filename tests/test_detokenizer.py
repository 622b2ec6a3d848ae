"""Incremental text is the text of all tokens, whatever they are and however they arrive."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Vocabulary

from tests.checkpoints import byte_level_tokenizer, metaspace_tokenizer
from vivace.detokenizer import Spelling, TextStream, read_spelling
from vivace.models.hub import locate_model


def merged_byte_level() -> Vocabulary:
    """The embedded model's, with tokens of several bytes, parts of characters among them, and more added ones."""
    vocabulary = Vocabulary.from_file(str(locate_model("mini") / "tokenizer.json"))
    vocabulary.add_tokens([AddedToken("<tool call>"), AddedToken("<é>"), AddedToken("<plain>")])
    return vocabulary


def gemma_like() -> Vocabulary:
    """As Llama's, but no leading space is cut."""
    vocabulary = metaspace_tokenizer()
    vocabulary.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return vocabulary


def three_spaces_cut() -> Vocabulary:
    vocabulary = metaspace_tokenizer()
    stages = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 3, 0)]
    vocabulary.decoder = decoders.Sequence(stages)
    return vocabulary


def unigram(prepend: str = "always") -> Vocabulary:
    pieces = ["<unk>", "▁", "▁he", "llo", "▁▁", "a▁b", "é", "你", "🙂", "!"]
    vocabulary = Vocabulary(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    vocabulary.decoder = decoders.Metaspace(prepend_scheme=prepend)
    vocabulary.add_special_tokens(["<s>"])
    return vocabulary


VOCABULARIES = {
    "bytes": byte_level_tokenizer(),
    "byte-level": merged_byte_level(),
    "llama": metaspace_tokenizer(),
    "gemma": gemma_like(),
    "three spaces": three_spaces_cut(),
    "unigram": unigram(),
    "unigram first": unigram("first"),
    "unigram never": unigram("never"),
}
SPELLINGS = {name: read_spelling(vocabulary, Path("tokenizer.json")) for name, vocabulary in VOCABULARIES.items()}

TEXTS = [
    "hello wallo",
    "  two  spaces",
    " ",
    "",
    "é 你好 🙂👩‍👩‍👧!",
    "\n\n\tx",
    "ﷺ\u0301a\u200d",
    "Ha. \U0001d518\U0001d52b",
]

text_of_sorts = st.text(alphabet="he lo你é🙂\n!", max_size=12) | st.text(max_size=6)


@st.composite
def tokens_of(draw: st.DrawFn, name: str) -> list[int]:
    """Ids of text, at random, of single bytes, special and unknown ones among each other."""
    vocabulary = VOCABULARIES[name]
    parts: list[int] = []
    for _ in range(draw(st.integers(0, 5))):
        if draw(st.booleans()):
            parts += vocabulary.encode(draw(text_of_sorts)).ids
        else:
            parts += draw(st.lists(st.integers(0, vocabulary.get_vocab_size() + 2), max_size=6))
    return parts


def cut(draw: st.DataObject, ids: list[int]) -> list[list[int]]:
    """The ids in groups of random sizes, empty ones among them."""
    groups, rest = [], ids
    while rest:
        size = draw.draw(st.integers(0, min(4, len(rest))))
        groups.append(rest[:size])
        rest = rest[size:]
    return groups


def run(spelling: Spelling, groups: list[list[int]], stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(spelling, stop)
    return [*(stream.push(group) for group in groups), stream.finish()], stream


def reference(vocabulary: Vocabulary, ids: list[int], stop: tuple[str, ...]) -> tuple[str, int]:
    """Decode ever longer beginnings, whole, until one holds a stop string that no later token can undo."""
    for count in range(len(ids) + 1):
        text = vocabulary.decode(ids[:count])
        whole = text.rstrip("\ufffd") if count < len(ids) else text
        met = [(whole.find(each) + len(each), whole.find(each)) for each in stop if each in whole]
        if met:
            return whole[: min(met)[1]], count
    return vocabulary.decode(ids), len(ids)


@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_streams_token_by_token(name: str, text: str) -> None:
    ids = VOCABULARIES[name].encode(text).ids
    pieces, _ = run(SPELLINGS[name], [[id] for id in ids])
    assert "".join(pieces) == VOCABULARIES[name].decode(ids)


@pytest.mark.parametrize("name", VOCABULARIES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_joined_pieces_are_the_text_of_all_tokens(name: str, data: st.DataObject) -> None:
    ids = data.draw(tokens_of(name))
    pieces, stream = run(SPELLINGS[name], cut(data, ids))
    assert "".join(pieces) == VOCABULARIES[name].decode(ids)
    assert (stream.stopped, stream.token_count) == (False, len(ids))


@pytest.mark.parametrize("name", VOCABULARIES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_stop_string_cuts_the_text_wherever_tokens_and_pushes_end(name: str, data: st.DataObject) -> None:
    ids = data.draw(tokens_of(name))
    text = VOCABULARIES[name].decode(ids).replace("\ufffd", "")
    inside = st.integers(0, max(0, len(text) - 1)).flatmap(
        lambda start: st.integers(1, 5).map(lambda size: text[start : start + size])
    )
    stop = tuple(
        each for each in data.draw(st.lists(inside | st.sampled_from(["lo", "llo w", "o"]), max_size=3)) if each
    )
    expected, count = reference(VOCABULARIES[name], ids, stop)
    pieces, stream = run(SPELLINGS[name], cut(data, ids), stop)
    assert "".join(pieces) == expected
    assert stream.token_count == count
    assert stream.stopped == (expected != VOCABULARIES[name].decode(ids) or count < len(ids))


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def test_a_character_comes_whole_with_its_last_byte() -> None:
    stream = TextStream(SPELLINGS["bytes"])
    first, second, third, last = "🙂".encode()
    assert [stream.push([first]), stream.push([second, third]), stream.push([last])] == ["", "", "🙂"]


def test_half_a_character_at_the_end_is_told_as_such() -> None:
    stream = TextStream(SPELLINGS["bytes"])
    assert stream.push(bytes_of("a你")[:-1]) == "a"
    assert stream.finish() == "\ufffd"


def test_what_may_become_a_stop_string_is_held_back_and_no_more() -> None:
    stream = TextStream(SPELLINGS["bytes"], ("STOP", "\n\n"))
    assert stream.push(bytes_of("one ST")) == "one "
    assert stream.push(bytes_of("A S")) == "STA "
    assert stream.push(bytes_of("TO\n")) == "STO"
    assert stream.push(bytes_of("x")) == "\nx"
    assert stream.push(bytes_of("S")) == ""
    assert stream.finish() == "S"
    assert not stream.stopped


def test_nothing_follows_a_stop_string() -> None:
    stream = TextStream(SPELLINGS["bytes"], ("STOP",))
    assert stream.push(bytes_of("go STOP on")) == "go "
    assert (stream.stopped, stream.token_count) == (True, 7)
    assert stream.push(bytes_of(" and on")) == ""
    assert stream.finish() == ""
    assert stream.token_count == 7


def test_of_several_stop_strings_the_one_that_is_whole_first_counts() -> None:
    pieces, stream = run(SPELLINGS["bytes"], [bytes_of("xabcdy")], ("abcd", "bc"))
    assert ("".join(pieces), stream.token_count) == ("xa", 4)
    pieces, stream = run(SPELLINGS["bytes"], [bytes_of("xabcdy")], ("cd", "bcd"))
    assert ("".join(pieces), stream.token_count) == ("xa", 5)


def test_a_stop_string_may_be_a_byte_token_and_counts_at_once() -> None:
    vocabulary = VOCABULARIES["llama"]
    newline = vocabulary.token_to_id("<0x0A>")
    stream = TextStream(SPELLINGS["llama"], ("\n",))
    assert stream.push([*vocabulary.encode("hello").ids, newline]) == "hello"
    assert stream.stopped


def test_the_leading_space_is_cut_once_even_from_a_run_of_bytes() -> None:
    vocabulary = VOCABULARIES["llama"]
    space, mark = vocabulary.token_to_id("<0x20>"), vocabulary.token_to_id("▁he")
    pieces, _ = run(SPELLINGS["llama"], [[space], [mark], [mark]])
    assert "".join(pieces) == vocabulary.decode([space, mark, mark]) == " he he"
    assert run(SPELLINGS["llama"], [[space], [mark]], (" ",))[0] == ["", "", ""]


def test_special_tokens_are_no_text_and_end_no_character() -> None:
    first, second = "é".encode()
    assert run(SPELLINGS["bytes"], [[257, first], [258], [second]])[0] == ["", "", "é", ""]


class CountingVocabulary:
    """Tokens are the letters a to t. It can be asked for one at a time, and counts how often it is."""

    def __init__(self) -> None:
        self.asked = 0

    def id_to_token(self, token: int) -> str:
        self.asked += 1
        return chr(ord("a") + token)


def test_a_token_is_spelled_once_however_long_the_text() -> None:
    vocabulary = CountingVocabulary()
    stream = TextStream(Spelling(vocabulary, byte_level=True), ("never",))
    tokens = [index % 20 for index in range(20_000)]
    text = "".join(stream.push([token]) for token in tokens)
    assert text + stream.finish() == "".join(chr(ord("a") + token) for token in tokens)
    assert vocabulary.asked == 20
