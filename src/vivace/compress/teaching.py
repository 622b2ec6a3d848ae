"""Distils the original into what a recipe has made of it. Needs torch; the settings stand in `distill.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from vivace.compress.distill import Distill, Draft
from vivace.compress.step import Report, Work
from vivace.compress.training import (
    Examples,
    Padded,
    find_cross_entropy,
    find_logit_divergence,
    load_teacher,
    read_examples,
    train,
)
from vivace.compress.variant import Variant, find_decoder
from vivace.errors import RecipeError
from vivace.evaluation.tasks import Passage
from vivace.models.config import read_generation_defaults

MOST_SEQUENCES = 2000
"""Answers that the original writes for `on=sequences`."""


def distill(variant: Variant, work: Work, step: Distill) -> Report:
    teacher = load_teacher(work)
    examples = read_examples(variant.source, work, step.length)
    if step.on == "sequences":
        examples = _write_answers(teacher, variant, examples)
        find_loss: Callable[[Padded], Any] = lambda batch: find_cross_entropy(_run(variant.model, batch).logits, batch)  # noqa: E731
    else:
        find_loss = _teach(teacher, variant.model, step)
    return train_all(variant, find_loss, examples, step, work) | {"on": step.on}


def train_all(
    variant: Variant, find_loss: Callable[[Padded], Any], examples: Examples, step: Any, work: Work
) -> Report:
    """Train every weight; afterwards none asks for gradients."""
    torch.manual_seed(work.seed)
    parameters = list(variant.model.parameters())
    variant.model.requires_grad_(True)
    try:
        return train(parameters, find_loss, examples, step.schedule, work.seed, work.progress)
    finally:
        variant.model.requires_grad_(False)
        variant.model.zero_grad(set_to_none=True)


def _run(model: Any, batch: Padded, *, hidden: bool = False) -> Any:
    return model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, output_hidden_states=hidden)


def _teach(teacher: Any, student: Any, step: Distill) -> Callable[[Padded], Any]:
    hidden = step.on == "hidden"
    if hidden and teacher.config.hidden_size != student.config.hidden_size:
        raise RecipeError("distill: on=hidden needs a model of the original's width. Use on=logits.")

    def find_loss(batch: Padded) -> Any:
        with torch.no_grad():
            right = _run(teacher, batch, hidden=hidden)
        made = _run(student, batch, hidden=hidden)
        loss = find_logit_divergence(made.logits, right.logits, batch, step.temperature)
        if hidden:
            kept = batch.mask.bool()
            ours, theirs = made.hidden_states[-1][kept], right.hidden_states[-1][kept]
            loss = loss + (ours - theirs).square().mean() / theirs.square().mean().clamp(min=1e-12)
        return loss

    return find_loss


def _write_answers(teacher: Any, variant: Variant, examples: Examples) -> Examples:
    """The same prompts, with the original's greedy answers in place of the first ones said in the data."""
    stops = list(read_generation_defaults(variant.source).stop_token_ids)
    settings = GenerationConfig(do_sample=False, max_new_tokens=64, eos_token_id=stops or None, pad_token_id=0)

    def rewrite(passages: Sequence[Passage]) -> list[Passage]:
        made = []
        for passage in passages[:MOST_SEQUENCES]:
            begin = max(1, passage.said.index(True))
            with torch.no_grad():
                ids = torch.tensor([passage.tokens[:begin]])
                tokens = teacher.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0]
            said = (False,) * begin + (True,) * (len(tokens) - begin)
            made.append(Passage(passage.document, tuple(tokens.tolist()), said))
        return made

    return Examples(rewrite(examples.train), rewrite(examples.held_out))


def begin_draft(variant: Variant, work: Work, step: Draft) -> Report:
    """A model of chance with the sizes asked for; its embedding is the original's, projected on the directions of most
    variance."""
    torch.manual_seed(work.seed)
    values = variant.model.config.to_dict() | {
        "num_hidden_layers": step.layers,
        "hidden_size": step.hidden_size,
        "num_attention_heads": step.heads,
        "num_key_value_heads": step.kv_heads,
        "head_dim": step.hidden_size // step.heads,
        "intermediate_size": step.intermediate_size,
    }
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][: step.layers]
    before = variant.count_parameters()
    embedding = find_decoder(variant.model).embed_tokens.weight
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    variant.model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    variant.changes.clear()
    width = min(step.hidden_size, embedding.shape[1])
    _, _, directions = torch.linalg.svd(embedding - embedding.mean(0), full_matrices=False)
    with torch.no_grad():
        find_decoder(variant.model).embed_tokens.weight[:, :width] = embedding @ directions[:width].T
    return {"parameters_before": before, "parameters": variant.count_parameters()}
