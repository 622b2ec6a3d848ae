from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest

from tests.checkpoints import write_llama
from tests.fakes import FakeRunner
from vivace.batch import Batch, RunnerLimits, Sampling
from vivace.engine.engine import Engine, EngineStats
from vivace.engine.request import Request, Update
from vivace.errors import (
    CheckpointError,
    ConfigError,
    ContextLengthError,
    EngineStoppedError,
    ModelNotFoundError,
    RequestError,
    StepFailedError,
)
from vivace.llm import LLM, Generation, Prompt, load, load_runner
from vivace.models.model import Model, open_model
from vivace.runners.native import NativeConfig
from vivace.sampling import SamplingParams, build_request

HELLO = [{"role": "user", "content": "Hello"}]
TOWNS = [{"role": "user", "content": "Name a few towns, and say what each is known for."}]
TINY: dict[str, Any] = {"quantize": "none", "threads": 1, "max_sequences": 64}


@pytest.fixture(scope="module")
def tiny(llama_directory: Path) -> Iterator[LLM]:
    """Random weights, a token a byte, a context of 512."""
    with load(llama_directory, **TINY) as llm:
        yield llm


@pytest.fixture(scope="module")
def mini() -> Iterator[LLM]:
    with load("mini", threads=2, max_sequences=64) as llm:
        yield llm


@pytest.fixture(scope="module")
def model(llama_directory: Path) -> Model:
    return open_model(str(llama_directory))


def faked(model: Model, **options: Any) -> tuple[LLM, FakeRunner]:
    """An LLM that computes nothing real, so a test can act in the middle of a step."""
    runner = FakeRunner(RunnerLimits(8, 256, 64, model.config.context_length, model.config.vocab_size), **options)
    return LLM(model, cast(Any, runner)), runner


def stats(llm: LLM) -> EngineStats:
    llm._engine.check_integrity()
    return llm._engine.stats()


def assert_idle(llm: LLM) -> None:
    now = stats(llm)
    assert (now.running, now.waiting, now.blocks_used) == (0, 0, 0)
    assert not llm._inboxes
    assert not llm._left


def continue_alone(model: Model, prompt: list[int], params: SamplingParams) -> list[int]:
    """The tokens that an engine of its own gives for token ids, without any `LLM`."""
    context, vocab = model.config.context_length, model.config.vocab_size
    request = build_request("a", tuple(prompt), params, model.generation, context, vocab, arrived=time.monotonic())
    return [token for update in compute(model, request) for token in update.tokens]


def compute(model: Model, request: Request) -> list[Update]:
    """The updates of one request to an engine of its own."""
    runner = load_runner(model, NativeConfig(quantize="none", threads=1, max_sequences=64))
    engine = Engine(runner)
    engine.add(request)
    updates: list[Update] = []
    while engine.has_work:
        updates += engine.step()
    runner.close()
    return updates


# What an answer is


def test_a_string_is_completed_as_it_stands(tiny: LLM) -> None:
    text = "<|im_start|>Once upon a time, é"
    answer = tiny.generate(text, max_tokens=40, temperature=0.0)
    ids = tiny.model.tokenizer.encode(text)
    assert answer.token_ids == continue_alone(tiny.model, ids, SamplingParams(max_tokens=40, temperature=0.0))
    assert answer.prompt_tokens == len(ids)
    assert answer.text == tiny.model.tokenizer.decode(answer.token_ids)


def test_messages_go_through_the_template(tiny: LLM) -> None:
    answer = tiny.generate(TOWNS, max_tokens=40)
    ids = tiny.model.tokenizer.encode_chat(TOWNS)
    assert answer.prompt_tokens == len(ids)
    assert answer.token_ids == continue_alone(tiny.model, ids, SamplingParams(max_tokens=40))
    assert answer.token_ids == tiny.generate(tiny.model.tokenizer.render_chat(TOWNS), max_tokens=40).token_ids
    assert answer.token_ids != tiny.generate(TOWNS[0]["content"], max_tokens=40).token_ids


def test_the_model_ends_its_turn(mini: LLM) -> None:
    answer = mini.generate(HELLO)
    assert answer.finish_reason == "stop"
    assert answer.text
    assert answer.token_ids[-1] in mini.model.generation.stop_token_ids
    assert answer.text == mini.model.tokenizer.decode(answer.token_ids)


def test_max_tokens_ends_an_answer_for_its_length(mini: LLM) -> None:
    answer = mini.generate(TOWNS, max_tokens=5, ignore_eos=True)
    assert (answer.finish_reason, len(answer.token_ids)) == ("length", 5)


def test_without_max_tokens_an_answer_may_fill_the_context(tiny: LLM) -> None:
    answer = tiny.generate("abc", ignore_eos=True)
    assert answer.finish_reason == "length"
    assert answer.prompt_tokens + len(answer.token_ids) == tiny.model.config.context_length


def test_ignore_eos_goes_on_past_the_end_of_the_turn(mini: LLM) -> None:
    short = mini.generate(HELLO)
    long = mini.generate(HELLO, max_tokens=len(short.token_ids) + 20, ignore_eos=True)
    assert (long.finish_reason, len(long.token_ids)) == ("length", len(short.token_ids) + 20)
    assert long.token_ids[: len(short.token_ids)] == short.token_ids


def test_the_times_are_parts_of_the_time_that_the_caller_waited(mini: LLM) -> None:
    began = time.monotonic()
    answers = mini.generate_many([HELLO, TOWNS, "Once"], max_tokens=20)
    waited_ms = (time.monotonic() - began) * 1e3
    for timing in (answer.timing for answer in answers):
        parts = [timing.preprocess_ms, timing.queue_ms, timing.prefill_ms, timing.decode_ms, timing.flush_ms]
        assert all(part >= 0 for part in parts)
        assert min(timing.preprocess_ms, timing.prefill_ms, timing.decode_ms, timing.flush_ms) > 0
        assert sum(parts) == pytest.approx(timing.total_ms)
        assert 0 < timing.total_ms <= waited_ms + 1e-6


def test_a_prompt_seen_before_is_found_in_the_cache(model: Model) -> None:
    with load(model.directory, **TINY) as llm:
        first, second = (llm.generate("x" * 100, max_tokens=8) for _ in range(2))
    assert (first.cached_tokens, second.cached_tokens) == (0, 96)
    assert first.token_ids == second.token_ids


# Stops


@pytest.fixture(scope="module")
def towns(mini: LLM) -> Generation:
    answer = mini.generate(TOWNS, max_tokens=60, ignore_eos=True)
    assert len(answer.text) > 60
    return answer


@pytest.mark.parametrize("streamed", [False, True])
def test_the_text_ends_before_a_stop_string(mini: LLM, towns: Generation, streamed: bool) -> None:
    stop = towns.text[25:31]
    stops = ["never said", stop]
    if streamed:
        assert "".join(mini.stream(TOWNS, max_tokens=60, ignore_eos=True, stop=stops)) == towns.text.partition(stop)[0]
    else:
        answer = mini.generate(TOWNS, max_tokens=60, ignore_eos=True, stop=stops)
        assert answer.text == towns.text.partition(stop)[0]
        assert answer.finish_reason == "stop"
        assert answer.token_ids == towns.token_ids[: len(answer.token_ids)]
        decode = mini.model.tokenizer.decode
        assert stop in decode(answer.token_ids)
        assert stop not in decode(answer.token_ids[:-1])
    assert_idle(mini)


def test_one_stop_string_needs_no_list(mini: LLM, towns: Generation) -> None:
    answer = mini.generate(TOWNS, max_tokens=60, ignore_eos=True, stop=towns.text[25:31])
    assert answer.text == towns.text.partition(towns.text[25:31])[0]


def test_a_stop_string_frees_its_request_while_others_go_on(model: Model) -> None:
    llm, _ = faked(model)
    text = llm.generate("b", max_tokens=40, ignore_eos=True).text
    before = stats(llm).tokens
    stop = text[2:5]
    long, short = llm.generate_many(["a", "b"], max_tokens=200, ignore_eos=True, stop=stop)
    assert (short.text, short.finish_reason) == (text.partition(stop)[0], "stop")
    assert len(long.token_ids) == 200, "this stop string was to be in the other text only"
    assert stats(llm).tokens - before < 300
    assert_idle(llm)


def test_a_stop_token_is_reported_and_is_not_in_the_text(mini: LLM, towns: Generation) -> None:
    ids, decode = towns.token_ids, mini.model.tokenizer.decode
    end = next(i for i in range(5, 60) if ids[i - 1] not in ids[: i - 1] and decode([ids[i - 1]]))
    stop = ids[end - 1]
    answer = mini.generate(TOWNS, max_tokens=60, ignore_eos=True, stop_token_ids=[stop])
    assert answer.token_ids == ids[:end]
    assert answer.finish_reason == "stop"
    assert answer.text == decode(ids[: end - 1])
    streamed = "".join(mini.stream(TOWNS, max_tokens=60, ignore_eos=True, stop_token_ids=[stop]))
    assert streamed == answer.text


# Seeds, crowds and threads


@pytest.mark.parametrize("stop", [(), ("e",)])
def test_log_probabilities_come_with_the_tokens_where_asked(mini: LLM, stop: tuple[str, ...]) -> None:
    answer = mini.generate(TOWNS, max_tokens=30, temperature=1.0, logprobs=3, seed=1, stop=stop)
    assert answer.logprobs is not None
    assert len(answer.logprobs) == len(answer.token_ids)
    for token, logprobs in zip(answer.token_ids, answer.logprobs, strict=True):
        values = [value for _, value in logprobs.likeliest]
        assert values == sorted(values, reverse=True)
        assert logprobs.chosen <= values[0] <= 0
        assert dict(logprobs.likeliest).get(token, logprobs.chosen) == logprobs.chosen
    assert answer.prompt_logprobs is None


def test_log_probabilities_not_asked_for_are_none(mini: LLM) -> None:
    answer = mini.generate(TOWNS, max_tokens=2)
    assert (answer.logprobs, answer.prompt_logprobs) == (None, None)
    assert mini.generate("a", max_tokens=1, prompt_logprobs=True).prompt_logprobs is not None


def test_a_prompt_of_one_token_has_no_log_probabilities(tiny: LLM) -> None:
    assert tiny.generate("a", max_tokens=3, ignore_eos=True, prompt_logprobs=True).prompt_logprobs == []


def test_the_log_probabilities_of_an_answer_are_those_of_its_text_as_a_prompt(model: Model, tiny: LLM) -> None:
    answer = tiny.generate("Hello", max_tokens=20, temperature=1.5, seed=3, ignore_eos=True, logprobs=0)
    assert answer.logprobs is not None
    text = (*model.tokenizer.encode("Hello"), *answer.token_ids)
    scored = compute(model, Request("a", text, 1, Sampling(), time.monotonic(), score_prompt=True))[0].prompt_scores
    assert scored is not None
    assert [logprobs.chosen for logprobs in answer.logprobs] == pytest.approx(scored[-20:], abs=1e-5)


def test_min_tokens_keeps_the_model_from_ending_its_turn(mini: LLM) -> None:
    ends = mini.model.generation.stop_token_ids
    assert len(mini.generate(TOWNS, temperature=0, logit_bias=dict.fromkeys(ends, 100)).token_ids) == 1
    held = mini.generate(TOWNS, temperature=0, logit_bias=dict.fromkeys(ends, 100), min_tokens=7)
    assert len(held.token_ids) == 8
    assert not set(held.token_ids[:7]) & set(ends)


def test_penalties_keep_the_answer_from_repeating_itself(mini: LLM) -> None:
    penalised = mini.generate("a a a a a a", max_tokens=40, temperature=0, ignore_eos=True, repetition_penalty=50.0)
    prompt = set(mini.model.tokenizer.encode("a a a a a a"))
    assert len(set(penalised.token_ids) - prompt) == 40


def test_equal_seeds_give_equal_text_alone_and_in_a_crowd(mini: LLM) -> None:
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 0.9, "seed": 7}
    alone = mini.generate(TOWNS, **options)
    assert mini.generate(TOWNS, **options).token_ids == alone.token_ids
    assert mini.generate(TOWNS, **options | {"seed": 8}).token_ids != alone.token_ids
    others = [f"Story number {index}: once upon a time" for index in range(30)]
    crowd = mini.generate_many([*others[:11], TOWNS, *others[11:]], **options)
    assert crowd[11].token_ids == alone.token_ids
    assert crowd[11].text == alone.text
    assert_idle(mini)


def test_equal_seeds_give_equal_text_between_two_streams(mini: LLM) -> None:
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 0.9, "ignore_eos": True}
    prompts: list[Prompt] = [TOWNS, "Once upon a time"]
    alone = [mini.generate(prompt, **options, seed=seed) for seed, prompt in enumerate(prompts)]
    between = mini.generate(HELLO, **options, seed=5)
    going = {seed: mini.stream(prompt, **options, seed=seed) for seed, prompt in enumerate(prompts)}
    texts = ["", ""]
    while going:
        for seed, stream in tuple(going.items()):
            piece = next(stream, None)
            texts[seed] += piece or ""
            if piece is None:
                del going[seed]
        assert mini.generate(HELLO, **options, seed=5).text == between.text
    assert texts == [answer.text for answer in alone]
    assert_idle(mini)


@pytest.mark.parametrize("streamed", [False, True])
def test_threads_at_once_each_get_what_they_get_alone(mini: LLM, streamed: bool) -> None:
    def ask(seed: int) -> str:
        prompt = f"Chapter {seed}. It was"
        if streamed:
            return "".join(mini.stream(prompt, max_tokens=24, temperature=1.0, seed=seed))
        return mini.generate(prompt, max_tokens=24, temperature=1.0, seed=seed).text

    alone = [ask(seed) for seed in range(8)]
    together = threading.Barrier(8)

    def ask_together(seed: int) -> list[str]:
        together.wait()
        return [ask((seed + turn) % 8) for turn in range(3)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask_together, range(8)))
    assert answers == [[alone[(seed + turn) % 8] for turn in range(3)] for seed in range(8)]
    assert_idle(mini)


def test_answers_come_in_the_order_of_the_prompts(tiny: LLM) -> None:
    prompts = ["a", "b" * 50, "c" * 7]
    answers = tiny.generate_many(prompts, max_tokens=12)
    assert [answer.prompt_tokens for answer in answers] == [1, 50, 7]
    assert [answer.token_ids for answer in answers] == [tiny.generate(p, max_tokens=12).token_ids for p in prompts]
    assert tiny.generate_many([]) == []


def test_no_number_of_prompts_is_too_many(tiny: LLM) -> None:
    answers = tiny.generate_many(["a", "b"] * 2500, max_tokens=1)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in answers[:2]] * 2500
    assert_idle(tiny)


# Streams


@pytest.mark.parametrize(
    "options",
    [{}, {"max_tokens": 1}, {"temperature": 1.0, "seed": 3, "max_tokens": 80}, {"ignore_eos": True, "stop": [" a "]}],
)
def test_a_stream_joined_is_what_generate_gives(mini: LLM, options: dict[str, Any]) -> None:
    pieces = list(mini.stream(TOWNS, **options))
    assert "".join(pieces) == mini.generate(TOWNS, **options).text
    assert all(pieces)


def test_a_stream_never_holds_half_a_character(tiny: LLM) -> None:
    options: dict[str, Any] = {"max_tokens": 200, "temperature": 1.0, "seed": 1, "ignore_eos": True}
    whole = tiny.model.tokenizer.decode(tiny.generate("é", **options).token_ids)
    assert "\ufffd" in whole
    assert "".join(tiny.stream("é", **options)) == whole


def test_a_stream_brings_text_before_the_answer_is_whole(tiny: LLM) -> None:
    stream = tiny.stream("abc", ignore_eos=True)
    next(stream)
    assert stats(tiny).running == 1
    assert len(list(stream)) > 1
    assert_idle(tiny)


def break_off(stream: Iterator[str]) -> None:
    for _ in stream:
        break


def raise_within(stream: Iterator[str]) -> None:
    with suppress(ZeroDivisionError):
        for _ in stream:
            raise ZeroDivisionError


def close_early(stream: Any) -> None:
    next(stream)
    stream.close()


@pytest.mark.parametrize("leave", [break_off, raise_within, close_early])
def test_leaving_a_stream_early_frees_its_request(tiny: LLM, leave: Callable[[Iterator[str]], None]) -> None:
    stream = tiny.stream("abc", ignore_eos=True)
    leave(stream)
    del stream
    gc.collect()
    assert_idle(tiny)


def test_a_stream_that_nobody_begins_takes_nothing(tiny: LLM) -> None:
    before = stats(tiny).requests
    stream = tiny.stream("abc")
    assert stats(tiny).requests == before
    del stream
    assert_idle(tiny)


def test_a_stream_collected_in_the_middle_of_a_step_is_freed(model: Model) -> None:
    llm, runner = faked(model)
    loop: list[Any] = [llm.stream("abc", ignore_eos=True)]
    loop.append(loop)
    next(loop[0])
    gc.disable()
    try:
        del loop
        collected: list[int] = []
        runner.on_launch = lambda batch: collected.append(gc.collect())
        assert llm.generate("x", max_tokens=3, ignore_eos=True).finish_reason == "length"
        assert collected[0] > 0
    finally:
        gc.enable()
    assert_idle(llm)


def test_a_stream_left_while_another_thread_computes_is_freed_by_it(model: Model) -> None:
    llm, runner = faked(model)
    going, left = llm.stream("abc", ignore_eos=True), llm.stream("def", ignore_eos=True)
    next(going)
    next(left)

    leaver = threading.Thread(target=cast(Any, left).close)

    def leave(batch: Batch) -> None:
        runner.on_launch = None
        leaver.start()
        leaver.join()

    runner.on_launch = leave
    while leaver.ident is None:
        next(going)
    assert stats(llm).running == 1
    cast(Any, going).close()
    assert_idle(llm)


# Errors


@pytest.mark.parametrize("ask", ["generate", "generate_many", "stream"])
def test_an_unknown_option_is_an_error_that_names_the_known_ones(tiny: LLM, ask: str) -> None:
    with pytest.raises(RequestError, match="foo") as caught:
        list(getattr(tiny, ask)(["a"] if ask == "generate_many" else "a", max_tokens=1, foo=1))
    assert all(field.name in str(caught.value) for field in fields(SamplingParams))


def test_options_are_laid_over_params(tiny: LLM) -> None:
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    assert len(tiny.generate("a", params).token_ids) == 3
    assert len(tiny.generate("a", params, max_tokens=5).token_ids) == 5
    with pytest.raises(RequestError, match="foo"):
        tiny.generate("a", params, foo=1)


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"max_tokens": 2.5},
        {"max_tokens": "5"},
        {"temperature": float("nan")},
        {"temperature": "warm"},
        {"top_k": -1},
        {"top_k": 2**31},
        {"top_p": 0.0},
        {"seed": 1.5},
        {"seed": -1},
        {"seed": 2**64},
        {"stop": ""},
        {"stop": None},
        {"stop": ["a", 3]},
        {"stop_token_ids": [-1]},
        {"stop_token_ids": [2**31]},
        {"stop_token_ids": ["a"]},
        {"stop_token_ids": [100_000]},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": None},
        {"logit_bias": {"a": 1.0}},
        {"logit_bias": {1: "a"}},
        {"logit_bias": {1: 1000.0}},
        {"logit_bias": {100_000: 1.0}},
        {"logprobs": 21},
        {"logprobs": True},
        {"min_tokens": 5},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused_by_name_and_harms_nobody(tiny: LLM, options: dict[str, Any]) -> None:
    with closing(cast(Any, tiny.stream("abc", max_tokens=100, ignore_eos=True))) as other:
        first = next(other)
        with pytest.raises(RequestError, match=next(iter(options))):
            tiny.generate("a", **{"max_tokens": 4, "temperature": 1.0} | options)
        assert first + "".join(other) == tiny.generate("abc", max_tokens=100, ignore_eos=True).text


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "no tokens"),
        ("\udc80", "surrogate"),
        ([], "empty"),
        (None, "NoneType"),
        ({"role": "user", "content": "a"}, "dict"),
        ([1, 2, 3], r"messages\[0\]"),
        ([{"role": "user", "content": "a"}, {"role": "user"}], r"messages\[1\]"),
        ([{"role": "user", "content": None}], r"messages\[0\]"),
        ([{"content": "a"}], r"messages\[0\]"),
    ],
    ids=str,
)
def test_a_prompt_that_is_none_is_refused(tiny: LLM, prompt: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        tiny.generate(prompt)


def test_one_string_is_not_a_list_of_prompts(tiny: LLM) -> None:
    with pytest.raises(RequestError, match="list of prompts"):
        tiny.generate_many("abc")


@pytest.mark.parametrize(
    ("prompt", "options"), [("x" * 512, {}), ("x" * 600, {"max_tokens": 1}), ("x", {"max_tokens": 512})]
)
def test_what_the_context_cannot_hold_is_refused(tiny: LLM, prompt: str, options: dict[str, Any]) -> None:
    with pytest.raises(ContextLengthError, match="512"):
        tiny.generate(prompt, **options)


def test_one_prompt_that_cannot_be_begins_none(tiny: LLM) -> None:
    before = stats(tiny).requests
    with pytest.raises(RequestError):
        tiny.generate_many(["a", "", "b"])
    assert stats(tiny).requests == before
    assert_idle(tiny)


def test_more_than_the_cache_can_hold_is_refused_and_begins_none(model: Model) -> None:
    runner = FakeRunner(RunnerLimits(8, 2, 64, model.config.context_length, model.config.vocab_size))
    llm = LLM(model, cast(Any, runner))
    with pytest.raises(ContextLengthError, match="KV cache"):
        llm.generate_many(["x", "x" * 40], max_tokens=4)
    assert_idle(llm)
    assert len(llm.generate("x", max_tokens=4, ignore_eos=True).token_ids) == 4


def test_a_model_without_a_template_says_so(llama_directory: Path, tmp_path: Path) -> None:
    for file in llama_directory.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    with load(tmp_path, **TINY) as llm:
        with pytest.raises(RequestError, match="no chat template"):
            llm.generate(HELLO)
        assert llm.generate("Hello", max_tokens=2, ignore_eos=True).finish_reason == "length"


def test_a_failed_step_is_told_and_the_next_one_works(model: Model) -> None:
    llm, runner = faked(model)
    whole = llm.generate("abc", max_tokens=8, ignore_eos=True)
    for several in (1, 3):
        runner.fail_at = {runner.launches}
        with pytest.raises(StepFailedError, match="planted"):
            llm.generate_many(["abc"] * several, max_tokens=8, ignore_eos=True)
        assert_idle(llm)
        assert llm.generate("abc", max_tokens=8, ignore_eos=True).token_ids == whole.token_ids


def test_an_interrupt_in_the_middle_of_a_step_leaves_a_sound_engine(model: Model) -> None:
    llm, runner = faked(model)
    whole = llm.generate("abc", max_tokens=8, ignore_eos=True)
    other = llm.stream("def", ignore_eos=True)
    next(other)

    def interrupt(batch: Batch) -> None:
        runner.on_launch = None
        raise KeyboardInterrupt

    runner.on_launch = interrupt
    with pytest.raises(KeyboardInterrupt):
        llm.generate("xyz", ignore_eos=True)
    with pytest.raises(EngineStoppedError, match="Send it again"):
        list(other)
    assert_idle(llm)
    assert llm.generate("abc", max_tokens=8, ignore_eos=True).token_ids == whole.token_ids


# Loading and closing


def test_a_closed_llm_answers_no_more(model: Model) -> None:
    with load(model.directory, **TINY) as llm:
        stream = llm.stream("abc", ignore_eos=True)
        next(stream)
    with pytest.raises(EngineStoppedError, match="closed"):
        list(stream)
    with pytest.raises(EngineStoppedError, match="load the model again"):
        llm.generate("abc")
    with pytest.raises(EngineStoppedError):
        next(llm.stream("abc"))
    llm.close()
    assert_idle(llm)


def test_closing_in_another_thread_ends_the_answers_under_way(model: Model) -> None:
    llm, runner = faked(model)
    closer = threading.Thread(target=llm.close)

    def begin_closing(batch: Batch) -> None:
        runner.on_launch = None
        closer.start()

    def ask_forever() -> None:
        while True:
            llm.generate("abc", ignore_eos=True)

    runner.on_launch = begin_closing
    with pytest.raises(EngineStoppedError, match="closed"):
        ask_forever()
    closer.join()
    assert runner.closed
    assert_idle(llm)


def test_loading_tells_how_far_it_is(model: Model) -> None:
    shares: list[float] = []
    load(model.directory, progress=shares.append, **TINY).close()
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"foo": 1}, "foo.*quantize"), ({"quantize": "int3"}, "int3"), ({"threads": "2"}, "wrong type")],
)
def test_an_option_that_load_does_not_take_is_refused(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(model.directory, **options)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load("nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tmp_path)


def test_speculation_changes_no_answer_and_its_name_is_checked(llama_directory: Path) -> None:
    with (
        load(llama_directory, speculate="off", **TINY) as plain,
        load(llama_directory, speculate="lookup", **TINY) as lookup,
    ):
        for temperature in (0.0, 1.0):
            options: dict[str, Any] = {"max_tokens": 200, "temperature": temperature, "seed": 1, "ignore_eos": True}
            assert plain.generate("abcabcabcabc", **options).token_ids == (
                lookup.generate("abcabcabcabc", **options).token_ids
            )
    with pytest.raises(ConfigError, match="lookup, off"):
        load(llama_directory, speculate="draft", **TINY)


def test_a_draft_changes_no_answer_and_is_closed_with_the_model(llama_directory: Path, tmp_path: Path) -> None:
    other = write_llama(tmp_path / "draft", layers=1, hidden=32, seed=5)
    options: dict[str, Any] = {"max_tokens": 200, "seed": 1, "ignore_eos": True}
    with load(llama_directory, **TINY) as plain:
        wanted = [plain.generate("abcabcabcabc", temperature=warm, **options).token_ids for warm in (0.0, 1.0)]
    for draft in (llama_directory, other):
        with load(llama_directory, draft=draft, **TINY) as llm:
            found = [llm.generate("abcabcabcabc", temperature=warm, **options).token_ids for warm in (0.0, 1.0)]
        assert found == wanted
        assert not hasattr(llm.draft, "_decoder")


def test_a_draft_of_another_vocabulary_is_refused_with_the_remedy(llama_directory: Path, tmp_path: Path) -> None:
    draft = write_llama(tmp_path / "draft")
    text = (draft / "tokenizer.json").read_text()
    (draft / "tokenizer.json").write_text(text.replace('"a"', '"\u00e4"', 1).replace('"b"', '"a"', 1))
    with pytest.raises(ConfigError, match=r"another vocabulary.*vivace compress"):
        load(llama_directory, draft=draft, **TINY)
    larger = write_llama(tmp_path / "larger", vocab=640)
    with pytest.raises(ConfigError, match="another vocabulary"):
        load(llama_directory, draft=larger, **TINY)
    with pytest.raises(ConfigError, match="Leave speculate=lookup out"):
        load(llama_directory, draft=llama_directory, speculate="lookup", **TINY)
