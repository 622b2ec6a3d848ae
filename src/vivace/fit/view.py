"""What a search looks like while it runs: the stage, the time left, and the front of what is best so far.

On a terminal a live picture, redrawn at most twice a second; elsewhere a line for each stage. Knows values by name, and
not how they came about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vivace.fit.objective import LATENCIES, LOSS, MEMORY, Objective, Values, format_value

MOST_ROWS = 14


@dataclass(frozen=True, slots=True)
class Line:
    """One variant."""

    name: str
    values: Values
    measured: bool
    """Through HTTP; else expected."""


class View:
    """Tells what is going on."""

    def __init__(self, objective: Objective, output: TextIO, left_s: Callable[[], float]) -> None:
        self._objective = objective
        self._console = Console(file=output, soft_wrap=True)
        self._left_s = left_s
        self._stage, self._share = "", 0.0
        self._lines: Sequence[Line] = ()
        self._live: Live | None = None
        self._drawn = 0.0

    @contextmanager
    def open(self) -> Iterator[View]:
        """Draws until the block ends, where there is a terminal."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield self
        self._live = None

    def say(self, stage: str) -> None:
        """A stage begins."""
        self._stage, self._share = stage, 0.0
        if self._live is None:
            self._console.print(stage, highlight=False)
        self._draw(now=True)

    def tell(self, share: float) -> None:
        """So much of it is done."""
        self._share = share
        self._draw()

    def show(self, lines: Sequence[Line]) -> None:
        """The front as it stands."""
        self._lines = lines
        self._draw()

    def _draw(self, *, now: bool = False) -> None:
        moment = time.monotonic()
        if self._live is None or (not now and moment - self._drawn < 0.5):
            return
        self._drawn = moment
        share = f" {self._share:.0%}" if self._share else ""
        head = Text(
            f"{self._stage}{share}   {max(0.0, self._left_s()) / 60:.0f} min left   Ctrl-C keeps the best so far"
        )
        self._live.update(Group(head, draw_lines(self._objective, self._lines)), refresh=True)


def draw_lines(objective: Objective, lines: Sequence[Line]) -> Table:
    """Variants with what is limited of them; green is kept, red is not."""
    names = [one.name for one in objective.constraints] or ["tpot_p50"]
    names += [LOSS] if LOSS not in names else []
    table = Table(box=None, pad_edge=False)
    for heading in ("variant", *names, ""):
        table.add_column(heading, overflow="fold")
    for line in lines[:MOST_ROWS]:
        cells = [_color(objective, name, line.values) for name in names]
        table.add_row(line.name, *cells, "measured" if line.measured else "expected")
    return table


def _color(objective: Objective, name: str, values: Values) -> Text:
    if name not in values:
        return Text("?")
    value, limit = values[name], objective.limit(name)
    return Text(format_value(name, value), "red" if value > limit else "green" if limit < float("inf") else "")


def write_lines(objective: Objective, lines: Sequence[Line]) -> str:
    """The same as plain text, one a line."""
    limited = [one.name for one in objective.constraints]
    usual = [name for name in ("ttft_p50", "tpot_p50", "total_p50", MEMORY, LOSS) if name not in limited]
    names = [*limited, *usual]
    rows = [("measured" if one.measured else "expected", _write_values(one.values, names), one.name) for one in lines]
    return "\n".join(f"  {kind}  {values}  {name}" for kind, values, name in rows[:MOST_ROWS])


def _write_values(values: Mapping[str, float], names: Sequence[str]) -> str:
    known = [name for name in (*LATENCIES, MEMORY, LOSS) if name in names and name in values]
    return " ".join(f"{name}={format_value(name, values[name])}" for name in known)
