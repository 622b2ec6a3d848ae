from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.checkpoints import write_llama
from vivace.cli import main
from vivace.fit.certificate import read_certificate
from vivace.models.model import open_model


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["fit", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["mini", "--budget", "tpot_p50=1ms"], "Say where the variant goes"),
        (["mini", "out"], "--budget"),
        (["mini", "out", "--budget", "speed=1"], "there are ttft_p50"),
        (["mini", "out", "--budget", "tpot_p50=1ms", "--workload", "nothing"], "Choose one of"),
        (["mini", "out", "--budget", "tpot_p50=1ms", "--rate", "1", "--concurrency", "1"], "Give one of them"),
        (["mini", "out", "--budget", "loss=1%", "--time-only"], "Leave out one of the two"),
        (["mini", "other", "out", "--budget", "tpot_p50=1ms"], "give some with --data"),
        (["mini", "out", "--budget", "tpot_p50=1ms", "--time", "1s"], "10 s at least"),
        (["no-such-model-here", "out", "--budget", "tpot_p50=1ms"], "no-such-model-here"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    arguments: list[str], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output = run(*arguments)
    assert status in (1, 2)
    assert remedy in output
    assert not Path("out").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_budget_to_a_certified_variant(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model", hidden=64, intermediate=128, layers=2)
    out = tmp_path / "out"
    status, output = run(
        str(model), str(out), "--budget", "tpot_p50=60s memory=64GB", "--time-only", "--time", "60s", "--trials", "8",
        "--requests", "24", "--concurrency", "2",
    )  # fmt: skip
    assert status == 0, output
    assert "keeps its budget" in output
    assert open_model(str(out)).config.vocab_size == 320
    assert read_certificate(out)[0].objective.limit("tpot_p50") == 60_000
    assert not (out / ".fit").exists()
