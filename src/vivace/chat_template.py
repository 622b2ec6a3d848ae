"""Chat templates: messages to a prompt's text, as transformers renders them, in jinja2's sandbox.

A template comes with the checkpoint and is code of a kind, so it can neither reach Python's objects nor change what
it is given. Its output, its ranges, and what it builds with operators are bounded; its time is not otherwise, so a
checkpoint whose template nobody has read deserves the trust that is given to its weights. Knows no tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vivace.errors import RequestError

MAX_CHARACTERS = 1 << 24
"""Of a rendered prompt, and of any string or list that a template builds by operators."""
MAX_ITERATIONS = 1_000_000
"""Numbers that a template's ranges may hold in one rendering, all together."""


class ChatTemplate:
    """The templates of one checkpoint: `default`, and `tool_use` where there is one for requests with tools."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` are given to the template by name, as in `bos_token`."""
        self._sources = dict(sources)
        self._special_tokens = dict(special_tokens)
        self._compiled: dict[str, jinja2.Template] = {}

    def __bool__(self) -> bool:
        return bool(self._sources)

    def is_same(self, other: ChatTemplate) -> bool:
        return self._sources == other._sources and self._special_tokens == other._special_tokens

    @property
    def tool_source(self) -> str | None:
        """The template for requests with tools; None if none says anything of `tools`."""
        source = self._sources.get("tool_use", self._sources.get("default", ""))
        return source if re.search(r"\btools\b", source) else None

    def render(self, messages: Sequence[Any], *, add_generation_prompt: bool, tools: Sequence[Any] | None) -> str:
        """The prompt's text. Raises `RequestError` with the template's own words when it refuses the messages."""
        template = self._compile("tool_use" if tools and "tool_use" in self._sources else "default")
        variables = self._special_tokens | {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "range": _bounded_range(),
        }
        try:
            return _collect(template.generate(variables))
        except RequestError:
            raise
        except Exception as error:  # a template can raise whatever an expression in Python can
            raise RequestError(
                f"The model's chat template refused the messages: {error}. Change the messages, or use completions."
            ) from error

    def _compile(self, name: str) -> jinja2.Template:
        if name not in self._sources:
            raise RequestError("This model has no chat template; use completions, with the whole prompt as text.")
        if name not in self._compiled:
            try:
                self._compiled[name] = _environment().from_string(self._sources[name])
            except (jinja2.TemplateError, RecursionError) as error:
                raise RequestError(
                    f"The model's chat template is broken ({error}); mend it, or use completions."
                ) from error
        return self._compiled[name]


def _collect(pieces: Any) -> str:
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise RequestError(f"The rendered prompt has more than {MAX_CHARACTERS} characters. Shorten the messages.")
    return "".join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a bound on what `*`, `+` and `**` may build."""

    intercepted_binops = frozenset({"*", "+", "**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if _result_size(operator, left, right) > MAX_CHARACTERS:
            raise SecurityError(f"the operator {operator} would build more than {MAX_CHARACTERS} items")
        return super().call_binop(context, operator, left, right)


def _result_size(operator: str, left: Any, right: Any) -> float:
    """Items of a sequence, bits of a power; 0 for plain arithmetic."""
    if operator == "**":
        return abs(left).bit_length() * right if isinstance(left, int) and isinstance(right, int) else 0
    sizes = [len(side) if isinstance(side, str | list | tuple) else None for side in (left, right)]
    if operator == "+":
        return sum(size or 0 for size in sizes)
    (sequence, count) = (sizes[0], right) if sizes[0] is not None else (sizes[1], left)
    return sequence * count if sequence is not None and isinstance(count, int) else 0


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant said, for training; here it is only a scope."""

    tags = {"generation"}  # noqa: RUF012 (the type that jinja2 declares)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON. Jinja's own filter writes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _bounded_range() -> Callable[..., range]:
    left = MAX_ITERATIONS

    def bounded_range(*bounds: int) -> range:
        nonlocal left
        numbers = range(*bounds)
        left -= min(len(numbers), MAX_ITERATIONS + 1)
        if left < 0:
            raise SecurityError(f"the template's ranges hold more than {MAX_ITERATIONS} numbers")
        return numbers

    return bounded_range
