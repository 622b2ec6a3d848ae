"""Right answers are timed; wrong ones are told apart, each with what to do about it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.servers import (
    END,
    EVENT_HEAD,
    Asked,
    answer_well,
    chunk,
    piece,
    serving,
    usage,
    whole,
)
from vivace.bench.client import MAX_WAIT_MS, ConnectionPool, Reply, encode_request, parse_url
from vivace.bench.observation import Observation
from vivace.bench.timer import clock
from vivace.errors import ConfigError


def exchange(
    url: str, *, times: int = 1, stream: bool = True, timeout_s: float = 5.0, limit: int = 0, verify: bool = True
) -> list[Observation]:
    """Some requests, one after the other, on one pool."""

    async def run() -> list[Observation]:
        target = parse_url(url, verify=verify)
        pool = ConnectionPool(target, limit)
        seen = [Observation(index=i, scheduled=clock()) for i in range(times)]
        for one in seen:
            reply = Reply(one, asyncio.get_running_loop().create_future(), stream=stream)
            await pool.exchange(encode_request(target, "POST", "/chat/completions", b"{}"), reply, timeout_s)
        pool.close()
        return seen

    return uvloop.run(run())


def say(data: bytes, *, close: bool = False) -> Callable[[Asked, asyncio.StreamWriter], object]:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if close:
            writer.close()

    return behave


def ask(data: bytes, *, close: bool = False, stream: bool = True, timeout_s: float = 5.0) -> Observation:
    """One request to a server that sends `data`, whatever it is asked."""
    with serving(say(data, close=close)) as server:  # type: ignore[arg-type]
        return exchange(server.url, stream=stream, timeout_s=timeout_s)[0]


def test_first_and_last_fragment_are_timed_and_counted() -> None:
    with serving() as server:
        (seen,) = exchange(server.url)
    assert seen.ok, seen.message
    assert seen.first is not None
    assert seen.last is not None
    assert seen.ended is not None
    assert seen.scheduled <= seen.dispatched <= seen.sent <= seen.first < seen.last <= seen.ended
    assert (seen.tokens, seen.prompt_tokens, seen.chunks, seen.characters) == (2, 5, 2, 9)
    assert seen.one_token_a_chunk


def test_an_empty_fragment_is_not_the_first_token() -> None:
    seen = ask(EVENT_HEAD + piece("") + usage(1) + END)
    assert seen.ok
    assert seen.first is None
    assert seen.ttft_ms is None


def test_time_after_the_last_fragment_is_not_counted() -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENT_HEAD + piece("a"))
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.write(usage(1) + END)

    with serving(behave) as server:
        (seen,) = exchange(server.url)
    assert seen.last is not None
    assert seen.ended is not None
    assert seen.ended - seen.last > 0.1


def test_connections_are_used_again() -> None:
    with serving() as server:
        seen = exchange(server.url, times=5)
        assert all(one.ok for one in seen)
    assert seen[4].sent - seen[4].dispatched < 0.05


def test_an_idle_connection_that_the_server_closed_is_nobodys_failure() -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.number == 1:
            writer.close()  # as a server does whose patience with an idle connection has ended
        else:
            await answer_well(asked, writer)

    with serving(behave) as server:
        seen = exchange(server.url, times=2)
    assert [one.error for one in seen] == ["", ""]


def test_a_whole_answer_is_timed_to_its_end() -> None:
    body = b'{"choices":[{"message":{"content":"hey"},"finish_reason":"stop"}],"usage":{"completion_tokens":2}}'
    seen = ask(whole(body), stream=False)
    assert seen.ok
    assert (seen.tokens, seen.characters, seen.first) == (2, 3, None)
    assert seen.last == seen.ended


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (whole(b'{"error":{"message":"queue full"}}', "429 Too Many"), "refused", "queue full"),
        (whole(b"", "503 Busy"), "refused", "503"),
        (whole(b'{"detail":"no"}', "500 Oops"), "http_500", "no"),
        (whole(b'{"choices":[]}'), "not_streaming", "--no-stream"),
        (whole(b"<html>", kind="text/html"), "not_streaming", "text/html"),
        (EVENT_HEAD + chunk(b"data: {oops\n\n") + END, "malformed", "oops"),
        (EVENT_HEAD + chunk(b'data: {"choices": 3}\n\n') + END, "malformed", "choices"),
        (EVENT_HEAD + piece("a") + b"0\r\n\r\n", "truncated", "DONE"),
        (
            EVENT_HEAD + chunk(b'data: {"error":{"message":"out of memory"}}\n\n') + b"0\r\n\r\n",
            "server_error",
            "out of",
        ),
        (b"SSH-2.0-OpenSSH\r\n", "malformed", "HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "malformed", "https://"),
    ],
)
def test_a_wrong_answer_is_told_by_its_kind_and_what_to_do(data: bytes, error: str, said: str) -> None:
    seen = ask(data)
    assert seen.error == error
    assert said in seen.message


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        (b"retry-after: 2\r\n", 2000.0),
        (b"retry-after: 1\r\nretry-after-ms: 40\r\n", 40.0),
        (b"Retry-After-Ms: 40\r\nRetry-After: 1\r\n", 40.0),
        (b"retry-after: 86400\r\n", MAX_WAIT_MS),
        (b"retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n", 0.0),
        (b"retry-after: -1\r\n", 0.0),
        (b"", 0.0),
    ],
)
def test_when_to_come_back_is_read_where_the_server_says_so(headers: bytes, wait_ms: float) -> None:
    assert ask(b"HTTP/1.1 429 Busy\r\n" + headers + b"content-length: 0\r\n\r\n").wait_ms == wait_ms


def test_a_server_that_dies_in_the_middle_leaves_what_it_had_said() -> None:
    seen = ask(EVENT_HEAD + piece("a") + piece("b"), close=True)
    assert seen.error == "connection_lost"
    assert "in the middle" in seen.message
    assert seen.characters == 2


def test_a_server_that_dies_before_it_answers_is_told_so() -> None:
    assert "before it answered" in ask(b"", close=True).message


def test_a_stream_that_ends_by_closing_is_whole() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    seen = ask(head + b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n', close=True)
    assert seen.ok, seen.message


def test_no_request_is_waited_for_beyond_its_time() -> None:
    seen = ask(EVENT_HEAD + piece("a"), timeout_s=0.2)
    assert seen.error == "timeout"
    assert "--timeout" in seen.message


def test_nobody_there_is_told_with_the_address() -> None:
    (seen,) = exchange("http://127.0.0.1:1/v1")
    assert seen.error == "unreachable"
    assert "127.0.0.1:1" in seen.message


@pytest.mark.parametrize("answers", [True, False])
def test_a_plain_server_is_not_spoken_to_in_tls(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it answers in clear or says nothing."""
    monkeypatch.setattr("vivace.bench.client.HANDSHAKE_S", 0.3)

    async def run() -> Observation:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if answers:
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        target = parse_url(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        seen = Observation(index=0, scheduled=clock())
        reply = Reply(seen, asyncio.get_running_loop().create_future(), stream=True)
        await ConnectionPool(target).exchange(encode_request(target, "POST", "/x", b"{}"), reply, 5.0)
        server.close()
        return seen

    seen = uvloop.run(run())
    assert seen.error == "tls"
    assert "http://" in seen.message


def test_a_certificate_nobody_vouches_for_is_refused_and_the_way_round_is_told(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme is not installed; pip install trustme")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def run() -> list[str]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(EVENT_HEAD + piece("a") + END)

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
        errors = []
        for verify in (True, False):
            target = parse_url(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", verify=verify)
            pool, seen = ConnectionPool(target), Observation(index=0, scheduled=clock())
            reply = Reply(seen, asyncio.get_running_loop().create_future(), stream=True)
            await pool.exchange(encode_request(target, "POST", "/x", b"{}"), reply, 5.0)
            errors.append(seen.error + seen.message)
            pool.close()
        server.close()
        return errors

    first, second = uvloop.run(run())
    assert first.startswith("tls")
    assert "--insecure" in first
    assert second == ""


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_for_an_answer_end_the_request_with_a_kind(data: bytes, stream: bool) -> None:
    assert ask(data, close=True, stream=stream).error


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 700), max_size=6))
def test_an_answer_is_the_same_however_the_network_cuts_it(cuts: list[int]) -> None:
    text = EVENT_HEAD + b"".join(piece(f"w{i} ") for i in range(5)) + usage(5) + END

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
        for a, b in pairwise(bounds):
            writer.write(text[a:b])
            await writer.drain()
            await asyncio.sleep(0.001)

    with serving(behave) as server:
        (seen,) = exchange(server.url)
    assert seen.ok, seen.message
    assert (seen.chunks, seen.characters, seen.tokens) == (5, 15, 5)


def test_a_limit_on_connections_makes_requests_wait_and_says_so() -> None:
    async def run(url: str) -> list[Observation]:
        target = parse_url(url)
        pool = ConnectionPool(target, 1)
        seen = [Observation(index=i, scheduled=clock()) for i in range(3)]
        loop = asyncio.get_running_loop()
        request = encode_request(target, "POST", "/chat/completions", b"{}")
        await asyncio.gather(
            *(pool.exchange(request, Reply(one, loop.create_future(), stream=True), 5.0) for one in seen)
        )
        pool.close()
        return seen

    with serving() as server:
        seen = uvloop.run(run(server.url))
    assert [one.waited for one in seen] == [False, True, True]
    assert seen[0].ended is not None
    assert seen[1].sent >= seen[0].ended
    assert seen[1].send_lag_ms < 50


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:80", "ftp://x", "http://", "http://x:99999/", "http://a@b/v1", "http://x/?a=b"]
)
def test_what_is_no_address_of_an_api_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_url(url)


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_header_can_break_out_of_its_line(name: str, value: str) -> None:
    target = parse_url("http://h/v1")
    try:
        request = encode_request(target, "POST", "/x", b"{}", ((name, value),))
    except ConfigError:
        return
    assert request.count(b"\r\n") == 7
    assert request.endswith(b"\r\n\r\n{}")
