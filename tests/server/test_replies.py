"""Answers and errors in the API's exact shapes."""

from __future__ import annotations

import json

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
from vivace.server.protocol import FieldError
from vivace.server.replies import ChatReplies, CompletionReplies, ScoredToken, describe_error, make_usage


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


def test_chat_chunks_have_the_apis_shape() -> None:
    replies = ChatReplies("chatcmpl-1", 7, "tiny")
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "tiny"}

    def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, object]:
        return head | {"choices": [{"delta": delta, "index": 0, "logprobs": None, "finish_reason": reason}]}

    assert [json.loads(event) for event in replies.opening()] == [chunk({"role": "assistant", "content": ""})]
    assert json.loads(replies.piece("Hi")) == chunk({"content": "Hi"})
    assert json.loads(replies.ending("stop")) == chunk({}, "stop")


def test_with_usage_every_other_chunk_says_null() -> None:
    replies = ChatReplies("chatcmpl-1", 7, "tiny", with_usage=True)
    assert json.loads(replies.piece("Hi"))["usage"] is None
    last = json.loads(replies.usage(USAGE))
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 5


def test_completion_chunks_have_the_apis_shape() -> None:
    replies = CompletionReplies("cmpl-1", 7, "tiny")
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "tiny"}
    choice = {"text": "Hi", "index": 0, "logprobs": None, "finish_reason": None}
    assert replies.opening() == []
    assert json.loads(replies.piece("Hi")) == head | {"choices": [choice]}
    assert json.loads(replies.ending("length"))["choices"] == [choice | {"text": "", "finish_reason": "length"}]


def test_a_whole_chat_answer_has_the_apis_shape() -> None:
    reply = json.loads(ChatReplies("chatcmpl-1", 7, "tiny").whole("Hi", "stop", USAGE))
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
    assert json.loads(replies.whole("Hi", "stop", USAGE, TOKENS))["choices"][0]["logprobs"] == told
    assert json.loads(replies.piece("Hi", TOKENS))["choices"][0]["logprobs"] == told
    assert json.loads(replies.piece("", []))["choices"][0]["logprobs"] == {"content": [], "refusal": None}


def test_the_log_probabilities_of_a_completion_have_the_apis_shape() -> None:
    replies = CompletionReplies("cmpl-1", 7, "tiny")
    told = {
        "tokens": ["Hi", "\ufffd"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"Hi": -0.5, " \ufffd": -1.5}, {"\ufffd": -1.0}],
        "text_offset": [0, 2],
    }
    assert json.loads(replies.whole("Hi", "stop", USAGE, TOKENS))["choices"][0]["logprobs"] == told
    assert json.loads(replies.piece("Hi", TOKENS))["choices"][0]["logprobs"] == told


def test_a_token_that_is_not_among_the_likeliest_is_told_with_them() -> None:
    replies = CompletionReplies("cmpl-1", 7, "tiny")
    told = json.loads(replies.piece("x", [ScoredToken(b"x", -5.0, [(b"y", -1.0)], 0)]))["choices"][0]["logprobs"]
    assert told["top_logprobs"] == [{"y": -1.0, "x": -5.0}]
