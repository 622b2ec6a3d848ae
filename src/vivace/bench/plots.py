"""Plots as SVG, drawn by hand: axes with units, direct labels, intervals, a budget as a line.

A plot is drawn twice, wide and narrow, and the page shows the one that fits: text keeps its size on a phone. Numbers
in, text out; knows no results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDE, NARROW = 784, 358
HEIGHT = 280
MAX_POINTS = 3000
"""Of a cloud of dots; beyond, every so manieth is drawn."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, with the places and words of its ticks."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    name: str
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one; beyond them stays there."""
        low, high, value = ((math.log(max(1e-12, v)) if self.log else v) for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5


def linear_axis(values: Sequence[float], name: str, *, zero: bool = True, tight: bool = False, ticks: int = 5) -> Axis:
    """Round steps that hold all values; a tight axis ends at the last value."""
    low = 0.0 if zero else min(values, default=0.0)
    high = max(values, default=1.0)
    high = high if high - low > 1e-9 * max(1.0, abs(low)) else low + 1.0
    step = _round_step((high - low) / ticks)
    start = math.floor(low / step) * step
    count = math.ceil((high - start) / step - 1e-9)
    marks = [start + step * i for i in range(count + 1)]
    end = high if tight else marks[-1]
    return Axis(start, end, tuple((mark, show(mark)) for mark in marks if mark <= end), name)


def log_axis(values: Sequence[float], name: str) -> Axis:
    """Of values above zero: ticks at powers of ten, or as round between them as gives three."""
    above = [value for value in values if value > 0] or [1.0]
    low, high = min(above) / 1.15, max(above) * 1.15
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for steps in _LOG_STEPS:
        inside = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(inside) >= 3:
            break
    return Axis(low, high, tuple((mark, show(mark)) for mark in inside), name, log=True)


_LOG_STEPS: tuple[Sequence[float], ...] = (
    (1,),
    (1, 2, 5),
    (1, 1.5, 2, 3, 4, 5, 7),
    [1 + i / 4 for i in range(36)],
    [1 + i / 20 for i in range(180)],
)
"""From coarse to fine, within a power of ten."""


def quantile_axis(highest: float) -> Axis:
    """Percentiles, each nine as wide as the last. Values are -log10(1 - q)."""
    marks = [(q, f"p{100 * q:g}") for q in (0.0, 0.5, 0.9, 0.99, 0.999) if q <= highest + 1e-9]
    return Axis(0.0, max(0.31, nines(highest)), tuple((nines(q), text) for q, text in marks), "share of requests")


def nines(q: float) -> float:
    return -math.log10(max(1e-9, 1 - q))


def show(value: float) -> str:
    """A number in few digits, as on an axis."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2g}"
    text = f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _round_step(rough: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))


@dataclass
class Plot:
    """What is drawn between two axes, in the order it was added."""

    x: Axis
    y: Axis
    title: str
    """Said to those who cannot see it."""
    height: int = HEIGHT
    marks: list[Callable[[_Frame], str]] = field(default_factory=list)

    def curve(self, points: Sequence[Point], kind: str = "", name: str = "", *, below: bool = False) -> Plot:
        """Named at its last point."""

        def draw(frame: _Frame) -> str:
            path = "M" + "L".join(frame.at(*point) for point in points)
            text = frame.label(points[-1], name, below=below) if name else ""
            return f'<path class="curve {kind}" d="{path}"/>{text}'

        if points:
            self.marks.append(draw)
        return self

    def dots(self, points: Sequence[Point], kind: str = "") -> Plot:
        kept = points[:: max(1, math.ceil(len(points) / MAX_POINTS))]
        if kept:
            self.marks.append(
                lambda frame: f'<path class="dots {kind}" d="{"".join(f"M{frame.at(*p)}h0" for p in kept)}"/>'
            )
        return self

    def interval(self, x: float, low: float, high: float) -> Plot:
        self.marks.append(lambda frame: f'<path class="interval" d="M{frame.at(x, low)}L{frame.at(x, high)}"/>')
        return self

    def point(self, x: float, y: float, name: str = "", kind: str = "") -> Plot:
        def draw(frame: _Frame) -> str:
            left, top = frame.at(x, y).split(",")
            text = frame.label((x, y), name) if name else ""
            return f'<circle class="point {kind}" cx="{left}" cy="{top}" r="4"/>{text}'

        self.marks.append(draw)
        return self

    def level(self, y: float, name: str, kind: str = "budget") -> Plot:
        """A line all across; nothing when it lies outside."""

        def draw(frame: _Frame) -> str:
            line = f'<path class="{kind}" d="M{frame.at(self.x.low, y)}L{frame.at(self.x.high, y)}"/>'
            top = float(frame.at(self.x.low, y).split(",")[1])
            down = top + 15 if self.y.place(y) > 0.9 else top - 5
            return f'{line}<text class="name" x="{frame.left + 6}" y="{down:.1f}">{escape(name)}</text>'

        if self.y.low <= y <= self.y.high:
            self.marks.append(draw)
        return self

    def render(self) -> str:
        return self._draw(WIDE, "") + self._draw(NARROW, " narrow")

    def _draw(self, width: int, kind: str) -> str:
        frame = _Frame(self.x, self.y, width, self.height)
        body = frame.axes() + "".join(mark(frame) for mark in self.marks)
        return (
            f'<svg class="plot{kind}" viewBox="0 0 {width} {self.height}" role="img" aria-label="{escape(self.title)}">'
            f"{body}</svg>"
        )


@dataclass(frozen=True)
class _Frame:
    """Where things lie at one width."""

    x: Axis
    y: Axis
    width: int
    height: int
    left: int = 52
    right: int = 16
    top: int = 28
    bottom: int = 44

    def at(self, x: float, y: float) -> str:
        across = self.left + self.x.place(x) * (self.width - self.left - self.right)
        down = self.height - self.bottom - self.y.place(y) * (self.height - self.top - self.bottom)
        return f"{across:.1f},{down:.1f}"

    def label(self, point: Point, name: str, *, below: bool = False) -> str:
        """Beside a point, on the side that has room."""
        across, down = (float(part) for part in self.at(*point).split(","))
        end = across > self.width / 2
        shift = -8 if end else 8
        anchor = ' text-anchor="end"' if end else ""
        top = down + 18 if below else max(12.0, down - 7)
        return f'<text class="name" x="{across + shift:.1f}" y="{top:.1f}"{anchor}>{escape(name)}</text>'

    def axes(self) -> str:
        parts = [f'<text x="0" y="14">{escape(self.y.name)}</text>']
        for value, text in self.y.ticks:
            start, end = self.at(self.x.low, value), self.at(self.x.high, value)
            down = float(start.split(",")[1])
            parts.append(f'<path class="grid" d="M{start}L{end}"/>')
            parts.append(f'<text x="{self.left - 8}" y="{down + 4:.1f}" text-anchor="end">{escape(text)}</text>')
        last = -1e9
        for value, text in self.x.ticks:
            across = float(self.at(value, self.y.low).split(",")[0])
            if across - last > 12 + 7 * len(text):
                last = across
                across = min(across, self.width - 4.0 * len(text))
                down = self.height - 26
                parts.append(f'<text x="{across:.1f}" y="{down}" text-anchor="middle">{escape(text)}</text>')
        middle = (self.left + self.width - self.right) / 2
        parts.append(f'<text x="{middle:.0f}" y="{self.height - 6}" text-anchor="middle">{escape(self.x.name)}</text>')
        return "".join(parts)
