from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.engine.request import Request
from vivace.errors import ContextLengthError, RequestError
from vivace.sampling import GenerationDefaults, SamplingParams, build_request

DEFAULTS = GenerationDefaults(temperature=0.7, top_k=40, top_p=0.9, stop_token_ids=(2, 3))


def build(
    params: SamplingParams | None = None,
    prompt: tuple[int, ...] = (1, 2, 3),
    defaults: GenerationDefaults = DEFAULTS,
    **rest: Any,
) -> Request:
    params = params or SamplingParams()
    return build_request("a", prompt, params, defaults, context_length=32, vocab_size=100, **({"arrived": 5.0} | rest))


def test_what_the_caller_leaves_open_is_as_the_model_says() -> None:
    sampling = build().sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 40, 0.9)
    assert sampling.stop_token_ids == (2, 3)


def test_what_the_caller_says_holds_zero_included() -> None:
    sampling = build(SamplingParams(temperature=0.0, top_k=0, top_p=1.0, seed=0)).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.0, 0, 1.0, 0)


def test_without_word_from_anyone_sampling_is_greedy() -> None:
    assert build(defaults=GenerationDefaults()).sampling.temperature == 0.0


def test_each_request_without_a_seed_draws_its_own() -> None:
    seeds = {build().sampling.seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_stop_tokens_of_caller_and_model_are_joined_without_repeats() -> None:
    assert build(SamplingParams(stop_token_ids=(9, 3, 9))).sampling.stop_token_ids == (2, 3, 9)


def test_ignore_eos_drops_the_models_stop_tokens_and_keeps_the_callers() -> None:
    assert build(SamplingParams(ignore_eos=True, stop_token_ids=(9,))).sampling.stop_token_ids == (9,)


def test_without_max_tokens_the_answer_may_fill_the_context() -> None:
    assert build().max_tokens == 29


def test_prompt_and_answer_may_fill_the_context_exactly() -> None:
    assert build(SamplingParams(max_tokens=29)).max_tokens == 29
    with pytest.raises(ContextLengthError, match="at most 29 tokens"):
        build(SamplingParams(max_tokens=30))


def test_a_prompt_without_room_for_an_answer_is_refused() -> None:
    assert build(prompt=(1,) * 31).max_tokens == 1
    with pytest.raises(ContextLengthError, match="32 tokens"):
        build(prompt=(1,) * 32)


@pytest.mark.parametrize(("prompt", "message"), [((), "no tokens"), ((100,), "outside 0 to 99"), ((1, -1), "outside")])
def test_a_prompt_that_is_no_prompt_is_refused(prompt: tuple[int, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build(prompt=prompt)


def test_times_and_salt_are_passed_on() -> None:
    request = build(preprocess_ms=1.5, cache_salt="s")
    assert (request.id, request.prompt) == ("a", (1, 2, 3))
    assert (request.arrived, request.preprocess_ms, request.cache_salt) == (5.0, 1.5, "s")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", 101.0),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", ("",)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"{name} is .* must be"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


@given(
    st.integers(1, 10**9),
    st.floats(0, 100),
    st.integers(0, 10**9),
    st.floats(0, 1, exclude_min=True),
    st.integers(0, 2**64 - 1),
)
def test_every_value_in_range_is_accepted(
    max_tokens: int, temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    params = SamplingParams(max_tokens, temperature, top_k, top_p, seed)
    assert params.seed == seed
