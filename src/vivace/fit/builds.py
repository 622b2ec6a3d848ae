"""Times the builds from which a composition follows, in the time that there is for it.

Knows builds, a measurer and a clock; not what the times are for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vivace.errors import RequestError
from vivace.fit.measure import Build, Limits, Measurer, StepShape, Timing, count_layers, plan_builds, plan_checks
from vivace.fit.predict import Demand
from vivace.fit.space import Format, Space
from vivace.models.model import Model

WIDEST = {"f32": 4.0, "bf16": 2.0}
"""How many times as long as with integers a build takes, by the format of its tables."""

Lookup = Sequence[tuple[Sequence[int], int]]
"""Prompts, and numbers of tokens to answer."""


@dataclass(frozen=True, slots=True)
class BuildTimes:
    """All that was timed of one model."""

    tables: tuple[Format, ...]
    """The formats of tables that there was time for."""
    builds: tuple[tuple[Build, Timing], ...]
    checks: tuple[tuple[Build, Timing], ...]
    """Whole models, to hold the composition to."""
    threads: Mapping[int, tuple[float, ...]]
    """Of the first build with fewer threads, milliseconds by step shape."""
    limits: Limits
    lookup_gain: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_build_times(values: Mapping[str, Any]) -> BuildTimes:
    """The inverse of `BuildTimes.as_dict`, from JSON."""

    def read(pairs: Sequence[Any]) -> tuple[tuple[Build, Timing], ...]:
        return tuple(
            (
                Build(**{**build, "formats": tuple(build["formats"])}),
                Timing(**{**timing, "ms": tuple(timing["ms"])}),
            )
            for build, timing in pairs
        )

    return BuildTimes(
        tables=tuple(values["tables"]),
        builds=read(values["builds"]),
        checks=read(values["checks"]),
        threads={int(count): tuple(ms) for count, ms in values["threads"].items()},
        limits=Limits(**values["limits"]),
        lookup_gain=values["lookup_gain"],
    )


def time_builds(
    measurer: Measurer,
    space: Space,
    shapes: Sequence[StepShape],
    requests: Lookup,
    streams: int,
    *,
    room_s: float,
    again_s: float,
    clock: Callable[[], float],
    tell: Callable[[float], None],
) -> BuildTimes:
    """Formats of tables for which there is no room are left out; builds that took less than `again_s` are timed twice.

    `requests` are what prompt lookup is tried on, `streams` of them at once; `tell` is told the share that is done.
    """
    layers, most = count_layers(space.config), space.threads[-1]
    begun = clock()
    measurer.time_build(plan_builds(space, most, layers)[0], shapes)
    each_s = clock() - begun
    space = _narrow(space, most, layers, each_s, room_s - each_s)
    builds, checks = plan_builds(space, most, layers), plan_checks(space, most, layers)
    begun = clock()
    timings: list[Timing] = []
    for build in (*builds, *checks):
        timings.append(measurer.time_build(build, shapes))
        tell(len(timings) / (len(builds) + len(checks)))
    if clock() - begun < again_s:  # a busy second would look like a cost
        again = [measurer.time_build(build, shapes) for build in (*builds, *checks)]
        timings = [one.merge(other) for one, other in zip(timings, again, strict=True)]
    threads = {
        count: measurer.time_build(replace(builds[0], threads=count), shapes).ms
        for count in space.threads
        if count != most
    }
    pairs = list(zip((*builds, *checks), timings, strict=True))
    return BuildTimes(
        tables=tuple(space.tables),
        builds=tuple(pairs[: len(builds)]),
        checks=tuple(pairs[len(builds) :]),
        threads=threads,
        limits=measurer.find_limits(timings[0].step_bytes),
        lookup_gain=measurer.find_lookup_gain(requests, streams),
    )


def _narrow(space: Space, threads: int, layers: int, each_s: float, room_s: float) -> Space:
    """Without the widest formats of tables, where timing all would take more than there is room for."""
    while len(space.tables) > 2 or (len(space.tables) == 2 and space.tables[0] in WIDEST):
        builds = [*plan_builds(space, threads, layers), *plan_checks(space, threads, layers)]
        if sum(each_s * WIDEST.get(build.tables, 1.0) for build in builds) <= room_s:
            break
        space = replace(space, tables=space.tables[1:])
    return space


def draw_requests(model: Model, demand: Demand, most: int = 24) -> Lookup:
    """Prompts as the workload's, in tokens, with the lengths that were seen."""
    from vivace.bench.workload import WORDS

    generator = random.Random("lookup")
    requests = []
    for prompt, answer in demand.lengths[:most]:
        words = " ".join(generator.choices(WORDS, k=max(1, prompt)))
        try:
            tokens = model.tokenizer.encode_chat([{"role": "user", "content": words}])
        except RequestError:
            tokens = model.tokenizer.encode(words)
        room = model.config.context_length - answer - 1
        requests.append((list(tokens[: max(1, min(prompt, room))]), answer))
    return requests
