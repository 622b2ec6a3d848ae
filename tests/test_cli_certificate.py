"""A certificate gives `vivace serve` budget and settings where options leave them open, and something to watch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner

from tests.checkpoints import write_llama
from tests.fit.certificates import MACHINE, certify_fake, write_model
from vivace.cli import main
from vivace.cli_certificate import compare_machine, describe_certified, take_certificate
from vivace.errors import CertificateError
from vivace.machine import allowed_cores, read_cpu_name


def take(model: str, *arguments: str) -> tuple[str, str | None, dict[str, Any]]:
    """What `serve` makes of its command line and the model's certificate."""
    serve = main.get_command(click.Context(main), "serve")
    assert serve is not None
    context = serve.make_context("serve", [model, *arguments])
    options = dict(context.params)
    found, budget, _ = take_certificate(context, model, options, options["budget"])
    return found, budget, options


@pytest.fixture
def out(tmp_path: Path) -> Path:
    certify_fake(write_model(tmp_path / "variant"), "ttft_p99=50ms total_p95=2s tpot_p50=3ms")
    return tmp_path / "variant"


def test_settings_and_budget_are_the_certificates(out: Path) -> None:
    model, budget, options = take(str(out))
    assert model == str(out)
    assert budget == "ttft=50.0ms total=2000.0ms"
    assert (options["threads"], options["max_sequences"], options["prompt_chunk"]) == (1, 64, 1024)


def test_what_the_command_line_says_counts(out: Path) -> None:
    _, budget, options = take(str(out), "--threads", "2", "--quantize", "int4", "--budget", "ttft=1s")
    assert (options["threads"], options["quantize"], budget) == (2, "int4", "ttft=1s")
    assert options["max_sequences"] == 64


def test_a_default_that_was_said_counts_too(out: Path) -> None:
    assert take(str(out), "--max-batch", "1024")[2]["max_sequences"] == 1024


def test_a_model_without_certificate_is_served_as_ever(tmp_path: Path) -> None:
    model, budget, options = take(str(write_model(tmp_path / "plain")))
    assert (model, budget, options["threads"]) == (str(tmp_path / "plain"), None, 0)


def test_a_certificate_of_other_files_is_refused_with_the_way_out(out: Path) -> None:
    (out / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(CertificateError, match=r"model\.safetensors.*--no-certificate"):
        take(str(out))


def test_limits_are_watched_as_certified_and_medians_where_there_are_none(tmp_path: Path) -> None:
    limited = certify_fake(write_model(tmp_path / "a"), "ttft_p99=50ms loss=2%")
    assert [(one.name, one.quantile, one.ms) for one in describe_certified(limited)] == [("ttft_p99", 0.99, 50.0)]
    free = certify_fake(write_model(tmp_path / "b"), "loss=2%")
    assert [(one.name, one.ms) for one in describe_certified(free)] == [
        ("ttft_p50", 15.0), ("tpot_p50", 1.5), ("total_p50", 90.0),
    ]  # fmt: skip
    assert describe_certified(None) == ()


def test_another_machine_is_told_apart(out: Path, tmp_path: Path) -> None:
    import msgspec

    here = msgspec.structs.replace(MACHINE, cpu=read_cpu_name(), cores=allowed_cores())
    model = write_model(tmp_path / "c")
    assert compare_machine(certify_fake(model, machine=here)) == ""
    assert "A CPU" in compare_machine(certify_fake(model))
    more = msgspec.structs.replace(here, cores=here.cores + 1)
    assert "cores" in compare_machine(certify_fake(model, machine=more))


def test_verify_and_plan_are_commands() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert "verify" in text
    assert "plan" in text


def test_a_server_by_its_certificate_watches_its_answers_and_says_where_it_was_measured(tmp_path: Path) -> None:
    """Certified is a first token within a nanosecond, which no answer keeps: after a hundred of them it has drifted."""
    out = write_llama(tmp_path / "tiny", context=1024)
    certify_fake(out, "ttft_p50=0.000001ms")
    command = [sys.executable, "-m", "vivace", "serve", str(out), "--port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            url = json.loads(process.stdout.readline())["url"]
            with httpx.Client(base_url=url, timeout=60) as http:
                body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
                for _ in range(100):
                    assert http.post("/v1/chat/completions", json=body).status_code == 200
                assert http.get("/health").json()["drifted"] == "ttft_p50"
                metrics = http.get("/metrics").text
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert 'vivace_certificate_drifted{limit="ttft_p50"} 1.0' in metrics
    assert 'vivace_certificate_missed_share{limit="ttft_p50"} 1.0' in metrics
    assert said.count("drifted from the certificate") == 1
    assert "measured on A CPU" in said
