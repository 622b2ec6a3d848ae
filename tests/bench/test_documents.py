from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench.test_report import describe_comparison, describe_run, describe_search
from vivace.bench.documents import (
    compare_files,
    compare_status,
    exit_status,
    find_max_status,
    print_comparison,
    print_find_max,
    print_run,
    print_sweep,
    read_document,
    sweep_document,
    write_document,
)
from vivace.budget import Budget
from vivace.errors import ConfigError


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    document = describe_run(n=50)
    write_document(document, tmp_path / "r.json", tmp_path / "r.html")
    again = read_document(tmp_path / "r.json")
    assert again["ttft_ms"] == document["ttft_ms"]
    assert {"p50", "p90", "p99"} <= again["ttft_ms"].keys()
    assert {"p50", "p90", "p99"} <= again["e2e_ms"].keys()
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"raw": {}, "format": 99}'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(ConfigError):
        read_document(tmp_path / "r")
    with pytest.raises(ConfigError, match="Cannot read"):
        read_document(tmp_path / "none")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot write"):
        write_document(describe_run(n=20), tmp_path / "no" / "r", None)


def change(document: dict[str, Any], **client: Any) -> dict[str, Any]:
    return document | {"client": document["client"] | client}


def test_statuses_are_what_ci_reads() -> None:
    assert exit_status(describe_run(n=20)) == 0
    assert exit_status(describe_run(n=20, failed=2)) == 1
    assert exit_status(describe_run(n=20, failed=20)) == 1
    assert exit_status(describe_run(limits=Budget(ttft_ms=500))) == 0
    missed = describe_run(limits=Budget(ttft_ms=40))
    assert exit_status(missed) == 99
    assert exit_status(change(missed, valid=False)) == 3
    assert exit_status(change(describe_run(limits=Budget(ttft_ms=500)), valid=False)) == 0
    assert exit_status(describe_run() | {"stopped_early": "gone"}) == 1
    assert compare_status(describe_comparison()) == 4
    assert find_max_status(describe_search()) == 0
    assert find_max_status(describe_search(0.0)) == 99


def test_texts_say_what_the_numbers_say() -> None:
    text = print_run(describe_run(n=100, failed=3, limits=Budget(ttft_ms=40)))
    assert "MISSED" in text
    assert "3 x timeout" in text
    assert "662" in text
    assert "WORSE" in print_comparison(describe_comparison())
    assert "between 3 and 4" in print_find_max(describe_search())
    assert "50/s" in print_sweep(sweep_document([describe_run()]))


def test_files_of_different_requests_are_not_compared() -> None:
    with pytest.raises(ConfigError, match="seed"):
        compare_files(describe_run() | {"seed": 1}, describe_run(), 0.01)


def test_a_file_compared_with_itself_is_no_evidence() -> None:
    found = compare_files(describe_run(), describe_run(), 0.01)
    assert found["comparison"]["verdict"] == "no evidence"
    assert compare_status(found) == 0
