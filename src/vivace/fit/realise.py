"""From a candidate to a variant that was measured: made, judged on text, and timed through HTTP beside the baseline.

The server is a real `vivace serve` in a process of its own, the client the bench. Baseline and variant are both up, and
are asked the same requests in turn, block by block, each block's order drawn by lot: what else the machine does meets
both. No budget is given to either, since a server that refuses what would be late tells nothing of how late it was.

Knows no search.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vivace.bench.compare import columns_of, compare, plan_in_turn
from vivace.bench.experiment import prepare
from vivace.bench.observation import Observation
from vivace.bench.processes import run_plans
from vivace.bench.resources import ProcessWatch
from vivace.bench.stats import quantile, quantile_interval, required_sample
from vivace.budget import NO_BUDGET, Budget
from vivace.compress.calibrate import CalibrationConfig
from vivace.compress.manifest import MANIFEST
from vivace.compress.pipeline import STATE, ShowProgress, compress
from vivace.compress.recipe import describe_recipe, format_recipe
from vivace.compress.step import Step
from vivace.errors import ConfigError, VivaceError
from vivace.fit.certify import describe_serving, measure, serving, summarize_documents
from vivace.fit.data import Document, Texts, read_documents
from vivace.fit.measure import StepShape, time_shapes
from vivace.fit.objective import LOSS, MEMORY, Objective
from vivace.fit.quality import Scored, compare_scores, score_documents
from vivace.fit.settings import EngineSettings
from vivace.fit.space import Candidate, read_candidate
from vivace.fit.workload import WorkloadSpec
from vivace.llm import load_runner
from vivace.models.model import open_model

BLOCKS = 6
"""Turns of each side."""
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
TIMES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "total": "e2e_ms"}
SMALLEST = 0.02
"""A difference of a time that counts as one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One side of a measurement through HTTP."""

    values: Mapping[str, float]
    """By the names of limits: percentiles of all requests, one without an answer being slower than any; memory."""
    intervals: Mapping[str, tuple[float, float]]
    """95%, by bootstrap."""
    requests: int
    lengths: tuple[tuple[int, int], ...] = ()
    """Tokens of prompt and answer, as the server counted them, where it did."""


@dataclass(frozen=True, slots=True)
class Realised:
    """A candidate that exists, with what was foretold of it and what came of it."""

    candidate: Candidate
    place: str
    """What `vivace serve` takes."""
    recipe: str
    raw: Mapping[str, float]
    """What the predictor said, before correction."""
    expected: Mapping[str, float]
    """And after it, when this candidate was chosen."""
    values: Mapping[str, float]
    """What was measured."""
    intervals: Mapping[str, tuple[float, float]]
    baseline: Mapping[str, float]
    """The baseline's, measured in turn with it."""
    verdict: str
    """How it stands to the baseline in times, by the bench."""
    step_ms: tuple[float, ...] = ()
    """Of the steps that builds were timed by, now of the variant itself."""
    quality: Mapping[str, Any] | None = None
    weight_bytes: int = 0
    requests: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_realised(values: Mapping[str, Any]) -> Realised:
    """The inverse of `Realised.as_dict`, from JSON."""
    intervals = {name: (low, high) for name, (low, high) in values["intervals"].items()}
    return Realised(
        **{
            **values,
            "candidate": read_candidate(values["candidate"]),
            "intervals": intervals,
            "step_ms": tuple(values["step_ms"]),
        }
    )


class Realiser(Protocol):
    """Makes and measures."""

    def measure_baseline(self) -> Measured:
        """The first model as a server has it without being told anything, by itself."""
        ...

    def find_offset(self, model: str) -> float:
        """How much worse another original predicts than the first, in nats of the first's tokens."""
        ...

    def realise(self, candidate: Candidate, raw: Mapping[str, float], expected: Mapping[str, float]) -> Realised: ...

    def confirm(self, one: Realised, budget: Budget) -> tuple[dict[str, float], dict[str, Any]]:
        """Measure it once more by itself, with the budget that it will be served with; the values, and the bench's
        document."""
        ...


def count_requests(objective: Objective) -> int:
    """As many as the highest percentile that is limited takes to be one; p95 at least."""
    names = ["p95", *(one.name.rpartition("_")[2] for one in objective.latencies)]
    return required_sample(max(QUANTILES[name] for name in names))


@dataclass(slots=True)
class HttpRealiser:
    """Implements `Realiser` on this machine."""

    models: Mapping[str, str]
    """By name, what `open_model` takes; the first is what all are compared with."""
    texts: Mapping[str, Texts] | None
    """By model: to calibrate on, and to judge by. None: quality is not measured."""
    workload: WorkloadSpec
    directory: Path
    """The state's: variants are made here, and the workload's lines lie here."""
    shapes: Sequence[StepShape]
    method: str
    """Of rounding to int4."""
    distil: Sequence[Step] = ()
    requests: int = 128
    threads: int = 0
    """PyTorch's."""
    progress: ShowProgress | None = None
    base_settings: EngineSettings = field(default_factory=EngineSettings)
    say: Callable[[str], None] = lambda text: None

    def measure_baseline(self) -> Measured:
        first = next(iter(self.models.values()))
        self.say("Measuring the baseline through HTTP")
        with serving(describe_serving(first, self.base_settings, NO_BUDGET)) as served:
            document = measure(served, self.workload, self.directory, requests=self.requests)
        raw = document["raw"]
        columns = {name: raw[key] for name, key in TIMES.items()}
        resources = document["resources"] or {}
        found = summarize_columns(columns, raw["error"], int(resources.get("rss_bytes_max") or 0))
        pairs = zip(raw["prompt_tokens"], raw["tokens"], strict=True)
        lengths = tuple((int(prompt), int(answer)) for prompt, answer in pairs if prompt and answer)
        if not lengths:
            raise VivaceError(
                "The baseline answered nothing, so there is nothing to search for. Serve the model by hand, and see "
                "why: vivace serve."
            )
        return Measured(found.values, found.intervals, found.requests, lengths)

    def find_offset(self, model: str) -> float:
        first, documents = self._read_held_out()
        scored = score_documents(self.models[model], EngineSettings(quantize="none"), documents)
        return math.log1p(compare_scores(scored, self._score_reference(first, documents)).loss)

    def realise(self, candidate: Candidate, raw: Mapping[str, float], expected: Mapping[str, float]) -> Realised:
        place, recipe = self.make(candidate)
        quality = self._judge(candidate, place)
        self.say("Timing its steps")
        step_ms, weight_bytes = self._time_steps(candidate, place)
        self.say("Measuring it through HTTP, in turn with the baseline")
        base, ours, verdict = self.measure_in_turn(place, candidate.resolved)
        values = dict(ours.values) | ({LOSS: quality["loss"]} if quality else {})
        return Realised(
            candidate=candidate,
            place=place,
            recipe=recipe,
            raw=dict(raw),
            expected=dict(expected),
            values=values,
            intervals=dict(ours.intervals) | ({LOSS: (quality["low"], quality["high"])} if quality else {}),
            baseline=dict(base.values),
            verdict=verdict,
            step_ms=step_ms,
            quality=quality,
            weight_bytes=weight_bytes,
            requests=ours.requests,
        )

    def confirm(self, one: Realised, budget: Budget) -> tuple[dict[str, float], dict[str, Any]]:
        with serving(describe_serving(one.place, one.candidate.resolved, budget)) as served:
            document = measure(served, self.workload, self.directory)
        return summarize_documents([document], self.workload.seed).values(), document

    def make(self, candidate: Candidate) -> tuple[str, str]:
        """Where the variant is, made if it is not there yet, and its recipe. Raises as `compress` does."""
        source = self.models[candidate.model]
        steps = candidate.write_recipe(self.method, self.distil)
        if not steps:
            return source, ""
        recipe = format_recipe(steps)
        key = hashlib.sha256(json.dumps([source, describe_recipe(steps)]).encode()).hexdigest()[:12]
        place = self.directory / "variants" / key
        if not (place / MANIFEST).is_file():
            self.say(f"Making {candidate.describe()}")
            compress(
                source,
                steps,
                place,
                data=self._calibration(candidate.model),
                calibration=CalibrationConfig(tokens=8192, length=128, held_out=2048 if candidate.distilled else 0),
                threads=self.threads,
                resume=(place / STATE / "state.json").is_file(),
                progress=self.progress,
            )
        return str(place), recipe

    def measure_in_turn(self, place: str, settings: EngineSettings) -> tuple[Measured, Measured, str]:
        """Baseline and variant, and how the second stands to the first."""
        first = next(iter(self.models.values()))
        with (
            serving(describe_serving(first, self.base_settings, NO_BUDGET)) as a,
            serving(describe_serving(place, settings, NO_BUDGET)) as b,
        ):
            experiment = self.workload.experiment(a.url, self.directory, pid=a.pid, requests=self.requests)
            prepared, _ = prepare(experiment)
            _, other = prepare(self.workload.experiment(b.url, self.directory, pid=b.pid, requests=self.requests))
            plan = plan_in_turn(prepared, b.url, other.model, min(BLOCKS, self.requests // 2))
            with ProcessWatch(a.pid) as base_watch, ProcessWatch(b.pid) as watch:
                seen = run_plans([plan]).observations
        sides = [[one for one in seen if one.target == target] for target in (0, 1)]
        memory = [max((sample.rss_bytes for sample in one.samples), default=0) for one in (base_watch, watch)]
        try:
            verdict = compare(columns_of(sides[0]), columns_of(sides[1]), SMALLEST, blocks=True)["verdict"]
        except ConfigError:
            verdict = "too few requests to say"
        return _summarize(sides[0], memory[0]), _summarize(sides[1], memory[1]), verdict

    def _calibration(self, model: str) -> Path | None:
        return None if self.texts is None else self.texts[model].calibration

    def _judge(self, candidate: Candidate, place: str) -> dict[str, Any] | None:
        if self.texts is None:
            return None
        first, documents = self._read_held_out()
        self.say(f"Judging it on {len(documents)} documents")
        scored = score_documents(place, candidate.resolved, documents)
        return compare_scores(scored, self._score_reference(first, documents)).as_dict()

    def _read_held_out(self) -> tuple[str, Sequence[Document]]:
        """The first model's name, and what all are judged by."""
        assert self.texts is not None, "without text nothing is judged"
        first = next(iter(self.models))
        return first, read_documents(self.texts[first].held_out)

    def _score_reference(self, first: str, documents: Sequence[Document]) -> Scored:
        """The first model in f32; kept, since it is the same for all."""
        path = self.directory / "reference.json"
        if path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
            return Scored(tuple(saved["nats"]), tuple(saved["tokens"]))
        found = score_documents(self.models[first], EngineSettings(quantize="none"), documents)
        path.write_text(json.dumps(asdict(found)), encoding="utf-8")
        return found

    def _time_steps(self, candidate: Candidate, place: str) -> tuple[tuple[float, ...], int]:
        most = max(shape.sequences for shape in self.shapes)
        tokens = max(shape.all_tokens for shape in self.shapes)
        settings = replace(candidate.resolved, max_sequences=most, max_batch_tokens=max(most, tokens))
        runner = load_runner(open_model(place), settings.as_native())
        try:
            return time_shapes(runner, self.shapes, time.perf_counter), runner.weight_bytes
        finally:
            runner.close()


def _summarize(seen: Sequence[Observation], memory: int) -> Measured:
    columns = {name: [getattr(one, key) for one in seen] for name, key in TIMES.items()}
    return summarize_columns(columns, [one.error for one in seen], memory)


def summarize_columns(columns: Mapping[str, Sequence[float | None]], errors: Sequence[str], memory: int) -> Measured:
    """Percentiles over all requests, and intervals. An answer of one token has no time per token."""
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name, column in columns.items():
        kept = [math.inf if error else value for value, error in zip(column, errors, strict=True)]
        ordered = np.sort(np.array([value for value in kept if value is not None], np.float64))
        for percentile, q in QUANTILES.items() if len(ordered) else ():
            values[f"{name}_{percentile}"] = quantile(ordered, q)
            intervals[f"{name}_{percentile}"] = quantile_interval(ordered, q)
    return Measured(values | ({MEMORY: float(memory)} if memory else {}), intervals, len(errors))
