"""Answers become events, and a reader that goes away stops the work."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from tests.server.updates import END, Updates, make_answer, scored_update, update
from vivace.engine.request import FinishReason
from vivace.errors import StepFailedError, VivaceError
from vivace.models.model import Model
from vivace.server.answer import Answer, Answers
from vivace.server.replies import ChatReplies, Usage
from vivace.server.stream import EventStream, run_while_connected

pytestmark = pytest.mark.anyio


async def test_tokens_without_text_yet_are_told_of_in_a_stream(model: Model) -> None:
    updates = Updates(scored_update(b"\xc3"), scored_update(b"\xa9"), scored_update("", FinishReason.STOP, END))
    bodies = await send_events(make_answer(model, updates, logprobs=0))
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in b"".join(bodies).split(b"\n\n")[1:3]]
    told = [(chunk["choices"][0]["delta"], chunk["choices"][0]["logprobs"]["content"]) for chunk in chunks]
    assert [delta for delta, _ in told] == [{"content": ""}, {"content": "é"}]
    assert [[token["bytes"] for token in content] for _, content in told] == [[[195]], [[169]]]


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


async def send_events(
    answer: Answer, *, with_usage: bool = False, told: list[Usage | VivaceError] | None = None
) -> list[bytes]:
    """The bodies that are sent."""
    told = [] if told is None else told
    bodies: list[bytes] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            bodies.append(message["body"])
        await asyncio.sleep(0)

    answers = Answers([answer])
    stream = EventStream(answers, ChatReplies("id", 0, "tiny", with_usage), await answers.read(), told.append)
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


async def test_how_it_ended_is_reported_once(model: Model) -> None:
    told: list[Usage | VivaceError] = []
    await send_events(make_answer(model, Updates(update("ab", FinishReason.LENGTH))), told=told)
    await send_events(make_answer(model, Updates(update("a"), update("", FinishReason.ERROR, error="x"))), told=told)
    assert [type(outcome) for outcome in told] == [Usage, StepFailedError]
