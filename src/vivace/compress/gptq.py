"""GPTQ (Frantar et al., 2022, arXiv:2210.17323): inputs are rounded in turn, and those to come make up for the error.

Scales are found before, for all groups, so that any order of the inputs leaves groups where they are (act-order with
static groups); they are those of `search_scales`, by the error of the outputs. Ours, not the paper's: there is no
update of scales as weights move.
"""

from __future__ import annotations

from typing import Any

import torch

from vivace.compress.rounding import Format, Integers, search_scales

BLOCK = 128
"""Inputs between two updates of all that follow."""

MAX_DAMPING = 1.0


def round_in_turn(weight: Any, moment: Any, format: Format, *, act_order: bool, damping: float) -> Integers:
    """float32 [out, in] and E[x xᵀ] [in, in] to integers."""
    scales = search_scales(weight, format, moment=moment)
    width = weight.shape[1]
    spread = scales.repeat_interleave(format.group_size or width, dim=1)
    dead = moment.diagonal() == 0
    moment = moment + torch.diag(dead.float())
    order = torch.argsort(moment.diagonal(), descending=True, stable=True) if act_order else torch.arange(width)
    factor = _invert(moment[order][:, order], damping)
    codes = _round_columns(weight[:, order].clone(), spread[:, order], factor, format)
    result = torch.empty_like(codes)
    result[:, order] = codes
    return Integers(format, result, scales)


def _round_columns(rest: Any, scales: Any, factor: Any, format: Format) -> Any:
    """int8 codes [out, in]; `rest` is worked on in place. `factor` is the upper Cholesky factor of the inverse
    moment."""
    codes = torch.empty(rest.shape, dtype=torch.int8)
    width = rest.shape[1]
    for first in range(0, width, BLOCK):
        last = min(first + BLOCK, width)
        errors = torch.zeros(len(rest), last - first)
        for place in range(first, last):
            scale = scales[:, place]
            safe = torch.where(scale == 0, torch.ones_like(scale), scale)
            code = (rest[:, place] / safe).round().clamp(format.lowest, format.highest)
            code = torch.where(scale == 0, torch.zeros_like(code), code)
            codes[:, place] = code.to(torch.int8)
            error = (rest[:, place] - code * scale) / factor[place, place]
            rest[:, place:last] -= error[:, None] * factor[place, place:last]
            errors[:, place - first] = error
        rest[:, last:] -= errors @ factor[first:last, last:]
    return codes


def _invert(moment: Any, damping: float) -> Any:
    """The upper Cholesky factor of the inverse, with as much damping as it takes, from `damping` on."""
    mean = moment.diagonal().mean()
    while True:
        damped = moment + torch.eye(len(moment)) * (damping * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
        assert damping < MAX_DAMPING * 100, "a moment that no damping makes positive"
        damping *= 10
