"""What a caller may ask of one generation, and how it becomes the engine's `Request`.

Knows neither tokenizer nor HTTP: prompts are token ids by now, stop strings are somebody else's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from vivace.batch import Sampling
from vivace.engine.constraint import Grammar
from vivace.engine.request import Request
from vivace.errors import ContextLengthError, RequestError

MAX_LOGPROBS = 20
MAX_BIASED_TOKENS = 1024

LEAST_TEMPERATURE = 1e-5
"""Anything colder is greedy: its division would overflow, and would choose no other token."""


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a checkpoint's generation_config.json says; the fields a caller leaves open take these."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue one prompt. None means: as the model's generation_config says (greedy, if it is silent).

    What each setting does to the choice of a token, and in which order, is said in `vivace.batch.Sampling`.

    Raises `RequestError` when a value is out of its range.
    """

    max_tokens: int | None = None
    """None: until the model ends its turn or the context is full."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    """None draws one; equal seeds give equal text, whatever else runs."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these strings."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    """Go on past the model's own end-of-turn tokens."""
    min_p: float | None = None
    """Tokens less likely than this share of the likeliest are left out."""
    repetition_penalty: float | None = None
    """Above 1 makes the tokens of prompt and answer less likely to come again."""
    presence_penalty: float = 0.0
    """Above 0 makes the answer's tokens less likely to come again."""
    frequency_penalty: float = 0.0
    """The same, for each time they came."""
    logit_bias: Mapping[int, float] | None = None
    """Token ids, and what is added to their logits: -100 all but forbids one, 100 all but forces it."""
    min_tokens: int = 0
    """Stop tokens are not chosen before the answer has this many tokens; stop strings end it nevertheless."""
    logprobs: int | None = None
    """Report the log-probability of every token and of this many likeliest ones at its place."""
    prompt_logprobs: bool = False
    """Report the log-probability of every prompt token but the first. Finds nothing in the prefix cache."""

    def __post_init__(self) -> None:
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(self.temperature is None or 0 <= self.temperature <= 100, "temperature", self.temperature, "0 to 100")
        _require(self.top_k is None or 0 <= self.top_k < 2**31, "top_k", self.top_k, "0 (all) to 2**31 - 1")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.seed is None or 0 <= self.seed < 2**64, "seed", self.seed, "0 to 2**64 - 1")
        _require(all(self.stop), "stop", self.stop, "strings that are not empty")
        _require(self.min_p is None or 0 <= self.min_p <= 1, "min_p", self.min_p, "0 to 1")
        repetition = self.repetition_penalty
        _require(repetition is None or 0.01 <= repetition <= 100, "repetition_penalty", repetition, "0.01 to 100")
        for name in ("presence_penalty", "frequency_penalty"):
            _require(-2 <= getattr(self, name) <= 2, name, getattr(self, name), "-2 to 2")
        _require(self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS, "logprobs", self.logprobs, "0 to 20")
        most = self.min_tokens if self.max_tokens is None else self.max_tokens
        _require(0 <= self.min_tokens <= most, "min_tokens", self.min_tokens, "0 to max_tokens")
        _check_biases(self.logit_bias or {})
        stops_fit = all(0 <= token < 2**31 for token in self.stop_token_ids)
        _require(stops_fit, "stop_token_ids", self.stop_token_ids, "token ids, 0 to 2**31 - 1")


def _require(holds: bool, name: str, value: object, range_text: str) -> None:
    if not holds:
        raise RequestError(f"{name} is {value!r}; it must be {range_text}.")


def _check_biases(logit_bias: Mapping[int, float]) -> None:
    if len(logit_bias) > MAX_BIASED_TOKENS:
        raise RequestError(f"logit_bias has {len(logit_bias)} tokens; it must have at most {MAX_BIASED_TOKENS}.")
    for token, bias in logit_bias.items():
        _require(-100 <= bias <= 100, "logit_bias", {token: bias}, "-100 to 100")


def build_request(
    id: str,
    prompt: tuple[int, ...],
    params: SamplingParams,
    defaults: GenerationDefaults,
    context_length: int,
    vocab_size: int,
    *,
    arrived: float,
    preprocess_ms: float = 0.0,
    cache_salt: str = "",
    grammar: Grammar | None = None,
) -> Request:
    """Resolve `params` against the model's defaults and the room its context leaves.

    Raises `RequestError` for an empty prompt, an unknown token or settings that a grammar excludes,
    `ContextLengthError` for a prompt, or a prompt and `max_tokens` or `min_tokens`, that the context cannot hold.
    """
    if not prompt:
        raise RequestError("The prompt holds no tokens; send at least one.")
    if not all(0 <= token < vocab_size for token in prompt):
        raise RequestError(f"The prompt holds a token id outside 0 to {vocab_size - 1}; use this model's tokenizer.")
    if grammar is not None and (params.ignore_eos or params.min_tokens):
        setting = "ignore_eos" if params.ignore_eos else "min_tokens"
        raise RequestError(f"A grammar says itself when an answer may end. Leave {setting} out, or the grammar.")
    max_tokens = _find_room(len(prompt), params, context_length)
    return Request(
        id=id,
        prompt=prompt,
        max_tokens=max_tokens,
        sampling=_resolve(params, defaults, len(prompt), vocab_size),
        arrived=arrived,
        preprocess_ms=preprocess_ms,
        cache_salt=cache_salt,
        score_prompt=params.prompt_logprobs,
        grammar=grammar,
    )


def _find_room(length: int, params: SamplingParams, context_length: int) -> int:
    """How many tokens may be generated after a prompt of this length."""
    room = context_length - length
    if room < 1:
        raise ContextLengthError(
            f"The prompt has {length} tokens; this model's context holds {context_length}, the answer included. "
            "Shorten the prompt."
        )
    for name in ("max_tokens", "min_tokens"):
        asked = getattr(params, name)
        if asked is not None and asked > room:
            raise ContextLengthError(
                f"The prompt has {length} tokens and {name} is {asked}; this model's context holds {context_length} "
                f"in all. Shorten the prompt or ask for at most {room} tokens."
            )
    return room if params.max_tokens is None else params.max_tokens


def _resolve(params: SamplingParams, defaults: GenerationDefaults, prompt_length: int, vocab_size: int) -> Sampling:
    """Raises `RequestError` for a token outside the vocabulary."""
    biases = params.logit_bias or {}
    for name, tokens in (("stop_token_ids", params.stop_token_ids), ("logit_bias", biases)):
        for token in tokens:
            _require(0 <= token < vocab_size, f"A token of {name}", token, f"0 to {vocab_size - 1}")
    # A model may name stop tokens that it has no logits for; those never come.
    stops = () if params.ignore_eos else tuple(token for token in defaults.stop_token_ids if token < vocab_size)
    temperature = defaults.temperature if params.temperature is None else params.temperature
    repetition = params.repetition_penalty
    return Sampling(
        temperature=0.0 if temperature < LEAST_TEMPERATURE else temperature,
        top_k=defaults.top_k if params.top_k is None else params.top_k,
        top_p=defaults.top_p if params.top_p is None else params.top_p,
        seed=int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed,
        stop_token_ids=tuple(dict.fromkeys(stops + params.stop_token_ids)),
        min_p=defaults.min_p if params.min_p is None else params.min_p,
        repetition_penalty=defaults.repetition_penalty if repetition is None else repetition,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=tuple(biases.items()),
        min_tokens=params.min_tokens,
        prompt_length=prompt_length,
        logprobs=-1 if params.logprobs is None else params.logprobs,
    )
