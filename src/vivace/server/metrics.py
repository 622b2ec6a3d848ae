"""Figures for Prometheus: what the engine holds, what it did, and where answers' time went.

Engine figures are read when they are asked for; the others are counted as answers end. Knows no request's text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vivace.budget import NO_BUDGET, Budget
from vivace.engine.bridge import EngineThread
from vivace.engine.cost import StepCost
from vivace.server.answer import Settled
from vivace.server.drift import DriftWatch
from vivace.server.replies import Usage
from vivace.server.sharing import Sharing

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PHASES = ("preprocess", "queue", "prefill", "decode", "flush")


class Metrics:
    """One server's figures, in a registry of its own."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, bridge: EngineThread, sharing: Sharing | None = None, drift: DriftWatch | None = None) -> None:
        self._drift = drift
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(bridge))
        if sharing is not None:
            self._registry.register(_SharingCollector(sharing))
        if drift is not None:
            self._registry.register(_DriftCollector(drift))
        made: dict[str, Any] = {"registry": self._registry, "namespace": "vivace"}
        requests = Counter("http_requests", "Requests answered.", ["route", "status"], **made)
        tokens = Counter("answer_tokens", "Tokens of answers told, and of their prompts.", ["kind"], **made)
        phases = Histogram("phase_seconds", "Where answers' time went.", ["phase"], buckets=_SECONDS, **made)
        self._count_request: Callable[[str, str], Counter] = requests.labels
        attainment = Counter("budget_answers", "Answers with a budget, by outcome.", ["outcome"], **made)
        self._count_attainment: Callable[[str], Counter] = attainment.labels
        self._prompt, self._completion = tokens.labels("prompt"), tokens.labels("completion")
        self._cached = tokens.labels("cached")
        self._phases = [(f"{phase}_ms", phases.labels(phase)) for phase in _PHASES]
        self._ttft = Histogram("time_to_first_token_seconds", "From arrival.", buckets=_SECONDS, **made)
        self._tpot = Histogram("time_per_output_token_seconds", "After the first.", buckets=_SECONDS, **made)
        queried = "Prompt tokens of computed answers, which the prefix cache was asked for."
        self._queried = Counter("prefix_cache_queried_tokens", queried, **made)
        self._found = Counter("prefix_cache_hit_tokens", "Those of them that were in it.", **made)
        self._total = Histogram("response_seconds", "From arrival to the last byte.", buckets=_SECONDS, **made)

    def count(self, route: str, status: int) -> None:
        """A request was answered."""
        self._count_request(route, str(status)).inc()

    def count_prompts(self, outcome: Settled) -> None:
        """The engine has computed the answers to a request."""
        self._queried.inc(outcome.prompt_tokens)
        self._found.inc(outcome.cached_tokens)

    def count_expired(self) -> None:
        """A request got no whole answer, since its deadline came."""
        self._count_attainment("expired").inc()
        if self._drift is not None:
            self._drift.observe_expired()

    def record(self, usage: Usage, budget: Budget = NO_BUDGET, *, computed: bool = True) -> None:
        """An answer was told to its end; it was `computed`, or found."""
        timing = usage.timing
        if budget:
            self._count_attainment(find_outcome(usage, budget)).inc()
        self._prompt.inc(usage.prompt_tokens)
        self._completion.inc(usage.completion_tokens)
        self._cached.inc(usage.prompt_tokens_details.cached_tokens)
        for name, histogram in self._phases:
            histogram.observe(timing[name] / 1000)
        self._ttft.observe((timing["preprocess_ms"] + timing["queue_ms"] + timing["prefill_ms"]) / 1000)
        if computed and usage.completion_tokens > 1:
            self._tpot.observe(timing["decode_ms"] / 1000 / (usage.completion_tokens - 1))
        self._total.observe(timing["total_ms"] / 1000)
        if self._drift is not None and computed:
            self._watch(usage, self._drift)

    def _watch(self, usage: Usage, drift: DriftWatch) -> None:
        timing = usage.timing
        first_ms = timing["preprocess_ms"] + timing["queue_ms"] + timing["prefill_ms"]
        further = usage.completion_tokens - 1
        drift.observe(first_ms, timing["decode_ms"] / further if further > 0 else None, timing["total_ms"])

    def describe_drift(self) -> str:
        """Certified limits that are no longer kept, by name; empty if all are, or none is watched."""
        return self._drift.describe() if self._drift is not None else ""

    def expose(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)


def find_outcome(usage: Usage, budget: Budget) -> str:
    """`kept`, `truncated` for an answer that a deadline ended, or the first part of the budget that was missed."""
    timing = usage.timing
    if "truncated" in timing:
        return "truncated"
    first_ms = timing["preprocess_ms"] + timing["queue_ms"] + timing["prefill_ms"]
    missed = budget.find_missed(first_ms, timing["decode_ms"], timing["total_ms"], usage.completion_tokens)
    return f"missed_{missed}" if missed else "kept"


class _EngineCollector(Collector):
    """The engine's own figures, as of its last step."""

    def __init__(self, bridge: EngineThread) -> None:
        self._bridge = bridge

    def collect(self) -> Iterator[Metric]:
        stats, health = self._bridge.stats(), self._bridge.health()
        gauges = {
            "engine_up": (float(health.alive and not health.error), "1 while the engine's thread takes requests."),
            "engine_step_seconds": (health.stuck_ms / 1000, "Since the step under way began; 0 when idle."),
            "requests_waiting": (stats.waiting, "Requests with no place in the batch yet."),
            "requests_running": (stats.running, "Requests in the batch."),
            "kv_blocks_free": (stats.blocks_free, "KV cache blocks that hold nothing."),
            "kv_blocks_cached": (stats.blocks_cached, "KV cache blocks kept for the next request with the prefix."),
            "kv_blocks_used": (stats.blocks_used, "KV cache blocks of running requests."),
        }
        counters = {
            "engine_requests": (stats.requests, "Requests accepted."),
            "engine_preemptions": (stats.preemptions, "Times a running request gave way."),
            "engine_cached_tokens": (stats.cached_tokens, "Prompt tokens found in the prefix cache."),
            "engine_tokens": (stats.tokens, "Tokens generated."),
            "engine_steps": (stats.steps, "Calls of the runner that succeeded."),
            "engine_passes": (stats.passes, "Passes of the model."),
            "engine_failed_steps": (stats.failed_steps, "Calls of the runner that failed."),
            "engine_restarts": (health.restarts, "Times that the engine died and was started again."),
            "engine_proposed_tokens": (stats.proposed, "Tokens that speculation proposed."),
            "engine_accepted_tokens": (stats.accepted, "Proposed tokens that the model would have chosen itself."),
            "engine_expired": (stats.expired, "Requests that their deadline ended."),
        }
        if stats.proposed:
            rate = stats.accepted / stats.proposed
            gauges["speculation_acceptance"] = (rate, "Share of the tokens proposed so far that were right.")
        if stats.costs:
            gauges["cost_model_error"] = (stats.cost_error, "Mean share of a step's time that its prediction misses.")
            for field in fields(StepCost):
                text = "Coefficient of a step's predicted time, in milliseconds, of the first model."
                gauges[f"cost_model_{field.name}"] = (getattr(stats.costs[0], field.name), text)
        if (admission := self._bridge.admission_stats()) is not None:
            gauges["admission_margin"] = (admission.margin, "What forecasts are multiplied with.")
            gauges["admission_under_way"] = (admission.under_way, "Accepted and not ended.")
            for kind in ("accepted", "degraded", "refused_unread", "refused_late", "refused_full"):
                counters[f"admission_{kind}"] = (getattr(admission, kind), "Requests, by what admission did.")
        for name, (value, text) in gauges.items():
            yield GaugeMetricFamily(f"vivace_{name}", text, value)
        for name, (value, text) in counters.items():
            yield CounterMetricFamily(f"vivace_{name}", text, value)


class _SharingCollector(Collector):
    """The response cache's own figures, and how often it could help."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing

    def collect(self) -> Iterator[Metric]:
        text = "Requests by how they came by their answer: hit, miss, shared with an equal one under way, or bypass."
        requests = CounterMetricFamily("vivace_response_cache_requests", text, labels=["outcome"])
        for outcome in ("hit", "miss", "shared", "bypass"):
            requests.add_metric([outcome], self._sharing.outcomes[outcome])
        yield requests
        shared = "Generations under way that equal requests can join."
        yield GaugeMetricFamily("vivace_response_flights", shared, self._sharing.under_way)
        if self._sharing.cache is None:
            return
        stats = self._sharing.cache.stats()
        yield GaugeMetricFamily("vivace_response_cache_bytes", "Held by stored answers.", stats.held_bytes)
        yield GaugeMetricFamily("vivace_response_cache_entries", "Answers stored.", stats.entries)
        gone = CounterMetricFamily("vivace_response_cache_evictions", "Stored answers dropped.", labels=["cause"])
        gone.add_metric(["room"], stats.evicted)
        gone.add_metric(["age"], stats.expired)
        yield gone


class _DriftCollector(Collector):
    """How the latest answers stand to the certificate."""

    def __init__(self, drift: DriftWatch) -> None:
        self._drift = drift

    def collect(self) -> Iterator[Metric]:
        text = "Of the latest answers, those later than a certified limit."
        missed = GaugeMetricFamily("vivace_certificate_missed_share", text, labels=["limit"])
        text = "1 while more answers are late than the certificate allows and chance explains."
        drifted = GaugeMetricFamily("vivace_certificate_drifted", text, labels=["limit"])
        for state in self._drift.states():
            missed.add_metric([state.limit.name], state.missed_share)
            drifted.add_metric([state.limit.name], float(state.drifted))
        yield from (missed, drifted)
