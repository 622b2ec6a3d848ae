"""The engine: requests in, one `StepEvent` a step out. A step is three verbs: schedule, run, commit.

Knows tokens only: nothing of text, of models, or of how the runner computes. One thread calls it; `bridge` lets
others talk to that thread.
"""

from __future__ import annotations

import time
from collections import abc
from dataclasses import dataclass

from vivace.batch import BLOCK_SIZE, Logprobs, Runner, RunnerLimits, StepResult, Want
from vivace.engine.constraint import ask_mask
from vivace.engine.cost import CostModel, StepCost, count_work
from vivace.engine.proposer import PromptLookup, Proposer
from vivace.engine.request import FinishReason, Request, StepEvent, Update
from vivace.engine.scheduler import Plan, Scheduler, SchedulerConfig, blocks_for
from vivace.engine.sequence import Phase, Sequence
from vivace.engine.speculation import Speculator
from vivace.errors import ConfigError, ContextLengthError, EngineError, QueueFullError, RequestError

_SAMPLE = Want.SAMPLE  # an enumeration is slow to look its members up, and this is every token's path

FAILURES_IN_A_ROW = 3
"""After this many failed steps with none between that succeeded, the runner is taken for broken."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine holds now, and what it has done since it was made."""

    waiting: int
    running: int
    blocks_free: int
    blocks_cached: int
    blocks_used: int
    requests: int
    """Accepted."""
    preemptions: int
    cached_tokens: int
    """Tokens found in the prefix cache instead of being computed."""
    steps: int
    """Calls of the runner that succeeded."""
    passes: int
    """Passes of the model in them: more than steps, when some were bursts."""
    failed_steps: int
    tokens: int
    """Generated."""
    expired: int
    """Requests that their deadline ended."""
    proposed: int
    """Tokens that speculation proposed and the model verified."""
    accepted: int
    """Of those, found right."""
    costs: tuple[StepCost, ...]
    """What steps cost, of each model, where a cost model learns it."""
    cost_error: float
    """Of its predictions: the mean share of a step's time by which they are off."""


class Engine:
    """Continuous batching over one runner.

    `clock` gives monotonic seconds, of the same clock as `Request.arrived`. `cost` learns from every step, and lets
    steps keep running streams' deadlines; without it, deadlines only order and end requests. `proposer` proposes tokens
    where the config allows any; without it, prompt lookup does. Raises `ConfigError` when the runner has no room for
    anything.
    """

    def __init__(
        self,
        runner: Runner,
        config: SchedulerConfig | None = None,
        clock: abc.Callable[[], float] = time.monotonic,
        cost: CostModel | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        self._runner = runner
        self._limits = _check_limits(runner.limits)
        self._config = config or SchedulerConfig()
        self._clock = clock
        self._cost = cost
        self._proposer = proposer
        self._speculator: Speculator | None = None
        if self._config.max_proposed:
            self._speculator = Speculator(proposer or PromptLookup(), self._config.max_proposed)
        self._scheduler = Scheduler(self._limits, self._config, cost, self._speculator)
        self._sequences: dict[str, Sequence] = {}
        self._event: StepEvent = []
        self._requests = self._steps = self._passes = self._tokens = 0
        self._failed_steps = self._failures_in_a_row = self._expired = 0
        self._proposed = self._accepted = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to compute or to report."""
        return bool(self._sequences or self._event)

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises `RequestError` or `ContextLengthError` for one that can never be answered, `QueueFullError` when
        `max_waiting` others wait.
        """
        if request.id in self._sequences:
            raise RequestError(f"A request with the id {request.id!r} is under way already; give each its own id.")
        _check_request(request, self._limits)
        waiting = len(self._scheduler.waiting)
        if waiting >= self._config.max_waiting:
            raise QueueFullError(f"{waiting} requests are waiting already. Try again later, or raise max_waiting.")
        sequence = Sequence(request, self._requests, self._limits.context_length)
        self._requests += 1
        self._sequences[request.id] = sequence
        self._scheduler.add(sequence, self._clock())
        if request.constraint is not None:
            self._consult_constraint(sequence, None)

    def abort(self, id: str) -> bool:
        """Give up a request, at any moment. Its last update comes with the next step; False if it is not under way."""
        sequence = self._sequences.get(id)
        if sequence is None:
            return False
        self._finish(sequence, FinishReason.ABORT, self._clock(), [])
        return True

    def abort_all(self) -> None:
        """Give up every request."""
        for id in tuple(self._sequences):
            self.abort(id)

    def interrupt(self) -> None:
        """End the burst under way, so that what came meanwhile is seen to. Any thread may call this."""
        self._runner.interrupt()

    def step(self) -> StepEvent:
        """Compute one batch and report what it, and aborts since the last one, did.

        Raises `EngineError` when the runner has failed too often in a row; a single failed step ends only the
        requests that were in it.
        """
        now = self._clock()
        for sequence in self._scheduler.take_expired(now):
            self._expired += 1
            self._finish(sequence, FinishReason.DEADLINE, now, [])
        plan = self._scheduler.schedule(now)
        if plan is not None:
            try:
                result = self._run(plan)
            except Exception as error:
                self._fail(plan, error)
            else:
                self._commit(plan, result)
        assert plan is not None or not self._sequences, "requests are under way, but none can be scheduled"
        event, self._event = self._event, []
        return event

    def end_all(self, error: str) -> StepEvent:
        """Tell everyone under way that it failed, and what was not reported yet. The engine is not used afterwards.

        Nothing of the runner's is freed, since after a failure nobody knows what state it left behind; the proposer,
        which outlives this engine, is told.
        """
        now = self._clock()
        for sequence in self._sequences.values():
            sequence.finished = True
            sequence.enter(sequence.phase, now)
            timeline, cached = sequence.timeline(), sequence.cached_tokens
            self._event.append(Update(sequence.id, [], FinishReason.ERROR, timeline, cached, error))
            if self._speculator is not None:
                self._speculator.forget(sequence.id)
        self._sequences.clear()
        event, self._event = self._event, []
        return event

    def renew(self) -> Engine:
        """An engine on the same runner that holds nothing yet; the cost model stays."""
        return Engine(self._runner, self._config, self._clock, self._cost, self._proposer)

    def stats(self) -> EngineStats:
        pool = self._scheduler.pool
        return EngineStats(
            waiting=len(self._scheduler.waiting),
            running=len(self._scheduler.running),
            blocks_free=pool.free,
            blocks_cached=pool.cached,
            blocks_used=pool.used,
            requests=self._requests,
            preemptions=self._scheduler.preemptions,
            cached_tokens=self._scheduler.cached_tokens,
            steps=self._steps,
            passes=self._passes,
            failed_steps=self._failed_steps,
            tokens=self._tokens,
            expired=self._expired,
            proposed=self._proposed,
            accepted=self._accepted,
            costs=(self._cost.cost,) if self._cost else (),
            cost_error=self._cost.error if self._cost else 0.0,
        )

    def check_integrity(self) -> None:
        """Raise AssertionError unless all that the engine holds is accounted for."""
        queued = self._scheduler.running.keys() | {sequence.id for sequence in self._scheduler.waiting}
        assert queued == self._sequences.keys(), "a sequence is lost"
        assert not any(sequence.finished for sequence in self._sequences.values()), "a finished sequence is kept"
        self._scheduler.check_integrity()

    def _run(self, plan: Plan) -> StepResult:
        began = self._clock()
        result = self._runner.collect(self._runner.launch(plan.batch))
        if self._cost is not None:
            took_ms = 1000 * (self._clock() - began) / max(1, result.steps)
            self._cost.observe(*count_work(plan.batch.rows), took_ms)
        if len(result.tokens) != len(plan.sequences):
            raise EngineError(f"The runner answered {len(result.tokens)} of {len(plan.sequences)} rows.")
        return result

    def _commit(self, plan: Plan, result: StepResult) -> None:
        """Move every sequence on by what was computed of it."""
        now = self._clock()
        self._steps += 1
        self._passes += result.steps
        self._failures_in_a_row = 0
        if self._speculator is not None and plan.speculation is not None:
            self._speculator.observe(plan.speculation, result.tokens, result.steps, 1000 * (now - plan.began))
        rows = zip(plan.sequences, plan.batch.rows, result.tokens, strict=True)
        for index, (sequence, row, tokens) in enumerate(rows):
            if sequence.finished:
                continue  # aborted while it was computed
            if row.want is _SAMPLE:
                self._extend(sequence, row.limit, list(tokens), result.logprobs.get(index), now)
                continue
            if row.want is Want.VERIFY:
                self._proposed += len(row.tokens) - 1
                self._accepted += max(0, len(tokens) - 1)
                self._extend(sequence, len(row.tokens), list(tokens), result.logprobs.get(index), now)
                continue
            if row.want is Want.SCORE and not _add_scores(sequence, result, index):
                self._finish_failed(sequence, "The runner gave no scores for a row that asked for them.", now)
                continue
            sequence.computed += len(row.tokens)
            if sequence.computed >= sequence.publish_at:
                self._scheduler.publish(sequence)

    def _extend(
        self, sequence: Sequence, limit: int, new: list[int], logprobs: abc.Sequence[Logprobs] | None, now: float
    ) -> None:
        """Add what was sampled, up to the first stop token or the sequence's end, and report it."""
        if not 1 <= len(new) <= limit:
            self._finish_failed(sequence, f"The runner gave {len(new)} tokens where 1 to {limit} were due.", now)
            return
        if sequence.wants_logprobs and (logprobs is None or len(logprobs) != len(new)):
            self._finish_failed(sequence, "The runner gave no log-probability for each token it chose.", now)
            return
        reason = None
        tokens = sequence.tokens
        if len(tokens) + len(new) == sequence.end:
            reason = FinishReason.LENGTH
        if not sequence.stops.isdisjoint(new):
            del new[next(i for i, token in enumerate(new, 1) if token in sequence.stops) :]
            reason = FinishReason.STOP
        if sequence.mask is not None and reason is None and not self._consult_constraint(sequence, new[-1]):
            return
        tokens += new
        self._tokens += len(new)
        sequence.computed = len(tokens) - 1
        sequence.pending = True
        if sequence.phase is not Phase.DECODE:
            sequence.enter(Phase.DECODE, now)
        if sequence.computed >= sequence.publish_at:
            self._scheduler.publish(sequence)
        told = list(logprobs[: len(new)]) if logprobs is not None and sequence.wants_logprobs else None
        if reason is not None:
            self._finish(sequence, reason, now, new, told)
        elif sequence.scores is not None:
            self._event.append(Update(sequence.id, new, prompt_scores=sequence.scores, logprobs=told))
            sequence.scores = None
        else:
            self._event.append(Update(sequence.id, new, None, None, 0, "", None, told))

    def _consult_constraint(self, sequence: Sequence, token: int | None) -> bool:
        """Tell a sequence's constraint of its new token, if there is one, and ask what may follow.

        False, and the end of the sequence, if that fails.
        """
        constraint = sequence.request.constraint
        assert constraint is not None
        try:
            if token is not None:
                constraint.accept(token)
            sequence.mask = ask_mask(constraint, self._limits.vocab_size)
        except BaseException as error:  # a panic of a Rust library is no Exception
            cause = f"{type(error).__name__}: {error}"
            self._finish_failed(sequence, f"The constraint of this request failed ({cause}).", self._clock())
            return False
        return True

    def _finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        now: float,
        new: list[int],
        logprobs: list[Logprobs] | None = None,
        error: str = "",
    ) -> None:
        """Report a sequence's last tokens, `new`, and free what it holds."""
        sequence.finished = True
        sequence.enter(sequence.phase, now)
        scores = sequence.scores if new else None
        timeline, cached = sequence.timeline(), sequence.cached_tokens
        self._event.append(Update(sequence.id, new, reason, timeline, cached, error, scores, logprobs))
        del self._sequences[sequence.id]
        self._scheduler.remove(sequence)

    def _finish_failed(self, sequence: Sequence, error: str, now: float) -> None:
        self._finish(sequence, FinishReason.ERROR, now, [], error=error)

    def _fail(self, plan: Plan, error: Exception) -> None:
        """End the requests that were in a failed step; raise `EngineError` if the runner looks broken."""
        now = self._clock()
        self._failed_steps += 1
        self._failures_in_a_row += 1
        cause = f"{type(error).__name__}: {error}"
        for sequence in plan.sequences:
            if not sequence.finished:
                self._finish_failed(sequence, f"The step that computed this request failed ({cause}).", now)
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            raise EngineError(
                f"The last {FAILURES_IN_A_ROW} steps all failed, the last one with {cause}. Restart the engine."
            ) from error


def _add_scores(sequence: Sequence, result: StepResult, index: int) -> bool:
    scores = result.scores.get(index)
    if scores is None or sequence.scores is None:
        return False
    sequence.scores.extend(scores)
    return True


def _check_limits(limits: RunnerLimits) -> RunnerLimits:
    for name in ("slots", "blocks", "max_batch_tokens", "context_length", "vocab_size"):
        if getattr(limits, name) < 1:
            raise ConfigError(f"The runner's {name} is {getattr(limits, name)}; it must be at least 1.")
    return limits


def _check_request(request: Request, limits: RunnerLimits) -> None:
    length = len(request.prompt)
    if not length:
        raise RequestError("The prompt holds no tokens; send at least one.")
    if request.max_tokens < 1:
        raise RequestError(f"max_tokens is {request.max_tokens}; it must be at least 1.")
    if min(request.prompt) < 0 or max(request.prompt) >= limits.vocab_size:
        raise RequestError(f"The prompt holds a token id outside 0 to {limits.vocab_size - 1}.")
    _check_sampling(request, limits.vocab_size)
    if length >= limits.context_length:
        raise ContextLengthError(
            f"The prompt has {length} tokens; this model's context holds {limits.context_length}, the answer "
            "included. Shorten the prompt."
        )
    computed = min(length + request.max_tokens, limits.context_length) - 1
    if blocks_for(computed) > limits.blocks:
        room = limits.blocks * BLOCK_SIZE
        raise ContextLengthError(
            f"A prompt of {length} tokens with max_tokens {request.max_tokens} needs {computed} tokens of KV cache; "
            f"there is room for {room}. Shorten the prompt, lower max_tokens, or give the KV cache more memory."
        )


def _check_sampling(request: Request, vocab_size: int) -> None:
    """A runner takes these numbers for places in its memory, so none may be outside."""
    sampling = request.sampling
    biased = [token for token, _ in sampling.logit_bias]
    for name, tokens in (("stop_token_ids", sampling.stop_token_ids), ("logit_bias", biased)):
        if tokens and not 0 <= min(tokens) <= max(tokens) < vocab_size:
            raise RequestError(f"{name} holds a token id outside 0 to {vocab_size - 1}.")
    if request.grammar is not None and request.constraint is None:
        raise RequestError("This engine compiles no grammars. Leave the grammar out, or give the engine a compiler.")
    if request.constraint is not None and sampling.min_tokens > 0:
        raise RequestError("min_tokens and a constraint exclude each other: a constraint says when an answer may end.")
