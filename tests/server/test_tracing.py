"""Spans of requests, with the real SDK, and nothing of it where it was not asked for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.server.serving import serving, wait_until
from tests.server.test_routes import call
from vivace.errors import ConfigError
from vivace.models.model import Model
from vivace.server.tracing import find_tracer

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "a secret"}]}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Spans:
    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer = provider.get_tracer("test")

    def all(self) -> list[Any]:
        return list(self._kept.get_finished_spans())

    def roots(self) -> list[Any]:
        return [span for span in self.all() if span.kind is SpanKind.SERVER]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_one_span_and_its_timeline_the_spans_below(model: Model, stream: bool) -> None:
    spans = Spans()
    async with serving(model, "an answer", tracer=spans.tracer) as server:
        asked = {"temperature": 0.5, "max_tokens": 20, "seed": 3, "stream": stream}
        response = await server.http.post("/v1/chat/completions", json=CHAT | asked)
        assert response.status_code == 200
    (root,) = spans.roots()
    assert (root.name, root.status.status_code) == ("chat tiny", StatusCode.UNSET)
    about = dict(root.attributes)
    assert about["gen_ai.response.id"].startswith("chatcmpl-")
    assert about.pop("gen_ai.response.time_to_first_chunk") > 0
    assert about["gen_ai.usage.input_tokens"] > len("a secret")
    assert (
        about.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vivace",
            "gen_ai.request.model": "tiny",
            "gen_ai.response.model": "tiny",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.max_tokens": 20,
            "gen_ai.request.seed": 3,
            "gen_ai.request.stream": stream,
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.output_tokens": 10,
            "gen_ai.usage.cache_read.input_tokens": 0,
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
        }.items()
    )
    parts = {span.name: span for span in spans.all() if span is not root}
    assert parts.keys() == {"preprocess", "queue", "prefill", "decode", "flush"}
    assert all(part.parent.span_id == root.context.span_id for part in parts.values())
    ordered = [parts[name] for name in ("preprocess", "queue", "prefill", "decode", "flush")]
    assert ordered[0].start_time == root.start_time
    assert all(one.end_time == next.start_time for one, next in pairwise(ordered))
    assert ordered[-1].end_time <= root.end_time + 1_000_000


async def test_no_text_is_in_any_span(model: Model) -> None:
    spans = Spans()
    async with serving(model, "an answer", tracer=spans.tracer, response_cache_bytes=2**20) as server:
        for fields in ({}, {}, {"tempreature": "secret"}, {"stop": ["a secret stop"], "user": "secret"}):
            await server.http.post("/v1/chat/completions", json=CHAT | fields)
    assert [span.attributes.get("vivace.cache") for span in spans.roots()] == ["miss", "hit", None, "miss"]
    told = "".join(span.to_json() for span in spans.all())
    assert "secret" not in told
    assert "an answer" not in told


async def test_a_hit_has_no_part_for_what_was_not_computed(model: Model) -> None:
    spans = Spans()
    async with serving(model, tracer=spans.tracer, response_cache_bytes=2**20) as server:
        await server.http.post("/v1/chat/completions", json=CHAT)
        before = len(spans.all())
        await server.http.post("/v1/chat/completions", json=CHAT)
    assert {span.name for span in spans.all()[before:]} == {"chat tiny", "preprocess", "flush"}


async def test_a_span_continues_the_callers_trace(model: Model) -> None:
    spans = Spans()
    async with serving(model, tracer=spans.tracer) as server:
        for parent in (f"00-{TRACE}-{PARENT}-01", "nonsense"):
            headers = {"traceparent": parent}
            await server.http.post("/v1/completions", json={"model": "tiny", "prompt": "x"}, headers=headers)
    continued, own = spans.roots()
    assert continued.name == "text_completion tiny"
    assert (f"{continued.context.trace_id:032x}", f"{continued.parent.span_id:016x}") == (TRACE, PARENT)
    assert own.parent is None


async def test_errors_are_in_the_span(model: Model) -> None:
    spans = Spans()
    async with serving(model, tracer=spans.tracer, api_keys=("key",)) as server:
        headers = {"authorization": "Bearer key"}
        await server.http.post("/v1/chat/completions", json=CHAT)
        await server.http.post("/v1/chat/completions", json=CHAT | {"nothing": 1}, headers=headers)
        server.runner.failing = True
        await server.http.post("/v1/chat/completions", json=CHAT, headers=headers)
    found = [(span.attributes["error.type"], span.status.status_code) for span in spans.roots()]
    assert found == [("401", StatusCode.UNSET), ("400", StatusCode.UNSET), ("StepFailedError", StatusCode.ERROR)]


async def test_a_client_that_goes_leaves_a_span(model: Model) -> None:
    spans = Spans()

    async def ignore(message: Any) -> None:
        pass

    async with serving(model, tracer=spans.tracer) as server:
        server.runner.hold_after(3)
        gone = asyncio.Event()
        asking = asyncio.create_task(call(server, CHAT, ignore, gone))
        await wait_until(lambda: server.bridge.stats().tokens == 3)
        gone.set()
        await asking
        server.runner.open_gate()
    (root,) = spans.roots()
    assert root.attributes["http.response.status_code"] == 499


async def test_other_paths_leave_none(model: Model) -> None:
    spans = Spans()
    async with serving(model, tracer=spans.tracer) as server:
        await server.http.get("/health")
    assert spans.all() == []


def run(code: str, **environment: str) -> str:
    """What a process of its own prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip()


FIND = "import os, sys\nfrom vivace.server.tracing import find_tracer\nfound = find_tracer(os.environ)\n"
SAY = "print(found is not None, any(name.startswith('opentelemetry') for name in sys.modules))"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "False False"),
        ({"OTEL_SERVICE_NAME": "x"}, "False False"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "False False"),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"}, "False False"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "True True"),
    ],
    ids=str,
)
def test_nothing_is_imported_unless_it_was_configured(environment: dict[str, str], said: str) -> None:
    assert run(FIND + SAY, **environment) == said


def test_the_standard_variables_are_enough() -> None:
    told = run(FIND + "found.start_span('hello').end()", OTEL_TRACES_EXPORTER="console")
    assert '"name": "hello"' in told
    assert '"service.name": "vivace"' in told


def test_a_provider_set_in_code_is_used() -> None:
    provider = "from opentelemetry import trace\nfrom opentelemetry.sdk.trace import TracerProvider\n"
    assert run(provider + "trace.set_tracer_provider(TracerProvider())\n" + FIND + SAY) == "True True"
    assert run(provider + "trace.get_tracer('x')\n" + FIND + SAY) == "False True"


def test_without_the_package_nothing_changes() -> None:
    hide = "import sys\nsys.modules['opentelemetry'] = None\n"
    assert run(hide + FIND + "print(found)", OTEL_TRACES_EXPORTER="console").endswith("None")


def test_an_exporter_that_is_not_installed_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="pip install opentelemetry-exporter-otlp"):
        find_tracer({"OTEL_TRACES_EXPORTER": "carrier-pigeon"})
