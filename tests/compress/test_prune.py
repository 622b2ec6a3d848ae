"""What adds nothing is left out first, and leaving it out changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.checkpoints import read_tensors, write_tensors
from tests.compress.variants import (
    CALIBRATION,
    largest_difference,
    score_with_engine,
    score_with_transformers,
    write_conversations,
    write_model,
)
from vivace.compress import compress
from vivace.compress.calibrate import read_calibration
from vivace.compress.loss import measure_loss
from vivace.compress.pruning import cut_columns, keep_largest, keep_layers
from vivace.compress.variant import open_variant
from vivace.errors import RecipeError
from vivace.models.config import read_config
from vivace.tokenizer import Tokenizer

EXACT = 2e-3
Tensors = dict[str, Any]


def change(directory: Path, edit: Callable[[Tensors], None]) -> Path:
    tensors = {name: values.copy() for name, values in read_tensors(directory / "model.safetensors").items()}
    edit(tensors)
    write_tensors(directory / "model.safetensors", tensors)
    return directory


def run(tmp_path: Path, model: Path, recipe: str) -> dict[str, Any]:
    data = write_conversations(tmp_path / "data.jsonl")
    return compress(model, recipe, tmp_path / "out", data=data, calibration=CALIBRATION)


def test_a_layer_that_changes_nothing_is_the_one_left_out(tmp_path: Path) -> None:
    def still(tensors: Tensors) -> None:
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.1.{name}.weight"][:] = 0

    model = change(write_model(tmp_path / "model", layers=3), still)
    manifest = run(tmp_path, model, "drop_layers(0.34)")
    assert manifest["steps"][0]["dropped"] == [1]
    assert manifest["compression_ratio"]["parameters"] > 1.2
    assert largest_difference(score_with_engine(tmp_path / "out"), score_with_engine(model)) < EXACT
    assert largest_difference(score_with_transformers(tmp_path / "out"), score_with_engine(model)) < EXACT


def test_by_loss_the_layer_left_out_is_the_one_that_costs_least(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", layers=3)
    report = run(tmp_path, model, "drop_layers(0.34, by=loss)")["steps"][0]
    calibration = read_calibration(
        tmp_path / "data.jsonl", Tokenizer.open(model), read_config(model), CALIBRATION, seed=0
    )
    losses = []
    for without in range(3):
        variant = open_variant(model)
        keep_layers(variant, [layer for layer in range(3) if layer != without])
        losses.append(measure_loss(variant.model, calibration.sequences))
    assert report["dropped"] == [int(np.argmin(losses))]  # type: ignore[arg-type]
    assert report["layers"][0]["loss_without_nats"] == pytest.approx(min(losses))  # type: ignore[type-var]


def test_units_that_nothing_reads_are_the_ones_left_out(tmp_path: Path) -> None:
    def deafen(tensors: Tensors) -> None:
        for layer in range(2):
            tensors[f"model.layers.{layer}.mlp.down_proj.weight"][:, 10:74] = 0

    model = change(write_model(tmp_path / "model"), deafen)
    run(tmp_path, model, "prune_width(0.25)")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["intermediate_size"] == 192
    assert largest_difference(score_with_engine(tmp_path / "out"), score_with_engine(model)) < EXACT
    assert largest_difference(score_with_transformers(tmp_path / "out"), score_with_engine(model)) < EXACT


def test_widths_may_differ_where_it_costs_less_in_one_layer(tmp_path: Path) -> None:
    def deafen(tensors: Tensors) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][:, :128] = 0

    model = change(write_model(tmp_path / "model"), deafen)
    manifest = run(tmp_path, model, "prune_width(0.25, per_layer=true)")
    widths = json.loads((tmp_path / "out" / "config.json").read_text())["intermediate_size"]
    assert widths == [256, 128]
    assert not manifest["steps"][0]["loads_in_transformers"]
    assert largest_difference(score_with_engine(tmp_path / "out"), score_with_engine(model)) < EXACT


def test_heads_that_nothing_reads_are_the_ones_left_out(tmp_path: Path) -> None:
    def deafen(tensors: Tensors) -> None:
        tensors["model.layers.0.self_attn.o_proj.weight"][:, :64] = 0
        tensors["model.layers.1.self_attn.o_proj.weight"][:, 64:] = 0

    model = change(write_model(tmp_path / "model"), deafen)
    manifest = run(tmp_path, model, "prune_heads(0.5)")
    assert [row["kept"] for row in manifest["steps"][0]["layers"]] == [[1], [0]]
    assert largest_difference(score_with_engine(tmp_path / "out"), score_with_engine(model)) < EXACT
    assert largest_difference(score_with_transformers(tmp_path / "out"), score_with_engine(model)) < EXACT


def test_the_matrix_that_is_left_makes_up_for_what_is_missing() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 8, generator=generator) @ torch.randn(8, 32, generator=generator)
    second, kept = inputs.T @ inputs / 500, torch.arange(16)
    lost = {}
    for refit in (True, False):
        linear = torch.nn.Linear(32, 4, bias=False).requires_grad_(False)
        linear.weight.copy_(torch.arange(128.0).reshape(4, 32) / 128)
        before = inputs @ linear.weight.T
        lost[refit] = cut_columns(linear, kept, second, refit=refit)
        measured = (inputs[:, :16] @ linear.weight.T - before).square().sum() / before.square().sum()
        assert lost[refit] == pytest.approx(float(measured), rel=0.01, abs=1e-5)
    assert lost[True] < 0.1 * lost[False]


@pytest.mark.parametrize("step", ["magnitude", "wanda"])
def test_masks_leave_the_share_out_and_say_that_nothing_is_faster(tmp_path: Path, step: str) -> None:
    model = write_model(tmp_path / "model")
    manifest = run(tmp_path, model, f"{step}(0.5)")
    assert "no engine here is faster" in manifest["steps"][0]["speed"]
    assert manifest["compression_ratio"]["parameters"] == 1
    weight = read_tensors(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert np.mean(weight == 0) == pytest.approx(0.5, abs=0.01)
    if step == "wanda":
        assert (np.sum(weight == 0, axis=1) == 64).all()


def test_what_is_kept_are_the_largest_of_each_row() -> None:
    scores = torch.tensor([[1.0, 4.0, 2.0, 3.0], [9.0, 8.0, 7.0, 6.0]])
    assert keep_largest(scores, 0.5).tolist() == [[False, True, False, True], [True, True, False, False]]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("drop_layers(1.5)", "share is 1.5; it must be a share above 0 and below 1"),
        ("prune_width(0)", "share is 0"),
        ("prune_width(0.01)", "less than one multiple of 32"),
        ("prune_width(0.5, multiple=0)", "multiple is 0"),
        ("int8, drop_layers", "Put the step that quantises last"),
        ("low_rank(0.5), prune_width", "Put low_rank after it"),
        ("prune_heads, prune_heads", "one key-value head"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(tmp_path: Path, recipe: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        run(tmp_path, write_model(tmp_path / "model"), recipe)
    assert not (tmp_path / "out").exists()
