from __future__ import annotations

from pathlib import Path

import pytest

from tests.compress.variants import CALIBRATION, score_with_engine, write_conversations, write_model
from vivace.compress import compress, parse_recipe
from vivace.compress.assign import find_linears_of
from vivace.compress.recipe import format_recipe
from vivace.errors import RecipeError
from vivace.models.checkpoint import Checkpoint


def test_each_part_is_stored_as_it_was_told(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    out = tmp_path / "out"
    compress(model, 'assign(int8=["0.mlp_in"], int4=["0.query_key_value", "1.mlp_out"])', out, threads=1)
    names = Checkpoint.open(out).names
    assert "model.layers.0.mlp.gate_proj.weight_scale" in names
    assert "model.layers.0.self_attn.k_proj.weight_packed" in names
    assert "model.layers.1.mlp.down_proj.weight_packed" in names
    assert not any("weight_scale" in name for name in names if "layers.1.self_attn" in name)
    assert len(score_with_engine(out)) > 0


def test_named_layers_are_left_out_without_data(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", layers=3)
    manifest = compress(model, "drop_layers(layers=[0, 2])", tmp_path / "out", threads=1)
    assert manifest["steps"][0]["dropped"] == [0, 2]
    assert not any("layers.1." in name for name in Checkpoint.open(tmp_path / "out").names)


@pytest.mark.parametrize(
    "recipe",
    [
        "assign",
        'assign(int4=["mlp_in"])',
        'assign(int4=["0.mlp"])',
        'assign(int4=["0.mlp_in"], int8=["0.mlp_in"])',
        "drop_layers(layers=[1, 1])",
        "drop_layers(layers=[-1])",
    ],
)
def test_what_names_no_part_is_refused(recipe: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(recipe)


@pytest.mark.parametrize(
    "recipe", ['assign(int4=["7.mlp_in"])', "drop_layers(layers=[7])", "drop_layers(layers=[0, 1])"]
)
def test_layers_that_are_not_there_are_refused_before_any_work(tmp_path: Path, recipe: str) -> None:
    model = write_model(tmp_path / "model")
    with pytest.raises(RecipeError):
        compress(model, recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_without_linears_is_refused() -> None:
    with pytest.raises(RecipeError, match="factored"):
        find_linears_of(["0.mlp_in"], ["model.layers.0.self_attn.q_proj", "model.layers.10.mlp.up_proj"])


def test_only_conversions_by_method_need_data() -> None:
    by_method = [parse_recipe(f'assign(int4=["0.mlp_in"], method={name})')[0].needs_data for name in ("mse", "gptq")]
    assert by_method == [False, True]


@pytest.mark.parametrize(
    "recipe",
    [
        "int8",
        "int4(method=awq)",
        "drop_layers(layers=[1, 3]), prune_width(share=0.3)",
        'low_rank(share=0.5, part=mlp), assign(int8=["0.mlp_in"], method=gptq)',
    ],
)
def test_a_recipe_is_written_as_it_is_read(recipe: str) -> None:
    assert format_recipe(parse_recipe(recipe)) == recipe


def test_conversations_calibrate_what_is_assigned(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    data = write_conversations(tmp_path / "talks.jsonl")
    manifest = compress(
        model, 'assign(int4=["0.mlp_in"], method=gptq)', tmp_path / "out", data=data, calibration=CALIBRATION, threads=1
    )
    assert [row["bits"] for row in manifest["steps"][0]["linears"]] == [4, 4]
