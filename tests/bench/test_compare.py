from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vivace.bench.calibrate import null_server
from vivace.bench.compare import Columns, columns_of, compare, plan_in_turn
from vivace.bench.experiment import Experiment
from vivace.bench.processes import run_plans
from vivace.bench.schedule import Load
from vivace.bench.workload import Workload, parse_lengths
from vivace.errors import ConfigError

WORKLOAD = Workload(model="null", output_tokens=parse_lengths("3"))


def columns(factor: float = 1.0, *, n: int = 200, seed: int = 0, failed: int = 0) -> Columns:
    noise = np.random.default_rng(seed).normal(1, 0.01, n)
    times: list[Any] = (np.linspace(20, 40, n) * factor * noise).tolist()
    return {
        "index": list(range(n)),
        "turn": [0] * n,
        "block": [i // 10 for i in range(n)],
        "error": ["timeout"] * failed + [""] * (n - failed),
        "ttft_ms": times,
        "e2e_ms": times,
        "tpot_ms": [None] * n,
    }


@pytest.mark.parametrize(("factor", "verdict"), [(1.05, "worse"), (0.95, "better"), (1.0, "no evidence")])
@pytest.mark.parametrize("blocks", [True, False])
def test_the_second_is_told_from_the_first(factor: float, verdict: str, blocks: bool) -> None:
    found = compare(columns(), columns(factor, seed=1), 0.01, blocks=blocks)
    assert found["verdict"] == verdict
    assert found["metrics"]["ttft_ms"]["ratio"] == pytest.approx(factor, rel=0.01)
    assert "tpot_ms" not in found["metrics"]


def test_a_server_that_fails_more_is_worse_however_fast() -> None:
    found = compare(columns(), columns(seed=1, failed=60), 0.01)
    assert found["answered"]["verdict"] == "worse"
    assert found["verdict"] == "worse"
    assert compare(columns(), columns(0.5, seed=1, failed=60), 0.01)["verdict"] == "mixed"


def test_requests_are_paired_by_place_and_not_by_order() -> None:
    other = columns(seed=1)
    turned: Columns = {name: values[::-1] for name, values in other.items()}
    found = [compare(columns(), side, 0.01)["metrics"]["ttft_ms"] for side in (turned, other)]
    assert found[0] == found[1]


def test_too_few_pairs_are_no_comparison() -> None:
    with pytest.raises(ConfigError, match="--requests"):
        compare(columns(n=10), columns(n=10), 0.01)


@pytest.mark.parametrize("load", [Load(concurrency=2, requests=40), Load(rate=100, requests=40)])
def test_both_servers_are_asked_the_same_in_turn(load: Load) -> None:
    with null_server() as a, null_server() as b:
        plan = plan_in_turn(Experiment(a, WORKLOAD, load), b, "other", 4)
        measured = run_plans([plan])
    sides = [columns_of([one for one in measured.observations if one.target == target]) for target in (0, 1)]
    assert sorted(sides[0]["index"]) == sorted(sides[1]["index"]) == list(range(40))
    assert set(sides[0]["block"]) == {0, 1, 2, 3}
    assert plan.models == ["null", "other"]


def test_what_cannot_be_cut_into_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="blocks"):
        plan_in_turn(Experiment("http://h/v1", WORKLOAD, Load(concurrency=1, requests=5)), "http://i/v1", "m", 4)
    with pytest.raises(ConfigError, match="trace"):
        plan_in_turn(Experiment("http://h/v1", WORKLOAD, Load(times=(0.0, 1.0))), "http://i/v1", "m", 4)
