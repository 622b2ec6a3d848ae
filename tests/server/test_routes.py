"""The API from outside, in one process: the official client, exact shapes, errors, limits, and clients that go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.serving import Running, serving, wait_until
from vivace.engine.bridge import Health
from vivace.models.model import Model

pytestmark = pytest.mark.anyio

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TIMES = ("preprocess_ms", "queue_ms", "prefill_ms", "decode_ms", "flush_ms")


async def post(http: httpx.AsyncClient, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    return await http.post(path, json={"model": "tiny", "messages": HELLO} | fields)


async def read_stream(http: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> list[str]:
    """The data of every event."""
    response = await http.post(path, json={"model": "tiny", "stream": True, **body})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-length" not in response.headers
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


async def stream_paced(server: Running, body: dict[str, object], path: str = "/v1/chat/completions") -> list[bytes]:
    """Every write of a stream whose reader is faster than the model."""
    writes: list[bytes] = []
    server.runner.hold_after(1)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            writes.append(message["body"])
            server.runner.let(1)

    await call(server, {"model": "tiny", "stream": True} | body, send, path=path)
    return writes


def parse_events(writes: list[bytes]) -> list[Any]:
    """The chunks of a stream that ends as it should."""
    *events, done, rest = b"".join(writes).decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_the_official_client_gets_a_chat_answer(model: Model) -> None:
    async with serving(model) as server:
        answer = await server.client.chat.completions.create(model="tiny", messages=HELLO)
        assert answer.choices[0].message.content == "Hello there."
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.id.startswith("chatcmpl-")
        assert answer.usage is not None
        prompt = model.tokenizer.encode_chat(HELLO)
        assert answer.usage.prompt_tokens == len(prompt)
        assert answer.usage.completion_tokens == len("Hello there.") + 1  # the end of the turn counts
        assert answer.usage.total_tokens == len(prompt) + 13


async def test_the_official_client_streams_a_chat_answer(model: Model) -> None:
    async with serving(model) as server:
        stream = await server.client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello there."
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 13


async def test_the_official_client_completes_text(model: Model) -> None:
    async with serving(model) as server:
        answer = await server.client.completions.create(model="tiny", prompt="Say", max_tokens=5)
        assert answer.choices[0].text == "Hello"
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5
        stream = await server.client.completions.create(model="tiny", prompt=[72, 105], stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello there."


async def test_a_chat_stream_has_the_apis_exact_chunks(model: Model) -> None:
    async with serving(model, "Hi") as server:
        chunks = parse_events(await stream_paced(server, {"messages": HELLO}))
        head = {key: chunks[0][key] for key in ("id", "object", "created", "model")}
        assert head["object"] == "chat.completion.chunk"
        assert all(chunk.keys() == head.keys() | {"choices"} for chunk in chunks)
        assert all({key: chunk[key] for key in head} == head for chunk in chunks)
        choices = [chunk["choices"][0] for chunk in chunks]
        assert [choice["delta"] for choice in choices] == [
            {"role": "assistant", "content": ""},
            {"content": "H"},
            {"content": "i"},
            {},
        ]
        assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
        assert all((choice["index"], choice["logprobs"]) == (0, None) for choice in choices)


async def test_a_stream_with_usage_ends_in_a_chunk_without_choices(model: Model) -> None:
    async with serving(model) as server:
        body = {"messages": HELLO, "stream_options": {"include_usage": True}}
        events = await read_stream(server.http, "/v1/chat/completions", body)
        chunks = [json.loads(event) for event in events[:-1]]
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
        assert events[-1] == "[DONE]"


async def test_a_completion_stream_has_the_apis_exact_chunks(model: Model) -> None:
    async with serving(model, "Hi") as server:
        chunks = parse_events(await stream_paced(server, {"prompt": "x"}, "/v1/completions"))
        choices = [chunk["choices"][0] for chunk in chunks]
        assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
            ("H", None),
            ("i", None),
            ("", "stop"),
        ]


async def test_each_update_is_one_write(model: Model) -> None:
    async with serving(model, "abc") as server:
        writes = await stream_paced(server, {"messages": HELLO})
        assert [write.count(b"data: ") for write in writes] == [2, 1, 1, 2]
        assert b'"role":"assistant"' in writes[0]
        assert b'"content":"a"' in writes[0]
        assert writes[-1].endswith(b"data: [DONE]\n\n")


async def test_the_times_add_up_to_the_response_time(model: Model) -> None:
    async with serving(model) as server:
        whole = (await post(server.http)).json()["usage"]["timing"]
        body = {"messages": HELLO, "stream_options": {"include_usage": True}}
        events = await read_stream(server.http, "/v1/chat/completions", body)
        for timing in (whole, json.loads(events[-2])["usage"]["timing"]):
            assert timing.keys() == {*TIMES, "total_ms"}
            assert sum(Decimal(str(timing[name])) for name in TIMES) == Decimal(str(timing["total_ms"]))
            assert all(timing[name] >= 0 for name in TIMES)
            assert timing["prefill_ms"] > 0
            assert timing["preprocess_ms"] > 0


async def test_whole_replies_tell_their_times_in_the_standard_header(model: Model) -> None:
    async with serving(model) as server:
        for path, fields in (("/v1/chat/completions", {"messages": HELLO}), ("/v1/responses", {"input": "Hi"})):
            response = await server.http.post(path, json={"model": "tiny"} | fields)
            told = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
            assert {f"{name}_ms": float(value) for name, value in told.items()} == response.json()["usage"]["timing"]
        assert "server-timing" not in (await post(server.http, stream=True)).headers


async def test_text_and_conversations_are_tokenized_as_they_would_be_answered(model: Model) -> None:
    async with serving(model) as server:
        text = (await server.http.post("/tokenize", json={"model": "tiny", "prompt": "é!"})).json()
        assert text == {"tokens": [0xC3, 0xA9, ord("!")], "count": 3, "max_model_len": 512}
        chat = (await server.http.post("/tokenize", json={"model": "tiny", "messages": HELLO})).json()
        answer = (await post(server.http)).json()
        assert chat["count"] == len(chat["tokens"]) == answer["usage"]["prompt_tokens"]
        for body in ({}, {"prompt": "x", "messages": HELLO}):
            refused = await server.http.post("/tokenize", json={"model": "tiny"} | body)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")


async def test_text_is_normalised_before_the_template_sees_it(model: Model) -> None:
    async with serving(model) as server:
        plain, odd = "Zo\u00eb\nsays", "\ufeffZoe\u0308\r\nsa\x00\x1bys\x85"
        counts = []
        for content in (plain, odd):
            body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
            counts.append((await server.http.post("/tokenize", json=body)).json()["tokens"])
        assert counts[0] == counts[1]


@pytest.mark.parametrize("field", [{"ignore_eos": True}, {"min_tokens": 2}])
async def test_a_grammar_excludes_what_would_break_it(model: Model, field: dict[str, Any]) -> None:
    async with serving(model) as server:
        response = await post(server.http, response_format={"type": "regex", "regex": "a+"}, **field)
        assert response.status_code == 400
        assert next(iter(field)) in response.json()["error"]["message"]


async def test_tools_are_refused_by_a_model_that_has_none(model: Model) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    async with serving(model) as server:
        response = await post(server.http, tools=tools)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")
        assert (await post(server.http, tools=tools, tool_choice="none")).status_code == 200
        response = await post(server.http, messages=[{"role": "assistant", "tool_calls": calls}])
        assert (response.status_code, response.json()["error"]["param"]) == (400, "messages[0].tool_calls")


async def test_a_step_that_never_ends_makes_health_red(model: Model) -> None:
    async with serving(model, stuck_after_ms=50) as server:
        server.runner.hold_after(0)
        asking = asyncio.create_task(post(server.http))
        await wait_until(lambda: server.bridge.health().stuck_ms > 60)
        response = await server.http.get("/health")
        assert (response.status_code, response.json()["status"]) == (503, "error")
        server.runner.open_gate()
        await asking
        assert (await server.http.get("/health")).status_code == 200


async def test_a_prefix_seen_before_is_reported_as_cached(model: Model) -> None:
    async with serving(model) as server:
        long = [{"role": "user", "content": "x" * 100}]
        first = (await post(server.http, messages=long)).json()["usage"]
        again = (await post(server.http, messages=long)).json()["usage"]
        salted = (await post(server.http, messages=long, cache_salt="mine")).json()["usage"]
        assert first["prompt_tokens_details"]["cached_tokens"] == 0
        assert again["prompt_tokens_details"]["cached_tokens"] >= 96
        assert salted["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_text_and_frees_the_request(
    model: Model, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(model, "one two three" + "." * 400) as server:
        server.runner.hold_after(len("one two th"))
        abort = server.bridge.abort

        def abort_and_let_go(id: str) -> None:
            abort(id)
            server.runner.let(1)

        monkeypatch.setattr(server.bridge, "abort", abort_and_let_go)
        body: dict[str, Any] = {"messages": HELLO, "stop": [" th", "zzz"]}
        if stream:
            options = {"stream_options": {"include_usage": True}}
            events = await read_stream(server.http, "/v1/chat/completions", body | options)
            chunks = [json.loads(event) for event in events[:-1]]
            text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
            reason, usage = chunks[-2]["choices"][0]["finish_reason"], chunks[-1]["usage"]
        else:
            answer = (await post(server.http, **body)).json()
            text = answer["choices"][0]["message"]["content"]
            reason, usage = answer["choices"][0]["finish_reason"], answer["usage"]
        assert (text, reason) == ("one two", "stop")
        assert usage["completion_tokens"] == len("one two th")
        assert usage["timing"]["total_ms"] > 0
        await wait_until(lambda: server.bridge.stats().running == 0)
        assert server.bridge.stats().tokens <= len("one two th") + 1


async def test_a_stop_string_that_the_last_token_completes_is_a_stop(model: Model) -> None:
    async with serving(model) as server:
        answer = (await post(server.http, stop="lo", max_tokens=5)).json()
        assert answer["choices"][0]["message"]["content"] == "Hel"
        assert answer["choices"][0]["finish_reason"] == "stop"


async def test_text_held_back_for_a_stop_string_comes_when_none_does(model: Model) -> None:
    async with serving(model, "one two") as server:
        answer = (await post(server.http, stop=["two three"])).json()
        assert answer["choices"][0]["message"]["content"] == "one two"


async def test_a_stop_token_ends_the_answer_and_is_not_in_its_text(model: Model) -> None:
    async with serving(model) as server:
        answer = (await post(server.http, stop_token_ids=[ord("t")])).json()
        assert answer["choices"][0]["message"]["content"] == "Hello "
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == len("Hello t")


async def test_ignore_eos_goes_on_past_the_end_of_the_turn(model: Model) -> None:
    async with serving(model, "ab") as server:
        answer = (await post(server.http, ignore_eos=True, max_tokens=8)).json()
        assert answer["choices"][0]["message"]["content"] == "ababab"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 8


async def test_a_message_in_parts_reads_as_one_in_text(model: Model) -> None:
    async with serving(model) as server:
        parts = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *HELLO]
        plain = [{"role": "system", "content": "Be brief."}, *HELLO]
        usages = [(await post(server.http, messages=messages)).json()["usage"] for messages in (parts, plain)]
        assert usages[0]["prompt_tokens"] == usages[1]["prompt_tokens"] == len(model.tokenizer.encode_chat(plain))


async def test_sampling_settings_reach_the_runner(model: Model) -> None:
    async with serving(model) as server:
        await post(server.http, temperature=0.5, top_p=0.25, top_k=7, seed=-1)
        opened = [row.opens for batch in server.runner.batches for row in batch.rows if row.opens]
        assert len(opened) == 1
        sampling = opened[0]
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 7)
        assert sampling.seed == 2**64 - 1


async def test_penalties_reach_the_runner(model: Model) -> None:
    asked: dict[str, Any] = {
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "min_tokens": 2,
    }
    async with serving(model) as server:
        assert (await post(server.http, logit_bias={"7": 1.5}, **asked)).status_code == 200
        sampling = server.runner.batches[0].rows[0].opens
        assert sampling is not None
        assert {name: getattr(sampling, name) for name in asked} == asked
        assert (dict(sampling.logit_bias), sampling.logprobs) == ({7: 1.5}, -1)


@pytest.mark.parametrize("fields", [{"logit_bias": {"5000": 1}}, {"stop_token_ids": [5000]}])
async def test_a_token_outside_the_vocabulary_is_refused(model: Model, fields: dict[str, Any]) -> None:
    async with serving(model) as server:
        response = await post(server.http, **fields)
        assert response.status_code == 400
        assert next(iter(fields)) in response.json()["error"]["message"]


async def test_the_official_client_reads_log_probabilities_of_a_chat(model: Model) -> None:
    async with serving(model, "Hé") as server:
        asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "logprobs": True, "top_logprobs": 2}
        answer = await server.client.chat.completions.create(**asked)
        assert answer.choices[0].logprobs is not None
        whole = answer.choices[0].logprobs.content
        assert whole is not None
        assert [bytes(token.bytes or ()) for token in whole] == [b"H", b"\xc3", b"\xa9"]
        assert [token.logprob for token in whole] == [-0.5] * 3
        assert [[top.logprob for top in token.top_logprobs] for token in whole] == [[-1.0, -2.0]] * 3
        streamed: list[Any] = []
        async for chunk in await server.client.chat.completions.create(**asked, stream=True):
            if chunk.choices and chunk.choices[0].logprobs is not None:
                streamed += chunk.choices[0].logprobs.content or []
        assert streamed == whole


async def test_the_official_client_reads_log_probabilities_of_a_completion(model: Model) -> None:
    async with serving(model, "Hé!") as server:
        asked: dict[str, Any] = {"model": "tiny", "prompt": "Hello", "logprobs": 1}
        answer = await server.client.completions.create(**asked)
        whole = answer.choices[0].logprobs
        assert whole is not None
        assert whole.tokens == ["H", "\ufffd", "\ufffd", "!"]
        assert whole.token_logprobs == [-0.5] * 4
        assert whole.text_offset == [0, 1, 1, 2]
        assert len(whole.top_logprobs or ()) == 4
        streamed: list[str] = []
        async for chunk in await server.client.completions.create(**asked, stream=True):
            if chunk.choices[0].logprobs is not None:
                streamed += chunk.choices[0].logprobs.tokens or []
        assert streamed == whole.tokens


async def test_the_one_model_is_listed_and_shown(model: Model) -> None:
    async with serving(model) as server:
        listed = [card async for card in server.client.models.list()]
        assert [card.id for card in listed] == ["tiny"]
        shown = await server.client.models.retrieve("tiny")
        assert (shown.id, shown.object, shown.owned_by) == ("tiny", "model", "vivace")
        with pytest.raises(openai.NotFoundError, match="'tiny'"):
            await server.client.models.retrieve("gpt/4")


# Errors


async def test_a_wrong_model_is_not_found_and_the_right_one_named(model: Model) -> None:
    async with serving(model) as server:
        with pytest.raises(openai.NotFoundError) as caught:
            await server.client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"
        assert "'tiny'" in caught.value.message


async def test_an_unknown_field_is_refused_in_the_apis_shape(model: Model) -> None:
    async with serving(model) as server:
        response = await post(server.http, tempreature=1)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert (error["param"], error["code"]) == ("tempreature", "unknown_parameter")


async def test_more_answers_than_there_may_be_are_refused(model: Model) -> None:
    async with serving(model) as server:
        with pytest.raises(openai.BadRequestError, match="n cannot be used"):
            await server.client.chat.completions.create(model="tiny", messages=HELLO, n=129)


@pytest.mark.parametrize("fields", [{"messages": [{"role": "user", "content": "x" * 600}]}, {"max_tokens": 500}])
async def test_what_the_context_cannot_hold_is_refused(model: Model, fields: dict[str, Any]) -> None:
    async with serving(model) as server:
        response = await post(server.http, **fields)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
        assert "512" in response.json()["error"]["message"]


async def test_an_unknown_token_is_refused(model: Model) -> None:
    async with serving(model) as server:
        response = await post(server.http, "/v1/completions", messages=None, prompt=[99999])
        assert response.status_code == 400
        response = await server.http.post("/v1/completions", json={"model": "tiny", "prompt": [99999]})
        assert response.status_code == 400
        assert "token id" in response.json()["error"]["message"]


async def test_a_body_that_declares_too_much_is_refused_unread(model: Model) -> None:
    async with serving(model, max_body_bytes=1000) as server:
        response = await post(server.http, messages=[{"role": "user", "content": "x" * 2000}])
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "body_too_large"


async def test_a_body_that_grows_too_large_is_refused(model: Model) -> None:
    async with serving(model, max_body_bytes=1000) as server:

        async def endless() -> Any:
            for _ in range(10):
                yield b" " * 500

        headers = {"content-type": "application/json"}
        response = await server.http.post("/v1/chat/completions", content=endless(), headers=headers)
        assert response.status_code == 413


async def test_a_body_that_does_not_say_it_is_json_is_refused(model: Model) -> None:
    async with serving(model) as server:
        body = json.dumps({"model": "tiny", "messages": HELLO})
        response = await server.http.post("/v1/chat/completions", content=body, headers={"content-type": "text/plain"})
        assert response.status_code == 415
        assert "application/json" in response.json()["error"]["message"]


async def test_wrong_paths_and_methods_are_told_in_the_apis_shape(model: Model) -> None:
    async with serving(model) as server:
        missing = await server.http.post("/v1/chat")
        wrong = await server.http.get("/v1/chat/completions")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"


async def test_a_full_queue_says_when_to_come_back(model: Model) -> None:
    async with serving(model, slots=1, max_waiting=1) as server:
        server.runner.hold_after(0)
        first = asyncio.create_task(post(server.http))
        await wait_until(lambda: len(server.runner.batches) > 0)
        others = [asyncio.create_task(post(server.http, stream=stream)) for stream in (False, True, False, True)]
        await wait_until(lambda: server.runner.interrupts == 5)
        server.runner.open_gate()
        answers = [await task for task in others]
        assert (await first).status_code == 200
        assert sorted(answer.status_code for answer in answers) == [200, 429, 429, 429]
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_step_that_fails_is_a_server_error(model: Model, stream: bool) -> None:
    async with serving(model) as server:
        server.runner.failing = True
        response = await post(server.http, stream=stream)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "step_failed"
        server.runner.failing = False
        assert (await post(server.http)).status_code == 200


async def test_a_step_that_fails_midway_ends_the_stream_with_an_error(model: Model) -> None:
    async with serving(model) as server:
        server.runner.hold_after(3)
        stream = asyncio.create_task(read_stream(server.http, "/v1/chat/completions", {"messages": HELLO}))
        await wait_until(lambda: server.bridge.stats().tokens == 3)
        server.runner.failing = True
        server.runner.open_gate()
        events = await stream
        assert "[DONE]" not in events
        assert json.loads(events[-1])["error"]["type"] == "server_error"
        # The step at the gate had passed the check for failure already, so one more token may have come.
        texts = [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:-1]]
        assert "".join(texts) in ("Hel", "Hell")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stopped_engine_is_unavailable(model: Model, stream: bool) -> None:
    async with serving(model) as server:
        await asyncio.to_thread(server.bridge.close)
        response = await post(server.http, stream=stream)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_stopped"


async def test_an_engine_that_stops_midway_is_told_to_the_reader(model: Model) -> None:
    async with serving(model, "x" * 300) as server:
        server.runner.hold_after(3)
        stream = asyncio.create_task(read_stream(server.http, "/v1/chat/completions", {"messages": HELLO}))
        await wait_until(lambda: server.bridge.stats().tokens == 3)
        closing = asyncio.create_task(asyncio.to_thread(server.bridge.close))
        await wait_until(lambda: server.bridge.health().error != "")
        server.runner.open_gate()
        events = await stream
        await closing
        assert json.loads(events[-1])["error"]["code"] == "engine_stopped"


async def test_health_is_green_while_the_engine_works(model: Model) -> None:
    async with serving(model) as server:
        response = await server.http.get("/health")
        assert response.status_code == 200
        state = {"waiting": 0, "running": 0, "overloaded": False}
        assert response.json() == {"status": "ok", "model": "tiny", "stuck_ms": 0.0} | state


async def test_health_is_red_when_the_engine_is_dead(model: Model) -> None:
    async with serving(model) as server:
        await asyncio.to_thread(server.bridge.close)
        response = await server.http.get("/health")
        assert response.status_code == 503
        assert response.json()["status"] == "error"
        assert response.json()["error"]


async def test_health_is_red_while_the_engine_takes_no_more_requests(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(model) as server:
        monkeypatch.setattr(server.bridge, "health", lambda: Health(True, 0.0, "The engine is closed."))
        response = await server.http.get("/health")
        assert (response.status_code, response.json()["error"]) == (503, "The engine is closed.")


async def test_health_is_red_when_the_engine_is_stuck(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(model, stuck_after_ms=1000) as server:
        monkeypatch.setattr(server.bridge, "health", lambda: Health(True, 999.0))
        assert (await server.http.get("/health")).status_code == 200
        monkeypatch.setattr(server.bridge, "health", lambda: Health(True, 1001.0))
        response = await server.http.get("/health")
        assert response.status_code == 503
        assert "1001 ms" in response.json()["error"]


# Clients that go


async def call(
    server: Running, body: object, send: Any, gone: asyncio.Event | None = None, path: str = "/v1/chat/completions"
) -> None:
    """One request as a server would make it; `gone` set means that the client has closed its connection."""
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    headers = [(b"content-type", b"application/json"), (b"host", b"server")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    await server.app(scope | {"query_string": b"", "raw_path": path.encode()}, receive, send)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tokens", [0, 3])
async def test_a_client_that_goes_frees_its_request(model: Model, stream: bool, tokens: int) -> None:
    async with serving(model, "x" * 300) as server:
        server.runner.hold_after(tokens)
        gone = asyncio.Event()
        sent: list[Any] = []

        async def record(message: Any) -> None:
            sent.append(message)

        body = {"model": "tiny", "messages": HELLO, "stream": stream}
        request = asyncio.create_task(call(server, body, record, gone))
        await wait_until(lambda: len(server.runner.batches) > 0 and server.bridge.stats().tokens == tokens)
        gone.set()
        await request
        server.runner.let(1)  # the step under way ends; the abort is seen to before another begins
        await wait_until(lambda: server.bridge.stats().running == 0)
        assert server.bridge.stats().tokens <= tokens + 1
        assert not any(b"[DONE]" in message.get("body", b"") for message in sent)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_frees_all_its_answers(model: Model, stream: bool) -> None:
    async with serving(model, "x" * 300) as server:
        server.runner.hold_after(2)
        gone = asyncio.Event()

        async def ignore(message: Any) -> None:
            pass

        body = {"model": "tiny", "messages": HELLO, "stream": stream, "n": 3}
        request = asyncio.create_task(call(server, body, ignore, gone))
        await wait_until(lambda: server.bridge.stats().requests == 3)
        gone.set()
        await request
        server.runner.open_gate()
        await wait_until(lambda: server.bridge.stats().running + server.bridge.stats().waiting == 0)
        assert server.bridge.stats().tokens < 300


async def test_one_reader_that_does_not_read_holds_up_no_other(model: Model) -> None:
    async with serving(model) as server:
        never = asyncio.Event()

        async def stuck(message: Any) -> None:
            await never.wait()

        gone = asyncio.Event()
        body = {"model": "tiny", "messages": HELLO, "stream": True}
        slow = asyncio.create_task(call(server, body, stuck, gone))
        answers = await asyncio.gather(*(post(server.http) for _ in range(8)))
        assert all(answer.json()["choices"][0]["message"]["content"] == "Hello there." for answer in answers)
        gone.set()
        await slow


async def test_a_hundred_streams_at_once_all_get_the_whole_text(model: Model) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    async with serving(model, text, max_waiting=200, slots=8) as server:

        async def one() -> str:
            stream = await server.client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert await asyncio.gather(*(one() for _ in range(100))) == [text] * 100


# Anything at all

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "robot"]), "content": st.text() | _json},
    optional={"name": _json, "tool_calls": _json},
)
_fields = st.fixed_dictionaries(
    {"model": st.just("tiny") | _json},
    optional={
        "messages": st.lists(_message, max_size=3) | _json,
        "prompt": st.text() | st.lists(st.integers(-5, 400)) | _json,
        "max_tokens": st.integers(-2, 600) | _json,
        "max_completion_tokens": st.integers(1, 5) | _json,
        "temperature": st.floats(-1, 3) | _json,
        "top_p": st.floats(-1, 2) | _json,
        "top_k": st.integers() | _json,
        "seed": st.integers() | _json,
        "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=18) | _json,
        "stream": st.booleans() | _json,
        "stream_options": st.just({"include_usage": True}) | _json,
        "stop_token_ids": st.lists(st.integers(-1, 400)) | _json,
        "ignore_eos": st.booleans() | _json,
        "n": st.integers(0, 2) | _json,
        "logprobs": st.booleans() | st.integers(-1, 22) | _json,
        "top_logprobs": st.integers(-1, 22) | _json,
        "logit_bias": st.dictionaries(st.integers(-1, 300).map(str), st.floats(-110, 110)) | _json,
        "min_p": st.floats(-1, 2) | _json,
        "repetition_penalty": st.floats(-1, 3) | _json,
        "presence_penalty": st.floats(-3, 3) | _json,
        "frequency_penalty": st.floats(-3, 3) | _json,
        "min_tokens": st.integers(-1, 600) | _json,
        "tools": _json,
        "tool_choice": st.sampled_from(["auto", "none", "required"]) | _json,
        "input": st.text() | st.lists(_message, max_size=3) | _json,
        "text": _json,
        "instructions": st.text() | _json,
        "response_format": _json,
        "cache_salt": st.text() | _json,
        "budget": st.fixed_dictionaries({}, optional={"ttft_ms": st.floats(1e5, 1e10), "tpot_ms": st.just(-1)}) | _json,
        "priority": st.integers(-1, 10) | _json,
        "on_deadline": st.sampled_from(["fail", "truncate", "explode"]) | _json,
    },
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(_fields, min_size=5, max_size=10), raw=st.lists(st.binary(max_size=60), max_size=3))
def test_no_body_makes_the_server_fail(model: Model, bodies: list[Any], raw: list[bytes]) -> None:
    async def send_all() -> list[httpx.Response]:
        async with serving(model) as server:
            contents = [json.dumps(body).encode() for body in bodies] + raw
            headers = {"content-type": "application/json"}
            return [
                await server.http.post(path, content=content, headers=headers)
                for content in contents
                for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize")
            ]

    for response in asyncio.run(send_all()):
        assert response.status_code < 500
        if response.status_code >= 400:
            error = response.json()["error"]
            assert error["message"]
            assert error["type"] == "invalid_request_error"
