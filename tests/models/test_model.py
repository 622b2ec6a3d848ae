from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import write_llama
from tests.gguf_files import convert
from tests.runners.loading import Loaded, blocks_for, random_prompt, run
from vivace.batch import Row, Sampling, Want
from vivace.errors import CheckpointError, ModelNotFoundError
from vivace.models.checkpoint import Checkpoint
from vivace.models.config import read_config
from vivace.models.model import open_model
from vivace.models.weights import check_finite, read_weights


def test_the_embedded_model_opens_whole() -> None:
    model = open_model("mini")
    assert model.name == "mini"
    assert (model.config.family, len(model.config.layers), model.config.vocab_size) == ("llama", 8, 8192)
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


def test_a_gguf_file_opens_whole(tmp_path: Path) -> None:
    path = convert(write_llama(tmp_path / "model"), tmp_path / "tiny.gguf")
    model = open_model(str(path))
    assert (model.name, model.directory) == ("tiny.gguf", tmp_path)
    assert model.config == read_config(tmp_path / "model")
    assert model.generation.stop_token_ids == (258, 256)
    assert model.tokenizer.encode_chat([{"role": "user", "content": "hi"}])[:2] == [257, ord("u")]
    assert "model.embed_tokens.weight" in model.open_checkpoint()


def test_a_gguf_file_and_a_directory_make_the_same_packed_model(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "model")
    scores = []
    for name in (directory, convert(directory, tmp_path / "tiny.gguf")):
        model = open_model(str(name))
        runner = Loaded(model.config, read_weights(model.config, model.open_checkpoint())).native("int8")
        prompt = random_prompt(20)
        row = Row(0, 0, prompt, blocks_for(20), Want.SCORE, 1, targets=prompt, opens=Sampling())
        scores.append(list(run(runner, row).scores[0]))
    assert scores[0] == scores[1]


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_model(str(tmp_path))


def test_a_name_that_is_nothing_is_not_found() -> None:
    with pytest.raises(ModelNotFoundError):
        open_model("nothing-of-this-name")
