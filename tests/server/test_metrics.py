"""What Prometheus is told."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.serving import Running, serving
from vivace.models.model import Model

pytestmark = pytest.mark.anyio

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 40}]}


async def read(server: Running) -> dict[str, float]:
    """Samples by name and labels, as Prometheus itself parses them."""
    response = await server.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.text)
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values() if sample.labels): sample.value
        for family in families
        for sample in family.samples
    }


async def test_answers_are_counted_and_timed_whole_and_streamed(model: Model) -> None:
    async with serving(model, "12345") as server:
        assert (await read(server))["vivace_engine_up"] == 1
        for stream in (False, True):
            await server.http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
        await server.http.post("/v1/chat/completions", json={})
        found = await read(server)
        assert found["vivace_http_requests_total[/v1/chat/completions][200]"] == 2
        assert found["vivace_http_requests_total[/v1/chat/completions][400]"] == 1
        assert found["vivace_answer_tokens_total[completion]"] == 12
        assert found["vivace_engine_proposed_tokens_total"] >= found["vivace_engine_accepted_tokens_total"] >= 0
        assert found["vivace_answer_tokens_total[prompt]"] > 80
        assert found["vivace_answer_tokens_total[cached]"] > 0
        assert found["vivace_time_to_first_token_seconds_count"] == 2
        assert found["vivace_time_per_output_token_seconds_count"] == 2
        parts = sum(value for name, value in found.items() if name.startswith("vivace_phase_seconds_sum"))
        assert parts == pytest.approx(found["vivace_response_seconds_sum"], abs=1e-6)
        assert found["vivace_engine_tokens_total"] == 12
        assert found["vivace_kv_blocks_free"] > 0


async def test_a_dead_engine_is_down(model: Model) -> None:
    async with serving(model) as server:
        await asyncio.to_thread(server.bridge.close)
        assert (await read(server))["vivace_engine_up"] == 0


async def test_two_servers_count_for_themselves(model: Model) -> None:
    async with serving(model) as one, serving(model) as other:
        await one.http.post("/v1/chat/completions", json=CHAT)
        assert "vivace_http_requests_total[/v1/chat/completions][200]" not in await read(other)
