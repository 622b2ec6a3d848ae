"""Client processes: started, watched, and their outcomes brought together.

Knows plans and outcomes as values, and nothing of what they mean.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from typing import Any

import msgspec

from vivace.bench import worker
from vivace.bench.observation import Observation
from vivace.bench.timer import clock
from vivace.bench.worker import Outcome, Plan, Progress
from vivace.errors import VivaceError

MARGIN_S = 0.05
"""From the last process being ready to the common start."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What all processes saw."""

    outcomes: tuple[Outcome, ...]
    stopped: str
    """Why it ended early, empty when it did not."""

    @property
    def observations(self) -> list[Observation]:
        """By scheduled moment."""
        found = [seen for outcome in self.outcomes for seen in outcome.observations]
        return sorted(found, key=lambda seen: seen.scheduled)

    @property
    def started(self) -> float:
        return min(outcome.started for outcome in self.outcomes)

    @property
    def ended(self) -> float:
        return max(outcome.ended for outcome in self.outcomes)


OnProgress = Callable[[Progress], None]


def run_plans(plans: list[Plan], on_progress: OnProgress | None = None) -> Measured:
    """Run one process for each plan, all from one moment.

    An interrupt (Ctrl-C) stops them, and what they saw is returned. Raises `VivaceError` when a process dies.
    """
    context = multiprocessing.get_context("spawn")
    members = []
    try:
        for plan in plans:
            ours, theirs = context.Pipe()
            process = context.Process(target=worker.main, args=(theirs, msgspec.msgpack.encode(plan)), daemon=True)
            process.start()
            theirs.close()
            members.append(_Member(process, ours))
        for member in members:
            member.expect("ready")
        start = f"{clock() + MARGIN_S!r}".encode()
        for member in members:
            member.pipe.send_bytes(start)
        return _collect(members, on_progress)
    finally:
        for member in members:
            member.end()


class _Member:
    """One client process."""

    def __init__(self, process: SpawnProcess, pipe: multiprocessing.connection.Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.progress = Progress()
        self.outcome: Outcome | None = None

    def read(self) -> tuple[str, Any]:
        """Raises `VivaceError` when it failed."""
        try:
            data = self.pipe.recv_bytes()
        except (EOFError, OSError):
            self.process.join(5)
            raise VivaceError(
                f"A client process ended with status {self.process.exitcode} and left no results. Run it again with "
                "less load, or fewer --processes."
            ) from None
        kind, value = msgspec.msgpack.decode(data)
        if kind == "error":
            raise VivaceError(f"A client process failed: {value}")
        return kind, value

    def expect(self, kind: str) -> None:
        found, _ = self.read()
        assert found == kind

    def take(self) -> None:
        """One report."""
        kind, value = self.read()
        if kind == "outcome":
            self.outcome = msgspec.convert(value, Outcome)
        else:
            self.progress = msgspec.convert(value, Progress)

    def end(self) -> None:
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _collect(members: list[_Member], on_progress: OnProgress | None) -> Measured:
    interrupted = False
    open_members = list(members)
    while open_members:
        try:
            ready = multiprocessing.connection.wait([member.pipe for member in open_members])
            for member in open_members:
                if member.pipe in ready:
                    member.take()
            open_members = [member for member in open_members if member.outcome is None]
            if on_progress is not None:
                on_progress(_add_up(members))
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            for member in open_members:
                member.pipe.send_bytes(b"stop")
    outcomes = tuple(member.outcome for member in members if member.outcome is not None)
    return Measured(outcomes, next((outcome.stopped for outcome in outcomes if outcome.stopped), ""))


def _add_up(members: list[_Member]) -> Progress:
    total = Progress()
    for member in members:
        total.sent += member.progress.sent
        total.done += member.progress.done
        total.failed += member.progress.failed
        total.tokens += member.progress.tokens
        total.latencies_ms += member.progress.latencies_ms
        member.progress.latencies_ms = []
    return total
