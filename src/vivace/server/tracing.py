"""OpenTelemetry: one span a request, and one below it for each part of its timeline.

Only where the SDK is installed and somebody configured it, by the standard OTEL_* variables or by a tracer provider set
in code; otherwise nothing of it is even imported. Attributes follow the semantic conventions for generative AI and for
HTTP; they hold names, settings, counts and times, never what was asked or answered. Spans are written when a request is
over, from the same measurements as `usage.timing`, so tracing costs nothing while an answer is computed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from vivace.errors import ConfigError
from vivace.server.access import watch_status
from vivace.server.routes import ASKED, TOLD

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
}
"""Traced routes, and what the conventions call them."""

PARTS = ("preprocess", "queue", "prefill", "decode", "flush")

_SETTINGS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "stream": "gen_ai.request.stream",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
}
_COUNTS = {
    "id": "gen_ai.response.id",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "error": "error.type",
    "cache": "vivace.cache",
}


def find_tracer(environment: Mapping[str, str]) -> Tracer | None:
    """A tracer, if the SDK is installed and configured, else None.

    Without a provider set in code, one is made that exports as OTEL_TRACES_EXPORTER says (OTLP if it is silent).
    Raises `ConfigError` when that exporter is not installed.
    """
    if "opentelemetry.trace" in sys.modules and _is_set(sys.modules["opentelemetry.trace"].get_tracer_provider()):
        return _make_tracer()
    names = [name.strip() for name in environment.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    endpoint = any(
        environment.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or names == ["none"]
    if disabled or not (names or endpoint):
        return None
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        return None
    _set_provider(names or ["otlp"], environment)
    return _make_tracer()


def _is_set(provider: object) -> bool:
    """Not one of the API's own, which stand in while nobody has set any."""
    return not type(provider).__module__.startswith("opentelemetry.trace")


def _make_tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer("vivace", schema_url="https://opentelemetry.io/schemas/1.37.0")


def _set_provider(names: list[str], environment: Mapping[str, str]) -> None:
    """The SDK itself reads the other variables: resource, sampler, limits, batches, the exporter's address."""
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": "vivace"}))
    for name in names:
        provider.add_span_processor(BatchSpanProcessor(_make_exporter(name, environment)))
    trace.set_tracer_provider(provider)


def _make_exporter(name: str, environment: Mapping[str, str]) -> Any:
    if name == "otlp":
        protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        name = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol)
        name = "otlp_proto_grpc" if name == "grpc" else "otlp_proto_http"
    found = next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
    if found is None:
        raise ConfigError(
            f"OpenTelemetry's exporter {name[:100]!r} is asked for and not installed. Install it (pip install "
            "opentelemetry-exporter-otlp), name another in OTEL_TRACES_EXPORTER, or set that to none."
        )
    return found.load()()


class Tracing:
    """An ASGI app around another: a span for each request to generate."""

    def __init__(self, app: ASGIApp, tracer: Tracer, model: str) -> None:
        self._app = app
        self._tracer = tracer
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in OPERATIONS:
            await self._app(scope, receive, send)
            return
        await watch_status(self._app, scope, receive, send, partial(self._write, scope, time.time_ns()))

    def _write(self, scope: Scope, began_ns: int, status: int) -> None:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, Status, StatusCode

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        told = scope.get(TOLD, {})
        attributes = self._describe(scope, status, told)
        span = self._tracer.start_span(
            f"{OPERATIONS[scope['path']]} {self._model}",
            context=extract(carrier),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=began_ns,
        )
        if status >= 500 or "error" in told:
            span.set_status(Status(StatusCode.ERROR))
        if span.is_recording():
            self._write_parts(span, told, began_ns)
        span.end()

    def _describe(self, scope: Scope, status: int, told: Mapping[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": OPERATIONS[scope["path"]],
            "gen_ai.provider.name": "vivace",
            "gen_ai.request.model": self._model,
            "http.request.method": scope["method"][:20],
            "http.route": scope["path"],
            "http.response.status_code": status,
        }
        if status >= 400:
            attributes["error.type"] = str(status)
        asked = scope.get(ASKED)
        settings = ((attribute, getattr(asked, name, None)) for name, attribute in _SETTINGS.items())
        attributes |= {attribute: value for attribute, value in settings if value is not None}
        attributes |= {attribute: told[name] for name, attribute in _COUNTS.items() if name in told}
        if "completion_tokens" in told:
            first_ms = sum(told[f"{part}_ms"] for part in PARTS[:3])
            attributes["gen_ai.response.model"] = self._model
            attributes["gen_ai.response.finish_reasons"] = told["finish_reasons"].split(",")
            attributes["gen_ai.response.time_to_first_chunk"] = first_ms / 1000
        return attributes

    def _write_parts(self, span: Span, told: Mapping[str, Any], began_ns: int) -> None:
        """One after the other, as in the timeline: time preempted counts as queue, wherever it really was."""
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(span)
        for part in PARTS:
            taken_ns = round(1e6 * told.get(f"{part}_ms", 0.0))
            if taken_ns:
                self._tracer.start_span(part, context=context, start_time=began_ns).end(began_ns + taken_ns)
            began_ns += taken_ns
