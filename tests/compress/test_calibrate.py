from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.compress.variants import CALIBRATION, write_conversations, write_model
from vivace.compress.calibrate import Calibration, read_calibration
from vivace.errors import DataError
from vivace.models.model import Model, open_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_model(str(write_model(tmp_path_factory.mktemp("model"))))


def read(model: Model, path: Path, seed: int = 0) -> Calibration:
    return read_calibration(path, model.tokenizer, model.config, CALIBRATION, seed)


def test_sequences_have_one_length_and_come_from_the_seed(model: Model, tmp_path: Path) -> None:
    path = write_conversations(tmp_path / "data.jsonl")
    found = read(model, path)
    assert found.tokens >= CALIBRATION.tokens
    assert {len(sequence) for sequence in (*found.sequences, *found.held_out)} == {64}
    assert len(found.held_out) == 2
    assert not set(found.held_out) & set(found.sequences)
    assert read(model, path) == found
    assert read(model, path, seed=1).sequences != found.sequences


def test_text_and_gzip_are_read_too(model: Model, tmp_path: Path) -> None:
    text = "It was the best of times, it was the worst of times.\n" * 40
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert read(model, tmp_path / "a.txt").sequences == read(model, tmp_path / "b.txt.gz").sequences


def test_questions_and_labelled_texts_are_read_as_what_they_say(model: Model, tmp_path: Path) -> None:
    asked = {"context": "It is red. " * 20, "question": "Which colour?", "answers": ["red", "dark red"]}
    for name, record, said in (
        ("q.jsonl", asked, "Which colour?\nred\n"),
        ("i.jsonl", {"text": "play it " * 20, "label": "music"}, "play it"),
        ("t.jsonl", {"text": "Once upon a time. " * 20}, "Once upon a time."),
    ):
        (tmp_path / name).write_text(f"{json.dumps(record)}\n" * 12)
        found = read(model, tmp_path / name)
        assert said in model.tokenizer.decode([token for sequence in found.sequences for token in sequence])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "Hi"}', "calibration takes 320 at least"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\xff\xfe", "no text in UTF-8"),
        ("a.jsonl", b"{", "line 1 is no JSON"),
        ("a.jsonl", b'{"messages": [{"role": 1}]}', "is no object of role and content"),
        ("a.jsonl.gz", b"no gzip", "is no JSON"),
    ],
)
def test_data_that_is_broken_or_too_short_is_refused(
    name: str, data: bytes, message: str, model: Model, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read(model, tmp_path / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), name=st.sampled_from(["x.jsonl", "x.txt", "x.jsonl.gz"]))
def test_any_file_is_data_or_refused(data: bytes, name: str, model: Model, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError):
        read(model, tmp_path / name)


def test_a_small_config_is_all_that_is_taken(model: Model, tmp_path: Path) -> None:
    path = write_conversations(tmp_path / "data.jsonl")
    config = replace(CALIBRATION, tokens=64, held_out=0)
    found = read_calibration(path, model.tokenizer, model.config, config, 0)
    assert found.tokens == 256  # as many as the widest linear has inputs
    assert found.held_out == ()
