"""Precision and depth by a knapsack: the least loss that fits into a time.

Each part of each layer that stays is given one of its formats. What a format costs in time is measured, and so is what
it costs in loss; both add up, which is true of time and nearly true of small losses. The best choice under a limit is
then the multiple-choice knapsack, solved here by dynamic programming over time in `BINS` steps.

Knows arrays of costs, and what they are of; it measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.fit.space import MLP_PARTS, PARTS, Candidate, Format, Part, Structure

BINS = 1000


@dataclass(frozen=True)
class Losses:
    """What choices cost, each alone: the mean divergence of the next token from the original's, nats a token.

    Losses of single choices are taken to add up, and the rise of perplexity to be exp of their sum, times how much of a
    divergence shows on text that the model did not write itself (`scale`: learned from what was realised).
    """

    parts: Mapping[str, Mapping[Format, float]]
    """By `layer.part`, of integers; floats cost nothing."""
    tables: Mapping[Format, float]
    drops: Sequence[int] = ()
    """Layers in the order in which they are best left out."""
    depth: Sequence[float] = (0.0,)
    """Of leaving out so many of them together."""
    width: Mapping[float, float] = field(default_factory=lambda: {1.0: 0.0})
    rank: Mapping[float, float] = field(default_factory=lambda: {0.0: 0.0})
    scale: float = 1.0
    offset: float = 0.0
    """Of the original itself against the model that all are compared with, nats a token."""
    measured: bool = True
    """False: nothing was looked at, and these are shares of weights by how coarse a format is."""

    def part(self, layer: int, part: str, format: Format) -> float:
        return self.parts[f"{layer}.{part}"].get(format, 0.0)

    def structure(self, structure: Structure) -> float:
        """Of what is left out, before any format."""
        lost = self.depth[len(structure.dropped)]
        return lost + self.width.get(structure.width, math.inf) + self.rank.get(structure.rank, math.inf)

    def sum(self, candidate: Candidate) -> float:
        """Nats a token, before `scale`."""
        kept = keep_layers(len(candidate.formats) + len(candidate.structure.dropped), candidate.structure.dropped)
        lost = self.structure(candidate.structure) + self.tables.get(candidate.tables, 0.0)
        for layer, row in zip(kept, candidate.formats, strict=True):
            lost += sum(self.part(layer, part, format) for part, format in zip(PARTS, row, strict=True))
        return lost

    def predict(self, candidate: Candidate) -> float:
        """The rise of perplexity, as a share."""
        return math.expm1(min(self.offset + self.scale * self.sum(candidate), 50.0))

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; keys are text there."""
        found = asdict(self)
        return found | {name: {str(key): value for key, value in found[name].items()} for name in ("width", "rank")}


def read_losses(values: Mapping[str, Any]) -> Losses:
    """The inverse of `Losses.as_dict`."""
    keyed = {name: {float(key): value for key, value in values[name].items()} for name in ("width", "rank")}
    return Losses(**{**values, **keyed})


def keep_layers(layers: int, dropped: Sequence[int]) -> list[int]:
    """The numbers of those that stay."""
    return [layer for layer in range(layers) if layer not in dropped]


@dataclass(frozen=True, slots=True)
class Choice:
    """One place of the knapsack."""

    formats: tuple[Format, ...]
    ms: tuple[float, ...]
    losses: tuple[float, ...]


def allocate(choices: Sequence[Choice], limit_ms: float) -> tuple[Format, ...] | None:
    """The formats of least loss whose times together are within the limit; None where even the fastest are not.

    Exact up to the width of a bin, in which each time is rounded up.
    """
    least = [min(choice.ms) for choice in choices]
    spare = limit_ms - sum(least)
    if spare < -1e-9:
        return None
    widest = sum(max(choice.ms) for choice in choices) - sum(least)
    spare = min(spare, widest)
    if spare <= 1e-9:
        return tuple(_take_fastest(choice) for choice in choices)
    unit = spare / BINS
    best = np.zeros(BINS + 1)
    taken: list[NDArray[np.int64]] = []
    for choice, low in zip(choices, least, strict=True):
        options = np.full((len(choice.formats), BINS + 1), np.inf)
        for index, (ms, loss) in enumerate(zip(choice.ms, choice.losses, strict=True)):
            bins = math.ceil((ms - low) / unit - 1e-9)
            if bins <= BINS:
                options[index, bins:] = best[: BINS + 1 - bins] + loss
        taken.append(options.argmin(0))
        best = options.min(0)
    place, chosen = BINS, list[Format]()
    for choice, low, row in zip(reversed(choices), reversed(least), reversed(taken), strict=True):
        index = int(row[place])
        chosen.append(choice.formats[index])
        place -= math.ceil((choice.ms[index] - low) / unit - 1e-9)
    return tuple(reversed(chosen))


def _take_fastest(choice: Choice) -> Format:
    """Of equals, the one that loses least."""
    return min(zip(choice.ms, choice.losses, choice.formats, strict=True))[2]


def span(choices: Sequence[Choice]) -> tuple[float, float]:
    """The times of the fastest, and of the least loss."""
    slow = sum(
        choice.ms[min(range(len(choice.ms)), key=lambda i: (choice.losses[i], choice.ms[i]))] for choice in choices
    )
    return sum(min(choice.ms) for choice in choices), slow


def list_choices(
    structure: Structure,
    layers: int,
    formats: Sequence[Format],
    part_ms: Mapping[tuple[Part, Format], float],
    losses: Losses,
    width: float,
) -> list[Choice]:
    """The knapsack's places, part by part of each layer that stays; factored MLPs, which have one format, are left out.
    `width` is the share of MLP units that stays."""
    kept = keep_layers(layers, structure.dropped)
    alone = [part for part in PARTS if not (structure.rank and part in MLP_PARTS)]
    scale = {part: width if part in MLP_PARTS else 1.0 for part in PARTS}
    return [
        Choice(
            tuple(formats),
            tuple(scale[part] * part_ms[part, one] for one in formats),
            tuple(losses.part(layer, part, one) for one in formats),
        )
        for layer in kept
        for part in alone
    ]


def spread(chosen: Sequence[Format], structure: Structure, layers: int, mlp: Format) -> tuple[tuple[Format, ...], ...]:
    """The chosen formats as rows of a candidate; `mlp` is that of factored MLPs."""
    count = layers - len(structure.dropped)
    if not structure.rank:
        each = len(PARTS)
        return tuple(tuple(chosen[at : at + each]) for at in range(0, count * each, each))
    return tuple((*chosen[at : at + 2], mlp, mlp) for at in range(0, count * 2, 2))
