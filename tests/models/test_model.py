from __future__ import annotations

from pathlib import Path

import pytest

from vivace.errors import CheckpointError, ModelNotFoundError
from vivace.models.checkpoint import Checkpoint
from vivace.models.model import open_model
from vivace.models.weights import check_finite, read_weights


def test_the_embedded_model_opens_whole() -> None:
    model = open_model("mini")
    assert model.name == "mini"
    assert (model.config.family, len(model.config.layers), model.config.vocab_size) == ("llama", 6, 8192)
    assert model.generation.stop_token_ids == (2,)
    assert model.tokenizer.has_chat_template
    checkpoint = Checkpoint.open(model.directory)
    assert read_weights(model.config, checkpoint).head is None
    for name in checkpoint:
        check_finite(checkpoint.tensor(name))


def test_a_directory_opens_under_its_own_name(llama_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(str(llama_directory))
    assert (model.name, model.directory) == (llama_directory.name, llama_directory)
    assert model.generation.stop_token_ids == (258,)
    monkeypatch.chdir(llama_directory)
    assert open_model(".").name == llama_directory.name


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_model(str(tmp_path))


def test_a_name_that_is_nothing_is_not_found() -> None:
    with pytest.raises(ModelNotFoundError):
        open_model("nothing-of-this-name")
