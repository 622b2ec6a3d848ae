"""Everything about a model but its weights: what the engine and the server need before a runner loads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vivace.models.config import ModelConfig, read_config, read_generation_defaults
from vivace.models.hub import locate_model
from vivace.sampling import GenerationDefaults
from vivace.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Model:
    """A model, opened."""

    name: str
    """As it was asked for; of a directory, its own name without the path."""
    directory: Path
    config: ModelConfig
    generation: GenerationDefaults
    tokenizer: Tokenizer


def open_model(name: str) -> Model:
    """Find a model by name, directory or hub id, and read all but the weights.

    Raises `ModelNotFoundError`, `UnsupportedModelError` or `CheckpointError`.
    """
    directory = locate_model(name)
    return Model(
        name=directory.resolve().name if Path(name) == directory else name,
        directory=directory,
        config=read_config(directory),
        generation=read_generation_defaults(directory),
        tokenizer=Tokenizer.open(directory),
    )
