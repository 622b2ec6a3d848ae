from __future__ import annotations

import pytest

from vivace.bench.limits import Attainment


@pytest.mark.parametrize(
    ("kept", "offered", "verdict"), [(1000, 1000, "kept"), (98, 100, "missed"), (20, 20, "at risk"), (0, 0, "missed")]
)
def test_a_small_sample_does_not_show_that_a_budget_is_kept(kept: int, offered: int, verdict: str) -> None:
    assert Attainment(kept, offered, 0.99).verdict == verdict
