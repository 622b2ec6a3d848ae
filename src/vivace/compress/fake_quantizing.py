"""Trains weights through their rounding. Needs torch; the settings stand in `qat.py`.

Straight-through gradients (Bengio et al., 2013): forwards a linear has the weights that `int4(method=rtn)` or `int8`
would give it, backwards rounding counts as the identity. Scales follow the weights at every step. Activations are not
rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils import parametrize

from vivace.compress.qat import Qat
from vivace.compress.rounding import Format, round_nearest
from vivace.compress.step import Report, Work
from vivace.compress.training import Padded, find_logit_divergence, load_teacher, read_examples, train
from vivace.compress.variant import Variant, find_linears


class Rounded(torch.nn.Module):  # type: ignore[misc]
    """A weight as its integers would have it, maybe with a low-rank change before."""

    def __init__(self, format: Format, shape: Any, rank: int) -> None:
        super().__init__()
        self._format = format
        self.left = torch.nn.Parameter(torch.zeros(shape[0], rank)) if rank else None
        self.right = torch.nn.Parameter(torch.randn(rank, shape[1]) * shape[1] ** -0.5) if rank else None

    def forward(self, weight: Any) -> Any:
        whole = self.change(weight)
        with torch.no_grad():
            off = round_nearest(whole, self._format).to_floats() - whole
        return whole + off

    def change(self, weight: Any) -> Any:
        return weight if self.left is None or self.right is None else weight + self.left @ self.right


def train_rounded(variant: Variant, work: Work, step: Qat) -> Report:
    teacher = load_teacher(work)
    examples = read_examples(variant.source, work, step.length)
    torch.manual_seed(work.seed)
    format = Format(step.bits, step.group_size if step.bits == 4 else 0, variant.dtype)
    linears = [linear for layer in variant.layers for _, linear in find_linears(layer)]
    for linear in linears:
        rank = step.rank if step.method == "lora" else 0
        parametrize.register_parametrization(linear, "weight", Rounded(format, linear.weight.shape, rank), unsafe=True)
    parts = [linear.parametrizations.weight for linear in linears]
    parameters = (
        [part.original for part in parts]
        if step.method == "full"
        else [p for part in parts for p in part[0].parameters()]
    )
    for parameter in parameters:
        parameter.requires_grad_(True)

    def find_loss(batch: Padded) -> Any:
        with torch.no_grad():
            right = teacher(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        made = variant.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        return find_logit_divergence(made, right, batch, 1.0)

    try:
        report = train(parameters, find_loss, examples, step.schedule, work.seed, work.progress)
    finally:
        for linear, part in zip(linears, parts, strict=True):
            with torch.no_grad():
                whole = part[0].change(part.original).detach().clone()
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=False)
            linear.weight = torch.nn.Parameter(whole, requires_grad=False)
    follow = "int8" if step.bits == 8 else f"int4(group_size={step.group_size}, method=rtn)"
    return report | {
        "bits": step.bits,
        "method": step.method,
        "next": f"{follow} makes the integers that were trained for.",
    }
