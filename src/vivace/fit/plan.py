"""How many replicas keep a budget at a rate: one machine's certificate, and the scheduler's own simulator.

A balancer that deals a Poisson stream out at random gives each of n replicas a Poisson stream of an nth of the rate,
independent of the others' (Kingman, Poisson Processes, 1993, chapter 5). So one replica is simulated at its share, and
that it keeps the budget is that all do. A balancer that looks at queues does better; one that sends equal prompts to
equal places may do worse.

Simulated are queue and steps. What HTTP, templates, tokenizer and network took when it was certified is added to every
request alike. Tails are longer in truth: the client and the server's own threads share cores. So the certificate's own
workload is simulated too, and what was measured over that, limit by limit, corrects all that is foretold.

Knows no server, and measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vivace.budget import Budget
from vivace.errors import ConfigError
from vivace.fit.certificate import QUANTILES, Certificate
from vivace.fit.objective import LATENCIES, Constraint, Objective
from vivace.simulation.machine import Machine
from vivace.simulation.outcome import Ending, Result
from vivace.simulation.simulate import Scenario, find_capacity, simulate
from vivace.simulation.traffic import Kind, Tokens, Traffic

HEADROOM = 0.2
"""Of a replica's capacity, kept free: real machines have neighbours, and real traffic no constant rate."""
LOADS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25)
"""Of the capacity, at which the curve is drawn."""
REQUESTS = 2000
"""Of a simulated run."""
STEPS = 8
"""Bisections: the capacity is found to within 0.3%."""
_METRICS = {"ttft": "first_ms", "tpot": "tpot_ms", "total": "total_ms"}


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One replica at one rate."""

    rate: float
    """Requests a second."""
    times_ms: dict[str, float | None]
    """By the names of limits, over all requests offered; None where too many had no answer."""
    answered_share: float
    utilisation: float
    """The share of the time with a step under way."""
    kept: bool


@dataclass(frozen=True, slots=True)
class Sizing:
    """How many replicas it takes."""

    rate: float
    """Of all of them together."""
    replicas: int
    replica: LoadPoint
    """One of them, at its share of the rate."""
    free_share: float
    """Of its capacity."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The simulator on the certificate's own workload, uncorrected, beside what was measured."""

    name: str
    simulated_ms: float | None
    """None where too many had no answer."""
    measured_ms: float

    @property
    def ratio(self) -> float | None:
        return self.simulated_ms / self.measured_ms if self.simulated_ms is not None else None


@dataclass(frozen=True, slots=True)
class Correction:
    """From simulated queue and steps to what a client sees."""

    outside_ms: dict[str, float]
    """By metric: the measured means of what is not simulated."""
    factors: dict[str, float]
    """By limit: measured over simulated, on the certificate's own workload."""

    def find_factor(self, name: str) -> float:
        """Of a limit that was not measured, the largest of its metric's."""
        metric = name.partition("_")[0]
        others = [factor for other, factor in self.factors.items() if other.startswith(f"{metric}_")]
        return self.factors.get(name, max(others, default=1.0))

    def correct(self, name: str, simulated_ms: float) -> float:
        return (simulated_ms + self.outside_ms[name.partition("_")[0]]) * self.find_factor(name)


@dataclass(frozen=True, slots=True)
class Plan:
    model: str
    machine: str
    limits: tuple[Constraint, ...]
    capacity: float
    """Requests a second that one replica takes and keeps the limits."""
    headroom: float
    requests: int
    seed: int
    sizings: tuple[Sizing, ...]
    curve: tuple[LoadPoint, ...]
    agreement: tuple[Agreement, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def plan(
    certificate: Certificate,
    rates: Sequence[float],
    objective: Objective | None = None,
    *,
    headroom: float = HEADROOM,
    requests: int = REQUESTS,
    seed: int = 0,
) -> Plan:
    """Size a service of the certified variant for each rate. `objective` is the certificate's own unless given.

    Raises `ConfigError` for no limit on times, a limit on anything else, or limits that no rate keeps.
    """
    if not all(0 < rate < math.inf for rate in rates) or not rates:
        raise ConfigError("Give the rates to plan for, in requests a second above 0, such as 10,1000,100000.")
    if not 0 <= headroom < 1:
        raise ConfigError(f"The headroom is {headroom:g}; it must be from 0 to below 1.")
    asked = objective or certificate.objective
    limits = tuple(one for one in asked.constraints if one.name in LATENCIES)
    if objective is not None and len(limits) < len(objective.constraints):
        raise ConfigError("A plan is about times: leave memory and loss out of its budget.")
    if not limits:
        raise ConfigError("The certificate limits no time. Say what is to be kept: --budget 'ttft_p99=100ms'.")
    scenario = build_scenario(certificate, Objective(limits).budget, seed)
    agreement = compare_with_measured(certificate)
    factors = {one.name: one.measured_ms / one.simulated_ms for one in agreement if one.simulated_ms}
    correction = Correction(find_outside_ms(certificate), factors)
    capacity = find_capacity(
        scenario,
        requests=requests,
        steps=STEPS,
        start=_guess_rate(certificate),
        is_kept=lambda result: _keeps(result, limits, correction),
    )

    def look(rate: float) -> LoadPoint:
        return _describe(simulate(scenario.at_rate(rate, requests)), rate, limits, correction)

    return Plan(
        model=certificate.variant.name,
        machine=f"{certificate.machine.cpu}, {certificate.machine.cores} cores, {certificate.machine.isa}",
        limits=limits,
        capacity=capacity,
        headroom=headroom,
        requests=requests,
        seed=seed,
        sizings=tuple(_size(rate, capacity, headroom, look) for rate in rates),
        curve=tuple(look(load * capacity) for load in LOADS),
        agreement=agreement,
    )


def _guess_rate(certificate: Certificate) -> float:
    """Half of what a machine could do that never waits, with eight answers at a time."""
    cost, measured = certificate.cost.step_cost(), certificate.measured
    prompt, answer = measured.prompt_tokens.median, measured.answer_tokens.median
    busy_ms = cost.prompt_ms(round(prompt)) + answer * cost.decode_ms(8, prompt + answer / 2) / 8
    return 500 / busy_ms


def _size(rate: float, capacity: float, headroom: float, look: Any) -> Sizing:
    replicas = max(1, math.ceil(rate / (capacity * (1 - headroom)) - 1e-9))
    share = rate / replicas
    return Sizing(rate, replicas, look(share), 1 - share / capacity)


# From a certificate to a scenario


def build_scenario(certificate: Certificate, budget: Budget, seed: int = 0) -> Scenario:
    """One replica under the certified lengths. Its budget is what is left once HTTP and the rest had their part."""
    cost, measured = certificate.cost, certificate.measured
    outside = find_outside_ms(certificate)
    inner = Budget(
        max(budget.ttft_ms - outside["ttft"], 1e-3), budget.tpot_ms, max(budget.total_ms - outside["total"], 1e-3)
    )
    longest = cost.context_length
    kind = Kind(
        Tokens(measured.prompt_tokens.median, measured.prompt_tokens.sigma, max(1, longest // 2)),
        Tokens(measured.answer_tokens.median, measured.answer_tokens.sigma, max(1, longest // 2 - 1)),
        inner,
    )
    machine = Machine(
        cost.step_cost(),
        noise=cost.noise,
        slots=cost.slots,
        blocks=cost.blocks,
        max_batch_tokens=cost.max_batch_tokens,
        context_length=longest,
    )
    return Scenario(machine, Traffic((kind,), rate=1.0, requests=1, seed=seed))


def find_outside_ms(certificate: Certificate) -> dict[str, float]:
    """What is added to simulated times, by metric: the measured means of what is not simulated."""
    measured = certificate.measured
    before = measured.outside_ms("client", "preprocess", "network")
    return {"ttft": before, "tpot": 0.0, "total": before + measured.outside_ms("flush")}


def compare_with_measured(certificate: Certificate) -> tuple[Agreement, ...]:
    """Simulate the certificate's own workload: at its rate, or with as many clients that wait."""
    workload, measured = certificate.workload, certificate.measured
    scenario = build_scenario(certificate, certificate.objective.budget, workload.seed)
    requests = max(REQUESTS, workload.requests)
    if workload.rate:
        scenario = scenario.at_rate(workload.rate, requests)
    else:  # a client's next request finds what the last one spent outside of queue and steps
        pause_ms = find_outside_ms(certificate)["total"]
        loop = replace(
            scenario.traffic, rate=0.0, requests=requests, concurrency=workload.concurrency, pause_ms=pause_ms
        )
        scenario = replace(scenario, traffic=loop)
    result = simulate(scenario)
    bare = Correction(find_outside_ms(certificate), {})
    found = []
    for name, value in measured.values().items():
        if name in LATENCIES and 0 < value < math.inf:
            simulated = _percentile(result, name, bare)
            found.append(Agreement(name, simulated if simulated < math.inf else None, value))
    return tuple(found)


def _percentile(result: Result, name: str, correction: Correction) -> float:
    """Of a limit's name, over all requests: one without an answer is slower than any other."""
    metric, _, percentile = name.partition("_")
    answered = (Ending.KEPT, Ending.LATE)
    values = sorted(
        getattr(one, _METRICS[metric]) if one.ending in answered else math.inf
        for one in result.outcomes
        if metric != "tpot" or one.tokens > 1 or one.ending not in answered
    )
    if not values:
        return math.inf
    return correction.correct(name, values[max(0, math.ceil(QUANTILES[percentile] * len(values) - 1e-9) - 1)])


def _keeps(result: Result, limits: Sequence[Constraint], correction: Correction) -> bool:
    return all(_percentile(result, limit.name, correction) <= limit.limit for limit in limits)


def _describe(result: Result, rate: float, limits: Sequence[Constraint], correction: Correction) -> LoadPoint:
    names = dict.fromkeys([*(limit.name for limit in limits), "ttft_p50", "tpot_p50", "total_p50"])
    times = {name: _percentile(result, name, correction) for name in names}
    answered = sum(one.ending in (Ending.KEPT, Ending.LATE) for one in result.outcomes)
    return LoadPoint(
        rate,
        {name: value if value < math.inf else None for name, value in times.items()},
        answered / len(result.outcomes),
        result.utilisation,
        _keeps(result, limits, correction),
    )
