"""A machine whose costs are known: builds take what a table says, variants what the same table says times a secret
factor, so that a search can be held to the best there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivace.budget import Budget
from vivace.fit.allocate import Losses
from vivace.fit.data import Texts
from vivace.fit.measure import Build, Limits, StepShape, Timing
from vivace.fit.objective import LOSS, MEMORY
from vivace.fit.parts import Parts
from vivace.fit.realise import Measured, Realised
from vivace.fit.space import PARTS, Candidate, Format, Space
from vivace.fit.state import State

PART_MS: Mapping[Format, float] = {"f32": 0.40, "bf16": 0.20, "int8": 0.10, "int4": 0.06}
"""Of a part of a layer in a step of one token."""
PART_BYTES: Mapping[Format, int] = {"f32": 4000, "bf16": 2000, "int8": 1000, "int4": 600}
LAYER_MS = 0.05
TABLE_MS: Mapping[Format, float] = {"f32": 0.8, "bf16": 0.4, "int8": 0.2, "int4": 0.12}
TABLE_BYTES: Mapping[Format, int] = {"f32": 40_000, "bf16": 20_000, "int8": 10_000, "int4": 6_000}


def pass_ms(formats: Sequence[Sequence[Format]], tables: Format, shape: StepShape) -> float:
    """What a step takes: in proportion to the square root of its tokens."""
    layers = sum(LAYER_MS + sum(PART_MS[one] for one in row) for row in formats)
    return (layers + TABLE_MS[tables]) * math.sqrt(shape.all_tokens) * (1 + shape.context / 10_000)


def count_bytes(formats: Sequence[Sequence[Format]], tables: Format) -> int:
    return sum(PART_BYTES[one] for row in formats for one in row) + TABLE_BYTES[tables]


@dataclass
class KnownMachine:
    """Implements `Measurer`."""

    timed: list[Build] = field(default_factory=list)
    lookup_gain: float = 0.9

    def time_build(self, build: Build, shapes: Sequence[StepShape]) -> Timing:
        self.timed.append(build)
        rows = [build.formats] * build.layers
        share = build.rank or build.width
        size = count_bytes(rows, build.tables)
        narrow = sum(PART_MS[one] for one in build.formats[2:]) * build.layers * (1 - share)
        ms = [
            pass_ms(rows, build.tables, shape) - narrow * math.sqrt(shape.all_tokens) * (1 + shape.context / 10_000)
            for shape in shapes
        ]
        return Timing(tuple(one * (3 - build.threads) for one in ms), size, size)

    def find_limits(self, read_bytes: int) -> Limits:
        return Limits("none", 2, 10.0, read_bytes, dict.fromkeys(("f32", "bf16", "int8", "int4"), 100.0))

    def find_lookup_gain(self, requests: Sequence[tuple[Sequence[int], int]], concurrency: int) -> float:
        return self.lookup_gain


def known_losses(space: Space) -> Losses:
    """int4 costs more in later layers, and most in `mlp_out`."""
    parts: dict[str, dict[Format, float]] = {
        f"{layer}.{part}": {"int8": 0.0001, "int4": 0.002 * (1 + layer) * (3 if part == "mlp_out" else 1)}
        for layer in range(space.layers)
        for part in PARTS
    }
    tables: dict[Format, float] = {"f32": 0.0, "bf16": 0.0, "int8": 0.0005, "int4": 0.02}
    return Losses(parts, tables, (1,), (0.0, 0.3), {1.0: 0.0}, {0.0: 0.0})


@dataclass
class KnownRealiser:
    """Implements `Realiser`: what is measured is what was foretold, times a factor, and the known loss."""

    factor: float = 1.25
    made: list[Candidate] = field(default_factory=list)
    before: Callable[[Candidate], None] = lambda candidate: None
    again: list[float] = field(default_factory=list)
    """What is measured when one is confirmed, over what was measured before."""
    confirmed: list[Candidate] = field(default_factory=list)

    def measure_baseline(self) -> Measured:
        values = {
            f"{name}_{percentile}": 10.0 for name in ("ttft", "tpot", "total") for percentile in ("p50", "p95", "p99")
        }
        return Measured(values | {MEMORY: 30e6}, {}, 100, ((16, 4),) * 20)

    def find_offset(self, model: str) -> float:
        return 0.0

    def confirm(self, one: Realised, budget: Budget) -> tuple[dict[str, float], dict[str, Any]]:
        self.confirmed.append(one.candidate)
        again = self.again.pop(0) if self.again else 1.0
        return {name: value * again for name, value in one.values.items()}, {"of": one.candidate.describe()}

    def realise(self, candidate: Candidate, raw: Mapping[str, float], expected: Mapping[str, float]) -> Realised:
        self.before(candidate)
        self.made.append(candidate)
        values = {name: value * self.factor for name, value in raw.items() if name not in (LOSS, MEMORY)}
        values |= {MEMORY: raw[MEMORY], LOSS: raw[LOSS]}
        return Realised(
            candidate=candidate,
            place="nowhere",
            recipe="int4",
            raw=dict(raw),
            expected=dict(expected),
            values=values,
            intervals={LOSS: (raw[LOSS], raw[LOSS])},
            baseline={"tpot_p50": 10.0},
            verdict="better",
        )


def known_parts(machine: KnownMachine, realiser: KnownRealiser) -> Parts:
    def find_losses(
        name: str, space: Space, calibration: Path, limit_s: float, progress: Callable[[float], None]
    ) -> Losses:
        return known_losses(space)

    def make_realiser(shapes: Sequence[StepShape], texts: Mapping[str, Texts] | None, state: State) -> KnownRealiser:
        return realiser

    return Parts(lambda name: machine, find_losses, make_realiser)
