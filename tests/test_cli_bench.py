"""`vivace bench` from the outside: what is printed, written, and returned."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.bench.servers import END, EVENT_HEAD, Asked, answer_well, chunk, piece, serving, whole
from vivace.bench.calibrate import null_server
from vivace.cli import main

QUICK = ("--no-calibrate", "--warmup", "1", "--quiet", "--output-tokens", "3")


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_the_commands_are_listed_though_they_are_imported_late() -> None:
    shown = bench("--help").output
    assert all(name in shown for name in ("engine", "http", "find-max", "sweep", "compare"))


def test_http_measures_prints_and_writes(tmp_path: Path) -> None:
    files = {kind: tmp_path / f"r.{kind}" for kind in ("json", "html", "hdr")}
    options = [part for kind, file in files.items() for part in (f"--{kind}", file)]
    with null_server("--ttft-ms", "5") as url:
        result = bench("http", url, "--concurrency", "2", "--requests", "30", *QUICK, *options)
    assert result.exit_code == 0, result.output
    assert "30 answered" in result.stdout
    document = json.loads(files["json"].read_text())
    assert document["ttft_ms"]["p50"] > 5
    assert files["html"].read_text().startswith("<!doctype html>")
    assert files["hdr"].read_text().startswith("#")


def test_a_budget_that_is_missed_is_status_99() -> None:
    with null_server("--ttft-ms", "60") as url:
        result = bench("http", url, "--concurrency", "1", "--requests", "5", "--budget", "ttft=10ms", *QUICK)
        kept = bench("http", url, "--concurrency", "1", "--requests", "5", "--budget", "ttft=2s", *QUICK)
    assert result.exit_code == 99
    assert "MISSED" in result.stdout
    assert kept.exit_code == 0


def test_json_can_go_to_standard_output() -> None:
    with null_server() as url:
        result = bench("http", url, "--rate", "50", "--requests", "5", "--json", "-", *QUICK)
    assert json.loads(result.stdout)["requests"]["answered"] == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("http", "http://127.0.0.1:1/v1", "--concurrency", "1"), "Nothing listens"),
        (("http", "nonsense", "--concurrency", "1"), "no HTTP URL"),
        (("http", "http://h/v1"), "--rate, --concurrency or --trace"),
        (("http", "http://h/v1", "--rate", "1", "--concurrency", "1"), "--rate, --concurrency or --trace"),
        (("http", "http://h/v1", "--rate", "1", "--budget", "fast"), "ttft=200ms"),
        (("http", "http://h/v1", "--rate", "1", "--preset", "none"), "Choose one of"),
        (("http", "http://h/v1", "--rate", "1", "--extra", "["), "--extra"),
        (("http", "http://h/v1", "--rate", "1", "--header", "x"), "--header"),
        (("http", "http://h/v1", "--rate", "1", "--tokenizer", "/none"), "tokenizer.json"),
        (("sweep", "http://h/v1"), "--rates"),
        (("sweep", "http://h/v1", "--rates", "a"), "1,2,4"),
        (("find-max", "http://127.0.0.1:1/v1", "--budget", "ttft=1s"), "Nothing listens"),
        (("find-max", "http://h/v1", "--budget", "ttft=1s", "--attain", "2"), "between 0 and 1"),
        (("compare", "a.json"), "two files"),
        (("compare", "/none/a", "/none/b"), "Cannot read"),
    ],
)
def test_what_cannot_be_measured_is_one_line_that_says_what_to_do(arguments: tuple[str, ...], said: str) -> None:
    result = bench(*arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_time_is_refused() -> None:
    assert "500ms, 30s, 2m" in bench("http", "http://h/v1", "--rate", "1", "--duration", "soon").output


async def stream_not(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(whole(b'{"choices":[{"message":{"content":"a"}}]}'))


async def talk_nonsense(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(EVENT_HEAD + chunk(b"data: {nonsense\n\n") + END)


async def know_no_model(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(whole(b'{"error":{"message":"no such model"}}', "404 Not Found"))


@pytest.mark.parametrize(
    ("behave", "said"),
    [(stream_not, "--no-stream"), (talk_nonsense, "nonsense"), (know_no_model, "It offers tiny")],
)
def test_a_server_that_answers_wrongly_is_told_before_anything_is_measured(behave: object, said: str) -> None:
    with serving(behave) as server:  # type: ignore[arg-type]
        result = bench("http", server.url, "--concurrency", "1", "--requests", "5", *QUICK)
    assert result.exit_code == 1
    assert said in result.stderr


def test_a_server_that_breaks_off_midway_leaves_partial_results_and_a_status(tmp_path: Path) -> None:
    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.number < 12:
            await answer_well(asked, writer)
        else:
            writer.write(EVENT_HEAD + piece("half"))
            await writer.drain()
            writer.close()

    with serving(behave) as server:
        result = bench("http", server.url, "--rate", "100", "--requests", "30", "--json", tmp_path / "r", *QUICK)
    assert result.exit_code == 1
    document = json.loads((tmp_path / "r").read_text())
    assert 5 <= document["requests"]["answered"] < 30
    assert document["requests"]["errors"][0]["kind"] == "connection_lost"
    assert "in the middle of an answer" in result.stdout


def test_a_slower_server_is_told_by_compare_in_turn_and_from_files(tmp_path: Path) -> None:
    load = ("--concurrency", "2", "--requests", "60", *QUICK)
    with null_server("--ttft-ms", "20") as a, null_server("--ttft-ms", "30") as b:
        in_turn = bench("compare", a, "--vs", b, "--blocks", "5", *load)
        for name, url in (("a", a), ("b", b)):
            assert bench("http", url, *load, "--json", tmp_path / name).exit_code == 0
    assert in_turn.exit_code == 4, in_turn.output
    assert "B is WORSE than A" in in_turn.stdout
    files = bench("compare", tmp_path / "a", tmp_path / "b", "--html", tmp_path / "c.html")
    assert files.exit_code == 4
    assert "at different times" in files.stdout
    assert bench("compare", tmp_path / "a", tmp_path / "a").exit_code == 0


def test_a_sweep_has_a_row_for_each_load(tmp_path: Path) -> None:
    with null_server("--ttft-ms", "5") as url:
        result = bench("sweep", url, "--concurrencies", "1,3", "--requests", "10", "--json", tmp_path / "s", *QUICK)
    assert result.exit_code == 0, result.output
    runs = json.loads((tmp_path / "s").read_text())["runs"]
    assert [run["load"]["concurrency"] for run in runs] == [1, 3]


def test_find_max_gives_an_interval_and_the_rates_it_tried(tmp_path: Path) -> None:
    options = ("--start", "8", "--segment", "1s", "--most", "1s", "--precision", "1.0", "--json", tmp_path / "f")
    with null_server("--ttft-ms", "40") as url:
        result = bench("find-max", url, "--budget", "ttft=1ms", *options, *QUICK)
    document = json.loads((tmp_path / "f").read_text())
    valid = all(trial["valid"] for trial in document["trials"])
    assert result.exit_code == (99 if valid else 1), result.output
    assert document["max_rate"]["low"] == 0
    assert len(document["trials"]) > 1
    assert "alone" in result.stdout or not valid
    assert "none" in result.stdout


def test_help_waits_for_no_numpy() -> None:
    import subprocess
    import sys

    code = "import sys; import vivace.cli; sys.exit('numpy' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
