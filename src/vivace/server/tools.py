"""Tool calls: how a model writes them, as a grammar that holds it to that, and read back from its text as it comes.

Two ways of writing are known, by what the chat template shows its model: `<tool_call>` around a JSON object each
(Hermes, Qwen), and one JSON object that is the whole answer (Llama 3). Since a call is written under a grammar, it is
exact to the character, and reading it needs no guess. Knows no API's fields.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from vivace.engine.constraint import Grammar
from vivace.grammar import json_rule


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes a call: `opening`, the name, `middle`, the arguments as JSON, `closing`."""

    opening: str
    middle: str
    closing: str
    trigger: str
    """What a call, and no other text, begins with."""
    alone: bool = False
    """A call is the whole answer; otherwise text may come before, and more calls after."""


HERMES = ToolFormat('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "<tool_call>")
LLAMA = ToolFormat('{"name": "', '", "parameters": ', "}", "{", alone=True)


def find_format(template: str | None, special_names: Collection[str]) -> ToolFormat | None:
    """The format that a chat template with tools shows its model; None if it takes no tools or shows another one.

    `special_names` are tokens that are no text: a call written in them could not be read.
    """
    if template is None:
        return None
    if "<tool_call>" in template and "<function=" not in template and "<tool_call>" not in special_names:
        return HERMES
    return LLAMA if '"parameters": ' in template and "ipython" in template else None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    """Letters, digits, `_` and `-`."""
    parameters: Any
    """A JSON schema of its arguments."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request allows its answer to call."""

    format: ToolFormat
    tools: Sequence[Tool]
    required: bool = False
    """The answer is a call, or several; no other text."""
    parallel: bool = True
    """Several calls are allowed, where the format has room for them."""


def write_grammar(use: ToolUse) -> Grammar:
    """A grammar of answers that keep to what is allowed."""
    several = use.parallel and not use.format.alone
    names = [f"call_{index}" for index in range(len(use.tools))]
    lines = ["%llguidance {}", _start_rule(use, " | ".join(names), several)]
    if not use.required:
        lines.append(f"TEXT: /{_TEXT_ALONE if use.format.alone else _TEXT}/")
    for name, tool in zip(names, use.tools, strict=True):
        lines += _call_rules(use, name, tool)
    return Grammar("lark", "\n".join(lines))


_TEXT = r"(.|\n)*"
_TEXT_ALONE = r"([^{](.|\n)*)?"


def _start_rule(use: ToolUse, calls: str, several: bool) -> str:
    if use.required:
        return f'start: ({calls}) ("\\n" ({calls}))*' if several else f"start: {calls}"
    if use.format.alone:
        return f"start: TEXT | {calls}"
    return f"start: ({calls})* TEXT" if several else f"start: TEXT | {calls}"


def _call_rules(use: ToolUse, name: str, tool: Tool) -> list[str]:
    format = use.format
    opening = f"{format.opening}{tool.name}{format.middle}"
    body = f"{json_rule(tool.parameters)} {json.dumps(format.closing)}"
    if use.required or format.alone:
        return [f"{name}: {json.dumps(opening)} {body}"]
    rest = json.dumps(opening.removeprefix(format.trigger))
    return [f"{name}: {name}_trigger {rest} {body}", f"{name}_trigger[lazy]: TEXT {json.dumps(format.trigger)}"]


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of a call: its first one has the id and the name, the others more of its arguments."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class ToolReader:
    """Text in as it comes; text and calls out. How the text is cut makes no difference.

    A call that is cut short, by `max_tokens`, is told as far as it goes.
    """

    def __init__(self, use: ToolUse) -> None:
        self._format = use.format
        names = "|".join(re.escape(tool.name) for tool in use.tools)
        head = f"{re.escape(use.format.opening)}({names}){re.escape(use.format.middle)}"
        self._head = re.compile(head)
        self._longest = max(len(tool.name) for tool in use.tools) + len(use.format.opening + use.format.middle)
        self._pending = ""
        self._calls = 0
        self._inside = False
        self._begun = False
        """Something has been told."""
        self._fresh = False
        """Nothing but space has come since the last call."""

    @property
    def called(self) -> bool:
        return self._calls > 0

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """The new text that is no call, and the new parts of calls."""
        self._pending += text
        return self._read(ended=False)

    def finish(self) -> tuple[str, list[CallDelta]]:
        """The rest, now that no text follows."""
        return self._read(ended=True)

    def _read(self, ended: bool) -> tuple[str, list[CallDelta]]:
        texts: list[str] = []
        deltas: list[CallDelta] = []
        while self._read_arguments(deltas, ended) if self._inside else self._read_text(texts, deltas, ended):
            pass
        return "".join(texts), deltas

    def _read_text(self, texts: list[str], deltas: list[CallDelta], ended: bool) -> bool:
        """Up to the beginning of a call; True if there is one."""
        found = self._pending.find(self._format.trigger)
        if self._format.alone and (found > 0 or self._begun):
            found = -1
        if found < 0:
            keep = 0 if ended or self._format.alone else _overlap(self._pending, self._format.trigger)
            self._tell(texts, len(self._pending) - keep)
            return False
        self._tell(texts, found)
        head = self._head.match(self._pending)
        if head is not None:
            deltas.append(CallDelta(self._calls, f"call_{secrets.token_hex(12)}", head[1]))
            self._calls += 1
            self._pending = self._pending[head.end() :]
            self._inside = True
            return True
        if ended or len(self._pending) >= self._longest:
            self._tell(texts, len(self._pending))  # it only began like a call
        return False

    def _tell(self, texts: list[str], end: int) -> None:
        text, self._pending = self._pending[:end], self._pending[end:]
        if self._fresh:
            text = text.lstrip()  # what stands between calls
        if text:
            texts.append(text)
            self._begun = True
            self._fresh = False

    def _read_arguments(self, deltas: list[CallDelta], ended: bool) -> bool:
        """Up to the end of the call; True if it is there and text may follow."""
        closing = self._format.closing
        if self._format.alone:
            whole = ended and self._pending.endswith(closing)
            found = len(self._pending) - len(closing) if whole else -1
            keep = 0 if ended else len(closing)
        else:
            found = self._pending.find(closing)
            keep = 0 if ended else _overlap(self._pending, closing)
        end = found if found >= 0 else max(0, len(self._pending) - keep)
        arguments = self._pending[:end]
        if arguments:
            deltas.append(CallDelta(self._calls - 1, arguments=arguments))
        self._pending = self._pending[end + len(closing) :] if found >= 0 else self._pending[end:]
        self._inside = found < 0
        self._fresh = self._begun = True
        return found >= 0


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of the text may be the beginning of the mark."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)
