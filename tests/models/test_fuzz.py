"""Files that were spoiled in every way: whatever reads them raises `VivaceError` and nothing else.

The slow tests try many more; `fuzzing.py` has the readers and the ways.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.models.fuzzing import READERS, sound_files, spoil

MANY = 20_000
MAX_BYTES = 1 << 26
"""That a reader may take for any of these files, which are smaller than 100 kB."""


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_read(tmp_path: Path, name: str) -> None:
    for data in READERS[name].prepare(tmp_path):
        assert READERS[name].accepts(tmp_path, data)


@pytest.mark.parametrize("name", READERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
@example(seed=0)
def test_a_spoiled_file_gives_only_our_errors(tmp_path: Path, name: str, seed: int) -> None:
    reader, files = READERS[name], sound_files(name)
    if not any(tmp_path.iterdir()):
        reader.prepare(tmp_path)
    tracemalloc.start()
    try:
        reader.accepts(tmp_path, spoil(files[seed % len(files)], seed, reader.is_json))
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_many_spoiled_files_give_only_our_errors(tmp_path: Path, name: str) -> None:
    reader, files = READERS[name], sound_files(name)
    reader.prepare(tmp_path)
    outcomes = [reader.accepts(tmp_path, spoil(files[seed % len(files)], seed, reader.is_json)) for seed in range(MANY)]
    assert any(outcomes)
    assert not all(outcomes)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=3000, deadline=None)
@given(data=st.binary(max_size=2000))
def test_any_bytes_give_only_our_errors(tmp_path: Path, name: str, data: bytes) -> None:
    if not any(tmp_path.iterdir()):
        READERS[name].prepare(tmp_path)
    READERS[name].accepts(tmp_path, data)
