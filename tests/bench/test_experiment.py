"""Whole measurements, with real processes, of servers that are known."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.bench.servers import END, EVENT_HEAD, Asked, answer_well, piece, serving, usage
from vivace.bench.calibrate import calibrate, null_server
from vivace.bench.experiment import Experiment, make_plans, prepare, run
from vivace.bench.schedule import Load
from vivace.bench.workload import Line, Workload, parse_lengths
from vivace.budget import Budget
from vivace.errors import ConfigError

WORKLOAD = Workload(model="null", output_tokens=parse_lengths("6"))


def measure(url: str, load: Load, **more: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"calibrated": False, "warmup": 1, "workload": WORKLOAD} | more
    return run(Experiment(url=url, load=load, **options), None)[0]


def test_a_server_of_known_delays_is_found_to_have_them() -> None:
    with null_server("--ttft-ms", "30", "--tpot-ms", "4") as url:
        document = measure(url, Load(concurrency=2, requests=40), limits=Budget(ttft_ms=500))
    assert document["requests"] == {"offered": 40, "answered": 40, "refused": 0, "failed": 0, "errors": []}
    assert 30 <= document["ttft_ms"]["p50"] < 60
    assert 50 <= document["e2e_ms"]["p50"] < 90
    assert 4 * 0.9 <= document["tpot_ms"]["p50"] < 8
    assert document["ttft_ms"]["p99"] is None
    assert document["throughput"]["output_tokens"] == 240
    assert document["budget"]["attainment"] == 1.0
    assert document["resources"]["rss_bytes_max"] > 1e6
    json.dumps(document)


def test_a_stall_is_in_the_corrected_tail_and_not_in_the_naive_one() -> None:
    with null_server("--ttft-ms", "5", "--stall-at-s", "2", "--stall-ms", "700") as url:
        document = measure(url, Load(rate=200, duration_s=5))
    assert document["ttft_ms"]["p99"] > 350
    assert document["naive_ttft_ms"]["p99"] < document["ttft_ms"]["p99"] / 3


def test_requests_that_wait_for_one_of_few_connections_are_timed_from_when_they_were_due() -> None:
    with null_server("--ttft-ms", "20") as url:
        document = measure(url, Load(rate=200, requests=40, connections=1), workload=WORKLOAD)
    assert document["ttft_ms"]["max"] > 300
    assert document["service_ttft_ms"]["max"] < 150
    assert document["client"]["connections"] <= 2


def test_a_server_that_dies_leaves_what_was_answered_and_the_reason() -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await answer_well(asked, writer)
        if asked.number >= 10:
            server.close()
            writer.transport.abort()

    with serving(behave) as server:
        document = measure(server.url, Load(concurrency=1, requests=500))
    assert document["requests"]["answered"] >= 8
    assert document["requests"]["failed"] >= 20
    assert "gone" in document["stopped_early"]
    assert {"unreachable", "connection_lost"} & {error["kind"] for error in document["requests"]["errors"]}


def test_refusals_count_against_the_budget() -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.number % 2:
            writer.write(b"HTTP/1.1 429 Busy\r\ncontent-length: 0\r\n\r\n")
        else:
            await answer_well(asked, writer)

    with serving(behave) as server:
        document = measure(server.url, Load(concurrency=1, requests=20), limits=Budget(ttft_ms=1e4), warmup=0)
    assert document["requests"]["refused"] == 10
    assert document["budget"]["attainment"] == 0.5
    assert document["budget"]["verdict"] == "missed"


def test_whoever_is_refused_in_a_closed_loop_comes_back_when_told_to() -> None:
    """Else one that is refused would ask a thousand times while the others are answered once."""

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 429 Busy\r\nretry-after-ms: 100\r\ncontent-length: 0\r\n\r\n")

    with serving(behave) as server:
        document = measure(server.url, Load(concurrency=1, duration_s=0.5), warmup=0)
    assert 1 <= document["requests"]["refused"] <= 5


def test_a_conversation_is_held_turn_by_turn_and_its_last_answer_scored() -> None:
    lines = (Line(turns=["one", "two", "three"], expected=["Hello you", "no"]), Line(prompt="x", expected="wrong"))
    with serving() as server:
        document = measure(
            server.url,
            Load(concurrency=1, requests=2),
            workload=msgspec.structs.replace(WORKLOAD, lines=lines),
            warmup=0,
        )
        said = [[message["content"] for message in asked.json["messages"]] for asked in server.asked]
    assert said[:3] == [["one"], ["one", "Hello you", "two"], ["one", "Hello you", "two", "Hello you", "three"]]
    assert document["raw"]["turn"] == [0, 1, 2, 0]
    assert document["quality"]["exact"] == 1
    assert document["quality"]["scored"] == 2


def test_the_servers_timeline_adds_up_to_the_response() -> None:
    timing = {"preprocess_ms": 1, "queue_ms": 2, "prefill_ms": 3, "decode_ms": 4, "flush_ms": 0.5, "total_ms": 10.5}

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(EVENT_HEAD + piece("a") + piece("b") + usage(2, timing=timing) + END)

    with serving(behave) as server:
        document = measure(server.url, Load(concurrency=1, requests=5))
    mean = document["timeline"]["mean_ms"]
    assert mean["queue_ms"] == 2
    assert mean["network_ms"] > 9
    ended, scheduled = document["raw"]["ended_s"], document["raw"]["scheduled_s"]
    whole_ms = 1e3 * sum(a - b for a, b in zip(ended, scheduled, strict=True)) / 5
    assert document["timeline"]["response_ms"] == pytest.approx(whole_ms, abs=0.1)


def test_tokens_come_from_the_tokenizer_where_the_server_counts_none(llama_directory: Path) -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENT_HEAD + piece("some words") + END)

    with serving(behave) as server:
        document = measure(server.url, Load(concurrency=1, requests=2))
        counted = measure(
            server.url, Load(concurrency=1, requests=2), tokenizer=str(llama_directory / "tokenizer.json")
        )
    assert document["throughput"]["output_tokens"] is None
    assert document["tpot_ms"] is None
    assert counted["throughput"]["output_tokens"] > 0


def test_several_processes_share_out_the_same_requests() -> None:
    with null_server() as url:
        document = measure(url, Load(rate=100, requests=41), processes=3)
        closed = measure(url, Load(concurrency=3, requests=20), processes=2)
    assert sorted(document["raw"]["index"]) == list(range(41))
    assert document["client"]["processes"] == 3
    assert sorted(closed["raw"]["index"]) == list(range(20))


def test_more_processes_are_taken_where_one_would_be_too_busy() -> None:
    with null_server():
        calibration = calibrate()
    quick = Experiment("http://127.0.0.1:1/v1", WORKLOAD, Load(rate=1, duration_s=5))
    assert len(make_plans(quick, calibration)) == 1
    dear = replace(calibration, event_cost_us=1e4)
    assert len(make_plans(replace(quick, load=Load(rate=50, duration_s=1)), dear)) > 1


def test_calibration_knows_the_floor_and_the_cost_of_an_event() -> None:
    found = calibrate()
    assert 0 < found.floor_ttft_ms_p50 <= found.floor_ttft_ms_p99
    assert 1 < found.event_cost_us < 5000
    assert found.events == 6000


def test_a_client_that_is_slower_than_the_server_makes_the_run_invalid() -> None:
    """Against a server that computes nothing, all the time is the client's."""
    with null_server() as url:
        experiment = Experiment(url, WORKLOAD, Load(concurrency=1, requests=100))
        document, _ = run(experiment, calibrate())
    assert not document["client"]["valid"]
    assert document["client"]["share_of_tail"] > 0.1


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    with null_server("--ttft-ms", "5") as url:
        command = [sys.executable, "-m", "vivace", "bench", "http", url, "--rate", "50", "--duration", "60", "--quiet"]
        process = subprocess.Popen([*command, "--no-calibrate", "--json", str(tmp_path / "r.json")])
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 1
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["requests"]["answered"] > 10
    assert "interrupted" in document["stopped_early"]


def test_headers_are_in_no_document() -> None:
    with serving() as server:
        document = measure(server.url, Load(concurrency=1, requests=2), headers=(("authorization", "Bearer hush"),))
        assert server.asked[-1].headers["authorization"] == "Bearer hush"
    assert "hush" not in json.dumps(document)


def test_preparing_learns_the_model_and_how_the_server_counts() -> None:
    with null_server() as url:
        prepared, found = prepare(
            Experiment(url, msgspec.structs.replace(WORKLOAD, model=""), Load(concurrency=1, requests=1))
        )
    assert prepared.workload.model == found.model == "null"
    assert prepared.workload.words_per_token == found.words_per_token


def test_the_first_requests_are_not_late_however_many_there_are_to_make() -> None:
    """Making these takes much longer than the pause before the start."""
    workload = msgspec.structs.replace(WORKLOAD, input_tokens=parse_lengths("2000"))
    with null_server() as url:
        document = measure(url, Load(rate=300, requests=300), workload=workload)
        closed = measure(url, Load(concurrency=1, duration_s=0.5), workload=workload)
    assert document["raw"]["send_lag_ms"][0] < 50
    assert closed["raw"]["scheduled_s"][0] < 0.05


def test_a_load_without_a_request_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer"):
        make_plans(Experiment("http://h/v1", WORKLOAD, Load(rate=0.001, duration_s=1)), None)
