"""A model measured as Hugging Face transformers computes it, in f32: whole distributions, on any checkpoint it loads.

One sequence at a time where distributions are wanted, so that nothing is padded. Tokens, templates and what ends a
reply are this package's own, so that both ways are asked the same.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vivace.errors import ConfigError, ContextLengthError, UnsupportedModelError
from vivace.evaluation.measures import Floats, Prediction
from vivace.evaluation.scorer import Reply, Scores
from vivace.evaluation.tasks import Choices, Prompt, encode_prompt
from vivace.models.model import Model

BATCH = 16
"""Prompts or labels computed together."""


def import_or_explain(name: str) -> Any:
    """Raises `ConfigError` where the optional part is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"This needs {name} ({error}). Install it: pip install 'vivace[compress]'.") from error


class TransformersScorer:
    """Implements `vivace.evaluation.scorer.Scorer`."""

    def __init__(self, model: Model) -> None:
        """Raises `ConfigError` without transformers, `UnsupportedModelError` for what it cannot load whole."""
        self._torch = import_or_explain("torch")
        self._model, self._opened = load_with_transformers(model), model

    def score(self, sequences: Sequence[Sequence[int]], *, predict: bool) -> Iterator[Scores]:
        torch = self._torch
        for sequence in sequences:
            ids = torch.tensor([list(sequence)])
            self._check_length(ids.shape[1])
            with torch.no_grad():
                logs = self._model(ids[:, :-1]).logits[0].float().log_softmax(-1)
            chosen = logs.gather(-1, ids[0, 1:, None])[:, 0].double().numpy()
            yield Scores(chosen, Prediction(None, logs.double().numpy()) if predict else None)

    def choose(self, choices: Choices) -> Iterator[Floats]:
        for asked in choices.asked:
            groups = [choices.replies[at : at + BATCH] for at in range(0, len(choices.replies), BATCH)]
            yield np.concatenate([self._choose(asked.prompt, group) for group in groups])

    def _choose(self, prompt: Sequence[int], replies: Sequence[Sequence[int]]) -> Floats:
        torch = self._torch
        length = len(prompt) + max(len(reply) for reply in replies)
        self._check_length(length)
        rows = [[*prompt, *reply] for reply in replies]
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        with torch.no_grad():
            logits = self._model(ids, attention_mask=mask).logits[:, len(prompt) - 1 : -1]
        logs = logits.float().log_softmax(-1).gather(-1, ids[:, len(prompt) :, None])[..., 0]
        return np.asarray((logs * mask[:, len(prompt) :]).sum(1).double().numpy())

    def reply(self, prompts: Sequence[Prompt], max_tokens: int, stop: tuple[str, ...] = ()) -> list[Reply]:
        replies: list[Reply] = []
        for at in range(0, len(prompts), BATCH):
            encoded = [encode_prompt(prompt, self._opened.tokenizer) for prompt in prompts[at : at + BATCH]]
            self._check_length(max(map(len, encoded)) + max_tokens)
            replies += [self._finish(tokens, stop) for tokens in self._generate(encoded, max_tokens)]
        return replies

    def _generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        torch, stops = self._torch, list(self._opened.generation.stop_token_ids)
        length = max(map(len, prompts))
        ids = torch.tensor([[0] * (length - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        settings = import_or_explain("transformers").GenerationConfig(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=stops or None,
            pad_token_id=stops[0] if stops else 0,
            repetition_penalty=self._opened.generation.repetition_penalty,
        )
        with torch.no_grad():
            made = self._model.generate(ids, attention_mask=mask, generation_config=settings)
        return [row[length:].tolist() for row in made]

    def _finish(self, tokens: Sequence[int], stop: tuple[str, ...]) -> Reply:
        stops = set(self._opened.generation.stop_token_ids)
        end = next((at for at, token in enumerate(tokens) if token in stops), None)
        kept = tuple(tokens[:end])
        text = self._opened.tokenizer.decode(kept)
        cuts = [text.index(ending) for ending in stop if ending in text]
        return Reply(text[: min(cuts)] if cuts else text, kept, end is not None or bool(cuts))

    def _check_length(self, length: int) -> None:
        context = self._opened.config.context_length
        if length > context:
            raise ContextLengthError(
                f"A text and its answer have {length} tokens; this model's context holds {context}. Give a smaller "
                "--length, or leave long records out."
            )

    def close(self) -> None:
        del self._model


def load_with_transformers(model: Model) -> Any:
    """A causal language model in f32 on the CPU, for evaluation. Raises `UnsupportedModelError` for a checkpoint that
    transformers would fill with chance where it finds no weight, as it does for factored layers."""
    transformers = import_or_explain("transformers")
    torch = import_or_explain("torch")
    directory: Path = model.directory
    if model.tensors is not None:
        raise UnsupportedModelError(f"{model.name} is a GGUF file, which is measured through the engine alone.")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its own bar and its report of the keys, which are told below
            loaded, found = transformers.AutoModelForCausalLM.from_pretrained(
                directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise UnsupportedModelError(
            f"transformers cannot load {model.name} ({str(error)[:200]}). Measure it through the engine."
        ) from error
    if missing := sorted(found["missing_keys"]) + sorted(str(key) for key in found.get("mismatched_keys", ())):
        raise UnsupportedModelError(
            f"transformers finds no weights for {missing[0]} and {len(missing) - 1} more in {model.name}: such layers "
            "run in this engine alone. Measure it with --through engine."
        )
    return loaded.eval()
