"""An evaluation's document as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vivace.evaluation.measures import MEASURES


def print_evaluation(document: Mapping[str, Any]) -> str:
    """Each figure with its 95% interval, and beside a base the base's figure and the paired change."""
    data = document["data"]
    sizes = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in data.items() if isinstance(value, int))
    against = f" against {document['against']}" if document["against"] else ""
    lines = [f"{document['model']}{against} on {data['file']}: {data['kind']}, {sizes}"]
    for way, figures in document["through"].items():
        lines += ["", way, *_print_figures(figures)]
    lines += ["", "In brackets: 95% intervals by bootstrap over documents; changes are paired."]
    if any("kl" in figures for figures in document["through"].values()):
        lines.append(f"KL is {document['kl_is']}.")
    return "\n".join(lines)


def _print_figures(figures: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, figure in figures.items():
        row = f"  {MEASURES[name].says:52} {figure['value']:9.4f} {_print_interval(figure['interval'])}"
        if figure["base"] is not None:
            scale, unit = (100, "%") if MEASURES[name].relative else (1, "")
            change = f"{scale * figure['change']:+.4g}{unit}"
            row += (
                f"  base {figure['base']:9.4f}  change {change:>9} {_print_interval(figure['change_interval'], scale)}"
            )
        rows.append(row.rstrip())
    return rows


def _print_interval(interval: Sequence[float] | None, scale: float = 1) -> str:
    return f"[{scale * interval[0]:.4g}, {scale * interval[1]:.4g}]" if interval else ""
