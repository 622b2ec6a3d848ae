"""Data files are recognised by their fields, read whole, and refused with the line, the name and the remedy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivace.errors import DataError
from vivace.evaluation import data
from vivace.evaluation.data import Conversation, Intent, Question, read_data

TALK = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}], "id": "1"}
ASKED = {"context": "It is red.", "question": "Which colour?", "answers": ["red"], "title": "t"}
LABELLED = {"text": "play it", "label": "music", "domain": "d"}


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("record", "kind", "read"),
    [
        (TALK, "conversations", Conversation(tuple(TALK["messages"]))),  # type: ignore[arg-type]
        (ASKED, "questions", Question("It is red.", "Which colour?", ("red",))),
        (LABELLED, "intents", Intent("play it", "music")),
    ],
)
def test_a_records_kind_is_known_by_its_fields(tmp_path: Path, record: object, kind: str, read: object) -> None:
    found = read_data(write_lines(tmp_path / "d.jsonl", record, record))
    assert (found.kind, list(found.records)) == (kind, [read, read])


def test_all_else_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("{not: json}\n")
    assert read_data(tmp_path / "a.txt").text == "{not: json}\n"
    (tmp_path / "b").write_text("Once upon a time")
    assert read_data(tmp_path / "b").kind == "text"


def test_lines_of_text_alone_are_the_text_of_the_file(tmp_path: Path) -> None:
    found = read_data(write_lines(tmp_path / "d.jsonl", {"text": "one"}, {"text": "two", "id": "2"}))
    assert (found.kind, found.text, found.records) == ("text", "one\ntwo\n", ())
    with pytest.raises(DataError, match="line 2 holds text, and the lines before it intents"):
        read_data(write_lines(tmp_path / "d.jsonl", LABELLED, {"text": "two"}))


def test_compressed_files_are_read_as_they_are(tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "d.jsonl", LABELLED)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert read_data(tmp_path / "d.jsonl.gz").records == read_data(plain).records


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "x"}', r"line 1 .*'prompt'.*known are"),
        ('{"text": "x", "label": "y", "weight": 2}', r"line 1 .*unknown field 'weight'.*Remove it"),
        ('{"label": "x"}', r"line 1 lacks text"),
        ('{"text": "x", "weight": 2}', r"line 1 .*unknown field 'weight'"),
        ('{"text": "", "label": "y"}', r"text is ''.*not empty"),
        ('{"text": 3, "label": "y"}', r"text is 3"),
        ('{"messages": []}', r"messages must be a list"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', r"messages\[0\]: role is 'tool'; it must be one of"),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\] is no object of role and content"),
        ('{"messages": [{"role": "user", "content": "x"}]}', r"no answer of the assistant"),
        ('{"context": "c", "question": "q", "answers": "a"}', r"answers must be a list of strings"),
        ("[1]", r"no JSON object"),
        ("{", r"line 1 is no JSON"),
        ("", r"is empty"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "d.jsonl").write_text(line)
    with pytest.raises(DataError, match=said):
        read_data(tmp_path / "d.jsonl")


def test_one_file_holds_one_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2 holds intents, and the lines before it conversations"):
        read_data(write_lines(tmp_path / "d.jsonl", TALK, LABELLED))


def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_DATA_BYTES", 2000)
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"a" * 10**6))
    with pytest.raises(DataError, match="once unpacked"):
        read_data(tmp_path / "d.txt.gz")
    (tmp_path / "d.txt").write_bytes(b"a" * 2001)
    with pytest.raises(DataError, match="larger than"):
        read_data(tmp_path / "d.txt")


@pytest.mark.parametrize("cut", [5, 20, -4])
def test_a_broken_archive_is_refused(tmp_path: Path, cut: int) -> None:
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"some text" * 50)[:cut])
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_data(tmp_path / "d.txt.gz")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_data(tmp_path / "none.jsonl")


def test_a_sample_is_the_same_for_a_seed_and_keeps_the_order(tmp_path: Path) -> None:
    records = [{"text": f"t{i}", "label": "l"} for i in range(50)]
    found = read_data(write_lines(tmp_path / "d.jsonl", *records))
    some = found.sample(10, 3)
    texts = [record.text for record in some.records if isinstance(record, Intent)]
    assert len(texts) == 10
    assert some.records == found.sample(10, 3).records != found.sample(10, 4).records
    assert texts == sorted(texts, key=lambda text: int(text[1:]))
    assert found.sample(0).records == found.sample(99).records == found.records


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(["messages", "role", "content", "text", "label", "context", "question", "answers", "id", "x"])


def read_or_refuse(path: Path) -> data.Data | str:
    """The data, or what the refusal says."""
    try:
        return read_data(path)
    except DataError as error:
        return str(error)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(_NAMES, _VALUES | st.just([{"role": "user", "content": "x"}]), max_size=4), max_size=3))
def test_any_objects_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, records: list[object]) -> None:
    path = write_lines(tmp_path_factory.mktemp("fuzz") / "d.jsonl", *records)
    found = read_or_refuse(path)
    assert str(path) in found if isinstance(found, str) else found.records


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60), st.sampled_from(["d.jsonl", "d.txt", "d", "d.gz"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    for packed in (content, gzip.compress(content), b"\x1f\x8b" + content):
        path.write_bytes(packed)
        found = read_or_refuse(path)
        assert str(path) in found if isinstance(found, str) else found.text or found.records
