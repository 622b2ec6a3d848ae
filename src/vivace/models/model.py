"""Everything about a model but its weights: what the engine and the server need before a runner loads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vivace.models.checkpoint import Checkpoint, TensorSource
from vivace.models.config import ModelConfig, read_config, read_generation_defaults
from vivace.models.hub import locate_model
from vivace.sampling import GenerationDefaults
from vivace.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Model:
    """A model, opened."""

    name: str
    """As it was asked for; of a directory or a file, its own name without the path."""
    directory: Path
    """Of a GGUF file, the one that holds it."""
    config: ModelConfig
    generation: GenerationDefaults
    tokenizer: Tokenizer
    tensors: TensorSource | None = None
    """Where they are if not in the directory's safetensors."""

    def open_checkpoint(self) -> TensorSource:
        """The tensors, of which nothing is read yet. Raises `CheckpointError`."""
        return Checkpoint.open(self.directory) if self.tensors is None else self.tensors


def open_model(name: str) -> Model:
    """Find a model by name, directory, GGUF file or hub id, and read all but the weights.

    Raises `ModelNotFoundError`, `UnsupportedModelError` or `CheckpointError`.
    """
    path = locate_model(name)
    return _open_file(path) if path.is_file() else _open_directory(path, name)


def _open_directory(directory: Path, name: str) -> Model:
    return Model(
        name=directory.resolve().name if Path(name) == directory else name,
        directory=directory,
        config=read_config(directory),
        generation=read_generation_defaults(directory),
        tokenizer=Tokenizer.open(directory),
    )


def _open_file(path: Path) -> Model:
    from vivace.models.gguf import GgufFile
    from vivace.models.gguf_checkpoint import GgufCheckpoint
    from vivace.models.gguf_config import read_architecture, read_gguf_config, read_gguf_generation
    from vivace.models.gguf_tokenizer import read_gguf_tokenizer

    file = GgufFile.open(path)
    architecture, config = read_architecture(file), read_gguf_config(file)
    return Model(
        name=path.resolve().name,
        directory=path.parent,
        config=config,
        generation=read_gguf_generation(file),
        tokenizer=read_gguf_tokenizer(file, architecture),
        tensors=GgufCheckpoint(file, architecture, config),
    )
