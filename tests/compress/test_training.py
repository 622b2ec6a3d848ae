"""Training stops in time, never leaves a model worse than it found it, and each step learns what it says."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compress.test_prune import run
from tests.compress.variants import largest_difference, score_with_engine, score_with_transformers, write_model
from vivace.compress.training import Examples, Padded, Schedule, find_cross_entropy, find_logit_divergence, pad, train
from vivace.errors import RecipeError
from vivace.evaluation.tasks import Passage

HOW = Schedule(steps=40, minutes=None, rate=0.1, batch=2, length=16, every=5, patience=2)
PASSAGES = [Passage(i, (1, 2, 3), (False, True, True)) for i in range(8)]
EXAMPLES = Examples(PASSAGES[2:], PASSAGES[:2])
SHORT = "steps=12, batch=4, every=4, length=64, rate=1e-3"


def go(find_loss: Any, parameter: Any, how: Schedule = HOW, **options: Any) -> dict[str, Any]:
    return train([parameter], find_loss, EXAMPLES, how, 0, lambda share: None, **options)


def test_weights_come_to_where_the_loss_is_least() -> None:
    weight = torch.nn.Parameter(torch.tensor(1.0))
    report = go(lambda batch: (weight - 3.0).square(), weight)
    assert weight.item() == pytest.approx(3, abs=0.5)
    assert report["curve"][0]["held_out_loss_nats"] == 4


def test_what_only_gets_worse_is_rolled_back_and_stopped_early() -> None:
    weight = torch.nn.Parameter(torch.tensor(1.0))

    def find_loss(batch: Padded) -> Any:
        return weight.square() if torch.is_grad_enabled() else -weight

    report = go(find_loss, weight)
    assert weight.item() == 1.0
    assert (report["stopped_by"], report["kept_step"], report["rolled_back"]) == ("patience", 0, True)
    assert report["steps_done"] == HOW.every * HOW.patience


def test_time_ends_it_too() -> None:
    weight, seconds = torch.nn.Parameter(torch.tensor(1.0)), count(0, 10)
    how = Schedule(steps=1000, minutes=1, rate=0.01, batch=2, length=16, every=100, patience=2)
    report = go(lambda batch: (weight - 3.0).square(), weight, how, clock=lambda: float(next(seconds)))
    assert (report["stopped_by"], report["steps_done"]) == ("minutes", 5)
    assert not report["rolled_back"]


def test_only_what_the_assistant_says_counts_and_padding_never() -> None:
    batch = pad([Passage(0, (5, 6, 7, 8), (False, False, True, True)), Passage(1, (5, 6), (False, True))])
    logits = torch.zeros(2, 4, 10)
    logits[0, 1, 7], logits[0, 2, 8], logits[1, 0, 6] = 50.0, 50.0, 50.0
    assert float(find_cross_entropy(logits, batch)) == pytest.approx(0, abs=1e-6)
    teacher = logits.clone()
    teacher[1, 2:] = torch.randn(2, 10)
    assert float(find_logit_divergence(logits, teacher, batch, 2.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_finetuning_learns_and_leaves_a_standard_checkpoint(tmp_path: Path, method: str) -> None:
    model = write_model(tmp_path / "model")
    report = run(tmp_path, model, f"finetune(method={method}, {SHORT})")["steps"][0]
    losses = [point["held_out_loss_nats"] for point in report["curve"]]
    assert min(losses[1:]) < losses[0]
    assert report["kept_step"] > 0
    ours, theirs = score_with_engine(tmp_path / "out"), score_with_transformers(tmp_path / "out")
    assert largest_difference(ours, theirs) < 2e-3
    assert largest_difference(ours, score_with_engine(model)) > 1e-3


@pytest.mark.parametrize("on", ["logits", "hidden", "sequences"])
def test_distilling_brings_a_pruned_model_closer_to_the_original(tmp_path: Path, on: str) -> None:
    recipe = f"drop_layers(0.5), distill(on={on}, {SHORT})"
    report = run(tmp_path, write_model(tmp_path / "model"), recipe)["steps"][1]
    losses = [point["held_out_loss_nats"] for point in report["curve"]]
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_for_rounding_loses_less_once_rounded(tmp_path: Path, method: str) -> None:
    recipe = f"qat(method={method}, {SHORT}), int4(method=rtn)"
    report = run(tmp_path, write_model(tmp_path / "model"), recipe)["steps"][0]
    losses = [point["held_out_loss_nats"] for point in report["curve"]]
    assert min(losses[1:]) < losses[0]
    assert "int4(group_size=32, method=rtn)" in report["next"]


def test_a_draft_is_a_smaller_standard_model_of_the_same_words(tmp_path: Path) -> None:
    recipe = f"draft(layers=1, hidden_size=64, intermediate_size=96), distill({SHORT})"
    manifest = run(tmp_path, write_model(tmp_path / "model"), recipe)
    assert manifest["compression_ratio"]["parameters"] > 2
    ours, theirs = score_with_engine(tmp_path / "out"), score_with_transformers(tmp_path / "out")
    assert largest_difference(ours, theirs) < 2e-3


def test_the_same_seed_trains_the_same_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, model, f"finetune({SHORT})")
    weights = [(tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("finetune(rate=0)", "rate is 0"),
        ("finetune(steps=0)", "steps is 0"),
        ("finetune(rank=0)", "rank is 0"),
        ("low_rank(0.5), finetune", "Use method=full"),
        ("distill(temperature=0)", "temperature is 0"),
        ("distill(minutes=0)", "minutes is 0"),
        ("low_rank(0.5), qat", "Leave low_rank out"),
        ("draft(heads=3, kv_heads=2)", "multiple of kv_heads"),
        ("draft(layers=5)", "5 layers are more than the model's 2"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(tmp_path: Path, recipe: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        run(tmp_path, write_model(tmp_path / "model"), recipe)
