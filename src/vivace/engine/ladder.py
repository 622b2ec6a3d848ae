"""Several engines as one: the variants of a model that share a machine. A step is one of them; they take turns.

Has the engine's own interface, so that a thread drives either. Knows of a request only which variant is to answer it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from vivace.engine.engine import Engine, EngineStats
from vivace.engine.request import Request, StepEvent
from vivace.errors import ConfigError, RequestError

_OF_ONE = ("costs", "cost_error")
"""Figures that do not add up."""


class Ladder:
    """Engines by the names of their variants, the best first. Raises `ConfigError` if there are none."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        if not engines:
            raise ConfigError("A ladder needs at least one model.")
        self._engines = dict(engines)
        self._turn = list(self._engines.values())
        self._of: dict[str, Engine] = {}

    @property
    def has_work(self) -> bool:
        return any(engine.has_work for engine in self._turn)

    def add(self, request: Request) -> None:
        """Queue a request with its variant's engine. Raises as `Engine.add`, and `RequestError` for a variant there is
        not."""
        engine = self._engines.get(request.variant) if request.variant else next(iter(self._engines.values()))
        if engine is None:
            raise RequestError(f"There is no variant {request.variant!r}; there are {', '.join(self._engines)}.")
        if request.id in self._of:
            raise RequestError(f"A request with the id {request.id!r} is under way already; give each its own id.")
        engine.add(request)
        self._of[request.id] = engine

    def abort(self, id: str) -> bool:
        engine = self._of.get(id)
        return engine is not None and engine.abort(id)

    def abort_all(self) -> None:
        for engine in self._engines.values():
            engine.abort_all()

    def interrupt(self) -> None:
        """End the bursts under way. Any thread may call this."""
        for engine in self._engines.values():
            engine.interrupt()

    def step(self) -> StepEvent:
        """One step of the next engine in turn that has work. Raises as `Engine.step`."""
        for _ in self._turn:
            engine = self._turn.pop(0)
            self._turn.append(engine)
            if engine.has_work:
                event = engine.step()
                for update in event:
                    if update.finish_reason is not None:
                        del self._of[update.id]
                return event
        return []

    def stats(self) -> EngineStats:
        """Of all together; costs by variant."""
        each = [engine.stats() for engine in self._engines.values()]
        sums = {
            field.name: sum(getattr(stats, field.name) for stats in each)
            for field in fields(EngineStats)
            if field.name not in _OF_ONE
        }
        costs = tuple(cost for stats in each for cost in stats.costs)
        return EngineStats(**sums, costs=costs, cost_error=max(stats.cost_error for stats in each))

    def check_integrity(self) -> None:
        """Raise AssertionError unless all that the engines hold is accounted for."""
        for engine in self._engines.values():
            engine.check_integrity()
