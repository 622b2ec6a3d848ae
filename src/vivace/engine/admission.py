"""Which requests are accepted: those whose deadline will be kept, behind all that was accepted before.

Every accepted request is in a ledger with what is left of it. A new one is put among them and the whole is forecast;
it is accepted if it will be on time and makes nobody late. How far to trust forecasts is learned: they are multiplied
with a margin that grows with every accepted request that was late, and shrinks with those that were on time though
accepted narrowly or against the forecast.

Where there is a ladder of variants, each is tried in turn, the best first; then, under pressure, a shorter answer.
Beside that, what waits is bounded by tokens and by predicted time, for requests without a deadline too.

Knows no engine, no thread and no HTTP: it is told of requests, of tokens and of ends. Any thread may call it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vivace.budget import Budget, OnDeadline
from vivace.engine.cost import StepCost
from vivace.engine.forecast import NOTHING, Besides, Forecast, Load, StepLimits, advance, delay, forecast
from vivace.engine.lengths import Lengths
from vivace.engine.pacing import FLUSH_S
from vivace.engine.request import FinishReason, Request, Update
from vivace.errors import ConfigError, OverloadedError, UnreachableBudgetError

MARGIN_START = 1.3
MARGIN_RANGE = (1.0, 3.0)
MARGIN_GROWTH = 0.12
MARGIN_DECAY = 0.0004
"""In balance with the growth when one in 300 narrow requests is late."""
NARROW = 0.7
"""A request is accepted narrowly whose forecast, the margin included, takes more than this share of its time."""
TRANSPORT_MS = 15.0
TRANSPORT_SHARE = 0.01
"""Of the time there is, that much is left for what the server cannot see, the sockets' queues on a busy machine; at
most `TRANSPORT_MS`."""
PROBE_S = 1.0
"""With no other deadline to keep, one request in this time is accepted whatever its forecast."""
WAIT_HALVINGS = 5
"""The time after which to come back is told to a thirty-second of what is accepted."""
WAIT_CAUTION = 2.0
"""Meanwhile the others are taken to advance so many times more slowly than forecast: who comes back is not to be
refused again."""
MANY = 100
"""Accepted requests, of more of which a refusal takes no time to look for the moment to come back."""
HOPEFUL = 0.5
"""A request not yet read is taken for this share of what it probably is."""


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """Bounds on what may wait. Raises `ConfigError` when a value is out of its range."""

    by_forecast: bool = True
    """Refuse what would be late; if not, only the bounds below refuse."""
    max_waiting_tokens: int = 4_000_000
    """Of prompts not begun and answers to come, together."""
    max_wait_ms: float = 120_000.0
    """The time that all that is accepted may take, by the cost model."""
    pressed_max_tokens: int = 0
    """Where no variant could keep a deadline, try again with an answer of at most so many tokens; 0 does not."""

    def __post_init__(self) -> None:
        for name in ("max_waiting_tokens", "max_wait_ms"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.pressed_max_tokens < 0:
            raise ConfigError(f"pressed_max_tokens is {self.pressed_max_tokens}; it must be 0 (never) or more.")


@dataclass(frozen=True, slots=True)
class AdmissionStats:
    """What admission did since it was made, and what it believes now."""

    accepted: int
    refused_unread: int
    """From their size and budget alone."""
    degraded: int
    """Accepted, but not by the first variant, or for a shorter answer."""
    refused_late: int
    """Read, and would have been late or made others late."""
    refused_full: int
    """What waits is bounded."""
    margin: float
    under_way: int
    refused_ago_ms: float
    """Since the last refusal."""
    expected_tokens: int | None
    """The length that is counted on where `max_tokens` is more."""


@dataclass(slots=True)
class _Accepted:
    load: Load
    entered: float
    """The instant of its acceptance."""
    limited: bool
    narrow: bool
    against_forecast: bool = False
    """That it is late is no surprise."""
    tokens: int = 0
    first: float = math.inf
    """The instant of its first token."""

    def is_late(self, now: float) -> bool:
        """Whether it missed its deadline, or will have when its last token, told of now, is sent."""
        deadline = self.load.deadline
        if self.tokens and (self.first > deadline.first or now - self.first > deadline.tpot_s * (self.tokens - 1)):
            return True
        return 1000 * (deadline.total - now) < _reserve_ms(1000 * (deadline.total - self.entered))


@dataclass(frozen=True, slots=True)
class _Refusal:
    """One form of a request that would be late."""

    load: Load
    request: Request
    late_ms: float


class Admission:
    """The ledger of one machine. `variants` are the names of its models, the best first."""

    def __init__(self, config: AdmissionConfig, limits: StepLimits, variants: Sequence[str] = ("",)) -> None:
        self._config = config
        self._limits = limits
        self._variants = tuple(variants)
        self._lock = threading.Lock()
        self._accepted: dict[str, _Accepted] = {}
        self._tokens = 0
        """Left of all that is accepted."""
        self._lengths = Lengths()
        self._margin = MARGIN_START
        self._grew = -math.inf
        """The instant at which the margin grew last."""
        self._tokens_per_byte = 0.3
        self._last_refusal = self._last_probe = -math.inf
        self._count = self._degraded = self._refused_unread = self._refused_late = self._refused_full = 0

    def screen(self, size_bytes: int, budget: Budget, arrived: float, costs: Sequence[StepCost], now: float) -> None:
        """Refuse a request of which only the size and the budget are known, if there is no hope for it.

        Raises `OverloadedError`.
        """
        with self._lock:
            if not costs or not budget or not self._config.by_forecast or not self._accepted:
                return
            prompt = max(1, int(HOPEFUL * self._tokens_per_byte * size_bytes))
            answer = max(1, int(HOPEFUL * self._lengths.expect(16)))
            load = Load(prompt, answer, budget.deadline(arrived), model=len(costs) - 1)
            late_ms = self._late_ms(load, costs, now)[0]
            if late_ms > 0:
                self._refused_unread += 1
                raise self._refuse(self._find_wait_ms([load], costs, now), now)

    def learn_size(self, tokens: int, size_bytes: int) -> None:
        """A request of so many bytes turned out to have a prompt of so many tokens."""
        with self._lock:
            self._tokens_per_byte += (tokens / max(1, size_bytes) - self._tokens_per_byte) / 16

    def admit(self, request: Request, costs: Sequence[StepCost], now: float) -> Request:
        """Enter a request, and return it with its variant and the length that is counted on.

        `costs` has one for each variant, or none if nothing is known of them. Raises `OverloadedError` if the request
        would be late, make others late, or find too much waiting, and `UnreachableBudgetError` if it would be late on
        an idle machine.
        """
        with self._lock:
            self._check_bounds(len(request.prompt) + self._lengths.expect(request.max_tokens), costs, now)
            if not costs or not request.budget:
                return self._enter(request, self._load(request, self._first(request)), now)
            refusals: list[_Refusal] = []
            for candidate in self._candidates(request):
                load = self._load(candidate, self._variants.index(candidate.variant))
                late_ms, done_ms = self._late_ms(load, costs, now)
                if late_ms <= 0 or not self._config.by_forecast or self._may_probe(now):
                    narrow = self._margin * done_ms > NARROW * 1000 * (load.deadline.total - now)
                    explained = _explain(request, candidate, refusals)
                    return self._enter(explained, load, now, narrow=narrow, against_forecast=late_ms > 0)
                refusals.append(_Refusal(load, candidate, late_ms))
            self._check_reachable(refusals, costs, now)
            self._refused_late += 1
            raise self._refuse(self._find_wait_ms([refusal.load for refusal in refusals], costs, now), now)

    def _first(self, request: Request) -> int:
        return self._variants.index(request.variant) if request.variant else 0

    def _candidates(self, request: Request) -> list[Request]:
        """The request as each variant would answer it, then in short."""
        names = (request.variant,) if request.variant else self._variants
        candidates = [replace(request, variant=name) for name in names]
        pressed = self._config.pressed_max_tokens
        if 0 < pressed < request.max_tokens:
            candidates += [replace(candidate, max_tokens=pressed) for candidate in candidates]
        return candidates

    def _load(self, request: Request, model: int) -> Load:
        return Load(
            len(request.prompt),
            self._lengths.expect(request.max_tokens),
            request.budget.deadline(request.arrived),
            len(request.prompt),
            request.on_deadline is OnDeadline.TRUNCATE,
            model,
        )

    def _enter(
        self, request: Request, load: Load, now: float, *, narrow: bool = False, against_forecast: bool = False
    ) -> Request:
        self._count += 1
        self._degraded += bool(request.degraded)
        self._tokens += load.prompt + load.answer
        self._accepted[request.id] = _Accepted(load, now, bool(request.budget), narrow, against_forecast)
        return replace(request, variant=self._variants[load.model], expected_tokens=load.answer)

    def observe(self, update: Update, now: float) -> None:
        """An accepted request went on, or ended."""
        with self._lock:
            entry = self._accepted.get(update.id)
            if entry is None:
                return
            before = entry.load.prompt + entry.load.answer
            new = len(update.tokens)
            if new:
                entry.first = min(entry.first, now)
            entry.tokens += new
            entry.load.context += new
            entry.load.prompt = 0
            entry.load.answer = max(1, entry.load.answer - new)
            if entry.tokens:
                coming = entry.tokens - 1 + entry.load.answer
                entry.load.paced_until = entry.first + entry.load.deadline.tpot_s * coming
            self._tokens += entry.load.prompt + entry.load.answer - before
            if update.finish_reason is not None:
                self._end(update.id, entry, update.finish_reason, now)

    def forget(self, id: str) -> None:
        """An accepted request ended otherwise."""
        with self._lock:
            entry = self._accepted.pop(id, None)
            if entry is not None:
                self._tokens -= entry.load.prompt + entry.load.answer

    def count_full(self, now: float) -> None:
        """The engine refused a request, since too many wait."""
        with self._lock:
            self._note_full(now)

    def stats(self, now: float) -> AdmissionStats:
        with self._lock:
            known = self._lengths.expect(2**62)
            return AdmissionStats(
                self._count,
                self._refused_unread,
                self._degraded,
                self._refused_late,
                self._refused_full,
                self._margin,
                len(self._accepted),
                1000 * (now - self._last_refusal),
                known if known < 2**62 else None,
            )

    def _may_probe(self, now: float) -> bool:
        """Whether to accept a request against the forecast: with no other deadline to keep, one now and then.

        Otherwise a machine that was slow for a while, and is no longer, would refuse for ever, and never learn so.
        """
        if now - self._last_probe < PROBE_S or any(entry.limited for entry in self._accepted.values()):
            return False
        self._last_probe = now
        return True

    def _end(self, id: str, entry: _Accepted, reason: FinishReason, now: float) -> None:
        del self._accepted[id]
        self._tokens -= entry.load.prompt + entry.load.answer
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self._lengths.observe(entry.tokens, ended=reason is FinishReason.STOP)
        self._learn(entry, reason, now)

    def _learn(self, entry: _Accepted, reason: FinishReason, now: float) -> None:
        """Of a request that was to be in time; nothing of one that failed or was given up.

        Whoever was accepted before the margin grew says nothing of it as it is now: one slow moment makes everybody
        late who is under way, and is one lesson.
        """
        if reason in (FinishReason.ABORT, FinishReason.ERROR):
            return
        late = entry.is_late(now)
        if reason is FinishReason.DEADLINE:
            late = entry.first > entry.load.deadline.first or not (entry.load.truncates and entry.tokens)
        if entry.against_forecast:
            self._margin = max(self._margin - MARGIN_GROWTH * (not late), MARGIN_RANGE[0])
        elif late:
            if entry.entered >= self._grew:
                self._margin, self._grew = min(self._margin + MARGIN_GROWTH, MARGIN_RANGE[1]), now
        elif entry.narrow:
            self._margin = max(self._margin - MARGIN_DECAY, MARGIN_RANGE[0])

    def _check_bounds(self, tokens: int, costs: Sequence[StepCost], now: float) -> None:
        if not self._accepted:
            return
        if self._tokens + tokens > self._config.max_waiting_tokens:
            self._note_full(now)
            raise OverloadedError(f"{self._tokens} tokens wait to be computed already. Try again later.", 1000.0)
        if not costs:
            return
        cost = costs[0]
        wait_ms = self._tokens * (cost.token_ms + (cost.base_ms + cost.sequence_ms) / len(self._accepted))
        if wait_ms > self._config.max_wait_ms:
            self._note_full(now)
            late_ms = wait_ms - self._config.max_wait_ms
            raise OverloadedError(f"What waits already takes another {wait_ms / 1000:.0f} s. Try later.", late_ms)

    def _note_full(self, now: float) -> None:
        self._refused_full += 1
        self._last_refusal = now

    def _limited(self) -> list[Load]:
        """What is left of everyone accepted who has a deadline."""
        return [entry.load for entry in self._accepted.values() if entry.limited]

    def _besides(self, costs: Sequence[StepCost]) -> Besides:
        """Everyone accepted who has none."""
        idle = [entry.load for entry in self._accepted.values() if not entry.limited]
        if not idle:
            return NOTHING
        streams = [load for load in idle if not load.prompt]
        step_ms = sum(costs[load.model].stream_ms(load.context) for load in streams)
        step_ms += max(costs[load.model].base_ms for load in idle)
        if len(streams) < len(idle):
            step_ms = max(step_ms, self._limits.max_step_ms)
        return Besides(frozenset(load.model for load in idle), step_ms)

    def _find_wait_ms(self, loads: Sequence[Load], costs: Sequence[StepCost], now: float) -> float:
        """After how long one of these, asked for again, would be accepted if nothing else came meanwhile.

        At the latest when everyone accepted is done; found by halving, to the nearest of a few parts of that time. For
        a total deadline it is that latest time: what its request would find earlier depends on too much.
        """
        others = self._limited()
        found = forecast(others, costs, self._limits, self._besides(costs), self._margin)
        soon_ms, late_ms = 0.0, self._margin * max((told.done_ms for told in found), default=0.0)
        if not others:
            return max(1.0, 1000 * (PROBE_S - (now - self._last_probe)))
        if any(load.deadline.total < math.inf and not load.truncates for load in loads):
            return late_ms
        for _ in range(WAIT_HALVINGS if len(others) <= MANY else 1):
            wait_ms = (soon_ms + late_ms) / 2
            left = advance(others, found, now, wait_ms / (WAIT_CAUTION * self._margin))
            if any(self._late_ms(delay(load, wait_ms), costs, now + wait_ms / 1000, left)[0] <= 0 for load in loads):
                late_ms = wait_ms
            else:
                soon_ms = wait_ms
        return late_ms

    def _late_ms(
        self, load: Load, costs: Sequence[StepCost], now: float, others: Sequence[Load] | None = None
    ) -> tuple[float, float]:
        """By how much the load, or somebody because of it, would be late, and when it would be done. `others` are
        those accepted, unless it is said what is left of them."""
        others = self._limited() if others is None else others
        besides = self._besides(costs)
        found = forecast([*others, load], costs, self._limits, besides, self._margin)
        late_ms = find_lateness_ms(load, found[-1], now, self._margin)
        if late_ms <= 0 and any(
            find_lateness_ms(other, told, now, self._margin) > 0 for other, told in zip(others, found[:-1], strict=True)
        ):
            without = forecast(others, costs, self._limits, besides, self._margin)
            late_ms = self._harm_ms(others, found[:-1], without, now)
        return late_ms, found[-1].done_ms

    def _harm_ms(
        self, others: Sequence[Load], found: Sequence[Forecast], without: Sequence[Forecast], now: float
    ) -> float:
        """The most that somebody is late who would not be late without the newcomer."""
        late_ms = 0.0
        for load, told, before in zip(others, found, without, strict=True):
            if find_lateness_ms(load, before, now, self._margin) <= 0:
                late_ms = max(late_ms, find_lateness_ms(load, told, now, self._margin))
        return late_ms

    def _check_reachable(self, refusals: Sequence[_Refusal], costs: Sequence[StepCost], now: float) -> None:
        alone = [forecast([refusal.load], costs, self._limits)[0] for refusal in refusals]
        late_ms = [
            find_lateness_ms(refusal.load, told, now, 1.0) for refusal, told in zip(refusals, alone, strict=True)
        ]
        if min(late_ms) <= 0:
            return
        load, told = refusals[0].load, alone[0]
        raise UnreachableBudgetError(
            f"The budget ({refusals[0].request.budget}) is less than this machine needs with nothing else to do: about "
            f"{told.first_ms:.0f} ms to the first token and {told.done_ms:.0f} ms in all for {load.prompt} tokens in "
            f"and {load.answer} out. Allow more time, ask for fewer tokens, or use a smaller model."
        )

    def _refuse(self, wait_ms: float, now: float) -> OverloadedError:
        self._last_refusal = now
        wait_ms = max(1.0, wait_ms)
        message = (
            "The deadline would not be kept behind the requests accepted already. "
            f"Try again in {math.ceil(wait_ms)} ms, or allow more time."
        )
        return OverloadedError(message, wait_ms)


def _explain(request: Request, accepted: Request, refusals: Sequence[_Refusal]) -> Request:
    """The request as accepted, and, if it was refused in another form before, why it was not accepted so."""
    if not refusals:
        return accepted
    late_ms = refusals[0].late_ms
    reason = f"{refusals[0].request.variant or 'The answer'} would have been {late_ms:.0f} ms late"
    if accepted.max_tokens < request.max_tokens:
        reason += f"; cut to {accepted.max_tokens} tokens"
    return replace(accepted, degraded=reason)


def _reserve_ms(left_ms: float) -> float:
    """Of the time there is, what the way from the last token to the client may take."""
    return 1000 * FLUSH_S + min(TRANSPORT_MS, TRANSPORT_SHARE * left_ms)


def find_lateness_ms(load: Load, told: Forecast, now: float, margin: float) -> float:
    """By how much a load misses its deadline, if everything takes `margin` times as long as forecast; not above 0 if
    it does not."""
    deadline = load.deadline
    left_ms = 1000 * (deadline.total - now)
    late_ms = margin * (told.first_ms if load.truncates else told.done_ms) - (left_ms - _reserve_ms(left_ms))
    if load.prompt:
        late_ms = max(late_ms, margin * told.first_ms - 1000 * (deadline.first - now - FLUSH_S))
        if load.answer > 1:
            late_ms = max(late_ms, margin * (told.done_ms - told.first_ms) - 1000 * deadline.tpot_s * (load.answer - 1))
        return late_ms
    return max(late_ms, margin * told.done_ms - 1000 * (load.paced_until - now))
