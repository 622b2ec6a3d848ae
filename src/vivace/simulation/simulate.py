"""A server under a load, in virtual time: the engine, scheduler, cost model and admission are the real ones.

A request is admitted at the moment of its arrival, against what admission knew when the step under way began, and
joins the engine when that step ends. What the simulator leaves out: the time and the processor that HTTP, templates
and tokenizer take, refusals included; the look at a request before it is read; clients of an open loop that come back
after a refusal, or give up.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vivace.budget import OnDeadline, Timeline
from vivace.engine.admission import Admission, AdmissionConfig
from vivace.engine.cost import CostModel
from vivace.engine.engine import Engine
from vivace.engine.forecast import StepLimits
from vivace.engine.request import FinishReason, Request, Update
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import ConfigError, QueueFullError, UnreachableBudgetError
from vivace.simulation.machine import PROMPT_TOKEN, Machine, VirtualClock, VirtualRunner, end_answer_at
from vivace.simulation.outcome import Ending, Outcome, Result
from vivace.simulation.traffic import Arrival, Kind, Traffic


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that decides a run."""

    machine: Machine
    traffic: Traffic
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)

    def at_rate(self, rate: float, requests: int) -> Scenario:
        """The same, with so many requests a second, and so many in all."""
        return replace(self, traffic=replace(self.traffic, rate=rate, requests=requests, times=()))


def simulate(scenario: Scenario) -> Result:
    """Run a scenario until its last request has ended. A pure function.

    Raises `RequestError` or `ContextLengthError` if a request is too long for the machine.
    """
    return _Run(scenario).finish()


def find_capacity(
    scenario: Scenario,
    *,
    attain: float = 0.99,
    requests: int = 5000,
    steps: int = 12,
    start: float = 1.0,
    is_kept: Callable[[Result], bool] | None = None,
) -> float:
    """The most requests a second at which at least the share `attain` of all requests is kept, or at which `is_kept`
    says so of the result.

    By bisection, between rates a factor of two apart, in so many steps; `start` is the first rate tried.
    Raises `ConfigError` if no rate does.
    """

    def keeps(rate: float) -> bool:
        result = simulate(scenario.at_rate(rate, requests))
        return is_kept(result) if is_kept is not None else result.kept_share >= attain

    low = start
    while not keeps(low):
        low /= 2
        if low < 1e-3:
            raise ConfigError("This machine does not keep these budgets at any rate. Allow more time or ask for less.")
    while low < 1e6 and keeps(2 * low):
        low *= 2
    high = 2 * low
    for _ in range(steps):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


@dataclass(slots=True)
class _Accepted:
    """A request under way."""

    number: int
    arrival: Arrival
    tokens: int = 0
    first_ms: float = math.inf


class _Arrivals:
    """Those to come. In a closed loop the next of a client is known only once it was answered."""

    def __init__(self, traffic: Traffic) -> None:
        self._drawn = traffic.arrivals()
        self._closed = traffic.concurrency > 0
        self._pause_s = traffic.pause_ms / 1000
        self._coming: list[tuple[float, int, Arrival]] = []
        self._count = 0
        for _ in range(max(1, traffic.concurrency)):
            self._draw(0.0)

    @property
    def next_at(self) -> float:
        """Infinity after the last, or while all clients wait."""
        return self._coming[0][0] if self._coming else math.inf

    def take(self) -> Arrival:
        """The next one."""
        at, _, arrival = heapq.heappop(self._coming)
        if not self._closed:
            self._draw(0.0)
        return arrival._replace(at=at)

    def answer(self, now: float) -> None:
        """A request was over at this instant."""
        if self._closed:
            self._draw(now + self._pause_s)

    def _draw(self, earliest: float) -> None:
        arrival = next(self._drawn, None)
        if arrival is not None:
            self._count += 1
            heapq.heappush(self._coming, (max(earliest, arrival.at), self._count, arrival))


class _Run:
    def __init__(self, scenario: Scenario) -> None:
        machine, traffic = scenario.machine, scenario.traffic
        self._kinds = traffic.kinds
        self._clock = VirtualClock()
        self._runner = VirtualRunner(machine, self._clock, traffic.seed)
        self._cost = CostModel(machine.cost)
        self._engine = Engine(self._runner, scenario.scheduler, self._clock, self._cost)
        limits = StepLimits(scenario.scheduler.max_step_ms, machine.max_batch_tokens)
        self._admission = Admission(scenario.admission, limits)
        self._arrivals = _Arrivals(traffic)
        self._accepted: dict[str, _Accepted] = {}
        self._outcomes: list[Outcome | None] = []

    def finish(self) -> Result:
        while self._engine.has_work or self._arrivals.next_at < math.inf:
            if not self._engine.has_work:
                self._clock.now = max(self._clock.now, self._arrivals.next_at)
                self._receive()
            self._step()
        assert not self._accepted, "requests are under way, but the engine has no work"
        outcomes = tuple(outcome for outcome in self._outcomes if outcome is not None)
        stats = self._admission.stats(self._clock.now)
        return Result(outcomes, self._clock.now, self._runner.busy_s, self._engine.stats(), stats)

    def _step(self) -> None:
        if not self._engine.has_work:
            return  # all that came was refused
        self._runner.next_arrival = self._arrivals.next_at
        event = self._engine.step()
        self._receive()
        for update in event:
            self._observe(update)

    def _receive(self) -> None:
        """Admit what has come by now."""
        while self._arrivals.next_at <= self._clock.now:
            self._admit(self._arrivals.take())

    def _admit(self, arrival: Arrival) -> None:
        kind = self._kinds[arrival.kind]
        number = len(self._outcomes)
        self._outcomes.append(None)
        request = _make_request(str(number), arrival, kind)
        try:
            request = self._admission.admit(request, (self._cost.cost,), arrival.at)
            self._accepted[request.id] = _Accepted(number, arrival)
            self._engine.add(request)
        except UnreachableBudgetError:
            self._arrivals.answer(arrival.at)
            self._outcomes[number] = Outcome(arrival.kind, Ending.UNREACHABLE, arrival.at, 0, total_ms=0.0)
        except QueueFullError as error:
            if self._accepted.pop(request.id, None) is not None:
                self._admission.forget(request.id)
            wait_ms = getattr(error, "retry_after_ms", 0.0)
            self._arrivals.answer(arrival.at + wait_ms / 1000)
            self._outcomes[number] = Outcome(
                arrival.kind, Ending.REFUSED, arrival.at, 0, total_ms=0.0, retry_after_ms=wait_ms
            )

    def _observe(self, update: Update) -> None:
        now = self._clock.now
        self._admission.observe(update, now)
        entry = self._accepted[update.id]
        since_ms = 1000 * (now - entry.arrival.at)
        if update.tokens and not entry.tokens:
            entry.first_ms = since_ms
        entry.tokens += len(update.tokens)
        if update.finish_reason is not None:
            del self._accepted[update.id]
            self._arrivals.answer(now)
            ending = _judge(entry, update.finish_reason, since_ms, self._kinds[entry.arrival.kind])
            self._outcomes[entry.number] = Outcome(
                entry.arrival.kind, ending, entry.arrival.at, entry.tokens, entry.first_ms, since_ms
            )


def _make_request(id: str, arrival: Arrival, kind: Kind) -> Request:
    return Request(
        id,
        (PROMPT_TOKEN,) * arrival.prompt,
        arrival.answer,
        end_answer_at(arrival.ends_at),
        arrival.at,
        cache_salt=id,  # nobody shares a prefix
        budget=kind.budget,
        priority=kind.priority,
        on_deadline=kind.on_deadline,
    )


def _judge(entry: _Accepted, reason: FinishReason, total_ms: float, kind: Kind) -> Ending:
    if reason is FinishReason.DEADLINE:
        shows = entry.tokens and kind.on_deadline is OnDeadline.TRUNCATE
        return Ending.TRUNCATED if shows else Ending.EXPIRED
    assert reason in (FinishReason.STOP, FinishReason.LENGTH)
    timeline = Timeline(prefill_ms=entry.first_ms, decode_ms=total_ms - entry.first_ms)
    return Ending.KEPT if kind.budget.kept_by(timeline, entry.tokens) else Ending.LATE
