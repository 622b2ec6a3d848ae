"""The engine's own timing: it measures what was asked for, no more."""

from __future__ import annotations

import pytest

from tests.fakes import LIMITS, FakeRunner
from vivace.engine.benchmark import measure_speed


@pytest.mark.parametrize("concurrent", [1, 4])
def test_every_run_makes_all_its_tokens_and_its_figures_hang_together(concurrent: int) -> None:
    runs = measure_speed(FakeRunner(LIMITS), concurrent=concurrent, prompt=20, new_tokens=12, runs=3)
    assert len(runs) == 3
    for run in runs:
        assert 0 < run.per_token_ms_p50 <= run.per_token_ms_p99
        total_ms = concurrent * 12 / run.tokens_per_s * 1e3
        assert run.ttft_ms < total_ms
