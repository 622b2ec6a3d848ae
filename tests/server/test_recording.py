"""What was told can be told again, in one piece or in order."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.budget import Timeline
from vivace.server.answer import News, Settled
from vivace.server.recording import Replay, assemble, is_worth_keeping, merge_news, read_recording, record
from vivace.server.replies import Piece, ScoredToken
from vivace.server.tools import CallDelta

OUTCOME = Settled(7, 5, 0, Timeline(1, 2, 3, 4), 0.0)


def scored(text: str) -> ScoredToken:
    return ScoredToken(text.encode(), -0.1234567890123, [(b"\xff", -2.5)], 3)


def test_pieces_of_a_text_become_one() -> None:
    news: News = [(0, Piece("a"), None), (1, Piece("x"), None), (0, Piece("b"), None), (0, Piece(), "stop")]
    assert merge_news(news) == [(0, Piece("ab", []), "stop"), (1, Piece("x", []), None)]


def test_text_after_a_call_stays_after_it() -> None:
    call, more = CallDelta(0, "call_1", "f"), CallDelta(0, arguments="{")
    news: News = [
        (0, Piece("before", (call,)), None),
        (0, Piece("", (more,)), None),
        (0, Piece("", (CallDelta(0, arguments="}"),)), None),
        (0, Piece("after"), None),
        (0, Piece("", (CallDelta(1, "call_2", "g"),)), "tool_calls"),
    ]
    assert merge_news(news) == [
        (0, Piece("before", [call, CallDelta(0, arguments="{}")]), None),
        (0, Piece("after", [CallDelta(1, "call_2", "g")]), "tool_calls"),
    ]


def test_a_recording_comes_back_as_it_was_told_to_the_last_bit() -> None:
    news: News = [
        (0, Piece("é", (), [scored("a")]), None),
        (0, Piece("", (CallDelta(0, "call_1", "f", '{"x": 1}'),), []), "tool_calls"),
    ]
    recording = read_recording(record(news, OUTCOME))
    assert (recording.prompt_tokens, recording.completion_tokens) == (7, 5)
    assert assemble(recording.news) == assemble(news)
    assert assemble(news)[0].tokens == [scored("a")]


def test_no_log_probabilities_stay_none_and_an_empty_list_stays_one() -> None:
    assert assemble(read_recording(record([(0, Piece("a"), "stop")], OUTCOME)).news)[0].tokens is None
    assert assemble(read_recording(record([(0, Piece("", (), []), "stop")], OUTCOME)).news)[0].tokens == []


Scores = st.one_of(st.none(), st.lists(st.builds(scored, st.text(max_size=2)), max_size=2))


@st.composite
def told(draw: st.DrawFn) -> News:
    """Pieces of several answers; calls begin in order, and only the last one grows."""
    news: News = []
    begun = [0, 0, 0]
    for _ in range(draw(st.integers(0, 20))):
        index = draw(st.integers(0, 2))
        calls = []
        for _ in range(draw(st.integers(0, 2))):
            if begun[index] and draw(st.booleans()):
                calls.append(CallDelta(begun[index] - 1, arguments=draw(st.text(max_size=3))))
            else:
                calls.append(CallDelta(begun[index], f"call_{begun[index]}", "f"))
                begun[index] += 1
        news.append((index, Piece(draw(st.text(max_size=3)), calls, draw(Scores)), None))
    return news


def in_order(news: News, index: int) -> list[str | CallDelta]:
    """All texts and calls of one answer, what follows each other of a kind in one."""
    flat: list[str | CallDelta] = []
    for piece in (piece for which, piece, _ in news if which == index):
        for part in ([piece.text] if piece.text else []) + list(piece.calls):
            last = flat[-1] if flat else None
            if isinstance(part, str) and isinstance(last, str):
                flat[-1] = last + part
            elif isinstance(part, CallDelta) and isinstance(last, CallDelta) and not part.id:
                flat[-1] = CallDelta(last.index, last.id, last.name, last.arguments + part.arguments)
            else:
                flat.append(part)
    return flat


@given(told())
def test_merging_loses_nothing_and_keeps_the_order(news: News) -> None:
    merged = merge_news(news)
    assert [in_order(merged, index) for index in range(3)] == [in_order(news, index) for index in range(3)]
    assert assemble(merge_news(news)) == assemble(news)
    assert assemble(read_recording(record(news, OUTCOME)).news) == assemble(news)


@pytest.mark.parametrize(("reason", "kept"), [("stop", True), ("length", True), ("tool_calls", True), ("abort", False)])
def test_only_answers_that_ended_of_themselves_are_worth_keeping(reason: str, kept: bool) -> None:
    assert is_worth_keeping([(0, Piece("a"), "stop"), (1, Piece("b"), reason)], OUTCOME) == kept


def test_an_answer_that_was_cut_short_is_not_worth_keeping() -> None:
    forced = Settled(7, 5, 0, Timeline(), 0.0, truncated=True)
    assert not is_worth_keeping([(0, Piece("a"), "length")], forced)


@pytest.mark.anyio
async def test_a_replay_tells_its_own_times(anyio_backend: Any) -> None:
    recording = read_recording(record([(0, Piece("a"), "stop")], OUTCOME))
    now = time.monotonic()
    replay = Replay(recording, now - 0.5, now - 0.25)
    assert [whole.text for whole in await replay.read_all()] == ["a"]
    assert replay.finished
    assert replay.finish_reasons == ["stop"]
    usage = await replay.usage()
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens == 7
    timing = usage.timing
    assert timing["preprocess_ms"] == pytest.approx(250, abs=1)
    assert timing["queue_ms"] == timing["prefill_ms"] == timing["decode_ms"] == 0
    assert timing["flush_ms"] >= 250
