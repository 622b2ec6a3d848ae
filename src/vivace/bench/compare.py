"""Two measurements of the same requests, side by side, and whether one server is slower.

Requests are paired by their place in the workload. Two files were measured at different times, and what the machine
did meanwhile is in their difference; measuring in turn (`plan_in_turn`) is fairer. Knows no files and no pages.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

from vivace.bench.experiment import Experiment
from vivace.bench.observation import Observation
from vivace.bench.schedule import fix_times
from vivace.bench.stats import compare_pairs, share_interval, summarize, verdict_of
from vivace.bench.worker import Plan, Stage
from vivace.errors import ConfigError

METRICS = {"ttft_ms": "first token", "e2e_ms": "last token", "tpot_ms": "per token"}
MIN_PAIRS = 20
CONFIDENCE = 0.99
"""Of each metric's interval, so that three of them together keep 95%."""

Columns = dict[str, list[Any]]
"""Of one server: index, turn, block, error, and the metrics."""


def columns_of(observations: Sequence[Observation]) -> Columns:
    return {
        "index": [one.index for one in observations],
        "turn": [one.turn for one in observations],
        "block": [one.block for one in observations],
        "error": [one.error for one in observations],
        **{name: [getattr(one, name) for one in observations] for name in METRICS},
    }


def compare(a: Columns, b: Columns, smallest: float, seed: int = 0, *, blocks: bool = False) -> dict[str, Any]:
    """How b stands to a, by metric and in all. With `blocks`, whole blocks of requests are resampled.

    Raises `ConfigError` when too few requests were answered by both.
    """
    compared = {name: _compare_metric(name, a, b, smallest, seed, blocks=blocks) for name in METRICS}
    metrics = {name: found for name, found in compared.items() if found is not None}
    if not metrics:
        raise ConfigError(
            f"Fewer than {MIN_PAIRS} requests were answered by both, so there is nothing to compare. Measure both with "
            "the same workload and --seed, and more --requests."
        )
    answered = _compare_answered(a["error"], b["error"])
    verdicts = {found["verdict"] for found in (*metrics.values(), answered)} - {"no evidence"}
    verdict = "no evidence" if not verdicts else verdicts.pop() if len(verdicts) == 1 else "mixed"
    return {"verdict": verdict, "smallest": smallest, "metrics": metrics, "answered": answered}


def _compare_metric(
    name: str, a: Columns, b: Columns, smallest: float, seed: int, *, blocks: bool
) -> dict[str, Any] | None:
    """None where too few have it."""
    pairs = _pair(name, a, b)
    if len(pairs) < MIN_PAIRS:
        return None
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    labels = [pair[2] for pair in pairs] if blocks else None
    effect = compare_pairs(first, second, labels, confidence=CONFIDENCE, seed=seed)
    sides = [summarize(side, seed) for side in (first, second)]
    return asdict(effect) | {
        "name": METRICS[name],
        "verdict": verdict_of(effect, smallest),
        "a": sides[0].as_dict() if sides[0] else None,
        "b": sides[1].as_dict() if sides[1] else None,
    }


def _pair(name: str, a: Columns, b: Columns) -> list[tuple[float, float, int]]:
    """Values above zero of requests that both answered, in a's order, with the block."""
    theirs = {
        (index, turn): value
        for index, turn, error, value in zip(b["index"], b["turn"], b["error"], b[name], strict=True)
        if not error and value
    }
    rows = zip(a["index"], a["turn"], a["block"], a["error"], a[name], strict=True)
    return [
        (value, theirs[index, turn], block)
        for index, turn, block, error, value in rows
        if not error and value and (index, turn) in theirs
    ]


def _compare_answered(a: list[str], b: list[str]) -> dict[str, Any]:
    """Worse when the 95% intervals of the shares answered do not meet."""
    sides = []
    for errors in (a, b):
        answered = sum(not error for error in errors)
        sides.append((answered / len(errors), *share_interval(answered, len(errors))))
    verdict = "worse" if sides[1][2] < sides[0][1] else "better" if sides[1][1] > sides[0][2] else "no evidence"
    return {"name": "answered", "verdict": verdict, "a": sides[0][0], "b": sides[1][0]}


def plan_in_turn(experiment: Experiment, other_url: str, other_model: str, blocks: int) -> Plan:
    """One process that asks both servers the same, block by block, each block's order drawn by lot.

    Raises `ConfigError`.
    """
    load = experiment.load
    if load.times:
        raise ConfigError("A trace cannot be cut into blocks. Measure each with bench http --json and compare those.")
    requests = load.requests or len(fix_times(load, experiment.seed))
    if requests < 2 * blocks:
        raise ConfigError(f"{requests} requests are too few for {blocks} blocks. Ask for more --requests.")
    order = random.Random(f"order {experiment.seed}")
    bounds = [requests * block // blocks for block in range(blocks + 1)]
    stages = []
    for block, (low, high) in enumerate(pairwise(bounds)):
        targets = [0, 1]
        order.shuffle(targets)
        stages += [_stage(experiment, target, block, low, high) for target in targets]
    return Plan(
        urls=[experiment.url, other_url],
        models=[experiment.workload.model, other_model],
        workload=experiment.workload,
        stages=stages,
        warmup=experiment.warmup,
        think_ms=load.think_ms,
        connections=load.connections,
        timeout_s=experiment.timeout_s,
        headers=list(experiment.headers),
        verify=experiment.verify,
        tokenizer=experiment.tokenizer,
    )


def _stage(experiment: Experiment, target: int, block: int, low: int, high: int) -> Stage:
    load, count = experiment.load, high - low
    if not load.open:
        return Stage(target=target, block=block, concurrency=load.concurrency, first=low, requests=count)
    times = fix_times(replace(load, requests=count, duration_s=0.0), experiment.seed * 1000 + block)
    return Stage(target=target, block=block, entries=[(low + i, times[i]) for i in range(count)])
