"""The description says what the server does, no less and no more."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from tests.server.serving import serving
from vivace.models.model import Model
from vivace.server.openapi import describe_api

pytestmark = pytest.mark.anyio
DOCUMENT = describe_api("tiny", False)
HELLO = [{"role": "user", "content": "Hello"}]


def schema(name: str) -> Any:
    text = json.dumps({"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]})
    return jsonschema_rs.validator_for(text)


def test_every_reference_leads_somewhere() -> None:
    names = DOCUMENT["components"]["schemas"].keys()
    text = json.dumps(DOCUMENT)
    told = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert told <= names


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "logprobs": True, "top_logprobs": 1, "n": 2}, "ChatReply"),
        ("/v1/completions", {"prompt": "Hello", "logprobs": 1}, "TextReply"),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 3}, "ResponseReply"),
        ("/tokenize", {"messages": HELLO}, "TokenizeReply"),
    ],
)
async def test_replies_are_as_described(model: Model, path: str, body: dict[str, Any], name: str) -> None:
    async with serving(model) as server:
        response = await server.http.post(path, json={"model": "tiny"} | body)
        assert response.status_code == 200
        schema(name).validate(response.json())
        refused = await server.http.post(path, json={"model": "tiny", "nothing": 1} | body)
        schema("ErrorReply").validate(refused.json())


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ChatRequest", {"messages": HELLO, "temperature": 3}),
        ("ChatRequest", {"messages": HELLO, "tempreature": 1}),
        ("ChatRequest", {"messages": HELLO, "reasoning_effort": "high"}),
        ("ChatRequest", {"messages": HELLO, "response_format": {"type": "xml"}}),
        ("CompletionRequest", {"prompt": "x", "echo": True}),
        ("ResponsesRequest", {"input": "x", "previous_response_id": "resp_1"}),
    ],
)
async def test_what_is_refused_is_not_described(model: Model, name: str, body: dict[str, Any]) -> None:
    paths = {"ChatRequest": "/v1/chat/completions", "CompletionRequest": "/v1/completions"}
    assert not schema(name).is_valid({"model": "tiny"} | body)
    async with serving(model) as server:
        response = await server.http.post(paths.get(name, "/v1/responses"), json={"model": "tiny"} | body)
        assert response.status_code == 400
