"""The contract between the engine, which decides what to compute, and a runner, which computes it.

A runner holds *slots*. A slot is one sequence: its block table, the token it sampled last, and how it samples.
A row names a slot and carries only what changed since the slot's last row: new tokens and new blocks. So a step
costs what is new, not what is long, and a runner on another device can start a step before the last one's
tokens have come back.

The arithmetic of a row never depends on what else is in the batch, on how its prompt was cut into chunks, on
whether its prefix was computed for another sequence, or on the number of threads.

This module is a leaf: it knows no engine, no runner, no tensor library, and no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

BLOCK_SIZE = 16
"""Tokens in one block of the KV cache."""


class Want(IntEnum):
    """What a row asks for, once its tokens are computed."""

    NOTHING = 0
    """A prompt chunk with more to come."""
    SAMPLE = 1
    """The next token, after the row's last one."""
    VERIFY = 2
    """`tokens` is the slot's pending token followed by k proposed ones: keep those the model itself would have
    sampled, and add one of its own. The result holds 1 to k + 1 tokens."""
    SCORE = 3
    """The log-probability of each of `targets`: target i is the token that follows token i."""
    HIDDEN = 4
    """The final hidden state (after the last norm) of every token of the row."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a slot chooses tokens. Fixed when the slot opens.

    In this order: a row's mask, bias, repetition, presence and frequency penalties, the ban on stop tokens before
    `min_tokens`; then the likeliest token if greedy, else temperature, top-k, top-p and min-p, each renormalised.
    The random number behind a token is a function of `seed` and the token's position alone.
    """

    temperature: float = 0.0
    """0 is greedy: the likeliest token, and of equals the lowest id."""
    top_k: int = 0
    """0 keeps all."""
    top_p: float = 1.0
    seed: int = 0
    """0 to 2**64 - 1."""
    stop_token_ids: tuple[int, ...] = ()
    """A burst ends for the row once one of these is sampled; the token is reported as the row's last."""
    min_p: float = 0.0
    """Keeps tokens at least this share as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Logits of tokens anywhere before, the prompt included, are divided by this if positive, multiplied if not."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens generated before."""
    frequency_penalty: float = 0.0
    """Subtracted once for every time a token was generated before."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token and what is added to its logit."""
    min_tokens: int = 0
    """Stop tokens are not chosen before this many tokens were generated."""
    prompt_length: int = 0
    """Tokens of the sequence that were given, not generated."""
    logprobs: int = -1
    """Report the log-probability of every token chosen and of this many likeliest ones, before all of the above;
    -1 reports none."""

    @property
    def reads_history(self) -> bool:
        """Whether the tokens before a position change what is chosen there."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


@dataclass(slots=True)
class Row:
    """One sequence's part in a step. Never changed once made; not frozen, since a frozen one takes four times as long
    to make, and one is made for every sequence and step."""

    slot: int
    position: int
    """Of the row's first token in its sequence; every position before it is in the slot's blocks already. A slot
    that has computed more goes back: keys and values from there on are written over."""
    tokens: Sequence[int] = ()
    """The tokens to compute. Empty: the one token this slot sampled last."""
    blocks: Sequence[int] = ()
    """Appended to the slot's block table before anything is computed."""
    want: Want = Want.NOTHING
    limit: int = 1
    """With SAMPLE, the most tokens that a burst may add to this slot; its block table holds room for them."""
    targets: Sequence[int] = ()
    """With SCORE: as many as `tokens`."""
    opens: Sampling | None = None
    """Given with a slot's first row: the slot forgets what it held."""
    history: Sequence[int] = ()
    """With `opens`, if its sampling reads history: the tokens at every position before the row's first."""
    mask: bytes | None = None
    """With SAMPLE: the tokens that may be chosen now, bit t % 8 of byte t // 8 for token t. Such a row never bursts."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step. If `max_steps` is above 1, every row asks to SAMPLE and the step is a burst."""

    rows: Sequence[Row]
    max_steps: int = 1
    """The most passes of the model in this call."""
    burst_ms: float = 0.0
    """A burst begins no further pass once this much time has gone by."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of one chosen token, under the model's own distribution: natural logarithms."""

    chosen: float
    likeliest: Sequence[tuple[int, float]] = ()
    """Token and log-probability, likeliest first."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a batch's rows asked for, in the order of its rows."""

    tokens: Sequence[Sequence[int]]
    """Sampled or kept tokens; empty for rows that did not ask for any."""
    steps: int = 1
    """Passes of the model made."""
    scores: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """By row index, for SCORE rows: natural-log probabilities."""
    logprobs: Mapping[int, Sequence[Logprobs]] = field(default_factory=dict)
    """By row index, for rows whose slot asked for them: one for each of the row's tokens."""
    hidden: Mapping[int, memoryview[float]] = field(default_factory=dict)
    """By row index, for HIDDEN rows: float32 [tokens, hidden]."""


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """What a runner has room for. The engine plans inside these."""

    slots: int
    blocks: int
    max_batch_tokens: int
    """Most tokens in one step, over all rows."""
    context_length: int
    vocab_size: int


class Handle(Protocol):
    """A step under way, as the runner that launched it knows it. Opaque to the engine."""


class Runner(Protocol):
    """Computes batches. One thread calls `launch` and `collect`; any thread may call `interrupt`."""

    @property
    def limits(self) -> RunnerLimits: ...

    def launch(self, batch: Batch) -> Handle:
        """Begin a step. A CPU runner computes here; a GPU runner returns while it computes."""
        ...

    def collect(self, handle: Handle) -> StepResult:
        """Wait for a step and take its result. Handles are collected in the order of their launch."""
        ...

    def interrupt(self) -> None:
        """End the burst under way, if there is one, after its current pass."""
        ...

    def close(self) -> None:
        """Free threads and memory. The runner is not used afterwards."""
        ...
