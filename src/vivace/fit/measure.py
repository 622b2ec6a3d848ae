"""Times whole steps of a model on this machine, in formats and shapes of which candidates are put together.

A *build* is the model with all layers alike: each of the four parts in a format, MLPs whole, narrowed or factored. A
*step shape* is how many sequences compute how many tokens behind how much context. Builds differ in one thing at a
time, so that what each thing costs follows by least squares (`predict.Composition`); some are only there to see how
well that works. The fastest of several rounds counts, since another program can only make a step slower.

Measured beside, in the same run: the bandwidth at which as many bytes are read, and the best rate of the kernels'
inner loop. Knows no search and no server.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vivace.batch import BLOCK_SIZE, Batch, Row, Sampling, Want
from vivace.engine.cost import count_work
from vivace.engine.engine import Engine
from vivace.engine.request import Request
from vivace.engine.scheduler import SchedulerConfig
from vivace.engine.speculation import MAX_PROPOSED
from vivace.errors import ConfigError
from vivace.fit.space import PARTS, Format, Space, count_rank, keep_width
from vivace.models.checkpoint import Tensor
from vivace.models.compressed import QuantizedTensor
from vivace.models.config import ModelConfig
from vivace.models.model import Model
from vivace.models.weights import LayerWeights, Linear, read_weights
from vivace.native import measure_multiply_rate, measure_read_bandwidth
from vivace.runners.native import NativeConfig, NativeRunner, load_native_runner

ROUNDS = 9
"""At most, of each shape."""
BUILD_S = 1.0
"""Begin no further round of a build after this time."""
ENOUGH_BYTES = 128 << 20
"""Layers that hold so much in int4 do not fit into a cache, so that more of them would take as long each."""
INT4_GROUP = 32

_LINEARS = {
    "query_key_value": ("query", "key", "value"),
    "attention_output": ("output",),
    "mlp_in": ("gate", "up"),
    "mlp_out": ("down",),
}


class StepShape(NamedTuple):
    """What a step computes."""

    sequences: int
    tokens: int
    """Of each sequence."""
    context: int
    """Positions before them, of each."""

    @property
    def all_tokens(self) -> int:
        return self.sequences * self.tokens


@dataclass(frozen=True, slots=True)
class Build:
    """What is timed."""

    layers: int
    formats: tuple[Format, ...]
    """Of the four parts."""
    tables: Format
    width: float = 1.0
    rank: float = 0.0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured of a build."""

    ms: tuple[float, ...]
    """By step shape."""
    weight_bytes: int
    step_bytes: int

    def merge(self, other: Timing) -> Timing:
        """The faster of two measurements of one build, shape by shape."""
        return replace(self, ms=tuple(map(min, self.ms, other.ms)))


@dataclass(frozen=True, slots=True)
class Limits:
    """What this machine could do at best."""

    isa: str
    cores: int
    read_gb_per_s: float
    read_bytes: int
    """How much was read at a time."""
    multiply_gops: Mapping[str, float]
    """By format: the kernels' inner loop on all cores, 10⁹ multiplications and additions a second."""


class Measurer(Protocol):
    """A machine with a model on it."""

    def time_build(self, build: Build, shapes: Sequence[StepShape]) -> Timing: ...

    def find_limits(self, read_bytes: int) -> Limits: ...

    def find_lookup_gain(self, requests: Sequence[tuple[Sequence[int], int]], concurrency: int) -> float:
        """Time without over time with prompt-lookup speculation, for prompts and numbers of tokens to answer."""
        ...


def plan_shapes(concurrency: int, prompt: int, chunks: Sequence[int]) -> tuple[StepShape, ...]:
    """Steps of some sequences that each go on, and of prompts by themselves; the last two differ in context alone."""
    most = max(1, concurrency)
    decodes = sorted({1, *(count for count in (2, 4, 8, 16, 32, 64) if count < most), most})
    top = max(16, min(max(chunks), 2 * prompt))
    prompts = sorted({4, 16, max(16, top // 4), top})
    near, far = BLOCK_SIZE - 4, 16 * BLOCK_SIZE - 4
    shapes = [StepShape(1, tokens, 0) for tokens in prompts]
    return (*shapes, *(StepShape(count, 1, near) for count in decodes), StepShape(most, 1, far))


def plan_builds(space: Space, threads: int, layers: int) -> list[Build]:
    """Builds from which the cost of every choice follows: all int8, fewer layers, other tables, one part in another
    format, a narrow MLP, factored MLPs; then whole models in one format, to check by."""
    every: tuple[Format, ...] = ("int8", "int8", "int8", "int8")
    whole = Build(layers, every, "int8", threads=threads)
    fewer = max(1, layers // 2)
    builds = [whole, replace(whole, layers=fewer)] if fewer < layers else [whole]
    for tables in space.tables:
        if tables != "int8":
            builds.append(replace(whole, tables=tables))
            home = "int8" if tables == "int4" else tables
            builds += [replace(whole, tables=home, formats=_put(whole.formats, i, tables)) for i in range(len(PARTS))]
    if "f32" in space.tables and fewer < layers:
        builds.append(replace(whole, tables="f32", layers=fewer))
    narrow = min(space.widths)
    builds += [replace(whole, width=narrow)] if narrow < 1 else []
    return builds + [replace(whole, rank=rank) for rank in space.ranks if rank]


def plan_checks(space: Space, threads: int, layers: int) -> list[Build]:
    """Builds that nothing is learned from: whole models in one format."""
    return [Build(layers, (one,) * len(PARTS), one, threads=threads) for one in space.tables if one != "int8"]


def count_layers(config: ModelConfig) -> int:
    """How many layers a build needs so that each takes as long as in the whole model."""
    hidden, heads, kv_heads = config.hidden_size, config.heads * config.head_dim, config.kv_heads * config.head_dim
    matrices = 3 if config.gated else 2
    each = hidden * (2 * heads + 2 * kv_heads) + matrices * hidden * config.layers[0].intermediate_size
    return min(len(config.layers), max(2, -(-ENOUGH_BYTES * 2 // each)))


class NativeMeasurer:
    """Implements `Measurer` with this package's CPU runner."""

    def __init__(self, model: Model, clock: Callable[[], float] = time.perf_counter) -> None:
        """Reads the weights' places; they are packed anew for each build. Raises `CheckpointError`."""
        self._model = model
        self._config = model.config
        self._weights = read_weights(model.config, model.open_checkpoint())
        self._clock = clock
        self._isa = ""
        self._rounded: dict[tuple[int, str], QuantizedTensor] = {}
        """int8 matrices by layer and name: most builds have them, and rounding takes longer than timing."""

    def time_build(self, build: Build, shapes: Sequence[StepShape]) -> Timing:
        runner = self._load(build, max(shape.sequences for shape in shapes), max(shape.all_tokens for shape in shapes))
        try:
            self._isa = runner.isa
            ms = time_shapes(runner, shapes, self._clock)
            return Timing(ms, runner.weight_bytes, runner.step_bytes)
        finally:
            runner.close()

    def find_limits(self, read_bytes: int) -> Limits:
        from vivace.machine import allowed_cores

        cores = allowed_cores()
        size = max(1 << 20, min(read_bytes, 1 << 30))
        rates = {
            name: measure_multiply_rate(kind, self._isa, cores, 5)
            for name, kind in (("f32", "none"), ("bf16", "bf16"), ("int8", "int8"), ("int4", "int4"))
        }
        bandwidth = measure_read_bandwidth(size, cores, 5)
        return Limits(self._isa, cores, bandwidth, size, {name: rate / 1e9 for name, rate in rates.items()})

    def find_lookup_gain(self, requests: Sequence[tuple[Sequence[int], int]], concurrency: int) -> float:
        config = NativeConfig(max_sequences=max(1, concurrency), kv_memory_bytes=1 << 28)
        runner = load_native_runner(self._config, self._weights, config)
        try:
            times = {"off": 0.0, "lookup": 0.0}
            for turn in range(2):  # in turn, so that what else the machine does meets both
                for name in times if turn == 0 else reversed(times):
                    times[name] += self._answer(runner, MAX_PROPOSED[name], requests, concurrency)
            return times["off"] / times["lookup"]
        finally:
            runner.close()

    def _answer(
        self, runner: NativeRunner, proposed: int, requests: Sequence[tuple[Sequence[int], int]], concurrency: int
    ) -> float:
        engine = Engine(runner, SchedulerConfig(max_proposed=proposed, max_waiting=len(requests) + 1))
        begun = self._clock()
        waiting = [
            Request(str(number), tuple(prompt), answer, Sampling(), time.monotonic(), cache_salt=str(number))
            for number, (prompt, answer) in enumerate(requests)
        ][::-1]
        under_way = 0
        while waiting or engine.has_work:
            while waiting and under_way < concurrency:
                engine.add(waiting.pop())
                under_way += 1
            under_way -= sum(update.finish_reason is not None for update in engine.step())
        return self._clock() - begun

    def _remake(self, index: int, build: Build) -> LayerWeights:
        """A layer's linears as the build has them."""
        layer = self._weights.layers[index]
        changes: dict[str, Any] = {}
        for part, format in zip(PARTS, build.formats, strict=True):
            for name in _LINEARS[part]:
                linear = getattr(layer, name)
                if linear is None:
                    continue
                made = _resize(linear, part, build)
                if format != build.tables and made.factor is None:
                    made = replace(made, weight=self._round(index, name, made, format, whole=made is linear))
                changes[name] = made
        return replace(layer, **changes)

    def _round(self, index: int, name: str, linear: Linear, format: Format, *, whole: bool) -> QuantizedTensor:
        if format != "int8" or not whole:
            return round_matrix(linear.weight.to_f32(), format)
        if (index, name) not in self._rounded:
            self._rounded[index, name] = round_matrix(linear.weight.to_f32(), format)
        return self._rounded[index, name]

    def _load(self, build: Build, sequences: int, tokens: int) -> NativeRunner:
        config = replace(self._config, layers=self._config.layers[: build.layers])
        if build.width < 1:
            layers = tuple(
                replace(one, intermediate_size=keep_width(one.intermediate_size, build.width)) for one in config.layers
            )
            config = replace(config, layers=layers)
        weights = replace(
            self._weights,
            layers=tuple(self._remake(index, build) for index in range(build.layers)),
        )
        kinds = {"f32": "none", "bf16": "bf16", "int8": "int8", "int4": "int4"}
        native = NativeConfig(
            quantize=kinds[build.tables],  # type: ignore[arg-type]
            quantize_tables=build.tables == "int4",
            threads=build.threads,
            max_sequences=sequences,
            max_batch_tokens=max(tokens, sequences),
            kv_memory_bytes=1,
        )
        blocks = sequences * (-(-max(256 + 16, tokens) // BLOCK_SIZE) + 1)
        return load_native_runner(config, weights, replace(native, kv_memory_bytes=_kv_bytes(config, blocks)))


def time_shapes(
    runner: NativeRunner, shapes: Sequence[StepShape], clock: Callable[[], float], limit_s: float = BUILD_S
) -> tuple[float, ...]:
    """Milliseconds of the fastest step of each shape; rounds over all shapes, so that a busy moment meets each once."""
    batches = [_make_batch(runner, shape) for shape in shapes]
    best = [float("inf")] * len(shapes)
    begun = clock()
    for turn in range(ROUNDS + 1):
        for index, (opening, batch) in enumerate(batches):
            for first in opening:
                runner.collect(runner.launch(first))
            for _ in range(2):
                start = clock()
                runner.collect(runner.launch(batch))
                took_ms = 1e3 * (clock() - start)
                if turn:  # the first round touches memory for the first time
                    best[index] = min(best[index], took_ms)
        if turn and clock() - begun > limit_s:
            break
    return tuple(best)


def _make_batch(runner: NativeRunner, shape: StepShape) -> tuple[list[Batch], Batch]:
    """Steps to make first, and the step to time, which may be made again and again."""
    generator = random.Random(f"{shape}")
    each = -(-(shape.context + shape.tokens + 1) // BLOCK_SIZE)

    def draw(count: int) -> list[int]:
        return generator.choices(range(runner.limits.vocab_size), k=count)

    def place(slot: int) -> range:
        return range(slot * each, (slot + 1) * each)

    if not shape.context:
        rows = [
            Row(slot, 0, draw(shape.tokens), place(slot), Want.SAMPLE, opens=Sampling())
            for slot in range(shape.sequences)
        ]
        return [], Batch(rows)
    opening = []
    room = runner.limits.max_batch_tokens
    for slot in range(shape.sequences):
        for at in range(0, shape.context, room):
            tokens = draw(min(room, shape.context - at))
            last = at + len(tokens) == shape.context
            opens = {"opens": Sampling(), "blocks": place(slot)} if at == 0 else {}
            opening.append(Batch([Row(slot, at, tokens, want=Want.SAMPLE if last else Want.NOTHING, **opens)]))  # type: ignore[arg-type]
    return opening, Batch([Row(slot, shape.context, (), (), Want.SAMPLE, 1) for slot in range(shape.sequences)])


def count_shape(shape: StepShape) -> tuple[int, int, int]:
    """Tokens, sequences and context as the engine's cost model counts them."""
    rows = [Row(slot, shape.context, [0] * shape.tokens, (), Want.SAMPLE) for slot in range(shape.sequences)]
    return count_work(rows)


def _put(formats: tuple[Format, ...], index: int, format: Format) -> tuple[Format, ...]:
    return (*formats[:index], format, *formats[index + 1 :])


def _kv_bytes(config: ModelConfig, blocks: int) -> int:
    from vivace.runners.native import count_kv_bytes

    return count_kv_bytes(config, "none") * BLOCK_SIZE * blocks


def _resize(linear: Linear, part: str, build: Build) -> Linear:
    """Narrowed, or as two factors of the same shape as `low_rank` would leave; their values do not matter."""
    if not part.startswith("mlp") or (build.width == 1 and not build.rank):
        return linear
    weight = linear.weight
    assert isinstance(weight, Tensor), "a model of floats"
    if build.width < 1:
        inner = 1 if part == "mlp_out" else 0
        kept = keep_width(weight.shape[inner], build.width)
        data = weight.data[:kept] if inner == 0 else np.ascontiguousarray(weight.data[:, :kept])
        bias = linear.bias if linear.bias is None or inner else linear.bias.rows(0, kept)
        return replace(linear, weight=replace(weight, data=data), bias=bias)
    out, inputs = weight.shape
    rank = count_rank(out, inputs, build.rank)
    values = np.random.default_rng(0).standard_normal((out + inputs, rank), np.float32) / np.float32(rank)
    up = replace(weight, data=values[:out], dtype="F32")
    down = replace(weight, data=np.ascontiguousarray(values[out:].T), dtype="F32")
    return replace(linear, weight=up, factor=down)


def round_matrix(weight: NDArray[np.float32], format: Format) -> QuantizedTensor:
    """To the nearest codes: for timing, where how well they fit does not matter. Raises `ConfigError` for a format
    that is none of integers."""
    out, inputs = weight.shape
    if format == "int8":
        scales = np.maximum(np.abs(weight).max(1, keepdims=True), 1e-8) / 127
        codes = np.rint(weight / scales).astype(np.int8)
        return QuantizedTensor("timed", 8, codes, scales.astype(np.float32), None, inputs)
    if format != "int4":
        raise ConfigError(f"{format} is no format of integers.")
    groups = weight.reshape(out, -1, INT4_GROUP)
    scales = np.maximum(np.abs(groups).max(2), 1e-8) / 7
    codes = (np.rint(groups / scales[:, :, None]) + 8).astype(np.uint8).reshape(out, inputs)
    packed = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    return QuantizedTensor("timed", 4, packed, scales.astype(np.float32), None, INT4_GROUP)
