"""Answers and errors in the API's exact shapes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from vivace.budget import Timeline
from vivace.errors import (
    CheckpointError,
    ContextLengthError,
    EngineStoppedError,
    ModelNotFoundError,
    QueueFullError,
    RequestError,
    StepFailedError,
    VivaceError,
)
from vivace.server.decoding import FieldError
from vivace.server.replies import (
    DONE,
    ChatReplies,
    CompletionReplies,
    Piece,
    ScoredToken,
    Whole,
    describe_error,
    make_usage,
)
from vivace.server.tools import CallDelta


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError("x"), 400, None),
        (ContextLengthError("x"), 400, "context_length_exceeded"),
        (FieldError("x", "f", "c"), 400, "c"),
        (ModelNotFoundError("x"), 404, "model_not_found"),
        (QueueFullError("x"), 429, "queue_full"),
        (StepFailedError("x"), 500, "step_failed"),
        (EngineStoppedError("x"), 503, "engine_stopped"),
        (CheckpointError("x"), 500, None),
    ],
)
def test_each_error_has_its_status_and_code(error: VivaceError, status: int, code: str | None) -> None:
    told, body = describe_error(error)
    assert (told, body.code, body.message) == (status, code, "x")


def test_an_error_message_never_echoes_megabytes() -> None:
    body = describe_error(FieldError("x" * 100_000, "y" * 100_000, "unknown_parameter"))[1]
    assert len(body.message) < 1000
    assert len(body.param or "") < 1000


USAGE = make_usage(3, 2, 1, Timeline(1, 2, 3, 4, 5))


def test_usage_counts_tokens_and_time() -> None:
    assert msgspec.to_builtins(USAGE) == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "timing": {
            "preprocess_ms": 1,
            "queue_ms": 2,
            "prefill_ms": 3,
            "decode_ms": 4,
            "flush_ms": 5,
            "total_ms": 15,
        },
    }


def read(events: list[bytes]) -> list[Any]:
    """The JSON of events."""
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def test_chat_chunks_have_the_apis_shape() -> None:
    replies = ChatReplies("chatcmpl-1", 7, "tiny")
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "tiny"}

    def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, object]:
        return head | {"choices": [{"delta": delta, "index": 0, "logprobs": None, "finish_reason": reason}]}

    assert read(replies.opening()) == [chunk({"role": "assistant", "content": ""})]
    assert read(replies.piece(0, Piece("Hi"))) == [chunk({"content": "Hi"})]
    assert replies.piece(0, Piece()) == []
    assert read(replies.ending(0, "stop")) == [chunk({}, "stop")]
    assert replies.closing(USAGE) == [DONE]


def test_with_usage_every_other_chunk_says_null() -> None:
    replies = ChatReplies("chatcmpl-1", 7, "tiny", with_usage=True)
    assert read(replies.piece(0, Piece("Hi")))[0]["usage"] is None
    *events, done = replies.closing(USAGE)
    (last,) = read(events)
    assert done == DONE
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 5


def test_completion_chunks_have_the_apis_shape() -> None:
    replies = CompletionReplies("cmpl-1", 7, "tiny")
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "tiny"}
    choice = {"text": "Hi", "index": 0, "logprobs": None, "finish_reason": None}
    assert replies.opening() == []
    assert read(replies.piece(0, Piece("Hi"))) == [head | {"choices": [choice]}]
    (last,) = read(replies.ending(1, "length"))
    assert last["choices"] == [choice | {"text": "", "index": 1, "finish_reason": "length"}]


def test_a_whole_chat_answer_has_the_apis_shape() -> None:
    reply = json.loads(ChatReplies("chatcmpl-1", 7, "tiny").whole([Whole("Hi", finish_reason="stop")], USAGE))
    assert reply["object"] == "chat.completion"
    assert reply["choices"] == [
        {
            "message": {"content": "Hi", "role": "assistant", "refusal": None},
            "finish_reason": "stop",
            "index": 0,
            "logprobs": None,
        }
    ]


TOKENS = [
    ScoredToken(b"Hi", -0.5, [(b"Hi", -0.5), (b" \xc3", -1.5)], 0),
    ScoredToken(b"\xa9", -2.0, [(b"\xa8", -1.0)], 2),
]


def test_the_log_probabilities_of_a_chat_have_the_apis_shape() -> None:
    replies = ChatReplies("chatcmpl-1", 7, "tiny")
    told = {
        "content": [
            {
                "token": "Hi",
                "logprob": -0.5,
                "bytes": [72, 105],
                "top_logprobs": [
                    {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
                    {"token": " \ufffd", "logprob": -1.5, "bytes": [32, 195]},
                ],
            },
            {
                "token": "\ufffd",
                "logprob": -2.0,
                "bytes": [169],
                "top_logprobs": [{"token": "\ufffd", "logprob": -1.0, "bytes": [168]}],
            },
        ],
        "refusal": None,
    }
    assert json.loads(replies.whole([Whole("Hi", [], TOKENS, "stop")], USAGE))["choices"][0]["logprobs"] == told
    assert read(replies.piece(0, Piece("Hi", (), TOKENS)))[0]["choices"][0]["logprobs"] == told


def test_the_log_probabilities_of_a_completion_have_the_apis_shape() -> None:
    replies = CompletionReplies("cmpl-1", 7, "tiny")
    told = {
        "tokens": ["Hi", "\ufffd"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"Hi": -0.5, " \ufffd": -1.5}, {"\ufffd": -1.0}],
        "text_offset": [0, 2],
    }
    assert json.loads(replies.whole([Whole("Hi", [], TOKENS, "stop")], USAGE))["choices"][0]["logprobs"] == told
    assert read(replies.piece(0, Piece("Hi", (), TOKENS)))[0]["choices"][0]["logprobs"] == told


def test_a_token_that_is_not_among_the_likeliest_is_told_with_them() -> None:
    replies = CompletionReplies("cmpl-1", 7, "tiny")
    piece = Piece("x", (), [ScoredToken(b"x", -5.0, [(b"y", -1.0)], 0)])
    told = read(replies.piece(0, piece))[0]["choices"][0]["logprobs"]
    assert told["top_logprobs"] == [{"y": -1.0, "x": -5.0}]


CALLS = [CallDelta(0, "call_1", "find", '{"q": 1}'), CallDelta(1, "call_2", "stop", "{}")]


def test_calls_are_told_in_the_apis_shape() -> None:
    replies = ChatReplies("chatcmpl-1", 7, "tiny")
    choice = json.loads(replies.whole([Whole("", CALLS, None, "tool_calls")], USAGE))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}},
        {"id": "call_2", "type": "function", "function": {"name": "stop", "arguments": "{}"}},
    ]


def test_chunks_of_calls_name_the_function_once_and_then_grow_its_arguments() -> None:
    deltas = [CallDelta(0, "call_1", "find"), CallDelta(0, arguments='{"q": '), CallDelta(0, arguments="1}")]
    (chunk,) = read(ChatReplies("chatcmpl-1", 7, "tiny").piece(0, Piece("", deltas)))
    assert chunk["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "find", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"q": '}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]


def test_every_choice_opens_and_is_told_by_its_index() -> None:
    replies = ChatReplies("chatcmpl-1", 7, "tiny", count=3)
    assert [chunk["choices"][0]["index"] for chunk in read(replies.opening())] == [0, 1, 2]
    wholes = [Whole("a", finish_reason="stop"), Whole("b", finish_reason="length")]
    for kind in (replies, CompletionReplies("cmpl-1", 7, "tiny")):
        assert [choice["index"] for choice in json.loads(kind.whole(wholes, USAGE))["choices"]] == [0, 1]


def test_an_error_in_a_stream_is_its_last_event() -> None:
    for replies in (ChatReplies("c", 7, "tiny"), CompletionReplies("c", 7, "tiny")):
        assert read(replies.failure(StepFailedError("It broke.")))[0]["error"]["message"] == "It broke."


def test_a_whole_answer_is_the_sum_of_its_pieces() -> None:
    whole = Whole()
    parts = [Piece("a"), Piece("b", [CallDelta(0, "call_1", "f")]), Piece("", [CallDelta(0, arguments="{}")], TOKENS)]
    for piece in parts:
        whole.add(piece)
    assert (whole.text, whole.calls, whole.tokens) == ("ab", [CallDelta(0, "call_1", "f", "{}")], TOKENS)
