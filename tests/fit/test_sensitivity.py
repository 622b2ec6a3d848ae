from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.compress.variants import CALIBRATION, write_conversations, write_model
from vivace.compress.calibrate import read_calibration
from vivace.compress.layerwise import Quantization
from vivace.compress.variant import open_variant
from vivace.fit.allocate import Losses
from vivace.fit.sensitivity import assume_losses, measure_losses
from vivace.fit.space import PARTS, Space, open_space
from vivace.models.model import open_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def space(tmp_path: Path) -> Space:
    directory = write_model(tmp_path / "m", layers=3)
    return open_space(str(directory), open_model(str(directory)).config, 2)


def measure(space: Space, tmp_path: Path, limit_s: float = 60.0) -> tuple[Losses, bool]:
    model = open_model(space.model)
    text = read_calibration(
        write_conversations(tmp_path / "talks.jsonl"), model.tokenizer, model.config, CALIBRATION, 0
    )
    variant = open_variant(Path(space.model))
    before = {name: tensor.clone() for name, tensor in variant.model.state_dict().items()}
    losses = measure_losses(variant, text, space, Quantization("mse", "none", "int8"), limit_s, tmp_path)
    after = variant.model.state_dict()
    unchanged = before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    return losses, unchanged


def test_everything_in_the_space_has_a_cost_and_the_model_is_as_it_was(space: Space, tmp_path: Path) -> None:
    losses, unchanged = measure(space, tmp_path)
    assert unchanged
    assert losses.parts.keys() == {f"{layer}.{part}" for layer in range(3) for part in PARTS}
    assert set(losses.width) == set(space.widths)
    assert set(losses.rank) == set(space.ranks)
    assert len(losses.drops) == len(losses.depth) - 1 >= 1


def test_coarser_costs_more(space: Space, tmp_path: Path) -> None:
    losses, _ = measure(space, tmp_path)
    assert sum(part["int8"] for part in losses.parts.values()) < sum(part["int4"] for part in losses.parts.values())
    assert losses.tables["int8"] < losses.tables["int4"]
    assert losses.width[0.5] > losses.width[1.0] == 0.0
    assert min(losses.depth[1:]) > 0


def test_what_there_is_no_time_for_is_left_out_of_the_space(space: Space, tmp_path: Path) -> None:
    losses, _ = measure(space, tmp_path, limit_s=1e-6)
    assert len(losses.depth) == 2
    assert len(losses.width) == 2
    assert set(losses.rank) == {0.0}


def test_assumed_losses_say_that_finer_is_better(space: Space) -> None:
    losses = assume_losses(space)
    assert not losses.measured
    order = [losses.predict(space.uniform(format)) for format in ("bf16", "int8", "int4")]
    assert order == sorted(order)
    assert order[0] < order[1] < order[2]
