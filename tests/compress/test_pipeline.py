from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.compress.variants import (
    largest_difference,
    score_with_engine,
    score_with_transformers,
    write_model,
)
from vivace.compress import compress
from vivace.errors import VivaceError

TOLERANCE = 0.1
"""Nats of a token's log-probability between transformers and the engine, both with int8 activations; the random models
here are far less smooth than trained ones."""


@pytest.mark.parametrize("recipe", ["int8", "int8(activations=none)", "int4", "int4(group_size=128)"])
def test_what_is_written_runs_alike_in_transformers_and_in_the_engine(recipe: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "bfloat16")
    compress(model, recipe, tmp_path / "out")
    engine, transformers = score_with_engine(tmp_path / "out"), score_with_transformers(tmp_path / "out")
    assert largest_difference(engine, transformers) < TOLERANCE
    assert largest_difference(engine, score_with_engine(model)) > 1e-3


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    returned = compress(write_model(tmp_path / "model", "bfloat16"), "int8", tmp_path / "out", seed=3)
    written: dict[str, Any] = json.loads((tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))
    assert written == returned
    assert written["recipe"] == [{"int8": {"correct": "none", "activations": "int8"}}]
    assert written["seed"] == 3
    assert written["compression_ratio"]["parameters"] == 1
    assert written["compression_ratio"]["bytes"] > 1.4
    assert not (tmp_path / "out" / ".state").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("", "1 to 64 steps"),
        ("int9", "There is no step 'int9'; there are"),
        ("int8(size=3)", "int8 has no setting 'size'; it has correct, activations"),
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
