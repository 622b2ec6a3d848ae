"""The whole program on a slice, as anyone would run it: no data folder, no checkpoint, one command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vivace
from tests.training.data_folder import write_data

ROOT = Path(__file__).parents[2]


def train(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "training", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_command_makes_a_model_that_the_engine_serves(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write_data(data)
    train("slice", "--data", data, "--out", out, "--watch", "6")
    lines = [json.loads(line) for line in (out / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = [line["held_out"] for line in lines if "held_out" in line]
    assert min(scores) < scores[0] - 2
    with vivace.load(out / "model", quantize="none", threads=1) as llm:
        answer = llm.generate([{"role": "user", "content": "Hello"}], max_tokens=60, temperature=0.0)
        assert answer.text
        assert llm.model.config.context_length == 512


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_without_data_it_trains_on_what_it_generates_and_goes_on_from_what_it_made(tmp_path: Path) -> None:
    train("slice", "--out", tmp_path / "first", "--watch", "3", "--minutes", "0.2")
    train("slice", "--out", tmp_path / "first", "--watch", "3", "--minutes", "0.3", "--resume")
    train(
        "slice",
        "--out",
        tmp_path / "second",
        "--watch",
        "3",
        "--minutes",
        "0.1",
        "--init",
        tmp_path / "first" / "model",
    )
    first, second = ((tmp_path / name / "run.jsonl").read_text(encoding="utf-8") for name in ("first", "second"))
    end, start = (
        min(json.loads(line)["held_out"] for line in first.splitlines() if "held_out" in line),
        json.loads(second.splitlines()[0])["held_out"],
    )
    assert start == pytest.approx(end, abs=0.05)
