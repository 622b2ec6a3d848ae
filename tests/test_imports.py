"""Imports point one way: what each part of the package may name of the others, wherever in a file it does so."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "vivace"
FILES = sorted(ROOT.rglob("*.py"))

ALLOWED = {
    "batch": "",
    "errors": "",
    "budget": "errors",
    "machine": "",
    "log_writer": "",
    "listening": "errors",
    "native": "errors native",
    "engine": "batch errors budget engine",
    "simulation": "batch errors budget engine simulation",
    "sampling": "batch errors engine.constraint engine.request",
    "template_sandbox": "errors",
    "chat_template": "errors template_sandbox",
    "detokenizer": "errors",
    "tokenizer": "errors chat_template detokenizer models.fields",
    "grammar": "errors engine.constraint tokenizer",
    "models": "errors sampling tokenizer models",
    "runners": "batch errors machine models native runners",
    "bench": "errors budget bench",
    "evaluation": "batch bench.stats errors llm models runners tokenizer evaluation",
    "compress": "errors machine models tokenizer evaluation compress",
    "fit": "batch bench budget compress engine errors evaluation info llm machine models native runners simulation "
    "speed tokenizer fit",
    "apps": "errors listening log_writer apps",
    "server": "errors budget sampling tokenizer grammar models.model engine.constraint engine.request engine.bridge "
    "engine.cost listening log_writer "
    "server",
}
"""Of this package. What is not listed (the command line, the Python interface) puts the parts together."""

BARE = ("batch", "errors", "budget", "sampling", "engine", "simulation")
"""Import nothing from outside but the standard library: no numpy, no native module."""


def imports(source: str, package: str) -> Iterator[str]:
    """The full name of everything that a module of `package` imports, lazily or not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            module = ".".join(above + ([node.module] if node.module else []))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_allowed(part: str, name: str) -> bool:
    if name.split(".")[0] != "vivace":
        return part not in BARE or name.split(".")[0] in sys.stdlib_module_names
    return any(f"{name}.".startswith(f"vivace.{ours}.") for ours in ALLOWED[part].split())


def offences(part: str, source: str, package: str) -> list[str]:
    return [name for name in imports(source, package) if part in ALLOWED and not is_allowed(part, name)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    parts = file.relative_to(ROOT).with_suffix("").parts
    assert offences(parts[0], file.read_text(encoding="utf-8"), ".".join(["vivace", *parts[:-1]])) == []


def test_every_rule_is_about_a_part_that_exists() -> None:
    assert {file.relative_to(ROOT).with_suffix("").parts[0] for file in FILES} >= ALLOWED.keys()


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("batch", "from vivace.errors import ConfigError"),
        ("engine", "import numpy as np"),
        ("engine", "def f():\n    from vivace import native"),
        ("engine", "from ..models import config"),
        ("models", "if True:\n    import vivace.engine.engine"),
        ("server", "from vivace.engine import engine"),
        ("server", "import vivace"),
        ("bench", "from vivace.tokenizer import Tokenizer"),
        ("compress", "from vivace.engine import engine"),
        ("bench", "def f():\n    from vivace.server.protocol import decode_chat"),
        ("apps", "from vivace.tokenizer import Tokenizer"),
        ("apps", "def f():\n    from vivace import bench"),
    ],
)
def test_an_import_the_wrong_way_is_seen(part: str, source: str) -> None:
    assert offences(part, source, f"vivace.{part}")


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("engine", "import asyncio\nfrom vivace.batch import Row\nfrom .blocks import BlockPool"),
        ("server", "from vivace.engine.bridge import EngineThread\nimport starlette"),
        ("cli", "from vivace.engine.engine import Engine"),
    ],
)
def test_an_import_the_right_way_is_left_alone(part: str, source: str) -> None:
    assert not offences(part, source, f"vivace.{part}")
