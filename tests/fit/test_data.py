from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints import write_llama
from tests.compress.variants import write_conversations
from vivace.errors import DataError
from vivace.fit.data import DOCUMENT_CHARACTERS, encode_document, read_documents, split_data, write_own_text
from vivace.models.model import open_model


def test_what_is_judged_by_is_never_calibrated_on(tmp_path: Path) -> None:
    texts = split_data(write_conversations(tmp_path / "talks.jsonl", 60), tmp_path / "split")
    parts = [{json.dumps(one) for one in read_documents(path)} for path in (texts.calibration, texts.held_out)]
    assert not parts[0] & parts[1]
    assert [len(part) for part in parts] == [42, 18]


def test_plain_text_is_cut_into_documents(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n".join(f"line {i} of a book" for i in range(5000)))
    texts = split_data(tmp_path / "book.txt", tmp_path / "split")
    documents = read_documents(texts.held_out) + read_documents(texts.calibration)
    assert max(map(len, documents)) <= DOCUMENT_CHARACTERS
    assert sum(str(one).count("of a book") for one in documents) == 5000


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Give a longer file"):
        split_data(write_conversations(tmp_path / "talks.jsonl", 10), tmp_path / "split")


def test_a_long_conversation_keeps_its_beginning(tmp_path: Path) -> None:
    message = {"role": "user", "content": "word " * 100}
    lines = [json.dumps({"messages": [message, message | {"role": "assistant"}] * 9})] * 40
    (tmp_path / "talks.jsonl").write_text("\n".join(lines))
    document = read_documents(split_data(tmp_path / "talks.jsonl", tmp_path / "split").held_out)[0]
    assert 2 <= len(document) < 18


def test_without_data_the_model_writes_some(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "m")
    opened = open_model(str(model))
    texts = write_own_text(opened, str(model), tmp_path / "own")
    documents = read_documents(texts.held_out)
    assert len(documents) >= 8
    assert sum(len(encode_document(one, opened.tokenizer, 512)) for one in documents) > 100
    again = write_own_text(opened, str(model), tmp_path / "again")
    assert again.digest == texts.digest
