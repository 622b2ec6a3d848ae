"""The null server answers as the API's real clients expect, at the moments it is told to."""

from __future__ import annotations

import time

import httpx
import openai
import pytest

from vivace.bench.calibrate import null_server


@pytest.fixture
def client() -> object:
    with null_server("--ttft-ms", "10", "--tpot-ms", "2") as url:
        yield openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def test_the_official_client_reads_its_streams(client: openai.OpenAI) -> None:
    started = time.perf_counter()
    stream = client.chat.completions.create(
        model="null",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == " word" * 5
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert time.perf_counter() - started >= 0.010 + 4 * 0.002


def test_the_official_client_reads_its_whole_answers_and_completions(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="null", messages=[{"role": "user", "content": "x"}], max_tokens=3)
    assert whole.choices[0].message.content == " word word word"
    pieces = client.completions.create(model="null", prompt="x", max_tokens=3, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == " word word word"
    assert client.models.list().data[0].id == "null"


def test_a_body_that_is_no_request_is_refused() -> None:
    with null_server() as url:
        assert httpx.post(f"{url}/chat/completions", content=b"{").status_code == 400


def test_a_stall_holds_up_everyone() -> None:
    with null_server("--stall-at-s", "0.05", "--stall-ms", "400") as url:
        body = {"max_tokens": 1, "stream": False}
        times = []
        for _ in range(3):
            started = time.perf_counter()
            httpx.post(f"{url}/chat/completions", json=body)
            times.append(time.perf_counter() - started)
            time.sleep(0.06)
    assert times[0] < 0.3
    assert max(times[1:]) > 0.2
