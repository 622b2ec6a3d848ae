"""How many replicas keep a budget: what the simulator says, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tests.fit.certificates import certify_fake, measurement, write_model
from vivace.cli import main
from vivace.errors import ConfigError
from vivace.fit.certificate import CERTIFICATE, Certificate, LengthsRecord
from vivace.fit.objective import parse_objective
from vivace.fit.plan import Correction, Plan, build_scenario, compare_with_measured, find_outside_ms, plan
from vivace.fit.plan_page import render_plan, write_plan
from vivace.fit.workload import WorkloadSpec

REQUESTS = 200
"""Few, for a test."""
SHORT = LengthsRecord(median=6.0, sigma=0.3)
BUDGET = "ttft_p99=100ms tpot_p99=10ms"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of short answers: what is simulated is each of their tokens."""
    short = measurement(answer_tokens=SHORT)
    return certify_fake(write_model(tmp_path_factory.mktemp("plan") / "variant"), BUDGET, measured=short)


@pytest.fixture(scope="module")
def planned(certificate: Certificate) -> Plan:
    return plan(certificate, [1.0, 100.0, 10_000.0], requests=REQUESTS)


def test_replicas_grow_with_the_rate_and_leave_the_headroom_free(planned: Plan) -> None:
    few, some, many = planned.sizings
    assert (few.replicas, few.replica.rate) == (1, 1.0)
    assert some.replicas < many.replicas == pytest.approx(10_000 / (0.8 * planned.capacity), abs=1)
    for sizing in planned.sizings:
        assert sizing.replicas * sizing.replica.rate == pytest.approx(sizing.rate)
        assert sizing.free_share >= 0.2 - 1e-6
        assert sizing.replica.kept


def test_more_headroom_takes_more_replicas(certificate: Certificate, planned: Plan) -> None:
    generous = plan(certificate, [10_000.0], headroom=0.5, requests=REQUESTS)
    assert generous.capacity == planned.capacity
    assert generous.sizings[0].replicas > planned.sizings[-1].replicas


def test_a_tighter_budget_takes_more_replicas(certificate: Certificate, planned: Plan) -> None:
    tight = plan(certificate, [10_000.0], parse_objective("ttft_p99=100ms tpot_p99=4ms"), requests=REQUESTS)
    assert tight.sizings[0].replicas > planned.sizings[-1].replicas


def test_the_curve_rises_and_is_missed_beyond_the_capacity(planned: Plan) -> None:
    rates = [point.rate for point in planned.curve]
    busy = [point.utilisation for point in planned.curve]
    assert rates == sorted(rates)
    assert busy == sorted(busy)
    assert planned.curve[0].kept
    assert not planned.curve[-1].kept
    first, full = (
        next(p for p in planned.curve if p.rate / planned.capacity == pytest.approx(at)) for at in (0.1, 1.0)
    )
    assert (first.times_ms["ttft_p99"] or 0) < (full.times_ms["ttft_p99"] or 0) <= 100


def test_one_seed_gives_one_plan_and_another_seed_another(certificate: Certificate, planned: Plan) -> None:
    again, other = (plan(certificate, [1.0, 100.0, 10_000.0], requests=REQUESTS, seed=seed) for seed in (0, 1))
    assert again == planned
    assert other.curve != planned.curve


def test_what_http_took_is_added_to_first_tokens_and_taken_from_budgets(certificate: Certificate) -> None:
    slow = msgspec.structs.replace(certificate, measured=measurement(timeline_ms={"preprocess": 20.0, "flush": 5.0}))
    assert find_outside_ms(slow) == {"ttft": 20.0, "tpot": 0.0, "total": 25.0}
    kind = build_scenario(slow, parse_objective("ttft_p99=100ms total_p99=1s").budget).traffic.kinds[0]
    assert (kind.budget.ttft_ms, kind.budget.total_ms) == (80.0, 975.0)
    ours, theirs = ({one.name: one.simulated_ms for one in compare_with_measured(one)} for one in (certificate, slow))
    assert (theirs["ttft_p50"] or 0) - (ours["ttft_p50"] or 0) == pytest.approx(20.0 - 0.9, abs=0.5)


def test_the_simulator_is_held_against_what_was_measured(planned: Plan) -> None:
    assert {"ttft_p50", "tpot_p99", "total_p95"} <= {one.name for one in planned.agreement}
    first = planned.agreement[0]
    assert first.simulated_ms is not None
    assert first.ratio == pytest.approx(first.simulated_ms / first.measured_ms)


def test_what_was_measured_over_simulated_corrects_what_is_foretold(certificate: Certificate) -> None:
    """Twice as long in truth, and so all times that are foretold."""
    base, twice = (
        msgspec.structs.replace(certificate, measured=measurement(ttft=ttft, answer_tokens=SHORT))
        for ttft in (10.0, 20.0)
    )
    budget = parse_objective("ttft_p99=10s")
    one, other = (plan(found, [1.0], budget, requests=REQUESTS).sizings[0].replica for found in (base, twice))
    assert other.times_ms["ttft_p50"] == pytest.approx(2 * (one.times_ms["ttft_p50"] or 0))
    assert other.times_ms["tpot_p50"] == one.times_ms["tpot_p50"]


def test_a_limit_that_was_not_measured_is_corrected_by_the_largest_of_its_metric() -> None:
    correction = Correction({"ttft": 1.0, "tpot": 0.0}, {"ttft_p50": 1.5, "ttft_p95": 2.0})
    assert correction.correct("ttft_p50", 9.0) == 15.0
    assert correction.correct("ttft_p99", 9.0) == 20.0
    assert correction.correct("tpot_p99", 9.0) == 9.0


def test_a_closed_loop_is_compared_too_and_more_clients_wait_longer(certificate: Certificate) -> None:
    few, many = (
        {one.name: one.simulated_ms or 0.0 for one in compare_with_measured(closed)}
        for closed in (
            msgspec.structs.replace(certificate, workload=WorkloadSpec(concurrency=clients)) for clients in (1, 3)
        )
    )
    assert few.keys() == many.keys() >= {"ttft_p50", "total_p99"}
    assert few["total_p50"] < many["total_p50"]


@pytest.mark.parametrize(
    ("rates", "budget", "match"),
    [
        ([], None, "Give the rates"),
        ([-1.0], None, "Give the rates"),
        ([float("inf")], None, "Give the rates"),
        ([1.0], "ttft_p99=50ms loss=2%", "leave memory and loss out"),
        ([1.0], "ttft_p99=1ms", "does not keep these budgets at any rate"),
    ],
)
def test_what_cannot_be_planned_is_said(
    certificate: Certificate, rates: list[float], budget: str | None, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        plan(certificate, rates, parse_objective(budget) if budget else None, requests=REQUESTS)


def test_a_certificate_without_limits_on_times_needs_a_budget(tmp_path: Path) -> None:
    certificate = certify_fake(write_model(tmp_path / "variant"), "loss=2%")
    with pytest.raises(ConfigError, match="--budget"):
        plan(certificate, [1.0])


def test_text_and_page_have_every_replica_count(planned: Plan) -> None:
    text, page = write_plan(planned), render_plan(planned)
    for sizing in planned.sizings:
        assert f"{sizing.replicas:,}" in text
        assert f"<td>{sizing.replicas:,}</td>" in page
    assert "20% of that is left free" in text
    assert "http" not in page


def test_the_command_prints_text_json_and_a_page(certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / CERTIFICATE).write_bytes(msgspec.json.encode(certificate))
    arguments = ["plan", "--certificate", str(tmp_path), "--rate", "1,100", "--requests", "700"]
    page = tmp_path / "plan.html"
    ran = CliRunner().invoke(main, [*arguments, "--json", "--html", str(page)])
    assert ran.exit_code == 0, ran.output
    assert [sizing["rate"] for sizing in json.loads(ran.stdout)["sizings"]] == [1.0, 100.0]
    assert page.read_text().startswith("<!doctype html>")
    assert "replicas" in CliRunner().invoke(main, arguments).stdout
    wrong = CliRunner().invoke(main, [*arguments[:4], "ten", *arguments[5:]])
    assert (wrong.exit_code, "no list of rates" in wrong.output) == (1, True)
