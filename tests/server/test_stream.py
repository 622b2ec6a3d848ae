"""Updates become text, text becomes events, and a reader that goes away stops the work."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from starlette.requests import ClientDisconnect

from vivace.batch import Logprobs, Sampling
from vivace.budget import Timeline
from vivace.engine.bridge import EngineThread
from vivace.engine.request import FinishReason, Request, Update
from vivace.errors import EngineStoppedError, StepFailedError
from vivace.models.model import Model
from vivace.server.replies import ChatReplies, ScoredToken
from vivace.server.stream import Answer, EventStream, run_while_connected

pytestmark = pytest.mark.anyio

END = 258


class Updates:
    """Stands in for the bridge: yields the given updates, and notes what becomes of the request."""

    def __init__(self, *updates: Update) -> None:
        self.updates = updates
        self.aborted: list[str] = []
        self.closed = False

    async def submit(self, request: Request) -> AsyncIterator[Update]:
        try:
            for update in self.updates:
                yield update
        finally:
            self.closed = True

    def abort(self, id: str) -> None:
        self.aborted.append(id)


def make_answer(model: Model, updates: Updates, stop: tuple[str, ...] = (), logprobs: int = -1) -> Answer:
    sampling = Sampling(stop_token_ids=(END,), logprobs=logprobs)
    request = Request("r", (1, 2, 3), 100, sampling, time.monotonic())
    return Answer(cast(EngineThread, updates), request, model.tokenizer, stop)


def scored_update(text: str | bytes, *rest: Any) -> Update:
    """Each token's log-probability is minus a hundredth of its id, and token 65's is reported beside it."""
    told = update(text, *rest)
    return told._replace(logprobs=[Logprobs(-token / 100, [(65, -0.65)]) for token in told.tokens])


def update(text: str | bytes = "", reason: FinishReason | None = None, *more: int, **fields: Any) -> Update:
    tokens = list(text.encode() if isinstance(text, str) else text)
    timeline = Timeline(1, 2, 3, 4) if reason else None
    return Update("r", [*tokens, *more], reason, timeline, **fields)


async def read_pieces(answer: Answer) -> list[str]:
    pieces = []
    while answer.finish_reason is None:
        pieces.append(await answer.read())
    return pieces


async def test_tokens_are_scored_up_to_the_stop_token_and_once_each(model: Model) -> None:
    updates = Updates(scored_update(b"a\xc3"), scored_update(b"\xa9b", FinishReason.STOP, END))
    answer = make_answer(model, updates, logprobs=1)
    await answer.read()
    assert answer.take_scored() == [
        ScoredToken(b"a", -0.97, [(b"A", -0.65)], 0),
        ScoredToken(b"\xc3", -1.95, [(b"A", -0.65)], 1),
    ]
    await answer.read()
    scored = answer.take_scored()
    assert scored is not None
    assert [(token.spelling, token.offset) for token in scored] == [(b"\xa9", 1), (b"b", 2)]
    assert answer.take_scored() == []


async def test_tokens_are_scored_up_to_the_one_that_completes_a_stop_string(model: Model) -> None:
    updates = Updates(scored_update("ab"), scored_update("cde"), update("", FinishReason.ABORT))
    answer = make_answer(model, updates, stop=("bc",), logprobs=0)
    assert await answer.read_all() == "a"
    assert [token.spelling for token in answer.take_scored() or ()] == [b"a", b"b", b"c"]


async def test_nothing_is_scored_for_who_did_not_ask(model: Model) -> None:
    answer = make_answer(model, Updates(update("ab", FinishReason.LENGTH)))
    await answer.read_all()
    assert answer.take_scored() is None


async def test_tokens_without_text_yet_are_told_of_in_a_stream(model: Model) -> None:
    updates = Updates(scored_update(b"\xc3"), scored_update(b"\xa9"), scored_update("", FinishReason.STOP, END))
    bodies = await send_events(make_answer(model, updates, logprobs=0))
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in b"".join(bodies).split(b"\n\n")[1:3]]
    told = [(chunk["choices"][0]["delta"], chunk["choices"][0]["logprobs"]["content"]) for chunk in chunks]
    assert [delta for delta, _ in told] == [{"content": ""}, {"content": "é"}]
    assert [[token["bytes"] for token in content] for _, content in told] == [[[195]], [[169]]]


async def test_half_a_character_waits_for_its_other_half(model: Model) -> None:
    first, second = b"a\xc3", b"\xa9"
    answer = make_answer(model, Updates(update(first), update(second), update("", FinishReason.STOP, END)))
    assert await read_pieces(answer) == ["a", "é", ""]


async def test_half_a_character_at_the_end_is_marked(model: Model) -> None:
    answer = make_answer(model, Updates(update(b"a\xc3", FinishReason.LENGTH)))
    assert await read_pieces(answer) == ["a\ufffd"]


async def test_a_stop_token_counts_and_is_no_text(model: Model) -> None:
    updates = Updates(update("ab"), update("c", FinishReason.STOP, END, cached_tokens=2))
    answer = make_answer(model, updates)
    assert await answer.read_all() == "abc"
    usage = await answer.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 4, 7)
    assert usage.prompt_tokens_details.cached_tokens == 2


async def test_after_a_stop_string_the_request_is_aborted_and_its_times_awaited(model: Model) -> None:
    updates = Updates(update("abc"), update("d"), update("e", FinishReason.ABORT))
    answer = make_answer(model, updates, stop=("b",))
    assert await answer.read_all() == "a"
    assert updates.aborted == ["r"]
    usage = await answer.usage()
    assert usage.completion_tokens == 2
    assert usage.timing["decode_ms"] == 4


async def test_a_stop_string_in_the_last_update_aborts_nothing(model: Model) -> None:
    updates = Updates(update("abc", FinishReason.LENGTH))
    answer = make_answer(model, updates, stop=("b",))
    assert await answer.read_all() == "a"
    assert answer.finish_reason is FinishReason.STOP
    assert updates.aborted == []


async def test_the_flush_is_what_the_other_parts_leave(model: Model) -> None:
    answer = make_answer(model, Updates(update("a", FinishReason.LENGTH)))
    await answer.read_all()
    timing = (await answer.usage()).timing
    assert timing["preprocess_ms"] + timing["queue_ms"] + timing["prefill_ms"] + timing["decode_ms"] == 10
    assert timing["flush_ms"] >= 0
    assert timing["total_ms"] == pytest.approx(10 + timing["flush_ms"], abs=0.01)


async def test_a_failed_step_is_raised_with_its_reason(model: Model) -> None:
    answer = make_answer(model, Updates(update("", FinishReason.ERROR, error="The step failed (it broke).")))
    with pytest.raises(StepFailedError, match="it broke"):
        await answer.read()


async def test_an_abort_nobody_here_asked_for_is_raised(model: Model) -> None:
    answer = make_answer(model, Updates(update("x"), update("", FinishReason.ABORT)))
    with pytest.raises(EngineStoppedError, match="before its answer was whole"):
        await answer.read_all()


async def test_updates_that_end_without_a_reason_are_an_error(model: Model) -> None:
    answer = make_answer(model, Updates(update("x")))
    with pytest.raises(EngineStoppedError):
        await answer.read_all()


async def test_work_goes_on_while_the_client_is_there() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async def work() -> int:
        return 7

    assert await run_while_connected(receive, work()) == 7


async def test_work_is_cancelled_when_the_client_goes() -> None:
    cancelled = asyncio.Event()
    messages: list[Any] = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        return messages.pop()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ClientDisconnect):
        await run_while_connected(receive, work())
    assert cancelled.is_set()


async def test_an_error_of_the_work_is_the_callers() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async def work() -> None:
        raise StepFailedError("it broke")

    with pytest.raises(StepFailedError):
        await run_while_connected(receive, work())


async def send_events(answer: Answer, *, with_usage: bool = False) -> list[bytes]:
    """The bodies that are sent."""
    bodies: list[bytes] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            bodies.append(message["body"])
        await asyncio.sleep(0)

    stream = EventStream(answer, ChatReplies("id", 0, "tiny", with_usage), await answer.read())
    await stream({"type": "http"}, receive, send)
    return bodies


async def test_an_update_without_text_writes_nothing(model: Model) -> None:
    updates = Updates(update("a"), update(), update("b"), update("", FinishReason.STOP, END))
    bodies = await send_events(make_answer(model, updates))
    assert [body.count(b"data: ") for body in bodies] == [2, 1, 2]
    assert updates.closed


async def test_an_answer_that_is_over_at_once_is_one_write(model: Model) -> None:
    bodies = await send_events(make_answer(model, Updates(update("ab", FinishReason.LENGTH))))
    assert [body.count(b"data: ") for body in bodies] == [4]


async def test_usage_is_told_after_the_text_has_been_handed_over(model: Model) -> None:
    answer = make_answer(model, Updates(update("a"), update("b", FinishReason.LENGTH)))
    bodies = await send_events(answer, with_usage=True)
    assert [body.count(b"data: ") for body in bodies] == [2, 2, 2]
    usage = json.loads(bodies[-1].split(b"\n\n")[0].removeprefix(b"data: "))["usage"]
    assert usage["completion_tokens"] == 2


async def test_an_error_midway_is_the_last_event(model: Model) -> None:
    updates = Updates(update("a"), update("", FinishReason.ERROR, error="It broke."))
    bodies = await send_events(make_answer(model, updates))
    assert json.loads(bodies[-1].removeprefix(b"data: "))["error"]["code"] == "step_failed"
    assert updates.closed
