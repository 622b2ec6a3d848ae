"""Calls are written under a grammar and read back exactly, however their text is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.serving import make_compiler
from vivace.engine.constraint import Constraint, ask_mask
from vivace.models.model import Model
from vivace.server.tools import HERMES, LLAMA, Tool, ToolFormat, ToolReader, ToolUse, find_format, write_grammar

WEATHER = Tool("weather", {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]})
TIME = Tool("time", {"type": "object", "properties": {}, "additionalProperties": False})
WRITTEN = '<tool_call>\n{"name": "weather", "arguments": {"town": "北京 }\\n</tool_call>"}}\n</tool_call>'


def read(use: ToolUse, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text, and each call's name and arguments, of a text that comes in pieces."""
    reader, text, calls = ToolReader(use), "", list[tuple[str, str]]()
    for told, deltas in [*map(reader.push, pieces), reader.finish()]:
        text += told
        for delta in deltas:
            if delta.id:
                calls.append((delta.name, delta.arguments))
            else:
                calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    assert reader.called == bool(calls)
    return text, calls


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


CASES: list[tuple[ToolUse, str, str, list[tuple[str, str]]]] = [
    (ToolUse(HERMES, [WEATHER, TIME]), "Hello <b> <tool", "Hello <b> <tool", []),
    (ToolUse(HERMES, [WEATHER]), WRITTEN, "", [("weather", '{"town": "北京 }\\n</tool_call>"}')]),
    (
        ToolUse(HERMES, [WEATHER, TIME]),
        f'Let me see.\n{WRITTEN}\n<tool_call>\n{{"name": "time", "arguments": {{}}}}\n</tool_call>',
        "Let me see.\n",
        [("weather", '{"town": "北京 }\\n</tool_call>"}'), ("time", "{}")],
    ),
    (ToolUse(HERMES, [TIME]), '<tool_call>\n{"name": "time", "arguments": {"a', "", [("time", '{"a')]),
    (ToolUse(HERMES, [TIME]), "<tool_call>nonsense", "<tool_call>nonsense", []),
    (ToolUse(LLAMA, [TIME]), '{"name": "time", "parameters": {"a": {}}}', "", [("time", '{"a": {}}')]),
    (ToolUse(LLAMA, [TIME]), 'No {"name": "time", "parameters": {}}', 'No {"name": "time", "parameters": {}}', []),
    (ToolUse(LLAMA, [TIME]), '{"name": "time", "parameters": {"a"', "", [("time", '{"a"')]),
]


@given(case=st.sampled_from(CASES), places=st.lists(st.integers(0, 200), max_size=60))
def test_how_the_text_is_cut_makes_no_difference(case: Any, places: list[int]) -> None:
    use, written, text, calls = case
    assert read(use, cut(written, places)) == (text, calls)


@given(
    text=st.text(st.sampled_from('<tol_ca>{"name: }/\n'), max_size=80), places=st.lists(st.integers(0, 90), max_size=9)
)
def test_text_without_a_call_comes_through_whole(text: str, places: list[int]) -> None:
    for format in (HERMES, LLAMA):
        assert read(ToolUse(format, [TIME]), cut(text, places)) == (text, [])


def test_text_is_told_as_soon_as_it_cannot_be_a_call() -> None:
    reader = ToolReader(ToolUse(HERMES, [TIME]))
    assert [reader.push(piece)[0] for piece in ("a", " <", "b", "<tool_", "x")] == ["a", " ", "<b", "", "<tool_x"]


def accepts(constraint: Constraint, text: str, vocab_size: int, end: int = 258) -> bool:
    """Whether the grammar allows exactly this text."""
    for byte in [*text.encode(), end]:
        mask = ask_mask(constraint, vocab_size)
        if not mask[byte // 8] >> byte % 8 & 1:
            return False
        if byte != end:
            constraint.accept(byte)
    return True


def call(format: ToolFormat, name: str, arguments: str) -> str:
    return f"{format.opening}{name}{format.middle}{arguments}{format.closing}"


ONE = call(HERMES, "weather", '{"town": "Ulm"}')
OTHER = call(HERMES, "time", "{}")


@pytest.mark.parametrize(
    ("use", "allowed", "forbidden"),
    [
        (
            ToolUse(HERMES, [WEATHER, TIME]),
            ["", "Hi <b>", ONE, f"Hi.\n{ONE}", f"{ONE}\n{OTHER}", f"{OTHER} Done."],
            [call(HERMES, "nobody", "{}"), call(HERMES, "weather", "{}"), "<tool_call>x"],
        ),
        (ToolUse(HERMES, [WEATHER, TIME], required=True), [ONE, f"{ONE}\n{OTHER}"], ["", "Hi", f"Hi {ONE}"]),
        (ToolUse(HERMES, [WEATHER, TIME], required=True, parallel=False), [ONE, OTHER], [f"{ONE}\n{OTHER}"]),
        (ToolUse(HERMES, [WEATHER], parallel=False), ["Hi", ONE], [f"{ONE}\n{ONE}"]),
        (
            ToolUse(LLAMA, [TIME]),
            ["", "Hi {", call(LLAMA, "time", "{}")],
            ["{}", call(LLAMA, "weather", "{}"), call(LLAMA, "time", "{}") + "x"],
        ),
        (ToolUse(LLAMA, [TIME], required=True), [call(LLAMA, "time", "{}")], ["", "Hi"]),
    ],
)
def test_answers_are_held_to_what_the_request_allows(
    model: Model, use: ToolUse, allowed: list[str], forbidden: list[str]
) -> None:
    compiler, size = make_compiler(model), model.config.vocab_size
    assert [text for text in allowed if not accepts(compiler(write_grammar(use)), text, size)] == []
    assert [text for text in forbidden if accepts(compiler(write_grammar(use)), text, size)] == []


def test_formats_are_known_by_their_templates() -> None:
    hermes = "{% if tools %}... <tool_call>{name}</tool_call>{% endif %}"
    assert find_format(None, ()) is None
    assert find_format(hermes, ()) is HERMES
    assert find_format(hermes, {"<tool_call>"}) is None  # it would not be text
    assert find_format(hermes + "<function=", ()) is None
    assert find_format('{% if tools %}Environment: ipython {"parameters": {% endif %}', ()) is LLAMA
    assert find_format("{% if tools %}[TOOL_CALLS]{% endif %}", ()) is None


def test_arguments_are_json_once_the_call_is_whole() -> None:
    _, calls = read(ToolUse(HERMES, [WEATHER]), [WRITTEN])
    assert json.loads(calls[0][1]) == {"town": "北京 }\n</tool_call>"}
