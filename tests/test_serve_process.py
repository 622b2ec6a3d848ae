"""`vivace serve` as its users have it: a process of its own, a real model, and the official client."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import openai
import pytest

from tests.checkpoints import write_llama
from vivace.llm import LLM, load

pytestmark = pytest.mark.anyio

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOWNS: list[Any] = [{"role": "user", "content": "Name a few towns, and say what each is known for."}]
EXIT_S = 60
"""A process that has not ended by then never will."""


@dataclass(frozen=True)
class Server:
    """A running `vivace serve`."""

    process: subprocess.Popen[str]
    url: str
    errors: IO[str]
    """What it wrote to standard error."""

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=100)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, and hold it to a clean one."""
        self.process.send_signal(number)
        assert self.process.wait(EXIT_S) == 0
        assert self.said() == ""

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()


@contextmanager
def starting(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process of `vivace serve`, which does not outlive the block, and its standard error."""
    command = [sys.executable, "-m", "vivace", "serve", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield process, errors
        finally:
            process.kill()


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """A server on a free port that can be reached."""
    with starting(*arguments, "--port", "0") as (process, errors):
        assert process.stdout is not None
        found = (re.search(r"API +(http://\S+)/v1 ", line) for line in process.stdout)
        url = next((match[1] for match in found if match), "")
        server = Server(process, url, errors)
        assert url, f"it ended before it could be reached: {server.said()}"
        yield server


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("mini", "--threads", "2") as server:
        yield server
        server.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def mini() -> Iterator[LLM]:
    """The same model, in this process."""
    with load("mini", threads=1, max_sequences=4) as llm:
        yield llm


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose context no test lives long enough to see full."""
    directory = tmp_path_factory.mktemp("endless")
    return write_llama(directory, hidden=16, heads=1, kv_heads=1, layers=1, intermediate=16, context=4_000_000)


async def read(stream: openai.AsyncStream[Any]) -> tuple[str, str | None]:
    """The text of a chat stream, and why it finished."""
    choices = [chunk.choices[0] async for chunk in stream]
    return "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason


# What the official client gets


async def test_a_chat_is_answered_as_the_python_interface_answers_it(client: openai.AsyncOpenAI, mini: LLM) -> None:
    answer = await client.chat.completions.create(model="mini", messages=TOWNS, max_tokens=40, temperature=0.8, seed=3)
    due = mini.generate(TOWNS, max_tokens=40, temperature=0.8, seed=3)
    assert answer.choices[0].message.content == due.text
    assert answer.choices[0].finish_reason == due.finish_reason
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (due.prompt_tokens, len(due.token_ids))


async def test_a_chat_streamed_is_the_same_text(client: openai.AsyncOpenAI, mini: LLM) -> None:
    stream = await client.chat.completions.create(
        model="mini", messages=TOWNS, max_tokens=40, temperature=0.8, seed=3, stream=True
    )
    due = mini.generate(TOWNS, max_tokens=40, temperature=0.8, seed=3)
    assert await read(stream) == (due.text, due.finish_reason)


async def test_a_draft_gives_the_same_answers_and_is_seen_in_the_metrics(mini: LLM) -> None:
    due = [mini.generate(TOWNS, max_tokens=60, temperature=warm, seed=3).text for warm in (0.0, 0.8)]
    with serving("mini", "--threads", "1", "--draft", "mini") as server:
        async with server.client() as client:
            for warm, text in zip((0.0, 0.8), due, strict=True):
                answer = await client.chat.completions.create(
                    model="mini", messages=TOWNS, max_tokens=60, temperature=warm, seed=3
                )
                assert answer.choices[0].message.content == text
        async with httpx.AsyncClient() as plain:
            metrics = (await plain.get(f"{server.url}/metrics")).text
        assert "vivace_engine_proposed_tokens_total" in metrics
        server.stop()


async def test_text_is_completed_whole_and_streamed(client: openai.AsyncOpenAI, mini: LLM) -> None:
    prompt = "Once upon a time"
    due = mini.generate(prompt, max_tokens=20, temperature=0.0).text
    whole = await client.completions.create(model="mini", prompt=prompt, max_tokens=20, temperature=0)
    assert whole.choices[0].text == due
    stream = await client.completions.create(model="mini", prompt=prompt, max_tokens=20, temperature=0, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == due


async def test_the_model_is_listed_and_no_other_answers(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["mini"]
    assert (await client.models.retrieve("mini")).id == "mini"
    with pytest.raises(openai.NotFoundError, match="mini"):
        await client.chat.completions.create(model="other", messages=HELLO)


async def test_the_page_and_the_health_are_there(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as http:
        page = await http.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert (await http.get("/health")).json()["status"] == "ok"


# Crowds


async def test_a_hundred_streams_at_once_say_what_each_says_alone(client: openai.AsyncOpenAI) -> None:
    def options(seed: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": f"Tell me about town number {seed % 10}."}]
        return {"model": "mini", "messages": messages, "max_tokens": 32, "temperature": 0.8, "seed": seed}

    alone = []
    for seed in range(100):
        choice = (await client.chat.completions.create(**options(seed))).choices[0]
        alone.append((choice.message.content, choice.finish_reason))
    assert len(set(alone)) > 50

    async def ask(seed: int) -> tuple[str, str | None]:
        return await read(await client.chat.completions.create(**options(seed), stream=True))

    assert await asyncio.gather(*(ask(seed) for seed in range(100))) == alone


async def test_clients_that_go_midway_harm_nobody(client: openai.AsyncOpenAI, server: Server) -> None:
    async def ask(seed: int, leave: bool = False) -> tuple[str, str | None] | None:
        stream = await client.chat.completions.create(
            model="mini",
            messages=TOWNS,
            max_tokens=100,
            temperature=0.8,
            seed=seed,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        if not leave:
            return await read(stream)
        await anext(stream)
        await stream.close()
        return None

    alone = [await ask(seed) for seed in range(10)]
    answers = await asyncio.gather(*(ask(seed // 2, leave=bool(seed % 2)) for seed in range(20)))
    assert answers[::2] == alone
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.get("/health")).json()["status"] == "ok"


async def test_a_client_that_goes_midway_makes_room_for_the_next(endless: Path) -> None:
    """With one place and an answer that never ends, nobody else is answered unless the place is freed.

    Who asks again before the server has seen the other one go is told to wait, and the official client does."""
    options: dict[str, Any] = {"model": endless.name, "messages": HELLO, "extra_body": {"ignore_eos": True}}
    with serving(str(endless), "--max-sequences", "1", "--threads", "1") as server:
        async with server.client() as impatient:
            client = impatient.with_options(max_retries=2)
            for _ in range(2):
                stream = await client.chat.completions.create(**options, stream=True)
                await anext(stream)
                await stream.close()
            answer = await client.chat.completions.create(**options, max_tokens=4)
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 4
        server.stop()


# Starting and stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server(llama_directory: Path, number: signal.Signals) -> None:
    with serving(str(llama_directory)) as server:
        server.stop(number)


async def test_streams_that_can_finish_before_the_end_do(mini: LLM) -> None:
    with serving("mini", "--threads", "2") as server:
        async with server.client() as client:
            streams = [
                await client.chat.completions.create(
                    model="mini",
                    messages=TOWNS,
                    max_tokens=200,
                    temperature=0.8,
                    seed=seed,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
                for seed in range(5)
            ]
            server.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*(read(stream) for stream in streams))
            due = [
                mini.generate(TOWNS, max_tokens=200, temperature=0.8, seed=seed, ignore_eos=True) for seed in range(5)
            ]
            assert answers == [(answer.text, "length") for answer in due]
            assert await asyncio.to_thread(server.process.wait, EXIT_S) == 0
            assert server.said() == ""


async def test_a_stream_that_cannot_finish_in_time_is_told(endless: Path) -> None:
    with serving(str(endless), "--threads", "1") as server:
        async with server.client() as client:
            stream = await client.chat.completions.create(
                model=endless.name, messages=HELLO, stream=True, extra_body={"ignore_eos": True}
            )
            await anext(stream)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError) as told:
                await read(stream)
            assert told.value.code == "engine_stopped"
            assert await asyncio.to_thread(server.process.wait, EXIT_S) == 0
            assert server.said() == ""


def test_a_port_in_use_is_one_line_with_the_remedy(server: Server, llama_directory: Path) -> None:
    port = server.url.rpartition(":")[2]
    with starting(str(llama_directory), "--port", port) as (process, errors):
        assert process.wait(EXIT_S) == 1
        errors.seek(0)
        message = errors.read()
    assert message.startswith(f"Error: Cannot listen on 127.0.0.1 port {port}")
    assert "--port" in message
    assert message.count("\n") == 1


def test_the_summary_and_the_log_can_be_json_and_the_api_can_need_a_key(llama_directory: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    arguments = ["--port", "0", "--log-format", "json", "--log-level", "info", "--api-key-file", str(keys)]
    with starting(str(llama_directory), "--threads", "1", *arguments) as (process, errors):
        assert process.stdout is not None
        summary = json.loads(process.stdout.readline())
        assert summary["event"] == "serving"
        assert (summary["model"], summary["format"]) == (llama_directory.name, "int8")
        assert summary["weight_bytes"] > 0
        assert summary["floor_ms_per_token"] > 0
        body = {"model": llama_directory.name, "messages": HELLO, "max_tokens": 3}
        statuses = [
            httpx.post(f"{summary['url']}/v1/chat/completions", json=body, headers=headers).status_code
            for headers in ({}, {"authorization": "Bearer second"})
        ]
        assert statuses == [401, 200]
        process.send_signal(signal.SIGTERM)
        assert process.wait(EXIT_S) == 0
        errors.seek(0)
        entries = [json.loads(line) for line in errors if line.startswith("{")]
    assert [entry["status"] for entry in entries if entry["event"] == "request"] == [401, 200]


def test_the_summary_says_what_is_served_and_how_fast_it_could_be(llama_directory: Path) -> None:
    with starting(str(llama_directory), "--port", "0") as (process, _):
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
    text = "".join(lines)
    assert all(word in text for word in (llama_directory.name, "int8", "MB of weights", "ms a token", "/docs"))
