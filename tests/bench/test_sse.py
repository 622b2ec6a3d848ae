from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.bench.sse import EventReader, MalformedStreamError, read_chunk, read_error


def read_slowly(text: bytes) -> list[bytes]:
    """The standard's own algorithm, line by line."""
    lines = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    events: list[bytes] = []
    data: list[bytes] = []
    for line in lines[:-1]:
        if not line:
            if data:
                events.append(b"\n".join(data))
            data = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
    return events


LINES = st.sampled_from(
    [
        b"data: one",
        b"data:two",
        b"data",
        b"data:  x",
        b": comment",
        b"event: e",
        b"id: 3",
        b"",
        b"",
        b"datax: no",
        b"data: \xc3\xa9",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(
    st.booleans(),
    st.lists(st.tuples(LINES, ENDS), max_size=20),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_events_are_the_standards_however_the_stream_is_cut(
    mark: bool, lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    text = (
        (b"\xef\xbb\xbf" if mark else b"") + b"".join(line + end for line, end in lines) + b"data: last\n\ndata: z\n\n"
    )
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    reader = EventReader()
    found = [event for a, b in pairwise(bounds) for event in reader.feed(text[a:b])]
    assert found == read_slowly(text)
    assert reader.rest == b""


@given(st.binary(max_size=300))
def test_any_bytes_are_a_chunk_or_a_clear_error(data: bytes) -> None:
    with suppress(MalformedStreamError):
        assert read_chunk(data) is not None


@given(st.binary(max_size=300))
def test_any_error_body_becomes_some_text(data: bytes) -> None:
    assert isinstance(read_error(data), str)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "too long"}}, "too long"),
        ({"detail": "no such model"}, "no such model"),
        ({"object": "error", "message": "busy"}, "busy"),
        ({"error": "plain"}, "plain"),
    ],
)
def test_the_servers_own_words_are_found(body: object, said: str) -> None:
    assert read_error(json.dumps(body).encode()) == said


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        ({"content": "a"}, "a"),
        ({"content": ""}, ""),
        ({"content": None}, ""),
        ({"role": "assistant"}, ""),
        ({"reasoning_content": "hm", "content": None}, "hm"),
        ({"tool_calls": [{"index": 0}]}, '[{"index":0}]'),
        ({"tool_calls": None}, ""),
    ],
)
def test_a_fragment_is_whatever_a_reader_gets(delta: object, text: str) -> None:
    chunk = read_chunk(json.dumps({"choices": [{"delta": delta}]}, separators=(",", ":")).encode())
    assert chunk.choices is not None
    assert chunk.choices[0].piece() == text


def test_usage_and_the_servers_timeline_are_read() -> None:
    chunk = read_chunk(b'{"choices":[],"usage":{"completion_tokens":3,"timing":{"queue_ms":1.5,"total_ms":4}}}')
    assert chunk.usage is not None
    assert chunk.usage.timeline() == {"queue_ms": 1.5, "total_ms": 4.0}
    assert not chunk.failed


def test_a_timing_that_is_something_else_is_left_alone() -> None:
    chunk = read_chunk(b'{"choices":[],"usage":{"completion_tokens":3,"timing":[1]}}')
    assert chunk.usage is not None
    assert chunk.usage.timeline() == {}
