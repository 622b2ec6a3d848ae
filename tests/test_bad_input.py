"""Whatever is wrong with a model's files, loading it says which file, what, and what to do; it never crashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vivace
from tests.checkpoints import write_llama
from vivace.errors import CheckpointError, ContextLengthError, ModelNotFoundError, UnsupportedModelError, VivaceError


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_header(directory: Path, old: bytes, new: bytes) -> None:
    path = directory / "model.safetensors"
    content = path.read_bytes()
    assert len(old) == len(new)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def plant_nan(directory: Path) -> None:
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little")
    content[8 + header : 8 + header + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(bytes(content))


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def leave_only_a_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


Damage = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, type[VivaceError], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), CheckpointError, "config.json"),
    "config cut short": (lambda d: truncate(d / "config.json", 0.5), CheckpointError, "config.json"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), CheckpointError, "safetensors"),
    "weights cut short": (lambda d: truncate(d / "model.safetensors", 0.9), CheckpointError, "model.safetensors"),
    "header cut short": (lambda d: truncate(d / "model.safetensors", 0.001), CheckpointError, "model.safetensors"),
    "header that lies of a type": (lambda d: edit_header(d, b'"F32"', b'"F64"'), CheckpointError, "model.safetensors"),
    "header that lies of a name": (lambda d: edit_header(d, b"q_proj", b"z_proj"), CheckpointError, "q_proj"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), CheckpointError, "tokenizer.json"),
    "tokenizer cut short": (lambda d: truncate(d / "tokenizer.json", 0.5), CheckpointError, "tokenizer.json"),
    "unknown architecture": (lambda d: edit_config(d, model_type="mamba9"), UnsupportedModelError, "mamba9"),
    "config that lies of its width": (lambda d: edit_config(d, hidden_size=128), CheckpointError, "shape|model"),
    "config that lies of its layers": (lambda d: edit_config(d, num_hidden_layers=3), CheckpointError, "layers.2"),
    "config that lies of its vocabulary": (lambda d: edit_config(d, vocab_size=10**7), CheckpointError, "embed"),
    "config of absurd size": (lambda d: edit_config(d, hidden_size=10**12), CheckpointError, "hidden_size"),
    "config of nothing": (lambda d: edit_config(d, num_attention_heads=0), CheckpointError, "num_attention_heads"),
    "weights that are no numbers": (plant_nan, CheckpointError, "not a number"),
    "nothing but a pickle": (leave_only_a_pickle, CheckpointError, "safetensors"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_the_file_and_the_remedy(name: str, tmp_path: Path) -> None:
    damage, error, named = DAMAGES[name]
    directory = write_llama(tmp_path / "model")
    damage(directory)
    with pytest.raises(error, match=named) as caught:
        vivace.load(str(directory))
    assert len(str(caught.value)) > 40  # what happened, and what to do


def test_a_model_that_is_nowhere_is_refused_with_what_could_be_given() -> None:
    with pytest.raises(ModelNotFoundError, match="mini"):
        vivace.load("no such model")


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(tmp_path: Path) -> None:
    with (
        vivace.load(str(write_llama(tmp_path / "model", context=64))) as llm,
        pytest.raises(ContextLengthError, match=r"100 tokens.*64"),
    ):
        llm.generate("x" * 100)
