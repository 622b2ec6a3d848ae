from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vivace.compress.step import check_steps
from vivace.errors import ConfigError
from vivace.fit.settings import EngineSettings
from vivace.fit.space import Candidate, Format, Structure, open_space, read_candidate
from vivace.models.config import read_config


@pytest.fixture
def directory(llama_directory: Path) -> Path:
    return llama_directory


def test_a_candidate_comes_back_from_json(directory: Path) -> None:
    space = open_space("m", read_config(directory), 4)
    whole = space.uniform("int4", "int8", EngineSettings(threads=2, speculate="lookup"))
    candidate = replace(whole, structure=Structure((1,), 0.75), formats=whole.formats[:1])
    assert read_candidate(json.loads(json.dumps(candidate.as_dict()))) == candidate


@pytest.mark.parametrize(
    ("tables", "quantize", "quantize_tables"),
    [("f32", "none", False), ("bf16", "bf16", False), ("int8", "int8", False), ("int4", "int4", True)],
)
def test_a_server_is_told_the_format_of_the_tables(
    directory: Path, tables: Format, quantize: str, quantize_tables: bool
) -> None:
    settings = open_space("m", read_config(directory), 4).uniform("int8", tables).resolved
    assert (settings.quantize, settings.quantize_tables) == (quantize, quantize_tables)


def test_formats_that_no_server_can_hold_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="Beside int8 tables"):
        Candidate("m", Structure(), (("bf16", "bf16", "bf16", "bf16"),), "int8")
    with pytest.raises(ConfigError, match="Factored"):
        Candidate("m", Structure(rank=0.5), (("int8", "int8", "int8", "int4"),), "int8")


def test_the_recipe_of_a_candidate_is_one_that_the_model_can_have(directory: Path) -> None:
    config = read_config(directory)
    row: tuple[Format, ...] = ("int8", "int4", "int4", "int8")
    steps = Candidate("m", Structure((0,), 0.5), (row,), "int8").write_recipe("mse")
    assert [step.name for step in steps] == ["drop_layers", "prune_width", "assign"]
    assert len(check_steps(steps, config).config.layers) == 1


def test_floats_need_no_recipe(directory: Path) -> None:
    assert open_space("m", read_config(directory), 4).uniform("bf16").write_recipe("gptq") == ()


def test_factored_mlps_are_not_assigned_a_format(directory: Path) -> None:
    whole = open_space("m", read_config(directory), 4).uniform("int8")
    steps = replace(whole, structure=Structure(rank=0.5)).write_recipe("mse")
    assert "mlp" not in str(steps[-1])


def test_a_model_of_integers_leaves_nothing_to_choose(directory: Path) -> None:
    from vivace.models.compressed import Setting

    config = replace(read_config(directory), quantization=(Setting(8, False, True, 0),))
    with pytest.raises(ConfigError, match="Give the original"):
        open_space("m", config, 4)


def test_widths_that_groups_do_not_divide_leave_int4_out(directory: Path) -> None:
    assert "int4" not in open_space("m", read_config(directory), 4).tables  # 112 units
