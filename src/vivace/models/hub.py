"""Finds a model's directory or file: inside this package, on this machine, or on the Hugging Face hub.

Knows nothing of what is in it. From the hub come only weights in safetensors, JSON and templates: no pickle, no code.
"""

from __future__ import annotations

import re
from pathlib import Path

from vivace.errors import ModelNotFoundError

EMBEDDED = {"mini": "mini"}
"""Models shipped in this package: name to directory beside this file."""

ALLOWED_FILES = ("*.safetensors", "*.json", "*.jinja")

GGUF_SUFFIX = ".gguf"

_ALTERNATIVES = (
    "Give the directory of a Hugging Face checkpoint, a GGUF file, a hub id such as owner/name, or an embedded model: "
    f"{', '.join(EMBEDDED)}."
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def locate_model(name: str) -> Path:
    """The directory of an embedded model, a directory or GGUF file as given, or the snapshot of a hub id `owner/name`.

    Raises `ModelNotFoundError` when there is none, or when the hub cannot be reached and holds no copy here.
    """
    if name in EMBEDDED:
        return Path(__file__).parent / EMBEDDED[name]
    path = Path(name)
    if name and (path.is_dir() or (path.is_file() and path.suffix.lower() == GGUF_SUFFIX)):
        return path
    if path.is_file():
        raise ModelNotFoundError(
            f"{name} is a file; give the directory that holds config.json and the weights, or a {GGUF_SUFFIX} file."
        )
    if _HUB_ID.fullmatch(name):
        return _download(name)
    raise ModelNotFoundError(f"There is no directory {name!r}. {_ALTERNATIVES}")


def _download(name: str) -> Path:
    """Files at the top of the repository only; those of an earlier download are not fetched again."""
    import huggingface_hub  # takes longer to import than all the rest; a local model does without

    try:
        snapshot = huggingface_hub.snapshot_download(name, allow_patterns=list(ALLOWED_FILES), ignore_patterns=["*/*"])
    except Exception as error:  # the hub's client raises its own errors, those of its HTTP library, and OSError
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelNotFoundError(
            f"There is no directory {name!r}, and the hub did not give a model of this name ({reason[0]}). "
            f"Check the name and the network, or log in for a gated model. {_ALTERNATIVES}"
        ) from error
    return Path(snapshot)
