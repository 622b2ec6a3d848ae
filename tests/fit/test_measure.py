from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_llama
from vivace.fit.measure import (
    NativeMeasurer,
    StepShape,
    Timing,
    count_layers,
    count_shape,
    plan_builds,
    plan_checks,
    plan_shapes,
    round_matrix,
)
from vivace.fit.space import Space, open_space
from vivace.llm import load_runner
from vivace.models.config import read_config
from vivace.models.model import open_model
from vivace.runners.native import NativeConfig


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("timed"), hidden=64, intermediate=128, layers=4)


@pytest.fixture
def space(directory: Path) -> Space:
    return open_space(str(directory), read_config(directory), 2)


def test_every_build_runs_in_every_shape(directory: Path, space: Space) -> None:
    ticks = itertools.count()
    measurer = NativeMeasurer(open_model(str(directory)), lambda: float(next(ticks)))  # a clock that goes on by itself
    shapes = plan_shapes(2, 16, space.chunks)
    for build in (*plan_builds(space, 1, 4), *plan_checks(space, 1, 4)):
        timing = measurer.time_build(build, shapes)
        assert len(timing.ms) == len(shapes)
        assert min(timing.ms) > 0
        assert timing.weight_bytes > 0


@pytest.mark.parametrize("format", ["f32", "bf16", "int8", "int4"])
def test_a_uniform_build_holds_what_a_server_would(directory: Path, space: Space, format: str) -> None:
    config = NativeConfig(
        quantize="none" if format == "f32" else format,  # type: ignore[arg-type]
        quantize_tables=format == "int4",
        threads=1,
        max_sequences=2,
    )
    runner = load_runner(open_model(str(directory)), config)
    build = next(one for one in (*plan_builds(space, 1, 4), *plan_checks(space, 1, 4)) if set(one.formats) == {format}
                 and one.tables == format and one.layers == 4 and one.width == 1 and not one.rank)  # fmt: skip
    measurer = NativeMeasurer(open_model(str(directory)), time.perf_counter)
    assert measurer.time_build(build, (StepShape(1, 4, 0), StepShape(1, 1, 12))).weight_bytes == runner.weight_bytes
    runner.close()


def test_each_choice_is_told_apart_by_some_build(space: Space) -> None:
    builds = plan_builds(space, 1, 4)
    assert {build.tables for build in builds} == set(space.tables)
    assert {build.layers for build in builds} == {2, 4}
    assert min(build.width for build in builds) == min(space.widths)
    assert {build.rank for build in builds} == set(space.ranks)


def test_a_model_larger_than_caches_is_timed_with_fewer_layers(directory: Path) -> None:
    config = read_config(directory)
    assert count_layers(config) == len(config.layers)


def test_steps_of_several_sequences_are_counted_as_the_engine_counts() -> None:
    assert count_shape(StepShape(4, 1, 12)) == (4, 4, 48)
    assert count_shape(StepShape(1, 32, 0)) == (32, 1, 32 * 16)


def test_rounded_matrices_come_near() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 64), np.float32)
    for format, most in (("int8", 0.02), ("int4", 0.3)):
        rounded = round_matrix(weight, format)  # type: ignore[arg-type]
        assert np.abs(rounded.to_f32() - weight).max() < most


def test_the_gain_of_lookup_is_a_ratio_of_times(directory: Path) -> None:
    ticks = itertools.count()
    measurer = NativeMeasurer(open_model(str(directory)), lambda: float(next(ticks)))
    assert measurer.find_lookup_gain([([1, 2, 3], 4), ([4, 5], 2)], 2) == 1.0


def test_of_two_timings_the_faster_counts() -> None:
    assert Timing((2.0, 1.0), 5, 5).merge(Timing((1.5, 3.0), 5, 5)).ms == (1.5, 1.0)
