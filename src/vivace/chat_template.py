"""Chat templates: messages to a prompt's text, as transformers renders them. Knows no tokens.

The sandbox that they run in is imported when one is rendered: who sends plain text does not wait for jinja2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vivace.errors import RequestError

if TYPE_CHECKING:
    import jinja2


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
        from vivace.template_sandbox import render_template

        template = self._compile("tool_use" if tools and "tool_use" in self._sources else "default")
        variables = self._special_tokens | {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        return render_template(template, variables)

    def prepare(self) -> None:
        """Compile the templates now, for the first rendering to wait for nothing. A broken one is refused when used."""
        for name in self._sources:
            with suppress(RequestError):
                self._compile(name)

    def _compile(self, name: str) -> jinja2.Template:
        from vivace.template_sandbox import compile_template

        if name not in self._sources:
            raise RequestError("This model has no chat template; use completions, with the whole prompt as text.")
        if name not in self._compiled:
            self._compiled[name] = compile_template(self._sources[name])
        return self._compiled[name]
