from __future__ import annotations

import io

from tests.fakes import FakeClock
from vivace.progress import show_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def draw(output: io.StringIO, *shares: float, step_s: float = 1.0) -> str:
    clock = FakeClock()
    with show_progress("Loading tiny", output, clock) as tell:
        for share in shares:
            clock.advance(step_s)
            tell(share)
    return output.getvalue()


def test_a_long_load_draws_its_bar_on_a_terminal() -> None:
    drawn = draw(Terminal(), 0.25, 0.5, 1.0)
    assert "Loading tiny" in drawn
    assert [percent for percent in ("25%", "50%", "100%") if percent in drawn] == ["25%", "50%", "100%"]
    assert drawn.endswith("\n")


def test_a_quick_load_draws_nothing() -> None:
    assert draw(Terminal(), 0.25, 0.5, 1.0, step_s=0.1) == ""


def test_what_is_no_terminal_gets_nothing() -> None:
    assert draw(io.StringIO(), 0.25, 0.5, 1.0) == ""


def test_a_load_that_tells_nothing_draws_nothing() -> None:
    assert draw(Terminal()) == ""
