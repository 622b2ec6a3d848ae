"""Recipes as text and as YAML: `int4(group_size=32, method=awq), drop_layers(0.25)`.

    recipe = step ("," step)*              step  = name ["(" [setting ("," setting)*] ")"]
    setting = [name "="] value             value = number | true | false | null | word | "text" | "[" values "]"

Settings without a name are those of the step's fields in their order. In YAML a recipe is a list, alone or under
`steps`, whose entries are a step's name, or the name with its settings:

    steps:
      - drop_layers: {share: 0.25}
      - int4: {group_size: 32, method: awq}

Knows what steps are called; what they do, they know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import msgspec

from vivace.compress.assign import Assign
from vivace.compress.distill import Distill, Draft
from vivace.compress.finetune import Finetune
from vivace.compress.low_rank import LowRank
from vivace.compress.mixed import Mixed
from vivace.compress.prune import DropLayers, Magnitude, PruneHeads, PruneWidth, Wanda
from vivace.compress.qat import Qat
from vivace.compress.quantize import Int4, Int8
from vivace.compress.step import Step
from vivace.errors import RecipeError

STEPS: dict[str, type[Step]] = {
    step.name: step
    for step in cast(
        Sequence[type[Step]],
        (
            DropLayers,
            PruneWidth,
            PruneHeads,
            Magnitude,
            Wanda,
            LowRank,
            Draft,
            Distill,
            Finetune,
            Qat,
            Int8,
            Int4,
            Mixed,
            Assign,
        ),
    )
}
"""Every step there is, by what recipes call it."""

MAX_RECIPE_BYTES = 1 << 16
MAX_STEPS = 64
MAX_DEPTH = 4
"""Of lists within lists."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))"""
    r"""|(?P<word>[A-Za-z_][\w-]*)|"(?P<text>[^"\\\n]*)"|(?P<mark>[(),=\[\]])|(?P<end>\Z))"""
)
_WORDS = {"true": True, "false": False, "null": None}


def parse_recipe(text: str) -> tuple[Step, ...]:
    """The steps of a recipe. Raises `RecipeError` that says where it cannot be read, or which steps and settings
    there are."""
    if len(text) > MAX_RECIPE_BYTES:
        raise RecipeError(f"The recipe has {len(text)} characters; it may have {MAX_RECIPE_BYTES}.")
    return _check_number(tuple(_Parser(text).read_steps()))


def read_recipe_file(path: Path) -> tuple[Step, ...]:
    """The steps of a YAML file. Raises `RecipeError`."""
    import yaml  # of the extra, and slow to import

    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise RecipeError(f"{path} is larger than {MAX_RECIPE_BYTES >> 10} KiB; this is no recipe.")
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} cannot be read as YAML ({str(error).splitlines()[0]}).") from error
    return build_recipe(value, str(path))


def build_recipe(value: object, place: str = "The recipe") -> tuple[Step, ...]:
    """The steps of a list as YAML and JSON have it. Raises `RecipeError`."""
    if isinstance(value, dict) and set(value) == {"steps"}:
        value = value["steps"]
    if not isinstance(value, list):
        raise RecipeError(
            f"{place} must be a list of steps, alone or under `steps`, such as `- int4: {{method: awq}}`."
        )
    return _check_number(tuple(_build_entry(entry, place) for entry in value[: MAX_STEPS + 1]))


def describe_recipe(steps: Sequence[Step]) -> list[dict[str, dict[str, Any]]]:
    """The steps with all their settings, as `build_recipe` takes them."""
    return [{step.name: msgspec.to_builtins(step)} for step in steps]


def format_recipe(steps: Sequence[Step]) -> str:
    """The steps as text that `parse_recipe` reads, without settings that are as they would be anyway."""
    return ", ".join(_format_step(step) for step in steps)


def _format_step(step: Step) -> str:
    settings = []
    for field in fields(cast(Any, step)):
        value = getattr(step, field.name)
        if value != field.default:
            settings.append(f"{field.name}={_format_value(value)}")
    return f"{step.name}({', '.join(settings)})" if settings else step.name


def _format_value(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_format_value, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f'"{value}"' if isinstance(value, str) and not value.isidentifier() else str(value)


def build_step(name: str, positional: Sequence[object], named: Mapping[str, object]) -> Step:
    """One step. Raises `RecipeError` for names nobody knows and values that cannot be."""
    if name not in STEPS:
        raise RecipeError(f"There is no step {name!r}; there are {', '.join(sorted(STEPS))}.")
    kind = STEPS[name]
    known = [field.name for field in fields(cast(Any, kind))]
    if len(positional) > len(known):
        raise RecipeError(f"{name} takes at most {len(known)} settings: {', '.join(known)}.")
    values = dict(zip(known, positional, strict=False))
    for setting in named:
        if setting not in known:
            raise RecipeError(f"{name} has no setting {setting!r}; it has {', '.join(known) or 'none'}.")
        if setting in values:
            raise RecipeError(f"{name}: {setting} is given twice; give it once.")
    try:
        return msgspec.convert(values | dict(named), kind)
    except (msgspec.ValidationError, OverflowError) as error:
        raise RecipeError(f"{name}: {error}.") from error


def _build_entry(entry: object, place: str) -> Step:
    if isinstance(entry, str):
        return build_step(entry, (), {})
    if not isinstance(entry, dict) or len(entry) != 1 or not all(isinstance(name, str) for name in entry):
        raise RecipeError(f"{place}: an entry must be a step's name, or one name with its settings, not {entry!r:.80}.")
    [(name, settings)] = entry.items()
    if settings is None:
        return build_step(name, (), {})
    if isinstance(settings, dict):
        if not all(isinstance(setting, str) for setting in settings):
            raise RecipeError(f"{place}: the settings of {name} must have names.")
        return build_step(name, (), settings)
    return build_step(name, settings if isinstance(settings, list) else (settings,), {})


def _check_number(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    if not 1 <= len(steps) <= MAX_STEPS:
        raise RecipeError(f"The recipe must have 1 to {MAX_STEPS} steps; steps are {', '.join(sorted(STEPS))}.")
    return steps


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    begin: int


class _Parser:
    """Recursive descent over the tokens of one recipe."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokenize(text)
        self._token = next(self._tokens)

    def read_steps(self) -> Iterator[Step]:
        if self._token.kind == "end":
            return
        yield self._read_step()
        while self._take(","):
            yield self._read_step()
        if self._token.kind != "end":
            raise self._error("a comma and the next step")

    def _read_step(self) -> Step:
        if self._token.kind != "word":
            raise self._error("the name of a step")
        name = self._next().text
        positional: list[object] = []
        named: dict[str, object] = {}
        if self._take("(") and not self._take(")"):
            self._read_setting(name, positional, named)
            while self._take(","):
                self._read_setting(name, positional, named)
            self._expect(")")
        return build_step(name, positional, named)

    def _read_setting(self, step: str, positional: list[object], named: dict[str, object]) -> None:
        token = self._token
        value = self._read_value()
        if token.kind == "word" and self._take("="):
            if token.text in named:
                raise RecipeError(f"{step}: {token.text} is given twice; give it once.")
            named[token.text] = self._read_value()
        elif named:
            raise self._error("a name before this value, as the one before has one")
        else:
            positional.append(value)

    def _read_value(self, depth: int = 0) -> object:
        if depth > MAX_DEPTH:
            raise self._error("fewer lists within lists")
        if self._take("["):
            values: list[object] = []
            if not self._take("]"):
                values.append(self._read_value(depth + 1))
                while self._take(","):
                    values.append(self._read_value(depth + 1))
                self._expect("]")
            return values
        if self._token.kind == "number":
            return self._read_number()
        if self._token.kind == "text":
            return self._next().text
        if self._token.kind != "word":
            raise self._error("a value")
        text = self._next().text
        return _WORDS.get(text, text)

    def _read_number(self) -> int | float:
        text = self._token.text
        number = int(text) if len(text) < 20 and re.fullmatch(r"[-+]?\d+", text) else float(text)
        if not math.isfinite(number):
            raise self._error("a number that is not so large")
        self._next()
        return number

    def _next(self) -> _Token:
        token, self._token = self._token, next(self._tokens)
        return token

    def _take(self, mark: str) -> bool:
        if self._token.kind == "mark" and self._token.text == mark:
            self._next()
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._error(f"{mark!r}")

    def _error(self, expected: str) -> RecipeError:
        found = self._text[self._token.begin :][:20]
        return RecipeError(
            f"The recipe cannot be read at character {self._token.begin + 1} ({found!r}): expected {expected}. "
            "Write it as in int4(group_size=32, method=awq)."
        )


def _tokenize(text: str) -> Iterator[_Token]:
    """Ends with a token of kind `end`, for ever."""
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise RecipeError(
                f"The recipe cannot be read at character {place + 1} ({text[place:][:20]!r}). Write it as in "
                "int4(group_size=32, method=awq)."
            )
        if match.lastgroup != "end":
            yield _Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
        place = match.end()
    while True:
        yield _Token("end", "", len(text))
