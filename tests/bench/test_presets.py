from __future__ import annotations

import pytest

from vivace.bench.presets import PRESETS, find_preset
from vivace.bench.schedule import ARRIVALS
from vivace.bench.workload import parse_lengths
from vivace.budget import parse_budget
from vivace.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_run(name: str) -> None:
    preset = find_preset(name)
    assert parse_budget(preset.budget)
    assert parse_lengths(preset.input_tokens)
    assert parse_lengths(preset.output_tokens)
    assert preset.arrivals in ARRIVALS


def test_a_name_that_is_none_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="mlperf-llama3"):
        find_preset("mlperf")
