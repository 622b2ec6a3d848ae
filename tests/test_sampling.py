from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.engine.request import Request
from vivace.errors import ContextLengthError, RequestError
from vivace.sampling import GenerationDefaults, SamplingParams, build_request

DEFAULTS = GenerationDefaults(0.7, top_k=40, top_p=0.9, stop_token_ids=(2, 3), min_p=0.05, repetition_penalty=1.1)


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
    assert (sampling.min_p, sampling.repetition_penalty) == (0.05, 1.1)
    assert sampling.stop_token_ids == (2, 3)


def test_what_the_caller_says_holds_zero_included() -> None:
    sampling = build(
        SamplingParams(temperature=0.0, top_k=0, top_p=1.0, seed=0, min_p=0, repetition_penalty=1)
    ).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.0, 0, 1.0, 0)
    assert (sampling.min_p, sampling.repetition_penalty) == (0, 1)


def test_every_setting_reaches_the_runner() -> None:
    params = SamplingParams(
        presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={7: -100, 0: 1.5}, min_tokens=4, logprobs=2
    )
    sampling = build(params).sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert dict(sampling.logit_bias) == {7: -100, 0: 1.5}
    assert (sampling.min_tokens, sampling.prompt_length, sampling.logprobs) == (4, 3, 2)


def test_what_nobody_asked_for_is_not_reported() -> None:
    request = build()
    assert (request.sampling.logprobs, request.score_prompt) == (-1, False)
    assert build(SamplingParams(logprobs=0, prompt_logprobs=True)).sampling.logprobs == 0
    assert build(SamplingParams(prompt_logprobs=True)).score_prompt


def test_without_word_from_anyone_nothing_reads_history() -> None:
    assert not build(defaults=GenerationDefaults()).sampling.reads_history


def test_a_temperature_that_is_nearly_none_is_greedy() -> None:
    assert build(SamplingParams(temperature=1e-40)).sampling.temperature == 0.0
    assert build(SamplingParams(temperature=1e-4)).sampling.temperature == 1e-4


@pytest.mark.parametrize(
    "options", [{"stop_token_ids": (9, 100)}, {"logit_bias": {100: 1.0}}, {"logit_bias": {-1: 1.0}}]
)
def test_a_token_outside_the_vocabulary_is_refused_by_the_setting_that_names_it(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(options))} is .* must be 0 to 99"):
        build(SamplingParams(**options))


def test_the_models_own_stop_tokens_outside_its_vocabulary_are_left_out() -> None:
    assert build(defaults=GenerationDefaults(stop_token_ids=(2, 100))).sampling.stop_token_ids == (2,)


def test_min_tokens_may_fill_the_context_exactly() -> None:
    assert build(SamplingParams(min_tokens=29)).max_tokens == 29
    with pytest.raises(ContextLengthError, match=r"min_tokens is 30; .* at most 29 tokens"):
        build(SamplingParams(min_tokens=30))


def test_more_than_1024_biases_are_refused() -> None:
    assert SamplingParams(logit_bias=dict.fromkeys(range(1024), 0.0)).logit_bias
    with pytest.raises(RequestError, match="logit_bias has 1025 tokens"):
        SamplingParams(logit_bias=dict.fromkeys(range(1025), 0.0))


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
        ("min_p", -0.1),
        ("min_p", 1.01),
        ("min_p", float("nan")),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e9),
        ("repetition_penalty", float("nan")),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", float("nan")),
        ("logit_bias", {5: 101.0}),
        ("logit_bias", {5: float("nan")}),
        ("logprobs", -1),
        ("logprobs", 21),
        ("min_tokens", -1),
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


def test_min_tokens_above_max_tokens_are_refused() -> None:
    assert SamplingParams(max_tokens=5, min_tokens=5).min_tokens == 5
    with pytest.raises(RequestError, match="min_tokens is 6; it must be 0 to max_tokens"):
        SamplingParams(max_tokens=5, min_tokens=6)
