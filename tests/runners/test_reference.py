"""The reference is what every other runner is held to, so it is held to transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import read_tensors, set_fields, write_llama, write_qwen2, write_tensors
from tests.families import (
    factor_linears,
    write_gemma3,
    write_gpt2,
    write_mistral,
    write_phi3,
    write_qwen3,
    write_smollm3,
)
from tests.runners.loading import blocks_for, generate, load_directory, random_prompt, run
from vivace.batch import Logprobs, Row, Sampling, Want
from vivace.runners.reference import (
    Quantization,
    adjust,
    keep_likeliest,
    log_softmax,
    quantize_activations,
    quantize_rows,
    random_number,
    report_logprobs,
    sample,
)

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

LINEAR_SCALING = {"rope_type": "linear", "factor": 8.0}
WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
MIXED = ["sliding_attention", "full_attention"]

CHECKPOINTS: dict[str, Any] = {
    "llama-published": lambda path: write_llama(path, dialect="published"),
    "llama-new-untied-bf16": lambda path: write_llama(path, dialect="new", tied=False, dtype="bfloat16"),
    "llama-f16-sharded": lambda path: write_llama(path, dtype="float16", sharded=True),
    "llama-biases-head-dim": lambda path: write_llama(path, attention_bias=True, mlp_bias=True, head_dim=24),
    "llama-rope-scaling": lambda path: write_llama(path, dialect="published", rope_scaling=LLAMA3_SCALING),
    "qwen2-published": lambda path: write_qwen2(path, dialect="published"),
    "qwen2-new-untied": lambda path: write_qwen2(path, dialect="new", tied=False),
    "qwen2-windows": lambda path: set_fields(write_qwen2(path, layers=3), **WINDOWS),
    "qwen2-new-windows": lambda path: set_fields(write_qwen2(path, dialect="new"), **WINDOWS, layer_types=MIXED),
    "mistral-published": write_mistral,
    "mistral-new": lambda path: write_mistral(path, dialect="new"),
    "mistral-no-window": lambda path: write_mistral(path, window=None),
    "mistral-layer-types": lambda path: write_mistral(path, dialect="new", layer_types=MIXED),
    "qwen3-published": write_qwen3,
    "qwen3-new-untied-biases": lambda path: write_qwen3(path, dialect="new", tied=False, attention_bias=True),
    "qwen3-windows": lambda path: write_qwen3(path, dialect="new", **WINDOWS, layer_types=MIXED),
    "smollm3-published": write_smollm3,
    "smollm3-new-windows": lambda path: write_smollm3(path, dialect="new", **WINDOWS),
    "gemma3-published": write_gemma3,
    "gemma3-new": lambda path: write_gemma3(path, dialect="new"),
    "gemma3-rope-scaling": lambda path: write_gemma3(path, rope_scaling=LINEAR_SCALING),
    "gemma3-new-rope-scaling": lambda path: write_gemma3(path, dialect="new", rope_scaling=LINEAR_SCALING),
    "gemma3-bf16-layer-types": lambda path: write_gemma3(path, dtype="bfloat16", hidden=64, layer_types=MIXED * 2),
    "gemma3-images": lambda path: write_gemma3(path, images=True),
    "gemma3-new-images": lambda path: write_gemma3(path, images=True, dialect="new"),
    "phi3-published": lambda path: write_phi3(path, longrope=False),
    "phi3-new-window": lambda path: write_phi3(path, dialect="new", longrope=False, window=24),
    "phi3-short-factors": lambda path: write_phi3(path, factor=4.0),
    "phi3-long-factors": lambda path: write_phi3(path, original=32),
    "phi3-new-long-factors-partial": lambda path: write_phi3(path, dialect="new", original=32, partial=0.75),
    "gpt2-published": write_gpt2,
    "gpt2-new-untied-exact-gelu": lambda path: set_fields(
        write_gpt2(path, dialect="new", tied=False, inner=112), activation_function="gelu"
    ),
    "gpt2-no-prefix-bf16": lambda path: write_gpt2(path, prefix="", dtype="bfloat16"),
}


def transformers_logits(directory: Path, tokens: list[int]) -> np.ndarray[Any, Any]:
    """[tokens, vocab], computed by transformers in float32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model(torch.tensor([tokens])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    directory, prompt = CHECKPOINTS[name](tmp_path / "model"), random_prompt(100)
    logits, expected = reference_logits(directory, prompt), transformers_logits(directory, prompt)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def reference_logits(directory: Path, tokens: list[int]) -> np.ndarray[Any, Any]:
    runner = load_directory(directory).reference("none")
    return runner.logits(runner.hidden_states(blocks_for(len(tokens)), tokens, 0))


FACTORED: dict[str, tuple[Any, tuple[str, ...], bool]] = {
    "llama": (
        lambda path: write_llama(path, tied=False, attention_bias=True),
        ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj", "lm_head"),
        False,
    ),
    "phi3": (write_phi3, ("model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.gate_up_proj"), False),
    "gpt2": (write_gpt2, ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"), True),
}


@pytest.mark.parametrize("family", FACTORED)
def test_a_factored_linear_computes_what_the_product_of_its_factors_does(family: str, tmp_path: Path) -> None:
    write, names, transposed = FACTORED[family]
    factored, whole = write(tmp_path / "factored"), write(tmp_path / "whole")
    write_tensors(whole / "model.safetensors", factor_linears(factored, 11, *names, transposed=transposed))
    logits, expected = reference_logits(factored, random_prompt(60)), transformers_logits(whole, random_prompt(60))
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_both_factors_of_a_linear_quantise_what_they_multiply(tmp_path: Path) -> None:
    directory = write_llama(tmp_path, tied=False)
    factor_linears(directory, 11, "lm_head")
    model, random = load_directory(directory), np.random.default_rng(0)
    assert model.weights.head is not None
    assert model.weights.head.factor is not None
    up, down = (quantize_rows(part.to_f32()) for part in (model.weights.head.weight, model.weights.head.factor))
    x = random.standard_normal((5, 64)).astype(np.float32)
    normed = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(1e-5)) * model.weights.final_norm.weight
    inner = quantize_activations(normed, Quantization()) @ down.T
    expected = quantize_activations(inner, Quantization()) @ up.T
    np.testing.assert_allclose(model.reference("int8").logits(x), expected, rtol=1e-4, atol=1e-4)


def test_layers_may_have_mlps_of_different_widths(tmp_path: Path) -> None:
    """As wide as the widest and zero beyond their own width, they are what transformers can load."""
    padded, ragged = write_llama(tmp_path / "padded"), write_llama(tmp_path / "ragged")
    tensors = read_tensors(padded / "model.safetensors")
    cut = dict(tensors)
    for name, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        place = f"model.layers.0.mlp.{name}.weight"
        kept = [slice(None)] * axis + [slice(0, 48)]
        cut[place], tensors[place] = tensors[place][tuple(kept)], np.zeros_like(tensors[place])
        tensors[place][tuple(kept)] = cut[place]
    write_tensors(padded / "model.safetensors", tensors)
    write_tensors(ragged / "model.safetensors", cut)
    set_fields(ragged, intermediate_size=[48, 112])
    expected = transformers_logits(padded, random_prompt(60))
    logits = reference_logits(ragged, random_prompt(60))
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_prompt_in_chunks_over_scattered_blocks_gives_the_same_scores(tmp_path: Path) -> None:
    model, prompt = load_directory(write_llama(tmp_path / "model")), random_prompt(50)
    targets = [*prompt[1:], 0]
    whole = model.reference("none")
    expected = run(whole, Row(0, 0, prompt, blocks_for(50), Want.SCORE, targets=targets, opens=Sampling())).scores[0]
    chunked = model.reference("none")
    first = Row(3, 0, prompt[:21], [9, 4], Want.SCORE, targets=targets[:21], opens=Sampling())
    rest = Row(3, 21, prompt[21:], [30, 2], Want.SCORE, targets=targets[21:])
    scores = [*run(chunked, first).scores[0], *run(chunked, rest).scores[0]]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_activation_groups_round_to_within_half_a_step_and_keep_outliers_whole() -> None:
    values = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)
    values[1, 7], values[1, 150] = 300.0, -500.0
    rounded = quantize_activations(values, Quantization())
    assert rounded[1, 7] == 300.0
    assert rounded[1, 150] == -500.0
    assert np.abs(rounded - values).max() < 0.5 * 5.0 / 127
    coarse = quantize_activations(values, Quantization(keep_outliers=False))
    assert np.abs(coarse[1] - values[1]).max() > 0.5 * 5.0 / 127


def test_random_numbers_are_uniform_and_depend_on_both_seed_and_position() -> None:
    numbers = np.array([[random_number(seed, position) for position in range(300)] for seed in range(100)])
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 1500) ** 2 / 1500).sum() < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001
    assert len(np.unique(numbers)) == numbers.size


def test_sampled_tokens_follow_the_distribution_asked_for() -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0, -8.0], np.float32)
    sampling = Sampling(temperature=0.7, top_k=4, top_p=0.95)
    drawn = [sample(logits, Sampling(0.7, 4, 0.95, seed), 11) for seed in range(4000)]
    weights = np.exp(log_softmax(logits / np.float32(sampling.temperature)))
    kept = np.where(np.cumsum(weights) - weights < 0.95, weights, 0)  # the logits fall, so order is kept
    shares = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, kept / kept.sum(), atol=0.03)


LOGITS = np.array([2.0, -1.0, 0.5, -3.0, 0.0], np.float32)
HISTORY = [0, 1, 1, 2, 2, 2]


def test_logits_nobody_speaks_of_stay_as_they_are() -> None:
    np.testing.assert_array_equal(adjust(LOGITS, Sampling(), 6, HISTORY, None), LOGITS)


def test_a_mask_leaves_only_what_it_allows() -> None:
    np.testing.assert_array_equal(adjust(LOGITS, Sampling(), 6, (), b"\x12"), [-np.inf, -1, -np.inf, -np.inf, 0])
    with pytest.raises(AssertionError, match="nothing"):
        adjust(LOGITS, Sampling(), 6, (), b"\xe0")


def test_a_repetition_penalty_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    processor = transformers.RepetitionPenaltyLogitsProcessor(1.3)
    expected = processor(torch.tensor([HISTORY]), torch.tensor(LOGITS[None]))[0].numpy()
    sampling = Sampling(repetition_penalty=1.3, prompt_length=4)
    np.testing.assert_array_equal(adjust(LOGITS, sampling, 6, HISTORY, None), expected)


def test_presence_and_frequency_count_what_was_generated() -> None:
    presence = Sampling(presence_penalty=0.5, prompt_length=2)
    np.testing.assert_allclose(adjust(LOGITS, presence, 6, HISTORY, None), LOGITS - [0, 0.5, 0.5, 0, 0])
    frequency = Sampling(frequency_penalty=0.5, prompt_length=2)
    np.testing.assert_allclose(adjust(LOGITS, frequency, 6, HISTORY, None), LOGITS - [0, 0.5, 1.5, 0, 0])


def test_a_bias_comes_before_the_penalties_and_the_ban_after() -> None:
    sampling = Sampling(
        logit_bias=((0, -3.0), (4, 2.0)),
        repetition_penalty=2.0,
        presence_penalty=0.25,
        stop_token_ids=(4,),
        min_tokens=5,
        prompt_length=2,
    )
    expected = [-2.0, -2.25, 0.0, -3.0, -np.inf]
    np.testing.assert_allclose(adjust(LOGITS, sampling, 6, HISTORY, None), expected)
    np.testing.assert_allclose(adjust(LOGITS, sampling, 7, [*HISTORY, 3], None)[4], 2.0)


def test_a_history_that_does_not_reach_the_token_is_refused() -> None:
    with pytest.raises(AssertionError, match="history"):
        adjust(LOGITS, Sampling(presence_penalty=1.0), 7, HISTORY, None)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.3, min_p=0.2),
        Sampling(temperature=0.8, top_k=30, min_p=0.05),
        Sampling(temperature=1.5, top_p=0.7, min_p=0.05),
        Sampling(temperature=1.5, top_k=40, top_p=0.8, min_p=0.02),
        Sampling(temperature=1.5, top_k=40, top_p=0.5, min_p=0.2),
    ],
    ids=str,
)
def test_what_is_kept_is_what_transformers_keeps(sampling: Sampling) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    logits = np.random.default_rng(0).standard_normal(300).astype(np.float32) * 2
    scores = torch.tensor(logits[None]) / sampling.temperature
    if sampling.top_k:
        scores = transformers.TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = transformers.TopPLogitsWarper(sampling.top_p)(None, scores)
    scores = transformers.MinPLogitsWarper(sampling.min_p)(None, scores)[0]
    kept = keep_likeliest(np.exp((logits - logits.max()) / np.float64(sampling.temperature)), sampling)
    assert sorted(kept) == torch.isfinite(scores).nonzero().flatten().tolist()


def test_log_probabilities_are_of_the_logits_as_they_came_and_equals_are_told_lowest_first() -> None:
    report = report_logprobs(np.log(np.array([1, 3, 2, 3, 1], np.float32)), 4, 3)
    assert [token for token, _ in report.likeliest] == [1, 3, 2]
    np.testing.assert_allclose(np.exp([report.chosen, *(value for _, value in report.likeliest)]), [0.1, 0.3, 0.3, 0.2])


PENALTIES = Sampling(
    temperature=0.8,
    seed=5,
    repetition_penalty=1.4,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    min_tokens=6,
    stop_token_ids=tuple(range(0, 256, 3)),
    prompt_length=20,
    logprobs=2,
)


def test_penalties_and_log_probabilities_are_the_same_in_bursts_steps_verified_and_after_a_prefix(
    tmp_path: Path,
) -> None:
    model, prompt = load_directory(write_llama(tmp_path / "model")), random_prompt(20)
    runner = model.reference("none")
    sampling = replace(PENALTIES, stop_token_ids=(300,))  # none that comes
    opening = Row(0, 0, prompt, blocks_for(40), Want.SAMPLE, 12, opens=sampling)
    burst = run(runner, opening, max_steps=12)
    answer, told = list(burst.tokens[0]), list(burst.logprobs[0])
    assert len(told) == 12
    assert answer != generate(runner, prompt, Sampling(temperature=0.8, seed=5), 12)

    steps = [run(runner, replace(opening, slot=1, limit=1))]
    steps += [run(runner, Row(1, 20 + i, want=Want.SAMPLE)) for i in range(11)]
    assert [step.tokens[0][0] for step in steps] == answer
    assert_close([step.logprobs[0][0] for step in steps], told)

    run(runner, replace(opening, slot=2, tokens=prompt[:7], want=Want.NOTHING))
    again = [run(runner, Row(2, 7, prompt[7:], want=Want.SAMPLE))]
    proposed = [*answer[:5], (answer[5] + 1) % 256, 9]
    again.append(run(runner, Row(2, 20, proposed, want=Want.VERIFY)))
    again.append(run(runner, Row(2, 25, want=Want.SAMPLE, limit=6), max_steps=6))
    assert [token for step in again for token in step.tokens[0]] == answer
    assert_close([logprobs for step in again for logprobs in step.logprobs[0]], told)

    shared = Row(3, 16, prompt[16:], [*blocks_for(16), *blocks_for(24, 10)], Want.SAMPLE, 12, opens=sampling)
    assert run(runner, replace(shared, history=prompt[:16]), max_steps=12).tokens[0] == answer
    with pytest.raises(AssertionError, match="missing"):
        run(runner, shared)


def assert_close(ours: list[Logprobs], theirs: list[Logprobs]) -> None:
    assert [[token for token, _ in one.likeliest] for one in ours] == [[t for t, _ in one.likeliest] for one in theirs]
    np.testing.assert_allclose([one.chosen for one in ours], [one.chosen for one in theirs], atol=1e-4)


def test_stop_tokens_do_not_come_before_min_tokens_and_end_a_burst_after(tmp_path: Path) -> None:
    model, prompt = load_directory(write_llama(tmp_path / "model")), random_prompt(20)
    answer = generate(model.reference("none"), prompt, PENALTIES, 20)
    assert not set(answer[:6]) & set(PENALTIES.stop_token_ids)
    assert [token in PENALTIES.stop_token_ids for token in answer[6:]] == [False] * (len(answer) - 7) + [True]
    assert len(answer) < 20


def test_a_masked_row_says_what_its_mask_allows(tmp_path: Path) -> None:
    model, prompt = load_directory(write_llama(tmp_path / "model")), random_prompt(20)
    runner = model.reference("none")
    mask = bytes([0b100, *[0] * 40])[: -(-model.config.vocab_size // 8)]
    row = Row(0, 0, prompt, blocks_for(20), Want.SAMPLE, opens=Sampling(logprobs=1), mask=mask)
    result = run(runner, row)
    assert result.tokens[0] == [2]
    assert result.logprobs[0][0].likeliest[0][1] > result.logprobs[0][0].chosen
    with pytest.raises(AssertionError, match="burst"):
        run(runner, replace(row, limit=2), max_steps=2)
