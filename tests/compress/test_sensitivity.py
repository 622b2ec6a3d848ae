from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.compress.variants import (
    CALIBRATION,
    score_with_engine,
    score_with_transformers,
    write_conversations,
    write_model,
)
from vivace.compress import compress


def test_bits_go_where_they_are_needed_within_the_budget_and_run_in_both(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model", "bfloat16"), write_conversations(tmp_path / "data.jsonl")
    recipe = "mixed(average_bits=6, measured_tokens=256)"
    step = compress(model, recipe, tmp_path / "out", data=data, calibration=CALIBRATION)["steps"][0]
    bits = {row["name"]: row["bits"] for row in step["linears"]}
    assert set(bits.values()) == {4, 8}
    assert len(step["sensitivity"]) == 8
    assert min(unit["kl_nats"] for unit in step["sensitivity"]) > 0
    for unit in step["sensitivity"]:
        assert len({bits[name] for name in unit["linears"]}) == 1
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"]["format"] == "mixed-precision"
    difference = score_with_engine(tmp_path / "out") - score_with_transformers(tmp_path / "out")
    assert np.abs(difference).mean() < 0.25
