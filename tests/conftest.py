"""Tiny checkpoints that many tests read and none writes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import write_llama, write_qwen2


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Llama in float32, in the published dialect."""
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def qwen2_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untied Qwen2 in bfloat16 and in shards, in the new dialect."""
    return write_qwen2(tmp_path_factory.mktemp("qwen2"), dialect="new", tied=False, dtype="bfloat16", sharded=True)
