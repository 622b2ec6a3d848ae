"""What is wrong with an address or a name is said before anything is timed."""

from __future__ import annotations

import asyncio

import pytest

from tests.bench.servers import END, EVENT_HEAD, Asked, piece, serving, usage, whole
from vivace.bench.probe import probe
from vivace.bench.workload import Workload
from vivace.errors import ConfigError


def test_the_model_is_the_first_that_is_listed_and_tokens_are_counted_the_servers_way() -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        words = len(asked.json["messages"][0]["content"].split())
        writer.write(EVENT_HEAD + piece("a") + usage(1, prompt_tokens=2 * words + 10) + END)

    with serving(behave) as server:
        found = probe(server.url, Workload(model=""), ())
        assert server.asked[-1].json["model"] == "tiny"
    assert found.model == "tiny"
    assert found.words_per_token == pytest.approx(0.5)
    assert found.overhead_tokens == pytest.approx(10)
    assert found.sends_usage


def test_a_server_without_usage_is_measured_all_the_same() -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENT_HEAD + piece("a") + END)

    with serving(behave) as server:
        found = probe(server.url, Workload(model=""), ())
    assert found.words_per_token is None
    assert not found.sends_usage


def test_a_wrong_model_name_is_told_with_those_there_are() -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"error":{"message":"no such model"}}', "404 Not Found"))

    with serving(behave) as server, pytest.raises(ConfigError, match=r"'huge'.*no such model.*tiny"):
        probe(server.url, Workload(model="huge"), ())


@pytest.mark.parametrize(
    ("models", "said"), [(b"<html>", "lists no model"), (b'{"data":[]}', "lists no model"), (b"", "lists no model")]
)
def test_a_server_that_lists_no_model_is_to_be_told_one(models: bytes, said: str) -> None:
    with serving(models=models) as server:
        with pytest.raises(ConfigError, match=said):
            probe(server.url, Workload(model=""), ())
        assert probe(server.url, Workload(model="mine"), ()).model == "mine"


def test_nobody_there_and_the_wrong_protocol_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="Nothing listens"):
        probe("http://127.0.0.1:1/v1", Workload(model=""), ())
    monkeypatch.setattr("vivace.bench.client.HANDSHAKE_S", 0.3)
    with serving() as server, pytest.raises(ConfigError, match="TLS"):
        probe(server.url.replace("http", "https"), Workload(model=""), ())


def test_answers_without_text_are_nothing_to_time() -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENT_HEAD + usage(0) + END)

    with serving(behave) as server, pytest.raises(ConfigError, match="without any text"):
        probe(server.url, Workload(model=""), ())


def test_headers_are_sent() -> None:
    with serving() as server:
        probe(server.url, Workload(model=""), (("authorization", "Bearer x"),))
        assert all(asked.headers["authorization"] == "Bearer x" for asked in server.asked)
