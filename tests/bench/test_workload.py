from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.bench.workload import Line, Workload, parse_lengths, read_lines, read_trace
from vivace.errors import ConfigError


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_place_asks_the_same_every_time(seed: int, index: int) -> None:
    workload = Workload(model="m", input_tokens=parse_lengths("uniform:4:40"), seed=seed)
    assert workload.ask(index) == workload.ask(index)


def test_seeds_and_places_ask_different_things() -> None:
    asked = {str(Workload(model="m", seed=seed).ask(index).body) for seed in range(5) for index in range(5)}
    assert len(asked) == 25


@given(st.sampled_from(["7", "uniform:3:9", "normal:50:500", "lognormal:20:2"]), st.integers(0, 1000))
def test_lengths_are_within_their_bounds(text: str, seed: int) -> None:
    workload = Workload(model="m", output_tokens=parse_lengths(text), seed=seed)
    drawn = workload.ask(0).body["max_tokens"]
    assert drawn >= 1
    if text.startswith("uniform"):
        assert 3 <= drawn <= 9


@given(st.text(max_size=30))
def test_any_text_is_lengths_or_a_clear_error(text: str) -> None:
    with suppress(ConfigError):
        assert parse_lengths(text).a >= 1


@pytest.mark.parametrize("text", ["", "0", "-3", "uniform:9:3", "normal:1", "nan", "inf", "uniform:1:2:3", "x:1:2"])
def test_lengths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_lengths(text)


def test_prompts_have_about_the_tokens_asked_for_by_the_servers_count() -> None:
    workload = Workload(model="m", input_tokens=parse_lengths("100"), words_per_token=0.5, overhead_tokens=20)
    assert len(workload.ask(0).body["messages"][0]["content"].split()) == 40


def test_salt_makes_every_prompt_begin_differently() -> None:
    workload = Workload(model="m", salt="abc")
    begins = {workload.ask(i).body["messages"][0]["content"][:10] for i in range(5)}
    assert len(begins) == 5


def test_a_conversation_carries_all_that_was_said() -> None:
    ask = Workload(model="m", lines=(Line(turns=["one", "two"], expected="yes"),)).ask(3)
    assert ask.turns == ("two",)
    follow = Workload(model="m").follow(ask, "answer")
    assert [message["content"] for message in follow.body["messages"]] == ["one", "answer", "two"]
    assert follow.turns == ()
    assert follow.expected == ("yes",)


def test_completions_carry_a_prompt_and_further_fields_are_passed_on() -> None:
    body = Workload(model="m", chat=False, stream=False, extra={"ignore_eos": True}).ask(0).body
    assert isinstance(body["prompt"], str)
    assert body["ignore_eos"] is True
    assert "stream_options" not in body


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_workload_file_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "w.jsonl", {"prompt": "a"}, "", {"turns": ["b", "c"], "max_tokens": 3, "expected": ["x"]})
    lines = read_lines(file)
    assert [line.prompt for line in lines] == ["a", ""]
    assert Workload(model="m", lines=lines).ask(1).body["max_tokens"] == 3


@pytest.mark.parametrize(
    "line", ["{", "[]", {"promt": "a"}, {}, {"prompt": "a", "turns": ["b"]}, {"prompt": 3}, {"messages": "x"}]
)
def test_a_wrong_line_is_told_by_its_number(tmp_path: Path, line: object) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        read_lines(write(tmp_path / "w.jsonl", {"prompt": "a"}, line))


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no requests"):
        read_lines(write(tmp_path / "w.jsonl", ""))
    with pytest.raises(ConfigError, match="Cannot read"):
        read_lines(tmp_path / "none")


def test_a_trace_is_read_in_either_unit_and_begins_at_nought(tmp_path: Path) -> None:
    times, lengths = read_trace(
        write(tmp_path / "t", {"timestamp": 3500, "input_length": 9, "output_length": 4}, {"timestamp": 1000})
    )
    assert times == (0.0, 2.5)
    assert lengths == ((64, 32), (9, 4))
    assert read_trace(write(tmp_path / "t", {"at_s": 1.5}))[0] == (0.0,)


@pytest.mark.parametrize("line", ["x", {}, {"at_s": "soon"}, {"at_s": 1, "output_length": 0}])
def test_a_wrong_trace_is_told_by_its_line(tmp_path: Path, line: object) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        read_trace(write(tmp_path / "t", line))
