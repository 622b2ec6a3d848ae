"""`vivace eval`: a model's figures on data, and their change against another model's, with intervals.

Which figures there are follows from what the data are:

- text: perplexity;
- conversations: perplexity, the assistant's perplexity and Q = 1/N sum log p(y|x), and how replies to the first turns
  end and repeat themselves;
- questions that have an answer: exact match and F1 of greedy answers, log-probability of the first right one;
- intents: how often the right label is the likeliest.

Beside a base model, text and conversations also give KL and top-1 agreement. Quality is measured greedily and over a
seeded sample; it says nothing of what people would think of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vivace.errors import ConfigError
from vivace.evaluation.data import Conversation, Data, Intent, Question, read_data
from vivace.evaluation.measures import (
    Figure,
    Tally,
    count_repeats,
    find_best_f1,
    find_divergence,
    find_exact,
    find_figure,
    tally,
)
from vivace.evaluation.scorer import Reply, Scorer, Scores
from vivace.evaluation.tasks import (
    LONGEST_ANSWER,
    LONGEST_REPLY,
    Choices,
    Passage,
    Prompt,
    check_chat,
    cut_text,
    list_labels,
    mark_conversations,
    write_answers,
    write_choices,
    write_opening,
    write_question,
)
from vivace.evaluation.through_engine import LIKELIEST, EngineScorer
from vivace.evaluation.through_transformers import TransformersScorer, import_or_explain
from vivace.models.model import Model, open_model
from vivace.runners.native import QUANTIZE

Through = Literal["engine", "transformers", "both"]
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How to measure. Raises `ConfigError` for values that cannot be."""

    through: Through = "engine"
    quantize: str = "int8"
    """The engine's format for the model; integers that a checkpoint holds stay as they are."""
    against_quantize: str = "none"
    """The engine's format for the base: exact, unless said."""
    length: int = 512
    """Tokens of a window of text, and of a conversation that count."""
    limit: int = 200
    """Records drawn from the data, or windows of text; 0 takes all."""
    max_tokens: int = LONGEST_REPLY
    """Of a reply that is looked at for its end."""
    seed: int = 0
    threads: int = 0
    divergence: bool = True
    """Beside a base, KL and agreement too: the part that takes longest."""

    def __post_init__(self) -> None:
        if self.through not in ("engine", "transformers", "both"):
            raise ConfigError(f"through is {self.through!r}; it must be engine, transformers or both.")
        for name in ("quantize", "against_quantize"):
            if getattr(self, name) not in QUANTIZE:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(QUANTIZE)}.")
        for name, low in (("length", 16), ("limit", 0), ("max_tokens", 1), ("threads", 0)):
            if not low <= getattr(self, name) <= 2**24:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be {low} to {2**24}.")


@dataclass(frozen=True, slots=True)
class Work:
    """Data as tokens and prompts of one model's tokenizer."""

    passages: Sequence[Passage] = ()
    openings: Sequence[Prompt] = ()
    questions: Sequence[Question] = ()
    asked: Sequence[Prompt] = ()
    right: Sequence[Passage] = ()
    """Each question with its first answer, as the assistant would give it."""
    choices: Choices | None = None
    stop: tuple[str, ...] = ()
    """Strings that end an answer of a model without chat template."""


def evaluate(
    name: str,
    file: Path,
    against: str | None = None,
    config: EvaluationConfig | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The figures of a model, as the document that `--json` prints.

    Raises `DataError`, a `ModelError`, or `ConfigError`.
    """
    config = config or EvaluationConfig()
    model, base = open_model(name), None if against is None else open_model(against)
    if base is not None and not base.tokenizer.is_same(model.tokenizer):
        raise ConfigError(
            f"{base.name} and {model.name} have different tokenizers, so their figures cannot be paired. Evaluate each "
            "by itself."
        )
    data = read_data(file)
    work = prepare(data.sample(config.limit, config.seed), data, model, config)
    ways = ("engine", "transformers") if config.through == "both" else (config.through,)
    if "transformers" in ways:
        import_or_explain("torch"), import_or_explain("transformers")
    found = {}
    for index, way in enumerate(ways):
        tell = _share(progress, index, len(ways))
        found[_name_way(way, config, base)] = _measure_way(way, model, base, name, against, work, config, tell)
    return {
        "model": model.name,
        "against": None if base is None else base.name,
        "data": _describe_data(data, work),
        "settings": asdict(config),
        "kl_is": f"exact through transformers; through the engine of the {LIKELIEST} likeliest tokens and one lump",
        "through": {
            way: {figure: asdict(value) for figure, value in figures.items()} for way, figures in found.items()
        },
    }


def prepare(sampled: Data, data: Data, model: Model, config: EvaluationConfig) -> Work:
    """Raises `DataError`, or `RequestError` where conversations have no template."""
    tokenizer = model.tokenizer
    length = min(config.length, model.config.context_length - 1)
    if data.kind == "text":
        return Work(cut_text(data.text, tokenizer, length, config.limit))
    stop = () if tokenizer.has_chat_template else ("\n",)
    if data.kind == "conversations":
        check_chat(tokenizer)
        talks = [record for record in sampled.records if isinstance(record, Conversation)]
        passages = mark_conversations(talks, tokenizer, model.generation.stop_token_ids, length)
        return Work(passages, [write_opening(talk, tokenizer) for talk in talks])
    if data.kind == "questions":
        questions = [record for record in sampled.records if isinstance(record, Question) and record.answers]
        asked = [write_question(question, tokenizer) for question in questions]
        right = write_answers(questions, asked, tokenizer)
        return Work(questions=questions, asked=asked, right=right, stop=stop)
    intents = [record for record in sampled.records if isinstance(record, Intent)]
    return Work(choices=write_choices(intents, list_labels(data), tokenizer))


def _describe_data(data: Data, work: Work) -> dict[str, Any]:
    found = {
        "file": data.name,
        "sha256": data.digest,
        "kind": data.kind,
        "records": len(data.records),
        "passages": len(work.passages),
        "tokens": sum(len(passage.tokens) - 1 for passage in work.passages),
        "assistant_tokens": sum(sum(passage.said[1:]) for passage in work.passages),
        "questions": len(work.questions),
        "intents": len(work.choices.asked) if work.choices else 0,
        "labels": len(work.choices.labels) if work.choices else 0,
    }
    if data.kind == "questions":
        found["unanswerable_left_out"] = sum(
            isinstance(record, Question) and not record.answers for record in data.records
        )
    return {name: value for name, value in found.items() if value or name == "records"}


def _name_way(way: str, config: EvaluationConfig, base: Model | None) -> str:
    if way == "transformers":
        return "transformers f32"
    return f"engine {config.quantize}" + (f" against {config.against_quantize}" if base else "")


def _share(progress: Progress | None, index: int, count: int) -> Progress:
    return lambda share: progress((index + share) / count) if progress else None


def _open_scorer(way: str, model: Model, name: str, quantize: str, threads: int) -> Scorer:
    return EngineScorer(name, quantize, threads) if way == "engine" else TransformersScorer(model)


def _measure_way(
    way: str,
    model: Model,
    base: Model | None,
    name: str,
    against: str | None,
    work: Work,
    config: EvaluationConfig,
    progress: Progress,
) -> dict[str, Figure]:
    with ExitStack() as stack:
        ours = _open_scorer(way, model, name, config.quantize, config.threads)
        stack.callback(ours.close)
        theirs: Scorer | None = None
        if base is not None and against is not None:
            theirs = _open_scorer(way, base, against, config.against_quantize, config.threads)
            stack.callback(theirs.close)
        return measure(ours, theirs, work, config.max_tokens, progress, divergence=config.divergence)


def measure(
    ours: Scorer,
    base: Scorer | None,
    work: Work,
    max_tokens: int = LONGEST_REPLY,
    progress: Progress = lambda share: None,
    *,
    divergence: bool = True,
) -> dict[str, Figure]:
    """All figures of some work, by name."""
    predict = divergence and base is not None
    tallies, base_tallies = _score_passages(ours, base, work.passages, predict, lambda share: progress(0.7 * share))
    for scorer, into in ((ours, tallies), (base, base_tallies)):
        if scorer is not None:
            into |= _ask(scorer, work, max_tokens)
    progress(1.0)
    return {name: find_figure(name, tallies[name], base_tallies.get(name)) for name in tallies}


def _score_passages(
    ours: Scorer, base: Scorer | None, passages: Sequence[Passage], predict: bool, progress: Progress
) -> tuple[dict[str, Tally], dict[str, Tally]]:
    if not passages:
        return {}, {}
    sequences = [passage.tokens for passage in passages]
    theirs: Iterator[Scores | None] = base.score(sequences, predict=predict) if base else iter([None] * len(passages))
    scores, base_scores, divergences, agreements = [], [], [], []
    for mine, other in zip(ours.score(sequences, predict=predict), theirs, strict=True):
        scores.append(mine.log_probabilities)
        if other is not None:
            base_scores.append(other.log_probabilities)
        if other is not None and mine.prediction is not None and other.prediction is not None:
            divergences.append(find_divergence(other.prediction, mine.prediction))
            agreements.append(other.prediction.likeliest() == mine.prediction.likeliest())
        progress(len(scores) / len(passages))
    tallies, base_tallies = _tally_scores(passages, scores), _tally_scores(passages, base_scores)
    if divergences:
        tallies |= {"kl": _gather(passages, divergences), "agreement": _gather(passages, agreements)}
    return tallies, base_tallies


def _tally_scores(passages: Sequence[Passage], scores: Sequence[Any]) -> dict[str, Tally]:
    if not scores:
        return {}
    found = {"perplexity": _gather(passages, scores)}
    said = [np.array(passage.said[1:], bool) for passage in passages]
    if any(mask.any() for mask in said):
        found["assistant_perplexity"] = found["log_probability"] = _gather(passages, scores, said)
    return found


def _gather(passages: Sequence[Passage], values: Sequence[Any], masks: Sequence[Any] | None = None) -> Tally:
    """Sums over the tokens of each document, of those in the mask if there is one."""
    sums, counts = np.zeros((2, 1 + max(passage.document for passage in passages)))
    for index, (passage, row) in enumerate(zip(passages, values, strict=True)):
        kept = row if masks is None else row[masks[index]]
        sums[passage.document] += kept.sum()
        counts[passage.document] += len(kept)
    return Tally(sums, counts)


def _ask(scorer: Scorer, work: Work, max_tokens: int) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    if work.openings:
        found |= _tally_replies(scorer.reply(work.openings, max_tokens))
    if work.asked:
        answers = scorer.reply(work.asked, LONGEST_ANSWER, work.stop)
        found |= _tally_answers(answers, work.questions)
        scores = [one.log_probabilities for one in scorer.score([p.tokens for p in work.right], predict=False)]
        said = [np.array(passage.said[1:], bool) for passage in work.right]
        found["answer_log_probability"] = _gather(work.right, scores, said)
    if work.choices is not None:
        found |= _tally_choices(scorer, work.choices)
    return found


def _tally_replies(replies: Sequence[Reply]) -> dict[str, Tally]:
    repeats = [count_repeats(reply.tokens) for reply in replies]
    return {
        "ended": tally([float(reply.ended) for reply in replies]),
        "repeats": tally([repeated for repeated, _ in repeats], [total for _, total in repeats]),
    }


def _tally_answers(answers: Sequence[Reply], questions: Sequence[Question]) -> dict[str, Tally]:
    pairs = list(zip(answers, questions, strict=True))
    return {
        "exact_match": tally([find_exact(answer.text, question.answers) for answer, question in pairs]),
        "f1": tally([find_best_f1(answer.text, question.answers) for answer, question in pairs]),
    }


def _tally_choices(scorer: Scorer, choices: Choices) -> dict[str, Tally]:
    lengths = np.array([len(reply) for reply in choices.replies])
    whole, mean = [], []
    for asked, scores in zip(choices.asked, scorer.choose(choices), strict=True):
        whole.append(float(scores.argmax() == asked.right))
        mean.append(float((scores / lengths).argmax() == asked.right))
    return {"accuracy": tally(whole), "accuracy_per_token": tally(mean)}
