from __future__ import annotations

import io

from rich.console import Console

from vivace.bench.terminal import LiveView, draw_bars
from vivace.bench.worker import Progress


def test_the_view_says_what_is_under_way_and_leaves_nothing_behind() -> None:
    out = io.StringIO()
    with LiveView("tiny: 10/s", Console(file=out, force_terminal=True, width=100)) as view:
        view(Progress(sent=12, done=9, failed=1, latencies_ms=[20.0, 30.0, 40.0]))
    text = out.getvalue()
    assert "12 sent" in text
    assert "3 under way" in text
    assert "1 failed" in text
    assert "30.0 ms" in text


def test_bars_are_as_high_as_their_values() -> None:
    assert draw_bars([0, 4, 8]) == "▁▅█"
    assert draw_bars([]) == ""
    assert draw_bars([0.0]) == "▁"
