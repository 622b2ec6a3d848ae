from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compress.variants import (
    CALIBRATION,
    score_with_engine,
    score_with_transformers,
    write_conversations,
    write_model,
)
from tests.families import write_gemma3
from vivace.compress import compress
from vivace.errors import RecipeError, VivaceError
from vivace.models.checkpoint import Checkpoint
from vivace.models.compressed import QuantizedTensor
from vivace.models.model import open_model
from vivace.models.weights import read_weights

TOLERANCE = 0.25
"""Nats by which a token's log-probability may differ in the mean between the engine, which rounds activations in its
own way, and transformers. The models here are random and much rougher than trained ones; of `mini` it is about 0.03."""

RECIPES = ["int8", "int8(activations=none)", "int4", "int4(group_size=128)", "int4(method=awq)", "int4(method=gptq)"]
TABLES = ["int8(tables=int8)", "int8(tables=int8, activations=none)", "int4(tables=int8)", "mixed(tables=int8)"]


@pytest.mark.parametrize("recipe", [*RECIPES, "int4(method=importance, correct=bias)"])
def test_what_is_written_runs_alike_in_transformers_and_in_the_engine(recipe: str, tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model", "bfloat16"), write_conversations(tmp_path / "data.jsonl")
    compress(model, recipe, tmp_path / "out", data=data, calibration=CALIBRATION)
    engine, transformers = score_with_engine(tmp_path / "out"), score_with_transformers(tmp_path / "out")
    assert np.abs(engine - transformers).mean() < TOLERANCE
    assert np.abs(engine - score_with_engine(model)).mean() > 0.05


@pytest.mark.parametrize("recipe", ["int8", "int4", "int4(group_size=64, method=rtn)"])
def test_the_engine_reads_the_very_weights_that_transformers_does(recipe: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    compress(write_model(tmp_path / "model", "bfloat16"), recipe, tmp_path / "out")
    opened = open_model(str(tmp_path / "out"))
    ours = read_weights(opened.config, opened.open_checkpoint())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    model(torch.tensor([[1, 2]]))  # the library unpacks when first used
    theirs = model.model.layers[1]
    for linear, module in (
        (ours.layers[1].query, theirs.self_attn.q_proj),
        (ours.layers[1].down, theirs.mlp.down_proj),
    ):
        assert isinstance(linear.weight, QuantizedTensor)
        assert np.array_equal(linear.weight.to_f32(), module.weight.detach().numpy())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recipe", TABLES)
def test_embedding_and_head_can_be_integers_too_and_tied_ones_stay_so(recipe: str, tied: bool, tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model", "bfloat16", tied=tied), write_conversations(tmp_path / "data.jsonl")
    compress(model, recipe, tmp_path / "out", data=data, calibration=CALIBRATION)
    opened = open_model(str(tmp_path / "out"))
    weights = read_weights(opened.config, opened.open_checkpoint())
    tables = [weights.embedding] + ([] if weights.head is None else [weights.head.weight])
    assert len(tables) == (1 if tied else 2)
    for table, name in zip(tables, ("model.embed_tokens", "lm_head"), strict=False):
        assert isinstance(table, QuantizedTensor)
        assert table.bits == 8
        exact = Checkpoint.open(model).tensor(f"{name}.weight").to_f32()
        assert np.abs(table.to_f32() - exact).max() <= 0.51 * np.abs(table.scales).max()
    engine, transformers = score_with_engine(tmp_path / "out"), score_with_transformers(tmp_path / "out")
    assert np.abs(engine - transformers).mean() < TOLERANCE


def test_tables_in_a_module_that_scales_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="multiplies its embedding"):
        compress(write_gemma3(tmp_path / "model"), "int8(tables=int8)", tmp_path / "out")


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    returned = compress(write_model(tmp_path / "model", "bfloat16"), "int8", tmp_path / "out", seed=3)
    written: dict[str, Any] = json.loads((tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))
    assert written == returned
    assert written["recipe"] == [{"int8": {"correct": "none", "activations": "int8", "tables": "float"}}]
    assert written["seed"] == 3
    assert written["compression_ratio"]["parameters"] == 1
    assert written["compression_ratio"]["bytes"] > 1.4
    assert not (tmp_path / "out" / ".state").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("", "1 to 64 steps"),
        ("int9", "There is no step 'int9'; there are"),
        ("int8(size=3)", "int8 has no setting 'size'; it has correct, activations, tables"),
        ("int4(group_size=48)", "group_size"),
        ("int8, int4", "integers already"),
        ("int4(method=awq)", "--data"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(recipe: str, message: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    with pytest.raises(VivaceError, match=message):
        compress(model, recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
