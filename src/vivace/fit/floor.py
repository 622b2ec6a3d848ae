"""The least time that physics allows, and which limit stands in the way.

A decoding step reads every weight and the cache of every stream, and a prompt multiplies with every weight: bytes over
the bandwidth, and operations over the best rate of the kernels' inner loop, both measured here. No search can pass
below. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vivace.fit.measure import Limits
from vivace.fit.objective import LOSS, MEMORY, Constraint, Objective, format_value
from vivace.fit.predict import Demand
from vivace.models.config import ModelConfig
from vivace.speed import count_prompt_operations


@dataclass(frozen=True, slots=True)
class Floor:
    """Of one variant under one workload; milliseconds and bytes."""

    step_bytes: int
    """Read by a decoding step of all streams."""
    operations: float
    """Of the workload's mean prompt."""
    read_ms: float
    """`step_bytes` over the bandwidth."""
    multiply_ms: float
    """Of a decoding step of all streams: operations over the rate."""
    tpot_ms: float
    """The larger of both."""
    ttft_ms: float
    """A mean prompt by itself."""
    total_ms: float
    """A mean answer by itself among as many streams."""
    bound: str
    """What a token's time is bound by: `bandwidth` or `arithmetic`."""

    def values(self) -> dict[str, float]:
        """By the names of limits: what no percentile of means can pass below."""
        found = {"ttft": self.ttft_ms, "tpot": self.tpot_ms, "total": self.total_ms}
        return {f"{name}_{percentile}": value for name, value in found.items() for percentile in ("p50", "p95", "p99")}


def find_floor(
    config: ModelConfig,
    layers: int,
    width: float,
    weight_bytes: int,
    kv_token_bytes: int,
    demand: Demand,
    streams: int,
    limits: Limits,
    format: str,
) -> Floor:
    """Of a variant with so many layers and bytes; `format` is the one whose rate counts."""
    context = demand.mean_prompt + demand.mean_answer / 2
    step_bytes = int(weight_bytes + streams * kv_token_bytes * context)
    read_ms = step_bytes / limits.read_gb_per_s / 1e6
    rate = limits.multiply_gops[format] * 1e9
    token = count_prompt_operations(config, 1, layers=layers, width=width)
    multiply_ms = 1e3 * streams * token / rate
    operations = count_prompt_operations(config, demand.mean_prompt, layers=layers, width=width)
    prompt_ms = max(1e3 * operations / rate, weight_bytes / limits.read_gb_per_s / 1e6)
    tpot_ms = max(read_ms, multiply_ms)
    return Floor(
        step_bytes=step_bytes,
        operations=operations,
        read_ms=read_ms,
        multiply_ms=multiply_ms,
        tpot_ms=tpot_ms,
        ttft_ms=prompt_ms,
        total_ms=prompt_ms + tpot_ms * max(0.0, demand.mean_answer - 1),
        bound="bandwidth" if read_ms >= multiply_ms else "arithmetic",
    )


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why nothing keeps the limits."""

    binding: Constraint
    """The limit that the nearest variant misses most."""
    reached: float
    """By that variant."""
    floor: float | None
    """Of that limit, where physics has one."""
    impossible: bool
    """The limit is below the floor of the smallest variant there is."""
    despite: tuple[Constraint, ...]
    """Limits that the nearest variant misses too."""

    def __str__(self) -> str:
        name = self.binding.name
        text = f"{self.binding} binds: the nearest variant reaches {format_value(name, self.reached)}"
        if self.floor is not None:
            text += f"; the floor of the smallest is {format_value(name, self.floor)}"
            text += ", so that no search can keep it" if self.impossible else ""
        if self.despite:
            text += f". Missed too: {', '.join(map(str, self.despite))}"
        return text + "."


def explain(objective: Objective, nearest: Mapping[str, float], smallest: Floor, least_bytes: int) -> Infeasible | None:
    """None if the nearest variant keeps all limits. `smallest` is the floor of the smallest variant there is, which
    holds so many bytes."""
    missed: Sequence[Constraint] = objective.find_missed(nearest)
    if not missed:
        return None
    floors = smallest.values() | {MEMORY: float(least_bytes)}
    # A limit that physics forbids is the one to name, however near another is.
    forbidden = [one for one in missed if one.name != LOSS and one.limit < floors[one.name]]
    binding = (forbidden or list(missed))[0]
    return Infeasible(
        binding,
        nearest.get(binding.name, float("nan")),
        floors.get(binding.name),
        bool(forbidden),
        tuple(one for one in missed if one is not binding),
    )
