"""What a caller may ask of one generation, and how it becomes the engine's `Request`.

Knows neither tokenizer nor HTTP: prompts are token ids by now, stop strings are somebody else's.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from vivace.batch import Sampling
from vivace.engine.request import Request
from vivace.errors import ContextLengthError, RequestError


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a checkpoint's generation_config.json says; the fields a caller leaves open take these."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue one prompt. None means: as the model's generation_config says (greedy, if it is silent).

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

    def __post_init__(self) -> None:
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(self.temperature is None or 0 <= self.temperature <= 100, "temperature", self.temperature, "0 to 100")
        _require(self.top_k is None or 0 <= self.top_k < 2**31, "top_k", self.top_k, "0 (all) to 2**31 - 1")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.seed is None or 0 <= self.seed < 2**64, "seed", self.seed, "0 to 2**64 - 1")
        _require(all(self.stop), "stop", self.stop, "strings that are not empty")
        stops_fit = all(0 <= token < 2**31 for token in self.stop_token_ids)
        _require(stops_fit, "stop_token_ids", self.stop_token_ids, "token ids, 0 to 2**31 - 1")


def _require(holds: bool, name: str, value: object, range_text: str) -> None:
    if not holds:
        raise RequestError(f"{name} is {value!r}; it must be {range_text}.")


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
) -> Request:
    """Resolve `params` against the model's defaults and the room its context leaves.

    Raises `RequestError` for an empty prompt or an unknown token, `ContextLengthError` for a prompt, or a prompt
    and `max_tokens`, that the context cannot hold.
    """
    if not prompt:
        raise RequestError("The prompt holds no tokens; send at least one.")
    if not all(0 <= token < vocab_size for token in prompt):
        raise RequestError(f"The prompt holds a token id outside 0 to {vocab_size - 1}; use this model's tokenizer.")
    room = context_length - len(prompt)
    if room < 1:
        raise ContextLengthError(
            f"The prompt has {len(prompt)} tokens; this model's context holds {context_length}, the answer "
            "included. Shorten the prompt."
        )
    if params.max_tokens is not None and params.max_tokens > room:
        raise ContextLengthError(
            f"The prompt has {len(prompt)} tokens and max_tokens is {params.max_tokens}; this model's context holds "
            f"{context_length} in all. Shorten the prompt or ask for at most {room} tokens."
        )
    stops = () if params.ignore_eos else defaults.stop_token_ids
    return Request(
        id=id,
        prompt=prompt,
        max_tokens=room if params.max_tokens is None else params.max_tokens,
        sampling=Sampling(
            temperature=defaults.temperature if params.temperature is None else params.temperature,
            top_k=defaults.top_k if params.top_k is None else params.top_k,
            top_p=defaults.top_p if params.top_p is None else params.top_p,
            seed=secrets.randbits(64) if params.seed is None else params.seed,
            stop_token_ids=tuple(dict.fromkeys(stops + params.stop_token_ids)),
        ),
        arrived=arrived,
        preprocess_ms=preprocess_ms,
        cache_salt=cache_salt,
    )
