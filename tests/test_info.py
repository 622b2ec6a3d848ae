"""What `vivace info` says is what is in the files, and what a runner then holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints import write_llama
from vivace.errors import CheckpointError
from vivace.info import describe_model
from vivace.llm import load_runner
from vivace.models.model import Model, open_model
from vivace.runners.native import QUANTIZE, NativeConfig


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return open_model(str(write_llama(tmp_path / "tiny", tied=False, intermediate=128)))


def test_parameters_are_counted_to_the_last_one(model: Model) -> None:
    hidden, inner, vocab, keys, layers = 64, 128, 320, 32, 2
    matrices = 2 * hidden * hidden + 2 * keys * hidden + 3 * inner * hidden
    assert describe_model(model).parameters == 2 * vocab * hidden + layers * (matrices + 2 * hidden) + hidden


def test_bytes_of_each_format_are_what_a_runner_packs(model: Model) -> None:
    found = {kind.name: kind for kind in describe_model(model).formats}
    embedding_bytes = {"none": 4, "bf16": 2, "int8": 1, "int4": 1}
    for quantize in QUANTIZE:
        # A runner also holds the embedding, of which a step reads one row. All widths here fill whole blocks.
        runner = load_runner(model, NativeConfig(quantize=quantize))
        packed = runner.weight_bytes
        table = 320 * 64 * embedding_bytes[quantize] + (4 * 320 if quantize in ("int8", "int4") else 0)
        assert found[quantize].step_bytes == packed - table == runner.step_bytes


def test_cache_bytes_are_those_of_a_runner_also_where_heads_are_padded(tmp_path: Path) -> None:
    model = open_model(str(write_llama(tmp_path / "odd", head_dim=24)))
    runner = load_runner(model, NativeConfig(quantize="int8"))
    assert describe_model(model).kv_bytes_per_token == runner.kv_bytes_per_token


def test_ratios_and_floors_follow_from_bytes_and_bandwidth(model: Model) -> None:
    found = {kind.name: kind for kind in describe_model(model).formats}
    assert found["bf16"].compression_ratio == 1
    assert found["none"].compression_ratio == 0.5
    assert 1.8 < found["int8"].compression_ratio < 2 < found["int4"].compression_ratio < 4
    for kind in found.values():
        assert kind.floor_ms == pytest.approx(kind.step_bytes / kind.bandwidth_gb_per_s / 1e6)


def test_compression_is_the_originals_size_over_this_ones(tmp_path: Path) -> None:
    big = open_model(str(write_llama(tmp_path / "big", layers=4)))
    small = open_model(str(write_llama(tmp_path / "small", layers=2, dtype="bfloat16")))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("big", "small")]
    found = describe_model(small, big)
    assert found.compression is not None
    assert found.compression.original == "big"
    assert found.compression.parameter_ratio == describe_model(big).parameters / found.parameters
    assert found.compression.byte_ratio == sizes[0] / sizes[1]
    assert describe_model(small).compression is None


def test_a_compressed_checkpoint_says_by_itself_what_it_was_made_of(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "small")
    before = {"parameters": 10**6, "weight_bytes": 4 * 10**6}
    (directory / "recipe.json").write_text(json.dumps({"model": "big", "before": before}))
    found = describe_model(open_model(str(directory)))
    assert found.compression is not None
    assert found.compression.original == "big"
    assert found.compression.parameter_ratio == 10**6 / found.parameters
    (directory / "recipe.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"recipe.json: .*before.*parameters"):
        describe_model(open_model(str(directory)))
