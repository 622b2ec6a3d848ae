"""The CPU runner, on every instruction set this machine has: right, and the same whatever runs beside a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_llama, write_qwen2
from tests.runners.loading import Loaded, blocks_for, generate, hidden_of, load_directory, random_prompt, run
from tests.runners.test_reference import CHECKPOINTS, transformers_logits
from vivace.batch import Batch, Row, Sampling, Want
from vivace.engine.draft import DraftProposer
from vivace.engine.engine import Engine
from vivace.engine.proposer import Ask, Proposal
from vivace.engine.request import Request
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import ConfigError, NativeError
from vivace.native import supported_isas
from vivace.runners.native import QUANTIZE, NativeConfig, NativeRunner, Quantize

SAMPLINGS = {
    "greedy": Sampling(),
    "warm": Sampling(temperature=0.9, seed=7),
    "top-k": Sampling(temperature=1.5, top_k=20, seed=9),
    "top-p": Sampling(temperature=1.2, top_p=0.8, seed=3),
    "both": Sampling(temperature=1.2, top_k=30, top_p=0.9, seed=2**64 - 1),
    "min-p": Sampling(temperature=1.3, min_p=0.1, seed=5),
    "all-three": Sampling(temperature=1.6, top_k=40, top_p=0.95, min_p=0.05, seed=11),
    "penalties": Sampling(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3, prompt_length=40),
    "bias": Sampling(temperature=0.8, seed=2, logit_bias=((7, 4.0), (300, -8.0))),
    "min-tokens": Sampling(stop_token_ids=tuple(range(0, 331, 2)), min_tokens=5, prompt_length=40),
    "logprobs": Sampling(temperature=0.9, seed=8, logprobs=3),
    "no-more-than-all": Sampling(temperature=0.5, top_k=10**6, seed=1),
}


@pytest.fixture(params=supported_isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VIVACE_ISA", request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    # Nothing here is a multiple of 16 but the head, so that every kernel meets its ragged edge.
    directory = tmp_path_factory.mktemp("llama") / "model"
    return load_directory(
        write_llama(directory, hidden=88, heads=6, kv_heads=2, head_dim=16, intermediate=152, vocab=331)
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Several activation groups, seven query heads to a key-value head."""
    directory = tmp_path_factory.mktemp("wide") / "model"
    return load_directory(write_qwen2(directory, hidden=448, heads=14, kv_heads=2, layers=2, intermediate=600))


@pytest.fixture(params=QUANTIZE)
def quantize(request: pytest.FixtureRequest) -> Quantize:
    value: Quantize = request.param
    return value


@pytest.fixture
def runner(isa: str, llama: Loaded, quantize: Quantize) -> Iterator[NativeRunner]:
    runner = llama.native(quantize)
    yield runner
    runner.close()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_unquantized_logits_and_64_greedy_tokens_are_those_of_transformers(name: str, isa: str, tmp_path: Path) -> None:
    directory = CHECKPOINTS[name](tmp_path / "model")
    model, prompt = load_directory(directory), random_prompt(70)
    runner = model.native("none")
    tokens = generate(runner, prompt, Sampling(), 64)
    sequence = prompt + tokens
    row = Row(1, 0, sequence[:-1], blocks_for(len(sequence), first=20), Want.HIDDEN, opens=Sampling())
    logits = hidden_of(run(runner, row), 0, model.config.hidden_size) @ model.head().T
    expected = transformers_logits(directory, sequence[:-1])
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()
    assert tokens == expected[len(prompt) - 1 :].argmax(axis=-1).tolist()


@pytest.mark.parametrize("quantize", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_family_in_every_format_scores_as_the_reference(name: str, quantize: Quantize, tmp_path: Path) -> None:
    model, prompt = load_directory(CHECKPOINTS[name](tmp_path / "model")), random_prompt(40)
    row = Row(0, 0, prompt, blocks_for(40), Want.SCORE, targets=[*prompt[1:], 0], opens=Sampling())
    expected = run(model.reference(quantize), row).scores[0]
    scores = run(model.native(quantize), row).scores[0]
    assert np.abs(np.subtract(scores, expected)).max() < 5e-2 * np.abs(expected).max()


@pytest.mark.parametrize("shape", ["llama", "wide"])
def test_hidden_states_are_those_of_the_reference(
    shape: str, isa: str, quantize: Quantize, request: pytest.FixtureRequest
) -> None:
    model: Loaded = request.getfixturevalue(shape)
    row = Row(0, 0, random_prompt(61), blocks_for(61), Want.HIDDEN, opens=Sampling())
    expected = hidden_of(run(model.reference(quantize), row), 0, model.config.hidden_size)
    states = hidden_of(run(model.native(quantize), row), 0, model.config.hidden_size)
    # A code may round the other way where float sums differ in their last bit, so codes get the width of a step.
    tolerance = {"none": 1e-4, "bf16": 2e-3, "int8": 2e-2, "int4": 2e-2}[quantize]
    assert np.abs(states - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", SAMPLINGS)
def test_sampled_tokens_are_those_of_the_reference(name: str, isa: str, llama: Loaded) -> None:
    # Unquantised: elsewhere a code that rounds the other way may tip the balance between two tokens.
    expected = generate(llama.reference("none"), random_prompt(40), SAMPLINGS[name], 24)
    assert generate(llama.native("none"), random_prompt(40), SAMPLINGS[name], 24) == expected


def test_logprobs_are_those_of_the_reference(isa: str, llama: Loaded) -> None:
    prompt, sampling = random_prompt(30), SAMPLINGS["logprobs"]
    row = Row(0, 0, prompt, blocks_for(60), Want.SAMPLE, 6, opens=sampling)
    expected = run(llama.reference("none"), row, max_steps=6).logprobs[0]
    found = run(llama.native("none"), row, max_steps=6).logprobs[0]
    assert [[token for token, _ in one.likeliest] for one in found] == [
        [token for token, _ in one.likeliest] for one in expected
    ]
    np.testing.assert_allclose([one.chosen for one in found], [one.chosen for one in expected], atol=1e-4)


def test_a_mask_leaves_only_what_it_allows_and_history_comes_with_the_slot(isa: str, llama: Loaded) -> None:
    prompt, vocab = random_prompt(40), llama.config.vocab_size
    allowed = np.zeros(vocab, bool)
    allowed[[5, 90, 330]] = True
    mask = np.packbits(allowed, bitorder="little").tobytes()
    sampling = Sampling(temperature=1.0, seed=6, repetition_penalty=1.5, prompt_length=40)
    for runner in (llama.native("none"), llama.reference("none")):
        run(runner, Row(0, 0, prompt[:32], [0, 1, 2, 3], opens=Sampling()))
        tail = Row(1, 32, prompt[32:], [0, 1, 4, 5], Want.SAMPLE, opens=sampling, history=prompt[:32], mask=mask)
        chosen = list(run(runner, tail).tokens[0])
        assert chosen[0] in (5, 90, 330)
        follow = [list(run(runner, Row(1, 40 + i, want=Want.SAMPLE)).tokens[0]) for i in range(5)]
        if isinstance(runner, NativeRunner):
            expected = (chosen, follow)
        else:
            assert (chosen, follow) == expected


def row_of_another(slot: int) -> Row:
    length = 7 * slot
    blocks = blocks_for(length, 50 + 10 * slot)
    return Row(slot, 0, random_prompt(length, seed=slot), blocks, Want.SAMPLE, opens=Sampling())


def test_a_row_alone_in_chunks_and_in_a_crowd_is_the_same_to_the_last_bit(
    isa: str, quantize: Quantize, llama: Loaded
) -> None:
    prompt, width = random_prompt(75, seed=5), llama.config.hidden_size
    alone = llama.native(quantize, threads=1)
    whole = run(alone, Row(0, 0, prompt, blocks_for(75), Want.HIDDEN, opens=Sampling()))
    expected = hidden_of(whole, 0, width)
    for threads in (1, 2, 3):
        crowded = llama.native(quantize, threads=threads)
        states, first = [], 0
        for chunk in (1, 33, 2, 16, 23):
            others = [row_of_another(slot) for slot in range(1, 8)]
            blocks = [block + 10 for block in blocks_for(75)] if first == 0 else []
            row = Row(0, first, prompt[first : first + chunk], blocks, Want.HIDDEN, opens=None if first else Sampling())
            at = first % 7
            result = run(crowded, *others[:at], row, *others[at:])
            states.append(hidden_of(result, at, width))
            first += chunk
        np.testing.assert_array_equal(np.concatenate(states), expected)


def test_a_prefix_computed_for_another_slot_serves_as_well_as_ones_own(runner: NativeRunner, llama: Loaded) -> None:
    prompt, width = random_prompt(50), llama.config.hidden_size
    whole = run(runner, Row(0, 0, prompt, blocks_for(50), Want.HIDDEN, opens=Sampling()))
    rest = run(runner, Row(1, 32, prompt[32:], [0, 1, 9, 8], Want.HIDDEN, opens=Sampling()))
    np.testing.assert_array_equal(hidden_of(rest, 0, width), hidden_of(whole, 0, width)[32:])


@pytest.mark.parametrize("name", [name for name in SAMPLINGS if not SAMPLINGS[name].stop_token_ids])
def test_a_burst_gives_the_tokens_of_single_steps(name: str, runner: NativeRunner) -> None:
    prompts = [random_prompt(5 + 9 * slot, seed=slot) for slot in range(5)]
    opening = [
        Row(slot, 0, prompt, blocks_for(len(prompt) + 20, 10 * slot), Want.SAMPLE, 1 + 4 * slot, opens=SAMPLINGS[name])
        for slot, prompt in enumerate(prompts)
    ]
    burst = run(runner, *opening, max_steps=16)
    assert [len(tokens) for tokens in burst.tokens] == [1, 5, 9, 13, 16]
    assert burst.steps == 16
    single = [list(tokens) for tokens in run(runner, *opening).tokens]
    for step in range(1, 16):
        going = [slot for slot in range(5) if len(burst.tokens[slot]) > step]
        rows = [Row(slot, len(prompts[slot]) + step - 1, want=Want.SAMPLE) for slot in going]
        for slot, tokens in zip(going, run(runner, *rows).tokens, strict=True):
            single[slot] += tokens
    assert single == [list(tokens) for tokens in burst.tokens]


def test_a_burst_ends_for_a_row_at_its_stop_token_and_for_all_when_interrupted(runner: NativeRunner) -> None:
    prompt = random_prompt(20)
    tokens = generate(runner, prompt, Sampling(), 12)
    stop = tokens[6]
    stopped = generate(runner, prompt, Sampling(stop_token_ids=(stop, 5)), 12)
    assert stopped == tokens[: tokens.index(stop) + 1]
    row = Row(0, 0, prompt, blocks_for(60), Want.SAMPLE, 12, opens=Sampling())
    assert runner.collect(runner.launch(Batch([row], 12, burst_ms=0))).steps == 1


def test_verify_keeps_what_the_model_would_have_said_and_adds_one(runner: NativeRunner) -> None:
    prompt = random_prompt(20)
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=4)):
        tokens = generate(runner, prompt, sampling, 8)
        for right in range(6):
            run(runner, Row(0, 0, prompt, blocks_for(40), Want.SAMPLE, opens=sampling))
            wrong = (tokens[right + 1] + 1) % 256
            proposed = [*tokens[: right + 1], wrong, 3]
            kept = list(run(runner, Row(0, 20, proposed, want=Want.VERIFY)).tokens[0])
            assert kept == tokens[1 : right + 2]
            follow = list(run(runner, Row(0, 20 + len(kept), want=Want.SAMPLE)).tokens[0])
            assert follow == tokens[right + 2 : right + 3]


@pytest.mark.parametrize("name", ["greedy", "warm", "penalties", "bias", "logprobs"])
def test_the_engine_answers_the_same_whatever_is_proposed(name: str, runner: NativeRunner) -> None:
    """Every step seems to take as long, so that much is proposed; every fifth token of it is wrong."""
    params = SAMPLINGS[name]
    requests = [
        Request(f"{index}", tuple(random_prompt(40, seed=index)), 60, params, arrived=0.0) for index in range(3)
    ]
    plain: dict[str, list[int]] = {}
    collect_answers(Engine(runner, SchedulerConfig()), requests, plain)
    found: dict[str, list[int]] = {}
    ticks = itertools.count()
    proposer = Recollection({request.id: [*request.prompt, *plain[request.id]] for request in requests})
    config = SchedulerConfig(max_burst_steps=1, max_proposed=6)
    engine = Engine(runner, config, clock=lambda: float(next(ticks)), proposer=proposer)
    collect_answers(engine, requests, found)
    assert found == plain
    assert 0 < engine.stats().accepted < engine.stats().proposed


@pytest.mark.parametrize("name", ["greedy", "warm", "top-p"])
def test_a_draft_on_a_runner_of_its_own_changes_no_answer(name: str, isa: str, llama: Loaded) -> None:
    """The draft is the model itself in int8: right at times, and wrong at times."""
    runner, small = llama.native("none"), llama.native("int8")
    requests = [
        Request(f"{index}", tuple(random_prompt(40, seed=index)), 60, SAMPLINGS[name], arrived=0.0)
        for index in range(3)
    ]
    plain: dict[str, list[int]] = {}
    collect_answers(Engine(runner, SchedulerConfig()), requests, plain)
    found: dict[str, list[int]] = {}
    ticks = itertools.count()
    config = SchedulerConfig(max_burst_steps=1, max_proposed=6)
    engine = Engine(runner, config, clock=lambda: float(next(ticks)), proposer=DraftProposer(small))
    collect_answers(engine, requests, found)
    assert found == plain
    assert 0 < engine.stats().accepted < engine.stats().proposed


class Recollection:
    """Proposes what is known to follow, every fifth token wrong."""

    def __init__(self, known: dict[str, list[int]]) -> None:
        self.known = known
        self.random = np.random.default_rng(3)

    computes = False

    def propose(self, asks: Sequence[Ask]) -> list[Proposal | None]:
        answers: list[Proposal | None] = []
        for ask in asks:
            follows = self.known[ask.id][len(ask.tokens) : len(ask.tokens) + ask.limit]
            wrong = self.random.random(len(follows)) < 0.2
            tokens = [3 if bad else token for token, bad in zip(follows, wrong, strict=True)]
            answers.append(Proposal(tokens, 1) if tokens else None)
        return answers

    def forget(self, id: str) -> None:
        pass


def collect_answers(engine: Engine, requests: list[Request], answers: dict[str, list[int]]) -> None:
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for update in engine.step():
            assert not update.error
            answers.setdefault(update.id, []).extend(update.tokens)


def test_scores_are_log_probabilities_that_sum_to_one(runner: NativeRunner, llama: Loaded) -> None:
    prompt, total = random_prompt(3), np.zeros(3)
    for target in range(llama.config.vocab_size):
        row = Row(0, 0, prompt, [0], Want.SCORE, targets=[target] * 3, opens=Sampling())
        total += np.exp(list(run(runner, row).scores[0]))
    np.testing.assert_allclose(total, 1, atol=1e-4)


@pytest.mark.parametrize(("quantize", "agreement"), [("bf16", 0.97), ("int8", 0.9), ("int4", 0.4)])
def test_a_rounded_model_answers_mostly_as_the_exact_one(
    quantize: Quantize, agreement: float, isa: str, wide: Loaded
) -> None:
    # The weights are random, so the logits lie close together: a trained model agrees far more often.
    row = Row(0, 0, random_prompt(200), blocks_for(200), Want.HIDDEN, opens=Sampling())
    states = [hidden_of(run(wide.native(kind), row), 0, wide.config.hidden_size) for kind in ("none", quantize)]
    exact, rounded = (state @ wide.head().T for state in states)
    assert (exact.argmax(axis=1) == rounded.argmax(axis=1)).mean() > agreement


def bad_rows(prompt: list[int]) -> dict[str, list[Row]]:
    good = Row(0, 0, prompt, [0, 1], Want.SAMPLE, opens=Sampling())
    return {
        "slot": [Row(64, 0, prompt, [0, 1], opens=Sampling())],
        "twice": [good, good],
        "token": [Row(0, 0, [331], [0], opens=Sampling())],
        "negative token": [Row(0, 0, [-1], [0], opens=Sampling())],
        "block": [Row(0, 0, prompt, [0, 10**6], opens=Sampling())],
        "room": [Row(0, 0, prompt, [0], opens=Sampling())],
        "room for a burst": [Row(0, 0, prompt, [0, 1], Want.SAMPLE, 20, opens=Sampling())],
        "context": [Row(0, 510, prompt, blocks_for(600), opens=Sampling())],
        "targets": [Row(0, 0, prompt, [0, 1], Want.SCORE, targets=[1], opens=Sampling())],
        "empty": [Row(0, 0, (), [0], Want.SAMPLE, opens=Sampling())],
        "batch": [Row(slot, 0, random_prompt(500), blocks_for(500), opens=Sampling()) for slot in range(2)],
    }


@pytest.mark.parametrize("name", bad_rows([]))
def test_a_batch_that_breaks_the_contract_is_refused_and_changes_nothing(name: str, llama: Loaded) -> None:
    runner, prompt = llama.native("int8"), random_prompt(20)
    expected = generate(runner, prompt, Sampling(), 8)
    run(runner, Row(0, 0, prompt, blocks_for(40), Want.SAMPLE, opens=Sampling()))
    with pytest.raises(ValueError, match=r"row|token|block|slot|context|target"):
        run(runner, *bad_rows(prompt)[name])
    assert list(run(runner, Row(0, 20, want=Want.SAMPLE)).tokens[0]) == expected[1:2]


def test_an_instruction_set_that_is_not_there_is_refused_with_those_that_are(
    llama: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVACE_ISA", "mmx")
    with pytest.raises(NativeError, match="portable"):
        llama.native("int8")


@pytest.mark.parametrize(
    "options",
    [
        {"quantize": "int3"},
        {"group_size": 48},
        {"threads": -1},
        {"kv_memory_bytes": 0},
        {"max_sequences": 9, "max_batch_tokens": 8},
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options)) if len(options) == 1 else "max_batch_tokens"):
        NativeConfig(**options)  # type: ignore[arg-type]
