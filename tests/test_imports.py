"""Imports point one way: what each part of the package may name of the others, wherever in a file it does so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "vivace"

ENGINE_BELOW = ["vivace.batch", "vivace.errors", "vivace.budget"]
ALLOWED = {
    "batch": [],
    "errors": [],
    "budget": [],
    "engine": [*ENGINE_BELOW, "vivace.engine"],
    "sampling": ["vivace.batch", "vivace.errors", "vivace.engine.request"],
    "runners": ["vivace.batch", "vivace.errors", "vivace.models", "vivace.native", "vivace.runners"],
    "server": [
        *("vivace.errors", "vivace.budget", "vivace.sampling", "vivace.tokenizer", "vivace.models.model"),
        *("vivace.engine.request", "vivace.engine.bridge", "vivace.server"),
    ],
}
FORBIDDEN = {
    "models": ["vivace.engine", "vivace.runners", "vivace.server"],
    "tokenizer": ["vivace.engine", "vivace.runners", "vivace.server"],
    "engine": ["numpy", "torch"],
}
FILES = sorted(ROOT.rglob("*.py"))


def imports(source: str, package: str = "vivace") -> Iterator[str]:
    """The full name of everything that a module imports, lazily or not. `package` is what holds the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_under(name: str, parents: list[str]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def offences(part: str, names: Iterator[str]) -> list[str]:
    found = list(names)
    strange = [name for name in found if part in ALLOWED and is_under(name, ["vivace"])]
    return [name for name in strange if not is_under(name, ALLOWED[part])] + [
        name for name in found if is_under(name, FORBIDDEN.get(part, []))
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    parts = file.relative_to(ROOT).with_suffix("").parts
    package = ".".join(["vivace", *parts[:-1]])
    assert offences(parts[0], imports(file.read_text(), package)) == []


def test_the_rules_name_parts_that_exist() -> None:
    parts = {file.relative_to(ROOT).with_suffix("").parts[0] for file in FILES}
    assert parts >= ALLOWED.keys() | FORBIDDEN.keys()


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("batch", "from vivace.errors import ConfigError"),
        ("engine", "import numpy as np"),
        ("engine", "def f():\n    from vivace import native"),
        ("engine", "from ..models import config"),
        ("engine", "from ..tokenizer import Tokenizer"),
        ("models", "if True:\n    import vivace.engine.engine"),
        ("server", "from vivace.engine import engine"),
    ],
)
def test_a_wrong_way_import_is_seen(part: str, source: str) -> None:
    assert offences(part, imports(source, f"vivace.{part}"))


def test_right_ways_are_left_alone() -> None:
    assert not offences("engine", imports("from vivace.batch import Row\nfrom .blocks import BlockPool", "vivace.engine"))
    assert not offences("server", imports("from vivace.engine.bridge import EngineThread"))
