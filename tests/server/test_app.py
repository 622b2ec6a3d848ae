"""The server as a whole: page, headers, real sockets, and how it starts and stops."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.server.serving import Running, serve_process, serving, wait_until
from vivace.errors import ConfigError
from vivace.models.model import Model
from vivace.server.app import ServerConfig, listen

pytestmark = pytest.mark.anyio

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
PACKAGE = Path(__file__).parents[2] / "src/vivace"


async def test_the_page_and_its_parts_are_served(model: Model) -> None:
    async with serving(model) as server:
        page = await server.http.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        parts = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
        assert len(parts) == 5
        for part in parts:
            response = await server.http.get(part)
            assert response.status_code == 200
            assert response.headers["x-content-type-options"] == "nosniff"


async def test_the_page_may_load_nothing_from_elsewhere(model: Model) -> None:
    async with serving(model) as server:
        page = await server.http.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        for file in (*(PACKAGE / "pages").iterdir(), *(PACKAGE / "server/static").iterdir()):
            urls = re.findall(r"https?://[^\s\"']+", file.read_text(encoding="utf-8"))
            assert all(url == "http://www.w3.org/2000/svg" for url in urls)
        assert "<style" not in page.text
        assert "style=" not in page.text
        assert not re.search(r"<script[^>]*>[^<]", page.text)
        assert not re.search(r"\son\w+=", page.text)


async def test_a_page_seen_before_is_not_sent_again(model: Model) -> None:
    async with serving(model) as server:
        tag = (await server.http.get("/")).headers["etag"]
        response = await server.http.get("/", headers={"if-none-match": tag})
        assert (response.status_code, response.content) == (304, b"")


async def test_no_other_origin_is_let_in(model: Model) -> None:
    async with serving(model) as server:
        ask = {"origin": "http://elsewhere", "access-control-request-method": "POST"}
        for response in (
            await server.http.options("/v1/chat/completions", headers=ask),
            await server.http.post("/v1/chat/completions", json=CHAT, headers={"origin": "http://elsewhere"}),
        ):
            assert not any(name.startswith("access-control") for name in response.headers)


async def test_a_bug_is_told_without_its_details(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(model) as server:

        def fail() -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(server.bridge, "health", fail)
        transport = httpx.ASGITransport(server.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            response = await http.get("/health")
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        assert "secret" not in response.text


# Real sockets


@asynccontextmanager
async def listening(server: Running) -> AsyncIterator[int]:
    """The app on a real socket; gives its port."""
    sock = listen(ServerConfig(port=0))
    settings = uvicorn.Config(server.app, http="httptools", lifespan="off", log_level="warning", access_log=False)
    http = uvicorn.Server(settings)
    running = asyncio.create_task(http.serve(sockets=[sock]))
    try:
        await wait_until(lambda: http.started)
        yield sock.getsockname()[1]
    finally:
        http.should_exit = True
        await running


def request_bytes(body: object) -> bytes:
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tokens", [0, 3])
async def test_a_closed_socket_frees_its_request(model: Model, stream: bool, tokens: int) -> None:
    async with serving(model, "x" * 300) as server, listening(server) as port:
        server.runner.hold_after(tokens)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes(CHAT | {"stream": stream}))
        await wait_until(lambda: len(server.runner.batches) > 0 and server.bridge.stats().tokens == tokens)
        before = server.runner.interrupts
        writer.close()
        await writer.wait_closed()
        await wait_until(lambda: server.runner.interrupts > before)  # the abort is on its way to the engine
        server.runner.let(1)
        await wait_until(lambda: server.bridge.stats().running == 0)
        assert server.bridge.stats().tokens <= tokens + 1


async def test_a_reader_that_comes_late_is_given_all_the_text(model: Model) -> None:
    async with serving(model, "0123456789" * 40) as server, listening(server) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(request_bytes(CHAT | {"stream": True, "max_tokens": 400}))
        await wait_until(lambda: server.bridge.stats().requests == 1 and server.bridge.stats().running == 0)
        raw = b""
        while b"[DONE]" not in raw:
            raw += await reader.read(4096)
        chunks = re.findall(rb"data: (\{.*?\})\n\n", raw)
        deltas = [json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks]
        assert "".join(deltas) == "0123456789" * 40
        writer.close()
        await writer.wait_closed()


async def test_a_body_too_large_is_told_to_a_client_that_is_still_sending(model: Model) -> None:
    async with (
        serving(model, max_body_bytes=100_000) as server,
        listening(server) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        headers = {"content-type": "application/json"}
        response = await http.post("/v1/chat/completions", content=b" " * 3_000_000, headers=headers)
        assert response.status_code == 413
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200


# Starting and stopping


def test_a_port_in_use_is_refused_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port}.*--port"):
            listen(ServerConfig(port=port))


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"isolate_prefixes": True}, "Give --api-key"),
        ({"response_cache_bytes": -1}, "0 or more bytes"),
        ({"response_cache_ttl_s": 0.0}, "above 0 seconds"),
        ({"response_cache_ttl_s": float("nan")}, "above 0 seconds"),
    ],
    ids=str,
)
def test_caches_that_could_not_work_are_refused(fields: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        ServerConfig(**fields)


def test_a_host_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Cannot listen on no\.such\.host\.invalid"):
        listen(ServerConfig(host="no.such.host.invalid"))


@pytest.mark.parametrize(
    ("field", "value"), [("port", 65536), ("port", -1), ("max_body_bytes", 0), ("prompt_threads", 0), ("drain_ms", -1)]
)
def test_a_setting_out_of_range_is_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=field):
        ServerConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_open_streams_finish_and_ends_the_process(model: Model, number: signal.Signals) -> None:
    with (
        serve_process(model, "Hello " * 10, drain_ms=20_000) as (running, url),
        httpx.stream("POST", f"{url}/v1/chat/completions", json=CHAT | {"stream": True}, timeout=20) as response,
    ):
        text = ""
        for piece in response.iter_text():
            if not text:
                running.send_signal(number)
            text += piece
        assert text.endswith("data: [DONE]\n\n")
        assert running.stdout is not None
        assert running.stdout.read() == "stopped\n"
        assert running.wait(20) == 0


def test_streams_that_cannot_finish_in_time_are_told(model: Model) -> None:
    endless = CHAT | {"stream": True, "ignore_eos": True}
    with (
        serve_process(model, "Hello ", drain_ms=50) as (running, url),
        httpx.stream("POST", f"{url}/v1/chat/completions", json=endless, timeout=20) as response,
    ):
        text = ""
        for piece in response.iter_text():
            if not text:
                running.send_signal(signal.SIGTERM)
            text += piece
        last = json.loads(text.rstrip().rpartition("data: ")[2])
        assert last["error"]["code"] == "engine_stopped"
        assert running.wait(20) == 0
