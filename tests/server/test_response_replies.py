"""Responses in the API's exact shapes: items, and the events that tell of them."""

from __future__ import annotations

import json
from typing import Any

from vivace.budget import Timeline
from vivace.errors import StepFailedError
from vivace.server.replies import Piece, ScoredToken, Whole, make_usage
from vivace.server.response_replies import ResponseReplies, ResponseReply
from vivace.server.tools import CallDelta

USAGE = make_usage(3, 2, 1, Timeline(1, 2, 3, 4, 5))
CALL = CallDelta(0, "call_1", "find", '{"q": 1}')


def replies() -> ResponseReplies:
    return ResponseReplies(ResponseReply(id="resp_1", created_at=7, model="tiny"))


def read(events: list[bytes]) -> list[Any]:
    """The JSON of events, whose kinds are said twice."""
    told = []
    for event in events:
        kind, data = event.decode().removesuffix("\n\n").split("\n")
        told.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {told[-1]['type']}"
    return told


def test_a_whole_response_holds_its_text_and_its_calls_as_items() -> None:
    reply = json.loads(replies().whole([Whole("Hi", [CALL], None, "tool_calls")], USAGE))
    message, call = reply["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    assert message["content"] == [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}]
    assert (call["type"], call["call_id"], call["name"], call["arguments"]) == (
        "function_call",
        "call_1",
        "find",
        '{"q": 1}',
    )
    assert (reply["object"], reply["status"], reply["error"]) == ("response", "completed", None)
    assert reply["usage"]["input_tokens_details"]["cached_tokens"] == 1
    assert reply["usage"]["timing"]["total_ms"] == 15


def test_an_answer_cut_short_is_incomplete_and_says_why() -> None:
    reply = json.loads(replies().whole([Whole("Hi", finish_reason="length")], USAGE))
    assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_events_tell_of_one_item_after_the_other() -> None:
    told = replies()
    events = read(
        told.opening()
        + told.piece(0, Piece("H", (), [ScoredToken(b"H", -1.0, [], 0)]))
        + told.piece(0, Piece("i", [CallDelta(0, "call_1", "find"), CallDelta(0, arguments="{}")]))
        + told.ending(0, "tool_calls")
        + told.closing(USAGE)
    )
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[4]["logprobs"][0]["logprob"] == -1.0
    assert [event["output_index"] for event in events if "output_index" in event] == [0] * 7 + [1] * 4
    added, done = events[9]["item"], events[12]["item"]
    assert (added["status"], done["status"], added["id"]) == ("in_progress", "completed", done["id"])
    assert events[-1]["response"]["output"] == [events[8]["item"], done]


def test_an_answer_without_text_is_an_empty_message() -> None:
    told = replies()
    events = read(told.opening() + told.ending(0, "stop") + told.closing(USAGE))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_a_failure_ends_the_stream_with_what_had_come() -> None:
    told = replies()
    events = read(told.opening() + told.piece(0, Piece("H")) + told.failure(StepFailedError("It broke.")))
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["message"] == events[-1]["response"]["error"]["message"] == "It broke."
    assert events[-1]["response"]["status"] == "failed"
