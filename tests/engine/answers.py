"""What an engine's updates add up to, and what they must."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.fakes import LIMITS, EveryOther, FakeRunner, reference_logprobs, reference_tokens
from vivace.batch import Logprobs, RunnerLimits
from vivace.engine.cost import CostModel
from vivace.engine.engine import Engine
from vivace.engine.proposer import Proposer
from vivace.engine.request import FinishReason, Request, StepEvent, Update
from vivace.engine.scheduler import SchedulerConfig


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    updates: int = 0
    scores: list[float] | None = None
    logprobs: list[Logprobs] | None = None
    last: Update | None = None

    @property
    def reason(self) -> FinishReason | None:
        return self.last.finish_reason if self.last else None


def make_engine(
    runner: FakeRunner,
    config: SchedulerConfig | None = None,
    cost: CostModel | None = None,
    proposer: Proposer | None = None,
) -> Engine:
    return Engine(runner, config, runner.clock, cost, proposer)


def gather(answers: dict[str, Answer], event: StepEvent) -> None:
    for update in event:
        answer = answers.setdefault(update.id, Answer())
        assert answer.last is None, "an update after the last one"
        assert update.prompt_scores is None or answer.updates == 0, "scores come with the first update"
        answer.tokens += update.tokens
        answer.updates += 1
        if update.logprobs is not None:
            assert len(update.logprobs) == len(update.tokens), "a token without its log-probability"
            answer.logprobs = (answer.logprobs or []) + update.logprobs
        answer.scores = update.prompt_scores if update.prompt_scores is not None else answer.scores
        if update.finish_reason is not None:
            assert update.timeline is not None
            answer.last = update
        else:
            assert update.tokens, "an update without news"


def drain(engine: Engine) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    while engine.has_work:
        gather(answers, engine.step())
        engine.check_integrity()
    return answers


def answer_all(requests: list[Request], runner: FakeRunner, config: SchedulerConfig | None = None) -> dict[str, Answer]:
    engine = make_engine(runner, config)
    for request in requests:
        engine.add(request)
    return drain(engine)


def expected(request: Request, limits: RunnerLimits = LIMITS) -> list[int]:
    room = min(request.max_tokens, limits.context_length - len(request.prompt))
    constraint = request.constraint.again() if isinstance(request.constraint, EveryOther) else None
    return reference_tokens(request.prompt, request.sampling, room, limits.vocab_size, constraint)


def expected_logprobs(
    request: Request, tokens: list[int], vocab_size: int = LIMITS.vocab_size
) -> list[Logprobs] | None:
    asked = request.sampling.logprobs >= 0 and tokens
    return reference_logprobs(request.prompt, tokens, request.sampling, vocab_size) if asked else None


def last_update(answer: Answer) -> Update:
    assert answer.last is not None
    return answer.last
