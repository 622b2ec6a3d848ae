"""The live view of a run on a terminal. It runs in the parent, away from the clocks."""

from __future__ import annotations

import time
from collections import deque

from rich.console import Console
from rich.live import Live
from rich.table import Table

from vivace.bench.worker import Progress

_BARS = "▁▂▃▄▅▆▇█"


class LiveView:
    """Call it with what client processes report; it redraws at most twice a second."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._live = Live(console=console or Console(stderr=True), auto_refresh=False, transient=True)
        self._recent: deque[float] = deque(maxlen=40)
        self._started = time.monotonic()
        self._last = 0.0

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, progress: Progress) -> None:
        if progress.latencies_ms:
            ordered = sorted(progress.latencies_ms)
            self._recent.append(ordered[len(ordered) // 2])
        now = time.monotonic()
        if now - self._last < 0.4:
            return
        self._last = now
        self._live.update(self._draw(progress, now - self._started), refresh=True)

    def _draw(self, progress: Progress, elapsed_s: float) -> Table:
        table = Table.grid(padding=(0, 3))
        table.add_row(self._title, f"{elapsed_s:.0f} s")
        table.add_row(
            f"{progress.sent:,} sent, {progress.done:,} over, {progress.sent - progress.done:,} under way",
            f"[red]{progress.failed:,} failed[/red]" if progress.failed else "none failed",
        )
        if self._recent:
            table.add_row(f"{draw_bars(list(self._recent))}", f"median first token {self._recent[-1]:.1f} ms")
        return table


def draw_bars(values: list[float]) -> str:
    """A line of bars, the highest value full."""
    top = max(values, default=0.0) or 1.0
    return "".join(_BARS[min(7, int(8 * value / top))] for value in values)
