"""recipe.json: what was done to a model, with what, and what came of it.

Knows how it is written, not what steps report.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vivace.errors import CheckpointError

MANIFEST = "recipe.json"
LIBRARIES = ("vivace", "torch", "transformers", "compressed-tensors", "peft", "safetensors", "numpy")
"""That had a part in it."""


def hash_files(directory: Path) -> str:
    """SHA-256 over a checkpoint's config and weights, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted([directory / "config.json", *directory.glob("*.safetensors")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Whole or not at all: a kill leaves the file as it was."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(scratch, path)


def read_json(path: Path) -> dict[str, Any]:
    """Raises `CheckpointError` for what is no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Remove the directory and begin again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object. Remove the directory and begin again.")
    return value
