"""Trains on what the assistant says. Needs torch; the settings stand in `finetune.py`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vivace.compress.finetune import Finetune
from vivace.compress.step import Report, Work
from vivace.compress.teaching import train_all
from vivace.compress.training import Padded, find_cross_entropy, read_examples, train
from vivace.compress.variant import Variant, find_linears


def finetune(variant: Variant, work: Work, step: Finetune) -> Report:
    examples = read_examples(variant.source, work, step.length)
    model = variant.model if step.method == "full" else _add_lora(variant, work, step)

    def find_loss(batch: Padded) -> Any:
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        return find_cross_entropy(logits, batch)

    if step.method == "full":
        return train_all(variant, find_loss, examples, step, work) | {"method": step.method}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    report = train(parameters, find_loss, examples, step.schedule, work.seed, work.progress)
    with _hush():
        variant.model = model.merge_and_unload().eval().requires_grad_(False)
    return report | {"method": step.method, "rank": step.rank}


def _add_lora(variant: Variant, work: Work, step: Finetune) -> Any:
    from vivace.evaluation.through_transformers import import_or_explain

    peft = import_or_explain("peft")
    torch.manual_seed(work.seed)
    names = sorted({name.rpartition(".")[2] for layer in variant.layers for name, _ in find_linears(layer)})
    config = peft.LoraConfig(r=step.rank, lora_alpha=2 * step.rank, target_modules=names, lora_dropout=0.0, bias="none")
    with _hush():
        return peft.get_peft_model(variant.model, config)


@contextmanager
def _hush() -> Iterator[None]:
    """Without peft's use of names that transformers is about to drop, which is nothing to our callers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
