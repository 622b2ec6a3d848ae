from __future__ import annotations

import io

from rich.console import Console

from vivace.fit.objective import parse_objective
from vivace.fit.view import Line, View, draw_lines, write_lines

OBJECTIVE = parse_objective("tpot_p99=2ms memory=100MB")
LINES = [
    Line("int8", {"tpot_p99": 3.0, "memory": 50e6, "loss": 0.001}, True),
    Line("int4", {"tpot_p99": 1.5, "memory": 30e6, "loss": 0.02}, False),
]


def test_every_limit_and_the_loss_are_shown() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(draw_lines(OBJECTIVE, LINES))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("tpot_p99", "memory", "loss", "3ms", "30MB", "2%", "measured", "expected"):
        assert word in text


def test_what_is_unknown_is_no_number() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(draw_lines(OBJECTIVE, [Line("x", {}, False)]))
    assert "?" in console.file.getvalue()  # type: ignore[attr-defined]


def test_without_a_terminal_each_stage_is_a_line() -> None:
    output = io.StringIO()
    view = View(OBJECTIVE, output, lambda: 60.0)
    with view.open():
        view.say("Searching")
        view.tell(0.5)
        view.show(LINES)
        view.say("Realising")
    assert output.getvalue() == "Searching\nRealising\n"


def test_lines_are_written_with_their_names() -> None:
    assert write_lines(OBJECTIVE, LINES).splitlines()[1].split() == [
        "expected", "tpot_p99=1.5ms", "memory=30MB", "loss=2%", "int4",
    ]  # fmt: skip
