"""Keys, counts and log lines around the app."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tests.server.serving import serving
from vivace.models.model import Model
from vivace.server.access import find_route
from vivace.server.log import logging_to

pytestmark = pytest.mark.anyio

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a secret"}]}


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Bearer ", "Basic right", "right", "Bearer rightright"])
async def test_without_the_key_the_api_is_closed(model: Model, header: str) -> None:
    async with serving(model, api_keys=("right", "other")) as server:
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/metrics")):
            response = await server.http.request(method, path, headers={"authorization": header})
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
            assert "Authorization: Bearer" in error["message"]
        assert server.bridge.stats().requests == 0


@pytest.mark.parametrize("key", ["right", "other"])
async def test_with_any_of_the_keys_it_is_open(model: Model, key: str) -> None:
    async with serving(model, api_keys=("right", "other")) as server:
        headers = {"authorization": f"Bearer {key}"}
        assert (await server.http.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200


async def test_page_health_and_docs_need_no_key(model: Model) -> None:
    async with serving(model, api_keys=("right",)) as server:
        for path in ("/", "/health", "/docs", "/openapi.json"):
            assert (await server.http.get(path)).status_code == 200
        assert (await server.http.get("/openapi.json")).json()["security"] == [{"key": []}]


async def log_of(model: Model, format: Any, *requests: dict[str, Any]) -> str:
    written = io.StringIO()
    with logging_to(written, format, "info"):
        async with serving(model, "an answer") as server:
            for body in requests:
                await server.http.post("/v1/chat/completions", json=body)
    return written.getvalue()


async def test_each_request_is_a_line_of_json_without_any_text(model: Model) -> None:
    refused = CHAT | {"tempreature": 1}
    lines = (await log_of(model, "json", CHAT, CHAT | {"stream": True}, refused)).splitlines()
    whole, streamed, failed = (json.loads(line) for line in lines)
    for entry in (whole, streamed):
        assert (entry["event"], entry["status"], entry["route"]) == ("request", 200, "/v1/chat/completions")
        assert entry["completion_tokens"] == len("an answer") + 1
        assert entry["response_ms"] >= entry["total_ms"] > 0
        assert entry["id"].startswith("chatcmpl-")
    assert failed["status"] == 400
    assert not any(word in "".join(lines) for word in ("secret", "answer"))


async def test_a_line_of_text_has_the_same_fields(model: Model) -> None:
    line = await log_of(model, "text", CHAT)
    assert " info request " in line
    assert "status=200" in line
    assert "completion_tokens=" in line


def test_callers_cannot_make_up_routes() -> None:
    assert find_route("/v1/chat/completions") == "/v1/chat/completions"
    assert find_route("/v1/models/x/y") == "/v1/models/{name}"
    assert find_route("/v1/anything") == find_route("/\n") == "other"
