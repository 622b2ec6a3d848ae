"""Budgets, deadlines and refusals as a client meets them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.server.serving import Running, serving, wait_until
from vivace.budget import parse_budget
from vivace.engine.cost import StepCost
from vivace.errors import ConfigError
from vivace.models.model import Model

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
ONE_AT_A_TIME = StepCost(base_ms=0.0, token_ms=0.001, sequence_ms=10.0, context_ms=0.0)
"""Ten milliseconds for every token chosen, however many share a step."""


async def post(server: Running, path: str = CHAT, headers: Any = None, **fields: Any) -> httpx.Response:
    content = {"input": "Hello"} if path == "/v1/responses" else {"messages": HELLO}
    return await server.http.post(path, json={"model": "tiny"} | content | fields, headers=headers)


async def read_metrics(server: Running) -> dict[str, float]:
    families = text_string_to_metric_families((await server.http.get("/metrics")).text)
    samples = [sample for family in families for sample in family.samples]
    return {s.name + "".join(f"[{value}]" for value in s.labels.values()): s.value for s in samples}


def read_budget(timing: dict[str, float]) -> float:
    """The total that a reply was measured by."""
    return timing["slack_ms"] + timing["total_ms"]


def check_empty(server: Running) -> None:
    stats = server.bridge.admission_stats()
    assert stats is not None
    assert stats.under_way == 0
    assert server.bridge.stats().blocks_used == 0


# What limits a request


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
@pytest.mark.parametrize(
    ("header", "body", "tightest"),
    [
        (None, None, 9000),
        ("total=8s", None, 8000),
        ("total=8s; ttft=7s", {"total_ms": 6000}, 6000),
        (None, {"total_ms": 7000}, 7000),
        ("total=5s", {"total_ms": 7000, "tpot_ms": 900}, 5000),
        ("total=20s", {"total_ms": 70000}, 9000),
        ("ttft=5s", None, 9000),
    ],
)
async def test_the_tighter_of_header_body_and_server_wins(
    model: Model, path: str, header: str | None, body: Any, tightest: float
) -> None:
    async with serving(model, budget=parse_budget("total=9s")) as server:
        reply = await post(server, path, {"x-budget": header} if header else None, budget=body)
        assert reply.status_code == 200
        assert read_budget(reply.json()["usage"]["timing"]) == pytest.approx(tightest, abs=0.01)


async def test_a_header_that_comes_twice_counts_as_one(model: Model) -> None:
    async with serving(model) as server:
        reply = await post(server, headers=[("x-budget", "ttft=9s"), ("x-budget", "total=8s")])
        assert read_budget(reply.json()["usage"]["timing"]) == pytest.approx(8000, abs=0.01)
        reply = await post(server, headers=[("x-budget", "total=9s"), ("x-budget", "total=8s")])
        assert reply.status_code == 400


async def test_a_long_header_is_refused_and_never_cut(model: Model) -> None:
    async with serving(model) as server:
        reply = await post(server, headers={"x-budget": "total=9s" + ";" * 200 + "total=1s"})
        assert reply.status_code == 400
        assert "longer than 200" in reply.json()["error"]["message"]


_parts = st.sampled_from(
    ["ttft", "tpot", "total", "e2e", "=", ":", "50", "0", "-1", "1e9", ".", "ms", "s", ";", " ", ","]
)
_headers = st.lists(_parts, max_size=12).map("".join) | st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_headers, min_size=5, max_size=10))
def test_a_header_is_taken_or_refused_with_the_remedy(model: Model, headers: Sequence[str]) -> None:
    async def send_all() -> list[httpx.Response]:
        async with serving(model) as server:
            return [await post(server, headers={"x-budget": text.encode("latin-1")}) for text in headers]

    for text, reply in zip(headers, asyncio.run(send_all()), strict=True):
        try:
            parse_budget(text.strip())
        except ConfigError:
            assert reply.status_code == 400
            error = reply.json()["error"]
            assert (error["param"], error["code"]) == ("X-Budget", "invalid_value")
            assert "ttft=200ms" in error["message"]
        else:
            assert reply.status_code in (200, 504)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"on_deadline": "explode"}, "on_deadline"),
        ({"budget": {"total_ms": 0}}, "budget.total_ms"),
        ({"budget": {"ttft": 5}}, "budget.ttft"),
        ({"budget": "total=5s"}, "budget"),
        ({"budget": {"tpot_ms": -1}}, "budget.tpot_ms"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
async def test_terms_that_cannot_be_are_refused_by_name(
    model: Model, path: str, fields: dict[str, Any], param: str
) -> None:
    async with serving(model) as server:
        reply = await post(server, path, **fields)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == param


# What is refused


async def occupy(server: Running) -> asyncio.Task[httpx.Response]:
    """An accepted request that holds the engine."""
    server.runner.hold_after(0)
    before = len(server.runner.batches)
    task = asyncio.create_task(post(server, max_tokens=100, budget={"total_ms": 60_000}))
    await wait_until(lambda: len(server.runner.batches) > before)
    return task


async def test_the_official_client_is_refused_at_once_and_told_when_to_come_back(model: Model) -> None:
    async with serving(model, cost=ONE_AT_A_TIME) as server:
        first = await occupy(server)
        extra: Any = {"budget": {"total_ms": 150}}
        with pytest.raises(openai.RateLimitError) as caught:
            await server.client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=10, extra_body=extra)
        error = caught.value
        assert (error.code, error.type) == ("overloaded", "rate_limit_error")
        wait_ms = int(error.response.headers["retry-after-ms"])
        assert wait_ms >= 1
        assert int(error.response.headers["retry-after"]) == -(-wait_ms // 1000)
        assert f"{wait_ms} ms" in error.message or f"{wait_ms - 1} ms" in error.message
        health = (await server.http.get("/health")).json()
        assert (health["status"], health["overloaded"]) == ("ok", True)
        server.runner.open_gate()
        assert (await first).status_code == 200
        check_empty(server)


async def test_the_official_client_comes_back_when_it_was_told_to(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(model, cost=ONE_AT_A_TIME) as server:
        first = await occupy(server)
        came: list[float] = []
        admit = server.bridge.admit

        def note(request: Any) -> Any:
            came.append(time.monotonic())
            return admit(request)

        monkeypatch.setattr(server.bridge, "admit", note)
        waits: list[float] = []
        wait = asyncio.sleep

        async def note_wait(seconds: float, *rest: Any) -> Any:
            waits.append(seconds)
            if seconds > 0.05:  # the client's own
                server.runner.open_gate()
                await first
            return await wait(min(seconds, 0.001), *rest)

        extra: Any = {"budget": {"total_ms": 150}}
        client = server.client.with_options(max_retries=1)
        with monkeypatch.context() as patch:
            patch.setattr("anyio.sleep", note_wait)
            patch.setattr("asyncio.sleep", note_wait)
            answer = await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=10, extra_body=extra)
        assert answer.choices[0].message.content
        assert len(came) == 2
        assert max(waits) > 0.5  # what is under way takes a second; the client's own guess is half a second at most


async def test_of_several_answers_all_are_accepted_or_none(model: Model) -> None:
    async with serving(model, cost=ONE_AT_A_TIME) as server:
        for stream in (False, True):
            reply = await post(server, n=2, max_tokens=10, stream=stream, budget={"total_ms": 160})
            assert reply.status_code == 429
            check_empty(server)
            assert server.bridge.stats().requests == 0
            reply = await post(server, n=2, max_tokens=4, budget={"total_ms": 200})
            assert reply.status_code == 200
            check_empty(server)
            server.bridge._stats = server.bridge._engine.renew().stats()
            server.bridge._engine = server.bridge._engine.renew()


async def test_what_is_refused_for_its_count_shows_in_health_and_metrics(model: Model) -> None:
    async with serving(model, slots=1, max_waiting=1, cost=ONE_AT_A_TIME) as server:
        server.runner.hold_after(0)
        tasks = [asyncio.create_task(post(server)) for _ in range(3)]
        await wait_until(lambda: server.runner.interrupts == 3)
        server.runner.open_gate()
        assert {reply.status_code for reply in await asyncio.gather(*tasks)} <= {200, 429}
        metrics = await read_metrics(server)
        refused = sum(task.result().status_code == 429 for task in tasks)
        assert metrics["vivace_admission_refused_full_total"] == refused >= 1
        assert (await server.http.get("/health")).json()["overloaded"] is True
        check_empty(server)


async def test_a_budget_that_no_idle_machine_could_keep_is_a_bad_request(model: Model) -> None:
    async with serving(model, cost=StepCost(100.0, 0.0, 0.0, 0.0)) as server:
        replies = [await post(server, max_tokens=50, budget={"total_ms": 500}) for _ in range(2)]
        assert replies[0].status_code == 200  # a forecast may be wrong: now and then one is tried all the same
        assert replies[1].status_code == 400
        error = replies[1].json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "budget_unreachable")
        assert "Allow more time" in error["message"]
        check_empty(server)


# What ends late


async def miss(server: Running, tokens: int, **fields: Any) -> httpx.Response:
    """A request whose total deadline comes after so many tokens."""
    server.runner.hold_after(tokens)
    task = asyncio.create_task(post(server, budget={"total_ms": 150}, **fields))
    await wait_until(lambda: server.bridge.stats().tokens == tokens and len(server.runner.batches) > tokens)
    await asyncio.sleep(0.16)
    server.runner.open_gate()
    return await task


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_before_the_first_token_is_a_timeout_that_nobody_should_repeat(
    model: Model, path: str, stream: bool
) -> None:
    async with serving(model) as server:
        reply = await miss(server, 0, path=path, stream=stream)
        if reply.status_code == 200:  # the token under way when it came was told
            pytest.fail(reply.text)
        assert reply.status_code == 504
        assert reply.headers["x-should-retry"] == "false"
        assert reply.json()["error"]["code"] == "deadline_exceeded"
        assert "Allow more time" in reply.json()["error"]["message"]
        assert server.bridge.stats().blocks_used == 0
        metrics = await read_metrics(server)
        assert metrics["vivace_budget_answers_total[expired]"] == 1
        assert metrics["vivace_engine_expired_total"] == 1


async def test_the_official_client_does_not_repeat_what_came_too_late(model: Model) -> None:
    async with serving(model, "x" * 300) as server:
        server.runner.hold_after(3)
        extra: Any = {"budget": {"total_ms": 150}}
        client = server.client.with_options(max_retries=2)
        task = asyncio.create_task(client.chat.completions.create(model="tiny", messages=HELLO, extra_body=extra))
        await wait_until(lambda: server.bridge.stats().tokens == 3)
        await asyncio.sleep(0.16)
        server.runner.open_gate()
        with pytest.raises(openai.InternalServerError) as caught:
            await task
        assert caught.value.status_code == 504
        assert server.bridge.stats().requests == 1


async def test_a_deadline_in_the_middle_of_a_stream_is_its_last_event(model: Model) -> None:
    async with serving(model, "x" * 300) as server:
        reply = await miss(server, 3, stream=True)
        assert reply.status_code == 200
        *chunks, last = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
        assert json.loads(last)["error"]["code"] == "deadline_exceeded"
        assert "".join(json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks).startswith(
            "xxx"
        )
        assert (await read_metrics(server))["vivace_budget_answers_total[expired]"] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_may_be_cut_is_and_says_so(model: Model, stream: bool) -> None:
    async with serving(model, "x" * 300) as server:
        options = {"stream_options": {"include_usage": True}} if stream else {}
        reply = await miss(server, 3, stream=stream, on_deadline="truncate", **options)
        assert reply.status_code == 200
        if stream:
            chunks = [json.loads(line[6:]) for line in reply.text.split("\n\n") if line and "[DONE]" not in line]
            reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
            assert reasons[-1] == "length"
            usage = chunks[-1]["usage"]
        else:
            assert reply.json()["choices"][0]["finish_reason"] == "length"
            assert reply.json()["choices"][0]["message"]["content"].startswith("xxx")
            usage = reply.json()["usage"]
        assert usage["timing"]["truncated"] == 1
        assert 3 <= usage["completion_tokens"] < 300
        assert (await read_metrics(server))["vivace_budget_answers_total[truncated]"] == 1


async def test_a_response_that_is_cut_is_incomplete(model: Model) -> None:
    async with serving(model, "x" * 300) as server:
        reply = (await miss(server, 3, path="/v1/responses", on_deadline="truncate")).json()
        assert reply["status"] == "incomplete"
        assert reply["incomplete_details"] == {"reason": "max_output_tokens"}
        assert reply["usage"]["timing"]["truncated"] == 1


async def test_nothing_to_cut_is_late_whatever_was_asked(model: Model) -> None:
    async with serving(model, slots=1) as server:
        first = await occupy(server)
        late = asyncio.create_task(post(server, budget={"total_ms": 50}, on_deadline="truncate"))
        await wait_until(lambda: server.runner.interrupts == 2)
        await asyncio.sleep(0.06)
        server.runner.open_gate()
        assert (await late).status_code == 504
        assert (await first).status_code == 200


async def test_metrics_tell_attainment_admission_and_the_error_of_the_cost_model(model: Model) -> None:
    async with serving(model, cost=ONE_AT_A_TIME) as server:
        assert (await post(server, max_tokens=4, budget={"total_ms": 9000})).status_code == 200
        assert (await post(server, max_tokens=4)).status_code == 200
        first = await occupy(server)
        assert (await post(server, max_tokens=10, budget={"total_ms": 150})).status_code == 429
        server.runner.open_gate()
        assert (await first).status_code == 200
        metrics = await read_metrics(server)
        assert metrics["vivace_budget_answers_total[kept]"] == 2
        assert metrics["vivace_admission_accepted_total"] == 3
        refused = ("refused_unread", "refused_late", "refused_full")
        assert sum(metrics[f"vivace_admission_{kind}_total"] for kind in refused) == 1
        assert metrics["vivace_admission_under_way"] == 0
        assert metrics["vivace_cost_model_error"] == 0
        assert metrics["vivace_cost_model_sequence_ms"] == 10
        assert metrics["vivace_engine_restarts_total"] == 0
        check_empty(server)


async def test_health_tells_of_an_engine_that_was_started_again(model: Model) -> None:
    async with serving(model) as server:
        assert (await post(server)).status_code == 200
        server.runner.failing = True
        assert [(await post(server)).status_code for _ in range(3)] == [500, 500, 500]
        server.runner.failing = False
        assert (await post(server)).status_code == 200
        health = await server.http.get("/health")
        assert (health.status_code, health.json()["restarts"]) == (200, 1)
