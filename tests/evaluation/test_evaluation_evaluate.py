"""Through the engine and through transformers, the figures are those of the formulas; exact formats agree."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from tests.checkpoints import read_tensors, write_llama, write_tensors
from vivace.cli import main
from vivace.errors import ConfigError, ContextLengthError, DataError, UnsupportedModelError
from vivace.evaluation.evaluate import EvaluationConfig, evaluate
from vivace.evaluation.measures import find_divergence
from vivace.evaluation.tasks import Choice, Choices
from vivace.evaluation.through_engine import CHUNK, EngineScorer
from vivace.evaluation.through_transformers import TransformersScorer
from vivace.models.model import open_model

BOTH = EvaluationConfig(through="both", quantize="none", threads=1, max_tokens=8)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("first"), context=512)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first with every matrix a little off."""
    directory = write_llama(tmp_path_factory.mktemp("second"), context=512)
    tensors = read_tensors(directory / "model.safetensors")
    noise = np.random.default_rng(1)
    changed = {n: t + 0.02 * noise.standard_normal(t.shape, np.float32) for n, t in tensors.items()}
    write_tensors(directory / "model.safetensors", changed)
    return directory


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def talk(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]}


def load_theirs(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def compute_logs(model: Any, tokens: list[int]) -> Any:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].log_softmax(-1)


def test_perplexity_of_text_is_that_of_the_formula_either_way(first: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the cat sat on the mat. " * 20)
    document = evaluate(str(first), tmp_path / "t.txt", config=EvaluationConfig("both", "none", length=100, threads=1))
    model, losses = load_theirs(first), []
    tokens = list(("the cat sat on the mat. " * 20).encode())
    for at in range(0, len(tokens), 100):
        window = tokens[at : at + 100]
        logs = compute_logs(model, window)
        losses += [-float(logs[i, window[i + 1]]) for i in range(len(window) - 1)]
    assert len(document["through"]) == 2
    for figures in document["through"].values():
        assert figures["perplexity"]["value"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
        assert figures["perplexity"]["documents"] == 5


def test_conversations_have_all_figures_and_both_ways_agree(first: Path, second: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "d.jsonl", talk("hi", "hello there"), talk("and?", "no", "why?", "because"))
    document = evaluate(str(second), data, str(first), BOTH)
    engine, theirs = document["through"].values()
    assert set(engine) == set(theirs)
    for name in ("perplexity", "assistant_perplexity", "log_probability", "agreement", "ended", "repeats"):
        assert engine[name]["value"] == pytest.approx(theirs[name]["value"], rel=1e-3), name
        if engine[name]["base"] is not None:
            assert engine[name]["change"] == pytest.approx(theirs[name]["change"], abs=1e-3), name
    assert engine["log_probability"]["value"] == pytest.approx(-math.log(engine["assistant_perplexity"]["value"]))
    assert 0 < engine["kl"]["value"] <= theirs["kl"]["value"] * 1.001
    assert document["data"]["assistant_tokens"] == len(b"hello there" + b"no" + b"because") + 3


def test_a_model_beside_itself_differs_in_nothing(first: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "d.jsonl", talk("hi", "hello there"), talk("and?", "no"))
    for figures in evaluate(str(first), data, str(first), BOTH)["through"].values():
        assert figures["kl"]["value"] == pytest.approx(0, abs=1e-9)
        assert figures["agreement"]["value"] == 1
        assert all(figure["change"] in (0, None) for figure in figures.values())


def test_divergence_can_be_left_out_and_changes_stay(first: Path, second: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "d.jsonl", talk("hi", "hello there"), talk("and?", "no"))
    [figures] = evaluate(str(second), data, str(first), replace(BOTH, through="engine", divergence=False))[
        "through"
    ].values()
    assert "kl" not in figures
    assert figures["perplexity"]["change"]


def test_scores_are_the_same_in_chunks_and_in_any_company(first: Path) -> None:
    tokens = [(7 * i) % 250 for i in range(CHUNK + 100)]
    scorer = EngineScorer(str(first), "none", 1)
    alone = next(scorer.score([tokens], predict=False))
    crowd = list(scorer.score([tokens[:3], tokens, tokens[:50]] * 30, predict=False))
    scorer.close()
    logs = compute_logs(load_theirs(first), tokens)
    expected = [float(logs[i, tokens[i + 1]]) for i in range(len(tokens) - 1)]
    assert alone.log_probabilities == pytest.approx(expected, abs=2e-4)
    assert all((crowd[i].log_probabilities == alone.log_probabilities).all() for i in range(1, 90, 3))
    assert (crowd[2].log_probabilities == alone.log_probabilities[:49]).all()


def test_the_engines_divergence_is_close_to_the_exact_one_and_never_above(first: Path, second: Path) -> None:
    tokens, models = [*b"several words to look at"], (first, second)
    engines = [EngineScorer(str(model), "none", 1) for model in models]
    theirs = [TransformersScorer(open_model(str(model))) for model in models]
    found = [
        [next(scorer.score([tokens], predict=True)).prediction for scorer in scorers] for scorers in (engines, theirs)
    ]
    lumped, exact = (find_divergence(*pair) for pair in found)  # type: ignore[arg-type]
    assert len(lumped) == len(exact) == len(tokens) - 1
    assert (lumped <= exact * 1.001 + 1e-6).all()
    assert lumped.sum() > 0.5 * exact.sum()
    for scorer in engines:
        scorer.close()


def test_labels_are_chosen_by_the_log_likelihood_of_their_tokens(first: Path) -> None:
    prompts, replies = [[*b"ab"], [*b"xyzw"], [5]], ([*b"one"], [*b"seven"], [7])
    choices = Choices(("1", "7", "x"), tuple(map(tuple, replies)), tuple(Choice(tuple(p), 0) for p in prompts))
    engine, theirs = EngineScorer(str(first), "none", 1), TransformersScorer(open_model(str(first)))
    ours, others = list(engine.choose(choices)), list(theirs.choose(choices))
    engine.close()
    model = load_theirs(first)
    for prompt, mine, other in zip(prompts, ours, others, strict=True):
        for reply, value in zip(replies, mine, strict=True):
            logs = compute_logs(model, prompt + reply)
            expected = sum(float(logs[len(prompt) - 1 + i, token]) for i, token in enumerate(reply))
            assert value == pytest.approx(expected, abs=1e-3)
        assert other == pytest.approx(mine, abs=1e-3)


def test_questions_and_intents_are_measured_both_ways(first: Path, tmp_path: Path) -> None:
    asked = {"context": "It is red.", "question": "Which colour?", "answers": ["red"]}
    unanswerable = asked | {"answers": []}
    document = evaluate(str(first), write_lines(tmp_path / "q.jsonl", asked, asked, unanswerable), config=BOTH)
    engine, theirs = document["through"].values()
    assert document["data"]["questions"] == 2
    assert document["data"]["unanswerable_left_out"] == 1
    assert set(engine) == {"exact_match", "f1", "answer_log_probability"}
    assert engine["answer_log_probability"]["value"] == pytest.approx(theirs["answer_log_probability"]["value"], 1e-3)
    labelled = [{"text": f"text {i}", "label": f"label {i % 3}"} for i in range(6)]
    engine, theirs = evaluate(str(first), write_lines(tmp_path / "i.jsonl", *labelled), config=BOTH)["through"].values()
    assert engine["accuracy"]["value"] == theirs["accuracy"]["value"]
    assert engine["accuracy"]["documents"] == 6


def test_what_cannot_be_measured_is_refused_with_the_remedy(first: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "d.jsonl", talk("hi", "hello"))
    with pytest.raises(ConfigError, match="different tokenizers"):
        evaluate(str(first), data, "mini")
    with pytest.raises(DataError, match="cannot be read"):
        evaluate(str(first), tmp_path / "none")
    with pytest.raises(ConfigError, match="length is 3"):
        EvaluationConfig(length=3)
    with pytest.raises(ConfigError, match="through is 'both ways'"):
        EvaluationConfig(through="both ways")  # type: ignore[arg-type]
    scorer = EngineScorer(str(first), "none", 1)
    with pytest.raises(ContextLengthError, match="context holds 512"):
        list(scorer.score([[1] * 600], predict=False))
    scorer.close()


def test_a_checkpoint_that_transformers_would_fill_with_chance_is_refused(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "m")
    tensors = read_tensors(directory / "model.safetensors")
    whole = tensors.pop("model.layers.0.mlp.up_proj.weight")
    factors = {"up.weight": whole[:, :8].copy(), "down.weight": whole[:8].copy()}
    tensors |= {f"model.layers.0.mlp.up_proj.{name}": values for name, values in factors.items()}
    write_tensors(directory / "model.safetensors", tensors)
    with pytest.raises(UnsupportedModelError, match=r"no weights for .*up_proj.*--through engine"):
        TransformersScorer(open_model(str(directory)))


def test_without_transformers_the_extra_is_named(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "t.txt").write_text("some text")
    with pytest.raises(ConfigError, match=r"pip install 'vivace\[compress\]'"):
        evaluate(str(first), tmp_path / "t.txt", config=BOTH)
    assert evaluate(str(first), tmp_path / "t.txt", config=EvaluationConfig(threads=1))["through"]


def test_the_command_prints_figures_and_writes_json(first: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "d.jsonl", talk("hi", "hello there"), talk("and?", "no"))
    options = ["eval", str(first), "--data", str(data), "--against", str(first), "--threads", "1", "--max-tokens", "4"]
    shown = CliRunner().invoke(main, options)
    assert shown.exit_code == 0, shown.output
    assert "perplexity of all tokens" in shown.stdout
    assert "paired" in shown.stdout
    document = json.loads(CliRunner().invoke(main, [*options, "--json"]).stdout)
    assert document["through"]["engine int8 against none"]["perplexity"]["change_interval"]


def test_the_command_refuses_in_one_line(first: Path, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"prompt": "x"}')
    result = CliRunner().invoke(main, ["eval", str(first), "--data", str(tmp_path / "d.jsonl")])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
