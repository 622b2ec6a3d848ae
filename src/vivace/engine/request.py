"""The messages that pass between the engine and everything above it: plain values, ready to be serialised. A request
carries a grammar down; its constraint is compiled on the engine's side.

Requests go down, one `StepEvent` a step comes up for all sequences. Tokens only: the engine knows nothing of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from vivace.batch import Logprobs, Sampling
from vivace.budget import NO_BUDGET, Budget, OnDeadline, Timeline
from vivace.engine.constraint import Constraint, Grammar

PRIORITIES = range(10)
"""9 is the most urgent."""
DEFAULT_PRIORITY = 5


class FinishReason(StrEnum):
    """Why a request ended. The values are those of the OpenAI API where it has one."""

    STOP = "stop"
    """The model ended its turn, or a stop string or stop token came."""
    LENGTH = "length"
    """`max_tokens` or the context was used up."""
    ABORT = "abort"
    """The caller gave up."""
    ERROR = "error"
    """The step that computed it failed, or its constraint did."""
    DEADLINE = "deadline"
    """Its deadline came, or could not be kept any more. The tokens so far stand."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to continue.

    `arrived` is the monotonic instant at which the request reached us, `preprocess_ms` what template and
    tokenizer took of the time since; the engine's own timeline starts after both.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    arrived: float
    preprocess_ms: float = 0.0
    cache_salt: str = ""
    """Prefixes are shared only between requests of equal salt."""
    score_prompt: bool = False
    """Also return the log-probability of every prompt token but the first."""
    constraint: Constraint | None = None
    """Compiled from the grammar on the engine's side. Consulted before every token; the request is its only user."""
    grammar: Grammar | None = None
    """What the answer must look like."""
    budget: Budget = NO_BUDGET
    """Counts from `arrived`."""
    priority: int = DEFAULT_PRIORITY
    on_deadline: OnDeadline = OnDeadline.FAIL
    """`truncate`: when the total deadline nears, the answer ends early enough to be told in time."""
    expected_tokens: int = 0
    """The length that admission counted on; 0 if nobody did."""
    variant: str = ""
    """Which of a ladder's models answers; empty lets admission choose."""
    degraded: str = ""
    """Why admission chose another than the first, or cut `max_tokens`."""


class Update(NamedTuple):
    """What one step did for one request. A tuple: every step makes one for every sequence."""

    id: str
    tokens: list[int]
    """New since the last update. A stop token is included as the last."""
    finish_reason: FinishReason | None = None
    """None while it runs; set exactly once, on its last update."""
    timeline: Timeline | None = None
    """With the finish reason: the times up to the last token."""
    cached_tokens: int = 0
    """With the finish reason: prompt tokens found in the prefix cache."""
    error: str = ""
    """With FinishReason.ERROR: what happened, for the one who asked."""
    prompt_scores: list[float] | None = None
    """With the first update, when asked for: one log-probability for each prompt token but the first."""
    logprobs: list[Logprobs] | None = None
    """When asked for: one for each of `tokens`."""


StepEvent = list[Update]
"""Everything one step did, for all requests."""
