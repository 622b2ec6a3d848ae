"""What a candidate would do, before it exists: from what its parts cost to percentiles of the workload, and to memory.

1. `Composition`: the time of a step, and the bytes of the weights, are sums over what a candidate is made of: tables,
   layers, what a part takes more or less than in int8, MLPs by width, factored MLPs. Coefficients come from the timed
   builds by least squares of relative errors.
2. `PassTimes`: from some step shapes to any step, by interpolation in tokens, and lines in sequences and context.
3. The simulation runs the server's own scheduler on these times under the workload: ttft, tpot, total by percentile.
4. `Correction`: measured over predicted, learned from what was realised; what it knows of one candidate is taken to
   hold for the others.

Knows no weights and no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.batch import BLOCK_SIZE
from vivace.engine.admission import AdmissionConfig
from vivace.engine.cost import CostModel, StepCost
from vivace.engine.scheduler import SchedulerConfig
from vivace.fit.measure import Build, StepShape, Timing, count_shape
from vivace.fit.objective import LATENCIES, LOSS, MEMORY
from vivace.fit.settings import EngineSettings
from vivace.fit.space import MLP_PARTS, PARTS, Candidate, Format, keep_width
from vivace.models.config import ModelConfig
from vivace.runners.native import count_kv_bytes
from vivace.simulation.machine import Machine
from vivace.simulation.simulate import Scenario, simulate
from vivace.simulation.traffic import Kind, Tokens, Traffic

Feature = tuple[str, ...]
"""Something that a step's time or a model's bytes are a multiple of."""

LEAST_SHARE = 0.5
"""Of a layer's time in int8, what is left at least of it in int4: it reads half the bytes, and multiplies as often."""
SIMULATED = 400
"""Requests."""
METRICS = {"ttft": "first_ms", "tpot": "tpot_ms", "total": "total_ms"}
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def count_features(
    formats: Sequence[Sequence[Format]], tables: Format, width: float, rank: float
) -> dict[Feature, float]:
    """Of a model with these layers; `width` is the share of MLP units that it really has."""
    found: dict[Feature, float] = {("tables", tables): 1.0, ("layer",): float(len(formats))}
    if tables == "f32":
        found[("layer", "f32 cache")] = float(len(formats))
    if width < 1:
        found[("narrow",)] = len(formats) * (1 - width)
    if rank:
        found[("factored", f"{rank:g}")] = float(len(formats))
    for row in formats:
        for part, format in zip(PARTS, row, strict=True):
            if format != "int8":
                share = (rank or width) if part in MLP_PARTS else 1.0
                found[("part", part, format)] = found.get(("part", part, format), 0.0) + share
    return found


@dataclass(frozen=True)
class Composition:
    """Coefficients by feature: milliseconds of each step shape, then bytes of weights and of a step."""

    shapes: tuple[StepShape, ...]
    coefficients: Mapping[Feature, NDArray[np.float64]]
    threads: Mapping[int, NDArray[np.float64]]
    """By number of threads: the time of each shape over that with as many as the builds had."""

    def sum(self, features: Mapping[Feature, float]) -> NDArray[np.float64]:
        """[shapes + 2]"""
        zero = np.zeros(len(self.shapes) + 2)
        return np.asarray(sum((self.coefficients[name] * count for name, count in features.items()), zero))

    def step_ms(self, features: Mapping[Feature, float], threads: int) -> NDArray[np.float64]:
        """[shapes]: of each step shape, and never nothing."""
        ms = np.maximum(self.sum(features)[:-2], 1e-4)
        return np.asarray(ms * self.threads[threads]) if threads in self.threads else ms

    def part_ms(self, part: str, format: Format) -> NDArray[np.float64]:
        """[shapes]: what one layer's part takes more than in int8."""
        if format == "int8":
            return np.zeros(len(self.shapes))
        return self.coefficients[("part", part, format)][:-2]


def compose(
    config: ModelConfig,
    shapes: Sequence[StepShape],
    timed: Sequence[tuple[Build, Timing]],
    threads: Mapping[int, Sequence[float]] | None = None,
) -> Composition:
    """Least squares over builds; `threads` are times of the first build with other numbers of threads."""
    rows = [features_of(build, config) for build, _ in timed]
    names = sorted({name for row in rows for name in row})
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    values = np.array([[*timing.ms, timing.weight_bytes, timing.step_bytes] for _, timing in timed], np.float64)
    found = np.stack([_solve(matrix, values[:, column]) for column in range(values.shape[1])], axis=1)
    coefficients = _bound(dict(zip(names, found, strict=True)), len(shapes))
    base = np.asarray(timed[0][1].ms)
    ratios = {count: np.asarray(ms) / base for count, ms in (threads or {}).items()}
    return Composition(tuple(shapes), coefficients, ratios)


def _bound(coefficients: dict[Feature, NDArray[np.float64]], shapes: int) -> dict[Feature, NDArray[np.float64]]:
    """The same with no more time saved than there is to save.

    Each part was timed with all others as they were, and what was lost in noise or in caches adds up over parts.
    """
    layer = np.maximum(coefficients[("layer",)][:shapes], 0.0)
    most = (1 - LEAST_SHARE) * layer
    bounded = {name: values.copy() for name, values in coefficients.items()}
    for format in {name[2] for name in bounded if name[0] == "part"}:
        parts = [values for name, values in bounded.items() if name[0] == "part" and name[2] == format]
        saved = -sum(values[:shapes] for values in parts)
        scale = np.where(saved > most, most / np.maximum(saved, 1e-12), 1.0)
        for values in parts:
            values[:shapes] *= scale
    for name, values in bounded.items():
        if name[0] == "tables":
            values[:shapes] = np.maximum(values[:shapes], 0.0)
        elif name[0] == "factored":
            values[:shapes] = np.maximum(values[:shapes], (float(name[1]) - 1) * layer)
    return bounded


def features_of(build: Build, config: ModelConfig) -> dict[Feature, float]:
    width = share_of_width(config, build.width)
    return count_features([build.formats] * build.layers, build.tables, width, build.rank)


def share_of_width(config: ModelConfig, width: float) -> float:
    """The share of units that really stays."""
    inner = config.layers[0].intermediate_size
    return keep_width(inner, width) / inner


def _solve(matrix: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least squares of relative errors, of the smallest coefficients where builds do not tell them apart."""
    weights = 1 / np.maximum(values, 1e-9)
    return np.asarray(np.linalg.lstsq(matrix * weights[:, None], values * weights, rcond=1e-9)[0], np.float64)


def check_composition(
    composition: Composition, config: ModelConfig, checks: Sequence[tuple[Build, Timing]]
) -> list[float]:
    """Predicted over measured of the steps of builds that nothing was learned from, less one."""
    return [
        float(predicted / measured - 1)
        for build, timing in checks
        for predicted, measured in zip(
            composition.step_ms(features_of(build, config), build.threads), timing.ms, strict=True
        )
    ]


@dataclass(frozen=True)
class PassTimes:
    """The time of any pass, from that of some shapes."""

    shapes: tuple[StepShape, ...]
    ms: tuple[float, ...]
    decode_factor: float = 1.0
    """Of passes in which every sequence goes on by itself: below 1 with speculation."""

    @cached_property
    def context_ms(self) -> float:
        """Of one earlier position: from the last two shapes, which differ in that alone."""
        near, far = (count_shape(shape)[2] for shape in self.shapes[-2:])
        return max(0.0, (self.ms[-1] - self.ms[-2]) / (far - near))

    @cached_property
    def sequence_ms(self) -> float:
        """Of one more sequence that chooses a token: what steps of several take beyond a prompt of as many tokens."""
        more = [
            (ms - self.context_ms * count_shape(shape)[2] - self._interpolate(shape.all_tokens)) / (shape.sequences - 1)
            for shape, ms in zip(self.shapes[:-1], self.ms, strict=False)
            if shape.sequences > 1
        ]
        return max(0.0, sum(more) / len(more)) if more else 0.0

    @cached_property
    def _grid(self) -> tuple[list[int], list[float]]:
        points = {
            shape.all_tokens: ms - self.context_ms * count_shape(shape)[2]
            for shape, ms in zip(self.shapes, self.ms, strict=True)
            if shape.sequences == 1
        }
        tokens = sorted(points)
        return tokens, [max(1e-4, points[count]) for count in tokens]

    def _interpolate(self, tokens: int) -> float:
        counts, times = self._grid
        after = min(max(1, bisect_right(counts, tokens)), len(counts) - 1)
        if len(counts) == 1:
            return times[0]
        low, high = counts[after - 1], counts[after]
        slope = (times[after] - times[after - 1]) / (high - low)
        if tokens > counts[-1]:
            slope = max(slope, times[-1] / counts[-1] / 2)
        return max(1e-4, times[after - 1] + slope * (tokens - low))

    def step_ms(self, tokens: int, sequences: int, context: int) -> float:
        """As the engine's own cost model is asked."""
        ms = self._interpolate(tokens) + self.sequence_ms * max(0, sequences - 1) + self.context_ms * context
        return ms * self.decode_factor if tokens == sequences else ms

    @cached_property
    def linear(self) -> StepCost:
        """What the engine's model would make of these shapes."""
        model = CostModel(StepCost(0.0, 0.0, 0.0, 0.0))
        for _ in range(16):
            for shape in self.shapes:
                counts = count_shape(shape)
                model.observe(*counts, self.step_ms(*counts))
        cost = model.cost
        return cost if cost.base_ms + cost.token_ms > 0 else StepCost(self._grid[1][0], 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Demand:
    """A workload as the simulation takes it."""

    lengths: tuple[tuple[int, int], ...]
    """Tokens of prompts and answers, in the order of the requests."""
    concurrency: int = 0
    rate: float = 0.0
    pause_ms: float = 0.0
    """Closed loop: what a client needs from one answer to the next request."""

    @property
    def mean_prompt(self) -> float:
        return sum(prompt for prompt, _ in self.lengths) / len(self.lengths)

    @property
    def mean_answer(self) -> float:
        return sum(answer for _, answer in self.lengths) / len(self.lengths)

    @property
    def most_tokens(self) -> int:
        return max(prompt + answer for prompt, answer in self.lengths)

    def traffic(self) -> Traffic:
        return Traffic(
            kinds=(Kind(Tokens(1), Tokens(1)),),
            rate=self.rate,
            requests=SIMULATED,
            concurrency=self.concurrency,
            pause_ms=self.pause_ms,
            lengths=self.lengths,
        )


def find_streams(demand: Demand, decode_ms: float) -> int:
    """How many answers are under way at once: the concurrency, or what the rate keeps busy (Little's law)."""
    if demand.concurrency:
        return demand.concurrency
    return max(1, math.ceil(demand.rate * demand.mean_answer * decode_ms / 1e3))


def simulate_times(
    demand: Demand, passes: PassTimes, settings: EngineSettings, kv_token_bytes: int
) -> dict[str, float]:
    """Percentiles of the workload on a machine whose passes take so long, by the names of limits."""
    blocks = max(settings.kv_memory_bytes // (kv_token_bytes * BLOCK_SIZE), -(-demand.most_tokens // BLOCK_SIZE) + 1)
    machine = Machine(
        passes.linear,
        passes.step_ms,
        slots=settings.max_sequences,
        blocks=blocks,
        max_batch_tokens=max(settings.max_batch_tokens, settings.max_sequences),
        context_length=demand.most_tokens + 1,
    )
    scenario = Scenario(machine, demand.traffic(), SchedulerConfig(), AdmissionConfig(by_forecast=False))
    result = simulate(scenario)
    return {
        f"{time}_{percentile}": result.percentile(metric, quantile)
        for time, metric in METRICS.items()
        for percentile, quantile in QUANTILES.items()
    }


@dataclass(slots=True)
class Correction:
    """Measured over predicted, by the names of limits: the geometric mean over what was realised, the last weighing
    most."""

    seen: dict[str, list[float]] = field(default_factory=dict)
    """Natural logarithms."""

    def learn(self, predicted: Mapping[str, float], measured: Mapping[str, float]) -> None:
        """Take a candidate's raw prediction, and what came of it."""
        for name, value in measured.items():
            if name in predicted and predicted[name] > 0 and value > 0 and math.isfinite(value + predicted[name]):
                self.seen.setdefault(name, []).append(math.log(value / predicted[name]))

    def factor(self, name: str) -> float:
        """1 where nothing is known."""
        logs = self.seen.get(name, [])
        if not logs:
            return 1.0
        weights = [2.0**place for place in range(len(logs))]
        return math.exp(sum(weight * value for weight, value in zip(weights, logs, strict=True)) / sum(weights))

    def apply(self, predicted: Mapping[str, float]) -> dict[str, float]:
        return {name: value * self.factor(name) for name, value in predicted.items()}


@dataclass(frozen=True)
class Predictor:
    """Of the candidates of one model."""

    config: ModelConfig
    composition: Composition
    losses: Any
    """How much each choice costs: `allocate.Losses`."""
    demand: Demand
    all_threads: int
    lookup_gain: float = 1.0
    process_bytes: int = 0
    """Of a server beside weights and cache."""

    def passes(self, candidate: Candidate) -> PassTimes:
        """What its steps take."""
        threads = candidate.settings.threads or self.all_threads
        ms = self.composition.step_ms(self.features(candidate), threads)
        gain = self.lookup_gain if candidate.settings.speculate == "lookup" else 1.0
        return PassTimes(self.composition.shapes, tuple(map(float, ms)), 1 / gain)

    def features(self, candidate: Candidate) -> dict[Feature, float]:
        structure = candidate.structure
        width = share_of_width(self.config, structure.width)
        return count_features(candidate.formats, candidate.tables, width, structure.rank)

    def bytes(self, candidate: Candidate) -> tuple[int, int]:
        """Of all weights, and of those that a step reads."""
        weights, step = self.composition.sum(self.features(candidate))[-2:]
        return int(weights), int(step)

    def kv_token_bytes(self, candidate: Candidate) -> int:
        each = count_kv_bytes(self.config, "none" if candidate.tables == "f32" else "int8") // len(self.config.layers)
        return max(1, each * len(candidate.formats))

    def cache_bytes(self, candidate: Candidate) -> int:
        """Of the KV cache: full, as prefixes make it in the end, or what the measured requests put into it."""
        each, settings = self.kv_token_bytes(candidate), candidate.settings
        context = self.config.context_length
        pool = max(min(settings.kv_memory_bytes, settings.max_sequences * context * each), context * each)
        return int(min(pool, each * sum(prompt + answer for prompt, answer in self.demand.lengths)))

    def predict(self, candidate: Candidate) -> dict[str, float]:
        """Raw values by the names of limits, before any correction."""
        passes = self.passes(candidate)
        found = simulate_times(self.demand, passes, candidate.settings, self.kv_token_bytes(candidate))
        found[MEMORY] = self.bytes(candidate)[0] + self.cache_bytes(candidate) + self.process_bytes
        found[LOSS] = self.losses.predict(candidate)
        return found


def find_errors(predicted: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """Predicted over measured, less one, of times and memory."""
    return {
        name: predicted[name] / measured[name] - 1
        for name in (*LATENCIES, MEMORY)
        if name in predicted and measured.get(name)
    }
