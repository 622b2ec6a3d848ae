"""Clients that go away, on real sockets and the native runner, a hundred times."""

from __future__ import annotations

from pathlib import Path

from benchmarks.disconnects import STAGES, measure
from tests.checkpoints import write_llama


def test_clients_that_go_while_queued_in_prefill_or_in_decode_leave_nothing_behind(tmp_path: Path) -> None:
    found = measure(str(write_llama(tmp_path, context=4096)), times=34, words=200)
    assert found["integrity"] == "clean"
    assert [found["ms until free"][stage]["count"] for stage in STAGES] == [34] * 3
