"""JSON files of a checkpoint, read with a bound on their size and a check on each field's type.

Knows nothing of what the fields mean. Every message names the file, and the field if there is one.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivace.errors import CheckpointError

MAX_JSON_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object and where it came from. A field that is null counts as missing.

    Every reader raises `CheckpointError` when the field is missing and has no default, or is of another type.
    """

    path: Path
    values: Mapping[str, Any]
    prefix: str = ""
    """Names the object inside its file, as in `rope_scaling.`."""

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def error(self, name: str, must: str) -> CheckpointError:
        """The error that says a field holds what it must not."""
        shown = reprlib.repr(self.values.get(name))
        return CheckpointError(f"{self.path}: {self.prefix}{name} is {shown}; it must be {must}.")

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number, `low` to `high` inclusive."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: float | None = None, *, above: float = -math.inf) -> float:
        """A number greater than `above`, either 0 or of a size that float32 arithmetic keeps its precision with."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "a number")
        if value and not 1e-12 <= abs(value) <= 1e12:
            raise self.error(name, "0 or of a size between 1e-12 and 1e12")
        if not value > above:
            raise self.error(name, f"above {above:g}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._take(name, default)
        if not isinstance(value, str) or len(value) > 256:
            raise self.error(name, "a string of at most 256 characters")
        return value

    def integers(self, name: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """A list of `count` whole numbers, each `low` to `high` inclusive."""
        items = self._items(name, count)
        return tuple(items.integer(index, low, high) for index in items)

    def numbers(self, name: str, count: int, *, above: float = -math.inf) -> tuple[float, ...]:
        """A list of `count` numbers, each as `number` has it."""
        items = self._items(name, count)
        return tuple(items.number(index, above=above) for index in items)

    def texts(self, name: str, count: int) -> tuple[str, ...]:
        """A list of `count` strings."""
        items = self._items(name, count)
        return tuple(items.text(index) for index in items)

    def child(self, name: str) -> Fields:
        """The object under a field; an empty one if the field is missing."""
        value = self._take(name, {})
        if not isinstance(value, dict):
            raise self.error(name, "an object")
        return Fields(self.path, value, f"{self.prefix}{name}.")

    def with_defaults(self, **defaults: Any) -> Fields:
        """These fields, and those of `defaults` that are not there. One that is null stays so."""
        return Fields(self.path, defaults | dict(self.values), self.prefix)

    def _items(self, name: str, count: int) -> Fields:
        """A list as an object with fields called 0, 1, ..., so that an error says which item it is of."""
        value = self._take(name, None)
        if not isinstance(value, list) or len(value) != count:
            raise self.error(name, f"a list of {count} items")
        return Fields(self.path, {str(index): item for index, item in enumerate(value)}, f"{self.prefix}{name}.")

    def _take(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is None:
            raise CheckpointError(f"{self.path}: {self.prefix}{name} is missing; the file is not a whole checkpoint's.")
        return default


def read_fields(path: Path) -> Fields:
    """The JSON object in a file.

    Raises `CheckpointError` when there is no such file, it is larger than `MAX_JSON_BYTES`, or it is no JSON object.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}); a checkpoint directory must hold it."
        ) from error
    if len(data) > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB; this is no checkpoint's JSON file.")
    values = parse_json(path, data)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds JSON but no object; replace it with the file that was published.")
    return Fields(path, values)


def parse_json(path: Path, data: bytes, *, unique_keys: bool = False) -> Any:
    """Strict JSON in UTF-8. Raises `CheckpointError` for anything else, and for repeated keys if they must not be."""
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique if unique_keys else None,
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} holds broken JSON ({error}); download the file again or replace it with the published one."
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is given twice")
    return values
