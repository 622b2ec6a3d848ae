"""What a request for a response asks for, and what it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vivace.engine.constraint import Grammar
from vivace.server.decoding import FieldError
from vivace.server.responses import (
    ResponsesRequest,
    decode_responses,
    response_grammar,
    response_messages,
    response_params,
    response_tools,
)
from vivace.server.tools import HERMES


def read(**fields: Any) -> ResponsesRequest:
    return decode_responses(json.dumps({"model": "tiny", "input": "Hi"} | fields).encode())


def settle(**fields: Any) -> None:
    """Find out all that a request asks for."""
    request = read(**fields)
    response_messages(request)
    response_params(request)
    response_tools(request, HERMES)


def refusal(**fields: Any) -> FieldError:
    with pytest.raises(FieldError) as caught:
        settle(**fields)
    return caught.value


def test_a_text_is_a_message_and_instructions_come_before_it() -> None:
    assert response_messages(read()) == [{"role": "user", "content": "Hi"}]
    assert response_messages(read(instructions="Be brief."))[0] == {"role": "system", "content": "Be brief."}


def test_items_are_turns_calls_and_their_results() -> None:
    items = [
        {"role": "developer", "content": "x"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "1", "output": "done"},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
    ]
    told = response_messages(read(input=items))
    assert [message["role"] for message in told] == ["system", "user", "assistant", "tool", "assistant"]
    assert told[2]["content"] == "b"
    assert [call["function"] for call in told[2]["tool_calls"]] == [{"name": "f", "arguments": {"a": 1}}]
    assert told[3] == {"role": "tool", "content": "done", "tool_call_id": "1"}
    assert told[4]["tool_calls"][0]["id"] == "2"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f"}]}, "input[0].arguments"),
        (
            {"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "no"}]},
            "input[0].arguments",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": []}, "input"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tool_choice": "required"}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[...].type"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_field(fields: dict[str, Any], field: str) -> None:
    error = refusal(**fields)
    assert (error.field or "").startswith(field.partition("[...]")[0])
    assert str(error)


@pytest.mark.parametrize(
    ("format", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar("json_schema", '{"type":"object"}')),
        ({"type": "json_schema", "name": "x", "schema": {"type": "null"}}, Grammar("json_schema", '{"type":"null"}')),
        ({"type": "regex", "regex": "a+"}, Grammar("regex", "a+")),
    ],
)
def test_a_text_format_is_a_grammar(format: dict[str, Any], grammar: Grammar | None) -> None:
    assert response_grammar(read(text={"format": format})) == grammar


def test_log_probabilities_are_those_that_are_included() -> None:
    asked = read(include=["message.output_text.logprobs"], top_logprobs=3)
    assert response_params(asked).logprobs == 3
    assert response_params(read()).logprobs is None
