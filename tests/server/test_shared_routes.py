"""Answers told again and shared, from outside: the official client, all routes, headers, isolation, clients that go."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.checkpoints import HERMES, write_llama
from tests.server.serving import Running, make_model, serving, wait_until
from tests.server.test_metrics import read as read_metrics
from tests.server.test_routes import call
from vivace.models.model import Model
from vivace.server.log import logging_to

pytestmark = pytest.mark.anyio

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello"},
}
CHAT = "/v1/chat/completions"


@asynccontextmanager
async def caching(model: Model, script: str = "Hello there.", **config: Any) -> AsyncIterator[Running]:
    async with serving(model, script, **{"response_cache_bytes": 2**20} | config) as server:
        yield server


async def post(server: Running, path: str = CHAT, headers: Any = None, **fields: Any) -> httpx.Response:
    response = await server.http.post(path, json={"model": "tiny", **ROUTES[path], **fields}, headers=headers)
    assert response.status_code == 200, response.text
    return response


def outcome(response: httpx.Response) -> str:
    return response.headers["x-vivace-cache"]


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def text_of(path: str, response: httpx.Response) -> str:
    """The answer's text, whether it came whole or streamed."""
    if response.headers["content-type"].startswith("text/event-stream"):
        told = events(response)
        if path == "/v1/responses":
            return "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")
        choices = [event["choices"][0] for event in told if event["choices"]]
        return "".join(choice.get("text", choice.get("delta", {}).get("content")) or "" for choice in choices)
    body = response.json()
    if path == "/v1/responses":
        return str(body["output"][0]["content"][0]["text"])
    choice = body["choices"][0]
    return str(choice["text"] if path == "/v1/completions" else choice["message"]["content"])


async def wait_for(server: Running, **outcomes: int) -> None:
    """Until so many requests have come by their answers in that way."""
    async with asyncio.timeout(20):
        while True:
            found = await read_metrics(server)
            if all(found[f"vivace_response_cache_requests_total[{name}]"] == n for name, n in outcomes.items()):
                return


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("streams", [(False, False), (False, True), (True, False), (True, True)], ids=str)
async def test_the_same_request_is_computed_once_whole_or_streamed(
    model: Model, path: str, streams: tuple[bool, bool]
) -> None:
    async with caching(model) as server:
        first, second = [await post(server, path, stream=stream) for stream in streams]
        assert [outcome(first), outcome(second)] == ["miss", "hit"]
        assert text_of(path, first) == text_of(path, second) == "Hello there."
        assert server.bridge.stats().requests == 1


@pytest.mark.parametrize("path", ROUTES)
async def test_a_hit_is_the_same_reply_but_for_its_ids_and_times(model: Model, path: str) -> None:
    async with caching(model) as server:
        first, second = (await post(server, path)).json(), (await post(server, path)).json()
        assert first["id"] != second["id"]
        assert first.keys() == second.keys()
        same = first.keys() - {"id", "created", "created_at", "usage", "output"}
        assert {name: first[name] for name in same} == {name: second[name] for name in same}


async def test_a_hit_has_its_own_honest_usage(model: Model) -> None:
    async with caching(model) as server:
        await post(server)
        response = await post(server)
        usage = response.json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] > 0
        assert usage["completion_tokens"] == len("Hello there.") + 1
        timing = usage["timing"]
        assert timing["queue_ms"] == timing["prefill_ms"] == timing["decode_ms"] == 0
        assert timing["preprocess_ms"] + timing["flush_ms"] == pytest.approx(timing["total_ms"])
        assert "prefill;dur=0.0" in response.headers["server-timing"]
        response = await post(server, stream=True, stream_options={"include_usage": True})
        assert events(response)[-1]["usage"]["timing"]["decode_ms"] == 0
        response = await post(server, "/v1/responses")
        response = await post(server, "/v1/responses")
        usage = response.json()["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] == usage["input_tokens"]


async def test_several_answers_and_log_probabilities_come_again(model: Model) -> None:
    async with caching(model, "Hé") as server:
        asked: dict[str, Any] = {"n": 2, "seed": 5, "temperature": 1, "logprobs": True, "top_logprobs": 2}
        first, second = (await post(server, **asked)).json(), (await post(server, **asked)).json()
        assert first["choices"] == second["choices"]
        assert [choice["index"] for choice in second["choices"]] == [0, 1]
        streamed = await post(server, **asked, stream=True)
        assert outcome(streamed) == "hit"
        content = [
            token
            for event in events(streamed)
            for choice in event["choices"]
            if choice["index"] == 1 and choice["logprobs"]
            for token in choice["logprobs"]["content"]
        ]
        assert content == first["choices"][1]["logprobs"]["content"]


async def test_what_has_chance_in_it_is_computed_every_time(model: Model) -> None:
    async with caching(model) as server:
        for _ in range(2):
            assert outcome(await post(server, temperature=0.5)) == "bypass"
        assert server.bridge.stats().requests == 2


async def test_without_the_option_nothing_is_kept_and_nothing_said(model: Model) -> None:
    async with serving(model) as server:
        for _ in range(2):
            assert "x-vivace-cache" not in (await post(server)).headers
        assert server.bridge.stats().requests == 2


async def test_no_store_neither_reads_nor_keeps_nor_shares(model: Model) -> None:
    headers = {"cache-control": "no-store"}
    async with caching(model) as server:
        assert outcome(await post(server, headers=headers)) == "bypass"
        assert outcome(await post(server)) == "miss"
        assert outcome(await post(server, headers=headers)) == "bypass"
        server.runner.hold_after(0)
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": "another"}]}
        first = asyncio.create_task(post(server, **asked))
        second = asyncio.create_task(post(server, headers=headers, **asked))
        await wait_for(server, miss=2, bypass=3)
        server.runner.open_gate()
        assert [outcome(await first), outcome(await second)] == ["miss", "bypass"]
        assert server.bridge.stats().requests == 5


async def test_no_cache_computes_again_and_keeps_what_it_computed(model: Model) -> None:
    async with caching(model) as server:
        await post(server)
        server.runner.script = (*b"New.", 258)
        again = await post(server, headers={"cache-control": "no-cache"})
        assert (outcome(again), text_of(CHAT, again)) == ("miss", "New.")
        hit = await post(server)
        assert (outcome(hit), text_of(CHAT, hit)) == ("hit", "New.")


async def test_different_salts_never_share_an_answer(model: Model) -> None:
    async with caching(model) as server:
        outcomes = [outcome(await post(server, cache_salt=salt)) for salt in ("a", "b", "a", "")]
        assert outcomes == ["miss", "miss", "hit", "miss"]


@pytest.mark.parametrize("share", [False, True])
async def test_callers_with_different_keys_share_answers_only_if_they_may(model: Model, share: bool) -> None:
    async with caching(model, api_keys=("one", "two"), share_responses=share) as server:
        headers = [{"authorization": f"Bearer {key}"} for key in ("one", "two", "one", "two")]
        outcomes = [outcome(await post(server, headers=some)) for some in headers]
        assert outcomes == (["miss", "hit", "hit", "hit"] if share else ["miss", "miss", "hit", "hit"])


async def test_an_answer_is_forgotten_after_its_time(model: Model) -> None:
    async with caching(model, response_cache_ttl_s=0.05) as server:
        await post(server)
        await asyncio.sleep(0.06)
        assert outcome(await post(server)) == "miss"


async def test_what_failed_is_not_kept(model: Model) -> None:
    async with caching(model) as server:
        server.runner.failing = True
        response = await server.http.post(CHAT, json={"model": "tiny", "messages": HELLO})
        assert response.status_code == 500
        server.runner.failing = False
        assert outcome(await post(server)) == "miss"


@pytest.mark.parametrize("fields", [{"nothing": 1}, {"max_tokens": 5000}, {"model": "other"}])
async def test_errors_are_told_as_ever(model: Model, fields: dict[str, Any]) -> None:
    body = {"model": "tiny", "messages": HELLO} | fields
    async with caching(model) as server, serving(model) as plain:
        for _ in range(2):
            replies = [await some.http.post(CHAT, json=body) for some in (server, plain)]
            assert replies[0].status_code == replies[1].status_code >= 400
            assert replies[0].json() == replies[1].json()


async def test_a_full_queue_is_told_to_all_who_wait_together(model: Model) -> None:
    async with caching(model, max_waiting=1, slots=1) as server:
        server.runner.hold_after(0)
        running = asyncio.create_task(post(server, temperature=0.5))
        await wait_until(lambda: len(server.runner.batches) > 0)
        waiting = asyncio.create_task(post(server, temperature=0.5))
        await wait_until(lambda: server.runner.interrupts == 2)
        asked = {"model": "tiny", "messages": HELLO}
        refused = [asyncio.create_task(server.http.post(CHAT, json=asked)) for _ in range(2)]
        await wait_for(server, miss=1, shared=1)
        server.runner.open_gate()
        assert [(await reply).status_code for reply in refused] == [429, 429]
        await asyncio.gather(running, waiting)


@pytest.mark.parametrize("config", [{}, {"response_cache_bytes": 0, "coalesce": True}], ids=["cache", "coalesce"])
async def test_two_equal_requests_of_the_official_client_at_once_cost_one_generation(
    model: Model, config: dict[str, Any]
) -> None:
    async with caching(model, **config) as server:
        server.runner.hold_after(3)
        create = server.client.chat.completions.create
        usage: Any = {"include_usage": True}

        async def read_stream() -> list[Any]:
            stream: Any = await create(model="tiny", messages=HELLO, stream=True, stream_options=usage)
            return [chunk async for chunk in stream]

        leading = asyncio.create_task(read_stream())
        await wait_until(lambda: server.bridge.stats().tokens == 3)
        following = asyncio.create_task(create(model="tiny", messages=HELLO))
        await wait_for(server, shared=1)
        server.runner.open_gate()
        chunks, answer = await leading, await following
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == answer.choices[0].message.content == "Hello there."
        assert chunks[0].id != answer.id
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens
        assert server.bridge.stats().requests == 1
        assert server.bridge.stats().tokens == len("Hello there.") + 1


async def test_many_equal_requests_at_once_cost_one_generation_and_all_are_told(model: Model) -> None:
    async with caching(model, "x" * 40) as server:
        kinds = [(path, stream) for stream in (False, True) for path in [CHAT] * 10]
        replies = await asyncio.gather(*(post(server, path, stream=stream) for path, stream in kinds))
        assert [text_of(CHAT, reply) for reply in replies] == ["x" * 40] * 20
        assert server.bridge.stats().requests == 1
        assert sorted(map(outcome, replies))[0] in ("hit", "miss")
        assert sum(outcome(reply) == "miss" for reply in replies) == 1


async def ignore(message: Any) -> None:
    pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_leader_that_goes_harms_no_follower(model: Model, stream: bool) -> None:
    async with caching(model) as server:
        server.runner.hold_after(3)
        gone = asyncio.Event()
        body = {"model": "tiny", "messages": HELLO, "stream": stream}
        leading = asyncio.create_task(call(server, body, ignore, gone))
        await wait_until(lambda: server.bridge.stats().tokens == 3)
        following = asyncio.create_task(post(server))
        await wait_for(server, shared=1)
        gone.set()
        await leading
        server.runner.open_gate()
        assert text_of(CHAT, await following) == "Hello there."
        assert server.bridge.stats().requests == 1
        assert outcome(await post(server)) == "hit"


@pytest.mark.parametrize("stream", [False, True])
async def test_when_the_last_reader_goes_the_engine_lets_go(model: Model, stream: bool) -> None:
    async with caching(model, "x" * 400) as server:
        server.runner.hold_after(3)
        body = {"model": "tiny", "messages": HELLO, "stream": stream}
        gone = [asyncio.Event(), asyncio.Event()]
        readers = [asyncio.create_task(call(server, body, ignore, event)) for event in gone]
        await wait_for(server, miss=1, shared=1)
        await wait_until(lambda: server.bridge.stats().tokens == 3)
        gone[0].set()
        await readers[0]
        assert (await read_metrics(server))["vivace_response_flights"] == 1
        gone[1].set()
        await readers[1]
        assert (await read_metrics(server))["vivace_response_flights"] == 0
        server.runner.let(1)  # the step under way ends; the abort is seen to before another begins
        await wait_until(lambda: server.bridge.stats().running == 0)
        assert server.bridge.stats().tokens <= 4
        assert server.bridge.stats().blocks_used == 0
        server.runner.open_gate()
        assert outcome(await post(server)) == "miss"  # what was given up was not kept


async def test_an_error_midway_reaches_all_who_read(model: Model) -> None:
    async with caching(model) as server:
        server.runner.hold_after(3)
        replies = [asyncio.create_task(post(server, stream=True)) for _ in range(3)]
        await wait_for(server, shared=2)
        await wait_until(lambda: server.bridge.stats().tokens == 3)
        await asyncio.sleep(0.05)
        server.runner.failing = True
        server.runner.open_gate()
        for reply in replies:
            assert events(await reply)[-1]["error"]["code"] == "step_failed"


async def test_calls_come_again_with_their_ids(tmp_path: Path) -> None:
    directory = write_llama(tmp_path)
    (directory / "chat_template.jinja").write_text(HERMES)
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    async with caching(make_model(directory), call) as server:
        first = (await post(server, tools=tools)).json()["choices"][0]
        response = await post(server, tools=tools)
        assert outcome(response) == "hit"
        assert response.json()["choices"][0] == first
        assert first["finish_reason"] == "tool_calls"
        streamed = await post(server, tools=tools, stream=True)
        deltas = [e["choices"][0]["delta"] for e in events(streamed) if e["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        assert calls[0]["id"] == first["message"]["tool_calls"][0]["id"]
        assert "".join(call["function"]["arguments"] for call in calls) == "{}"


async def test_prometheus_is_told_how_often_the_cache_helped(model: Model) -> None:
    async with caching(model) as server:
        for temperature in (None, None, 0.5):
            await post(server, temperature=temperature)
        found = await read_metrics(server)
        requests = {name: found[f"vivace_response_cache_requests_total[{name}]"] for name in ("hit", "miss", "bypass")}
        assert requests == {"hit": 1, "miss": 1, "bypass": 1}
        assert found["vivace_response_cache_requests_total[shared]"] == 0
        assert found["vivace_response_cache_entries"] == 1
        assert 512 < found["vivace_response_cache_bytes"] < 2000
        assert found["vivace_response_cache_evictions_total[room]"] == 0
        assert found["vivace_time_per_output_token_seconds_count"] == 2  # a hit has none
        assert found["vivace_response_seconds_count"] == 3


async def test_prometheus_can_work_out_the_prefix_caches_hit_rate(model: Model) -> None:
    async with serving(model) as server:
        usages = []
        for _ in range(2):
            usages.append((await post(server, messages=[{"role": "user", "content": "x" * 100}])).json()["usage"])
        found = await read_metrics(server)
        cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
        assert found["vivace_prefix_cache_queried_tokens_total"] == sum(usage["prompt_tokens"] for usage in usages)
        assert found["vivace_prefix_cache_hit_tokens_total"] == cached >= 96


async def test_prefixes_are_shared_between_equal_salts_and_no_others(model: Model) -> None:
    async with serving(model) as server:
        long = [{"role": "user", "content": "x" * 100}]
        cached: dict[tuple[str | None, int], int] = {}
        for turn in range(2):
            for salt in (None, "mine", "yours"):
                usage = (await post(server, messages=long, cache_salt=salt)).json()["usage"]
                cached[salt, turn] = usage["prompt_tokens_details"]["cached_tokens"]
        assert [cached[salt, 0] for salt in (None, "mine", "yours")] == [0, 0, 0]
        assert all(cached[salt, 1] >= 96 for salt in (None, "mine", "yours"))


@pytest.mark.parametrize("isolate", [False, True])
async def test_prefixes_are_isolated_by_key_on_request(model: Model, isolate: bool) -> None:
    async with serving(model, api_keys=("one", "two"), isolate_prefixes=isolate) as server:
        cached = []
        for key, salt in (("one", None), ("two", None), ("one", None), ("one", "same"), ("two", "same")):
            headers = {"authorization": f"Bearer {key}"}
            long = [{"role": "user", "content": "x" * 100}]
            usage = (await post(server, headers=headers, messages=long, cache_salt=salt)).json()["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"] > 0)
        assert cached == [False, not isolate, True, False, True]


async def test_the_log_says_how_an_answer_came_about_and_nothing_of_it(model: Model) -> None:
    written = io.StringIO()
    with logging_to(written, "json", "info"):
        async with caching(model, "an answer") as server:
            for _ in range(2):
                await post(server)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["cache"] for line in lines] == ["miss", "hit"]
    assert [line["finish_reasons"] for line in lines] == ["stop", "stop"]
    assert "answer" not in written.getvalue()


async def test_the_official_client_can_ask_for_a_computed_answer(model: Model) -> None:
    async with caching(model) as server:
        for _ in range(2):
            raw: Any = await server.client.with_options(
                default_headers={"Cache-Control": "no-store"}
            ).chat.completions.with_raw_response.create(model="tiny", messages=HELLO)
            assert raw.headers["x-vivace-cache"] == "bypass"
