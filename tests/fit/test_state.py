from __future__ import annotations

from pathlib import Path

import pytest

from vivace.errors import ConfigError
from vivace.fit.state import State, open_state


def test_time_that_was_spent_counts_after_a_kill(tmp_path: Path) -> None:
    now = [0.0]
    first = State(tmp_path, 100.0, lambda: now[0])
    now[0] = 30.0
    first.save("stage", {"a": 1})
    now[0] = 1000.0
    second = State(tmp_path, 100.0, lambda: now[0])
    assert second.load("stage") == {"a": 1}
    assert second.left_s == 70.0


def test_a_stage_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    assert State(tmp_path, 1.0).load("stage") is None


def test_a_search_is_gone_on_with_only_if_asked_and_only_the_same(tmp_path: Path) -> None:
    open_state(tmp_path / "out", {"budget": "a", "seed": 0}, 1.0, resume=False)
    with pytest.raises(ConfigError, match="--resume"):
        open_state(tmp_path / "out", {"budget": "a", "seed": 0}, 1.0, resume=False)
    with pytest.raises(ConfigError, match="another budget"):
        open_state(tmp_path / "out", {"budget": "b", "seed": 0}, 1.0, resume=True)
    open_state(tmp_path / "out", {"budget": "a", "seed": 0}, 1.0, resume=True)


def test_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        open_state(tmp_path, {}, 1.0, resume=False)
    assert (tmp_path / "file").read_text() == "mine"
