"""What a search has found so far, on disk, so that a kill loses one step's work at most.

    OUT/.fit/plan.json        what was asked; a resumed run must ask the same
    OUT/.fit/NAME.json        the result of a stage, whole or not there
    OUT/.fit/trials.db        Optuna's
    OUT/.fit/variants/        what was realised

Knows how stages are kept, not what they are.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vivace.compress.manifest import read_json, write_json
from vivace.errors import ConfigError

DIRECTORY = ".fit"


class State:
    """One run's directory, and how much time it has had."""

    def __init__(self, directory: Path, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.directory = directory
        self._clock = clock
        self._limit_s = limit_s
        spent = self.load("spent") or {"seconds": 0.0}
        self._began: float = clock() - float(spent["seconds"])

    def load(self, name: str) -> dict[str, Any] | None:
        """None if that stage was not finished."""
        path = self.directory / f"{name}.json"
        return read_json(path) if path.is_file() else None

    def save(self, name: str, value: dict[str, Any]) -> None:
        write_json(self.directory / f"{name}.json", value)
        write_json(self.directory / "spent.json", {"seconds": self.spent_s})

    @property
    def spent_s(self) -> float:
        """In this run and those that it goes on from, as far as they came to say."""
        return self._clock() - self._began

    @property
    def left_s(self) -> float:
        return self._limit_s - self.spent_s

    def extend(self, seconds: float) -> None:
        """Let what took so long be outside of the time given."""
        self._limit_s += seconds


def open_state(out: Path, plan: dict[str, Any], limit_s: float, *, resume: bool) -> State:
    """Begin, or go on. Raises `ConfigError` when OUT is taken, or holds a run that was asked something else."""
    directory = out / DIRECTORY
    begun = (directory / "plan.json").is_file()
    if not begun:
        if out.exists() and (not out.is_dir() or any(path.name != DIRECTORY for path in out.iterdir())):
            raise ConfigError(f"{out} exists and is not empty. Give a new directory, or remove it.")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write_json(directory / "plan.json", plan)
        return State(directory, limit_s)
    if not resume:
        raise ConfigError(f"{out} holds a search that was cut off. Add --resume to go on with it, or remove {out}.")
    before = read_json(directory / "plan.json")
    changed = [name for name in plan if before.get(name) != plan[name]]
    if changed:
        raise ConfigError(
            f"{out} holds a search with another {', '.join(changed)}. Give what it was begun with, or remove {out}."
        )
    return State(directory, limit_s)
