from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training import held_out
from training.config import RUNS, RunConfig
from training.model import Decoder
from training.sources import GENERATED
from training.tokenizer import train_tokenizer
from training.train import Run, find_phase, find_rate

TOKENIZER = train_tokenizer(["the shop opens at nine", "hello"] * 4, 300)
TINY = replace(RUNS["slice"].decoder, vocab_size=300, hidden_size=32, layers=1, mlp_size=64)
SLICE = replace(RUNS["slice"], decoder=TINY, tokens=3000, checkpoint_every=3)


def begin(directory: Path, config: RunConfig = SLICE, minutes: float | None = None) -> Run:
    torch.manual_seed(0)
    directory.mkdir(exist_ok=True)
    watched = {"instructions": held_out.gather(None, TOKENIZER, 2, 64)["instructions"]}
    return Run(config, Decoder(config.decoder), TOKENIZER, GENERATED, watched, directory, seed=1, minutes=minutes)


def read_log(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "run.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = begin(tmp_path / "whole")
    whole.train()
    stopped = begin(tmp_path / "stopped")
    for _ in range(3):
        share = stopped.share()
        stopped._step(*stopped.steps[stopped.progress.step, find_phase(SLICE.phases, share)], share)
    stopped.save("checkpoint.pt")
    resumed = begin(tmp_path / "stopped")
    resumed.resume()
    assert resumed.progress.step == 3
    resumed.train()
    assert resumed.progress.tokens == whole.progress.tokens >= 3000
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor)


def test_workers_draw_the_same_steps_ahead(tmp_path: Path) -> None:
    run = begin(tmp_path, replace(SLICE, workers=2))
    drawn = list(itertools.islice(run._draw(), 3))
    assert drawn == [run.steps[step, 0] for step in range(3)]


def test_a_run_learns(tmp_path: Path) -> None:
    run = begin(tmp_path, replace(SLICE, tokens=8_000))
    run.train()
    scored = [line["held_out"] for line in read_log(tmp_path) if "held_out" in line]
    assert scored[-1] < scored[0] - 0.3
    assert (tmp_path / "best.pt").exists()


def test_a_step_in_parts_is_the_step_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.train.multiplies_bfloat16", lambda device: False)
    whole, parts = begin(tmp_path / "a"), begin(tmp_path / "b", replace(SLICE, micro_tokens=256))
    for run in (whole, parts):
        run._step(*run.steps[0, 0], 0.5)
    assert parts.progress.tokens == whole.progress.tokens
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_run_that_no_longer_gets_better_stops_early(tmp_path: Path) -> None:
    run = begin(tmp_path, replace(SLICE, tokens=10**9, rate=0.0, evaluate_every=1, patience=2))
    run.train()
    assert run.progress.since_best >= 2
    assert run.progress.step <= 3


def test_a_run_ends_by_the_clock_if_that_comes_first(tmp_path: Path) -> None:
    run = begin(tmp_path, replace(SLICE, tokens=10**9), minutes=0.1)
    run._evaluate = lambda: None  # type: ignore[method-assign]
    run.train()
    assert run.share() >= 1
    assert 0 < run.progress.tokens < 10**9


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [find_rate(share / 100, SLICE) for share in range(101)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] == pytest.approx(SLICE.final_rate)


def test_phases_follow_each_other_by_their_shares() -> None:
    assert [find_phase(SLICE.phases, share) for share in (0.0, 0.34, 0.36, 0.79, 0.81, 1.0)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("config", RUNS.values(), ids=RUNS)
def test_every_named_run_ends_at_its_full_length_on_the_assistant_alone(config: RunConfig) -> None:
    assert sum(phase.share for phase in config.phases) == pytest.approx(1)
    last = config.phases[-1]
    assert last.role_weights == {"assistant": 1.0, "user": 0.0, "header": 0.0, "system": 0.0}
    assert last.length <= config.decoder.context_length
    assert config.decoder.hidden_size % config.decoder.heads == 0


def test_the_named_runs_have_the_sizes_they_are_named_for() -> None:
    sizes = {name: sum(p.numel() for p in Decoder(RUNS[name].decoder).parameters()) / 1e6 for name in ("small", "base")}
    assert 12 <= sizes["small"] <= 16
    assert 30 <= sizes["base"] <= 40
    assert all(RUNS[name].decoder.context_length == RUNS[name].phases[-1].length == 2048 for name in sizes)
