"""What is asked: request bodies from a seed, or from a file of prompts and conversations.

`Workload.ask(i)` is a pure function, so that two runs with one seed ask the same, request by request, and client
processes need not talk to each other. Knows no sockets and no times.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from vivace.errors import ConfigError

MAX_TOKENS = 10_000_000
KINDS = {"fixed": 1, "uniform": 2, "normal": 2, "lognormal": 2}
"""Names of distributions, and how many numbers each takes."""

WORDS = (  # noqa: SIM905
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information "
    "back parent face others level office door health person art war history party result change morning reason "
    "research girl guy moment air teacher force education foot boy age policy process music market sense nation plan"
).split()


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of token counts."""

    kind: str
    a: float
    b: float = 0.0

    def draw(self, generator: random.Random) -> int:
        value = {
            "fixed": lambda: self.a,
            "uniform": lambda: generator.uniform(self.a, self.b + 1 - 1e-9),
            "normal": lambda: generator.gauss(self.a, self.b),
            "lognormal": lambda: self.a * math.exp(generator.gauss(0.0, self.b)),
        }[self.kind]()
        return min(MAX_TOKENS, max(1, int(value)))

    def __str__(self) -> str:
        return f"{self.a:g}" if self.kind == "fixed" else f"{self.kind}:{self.a:g}:{self.b:g}"


def parse_lengths(text: str) -> Lengths:
    """`128`, `uniform:64:256`, `normal:128:32` (mean, deviation) or `lognormal:128:0.5` (median, sigma).

    Raises `ConfigError`.
    """
    kind, *numbers = text.split(":") if ":" in text else ("fixed", text)
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    if KINDS.get(kind) != len(values) or not all(0 <= value <= MAX_TOKENS for value in values) or values[0] < 1:
        raise ConfigError(
            f"{text!r} is no number of tokens. Give one such as 128, uniform:64:256, normal:128:32 (mean, deviation) "
            "or lognormal:128:0.5 (median, sigma)."
        )
    if kind == "uniform" and values[0] > values[1]:
        raise ConfigError(f"{text!r} runs backwards. Give the smaller number first.")
    return Lengths(kind, *values)


class Line(Struct, forbid_unknown_fields=True):
    """A line of a workload file: a prompt, or messages, or the user's turns of a conversation."""

    prompt: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    expected: str | list[str] = field(default_factory=list)
    """What the (last) answer must be, or any of several."""
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and what follows it in its conversation."""

    index: int
    body: dict[str, Any]
    expected: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    """What the user says to the answers."""


class Workload(Struct, frozen=True, kw_only=True):
    """All that decides what is asked. It travels to client processes as JSON."""

    model: str
    chat: bool = True
    stream: bool = True
    input_tokens: Lengths = Lengths("fixed", 64)
    output_tokens: Lengths = Lengths("fixed", 32)
    lengths: tuple[tuple[int, int], ...] = ()
    """Input and output tokens request by request, of a trace; they come first."""
    words_per_token: float = 0.8
    overhead_tokens: float = 0.0
    """What the server's template adds to a prompt."""
    lines: tuple[Line, ...] = ()
    salt: str = ""
    """Put before every prompt, with the request's number, so that no prefix cache helps."""
    temperature: float | None = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of every body."""
    seed: int = 0

    @property
    def path(self) -> str:
        return "/chat/completions" if self.chat else "/completions"

    def ask(self, index: int) -> Ask:
        """The request at that place."""
        if self.lines:
            return self._ask_line(index, self.lines[index % len(self.lines)])
        generator = random.Random(f"request {self.seed} {index}")
        if self.lengths:
            asked, answered = self.lengths[index % len(self.lengths)]
        else:
            asked, answered = self.input_tokens.draw(generator), self.output_tokens.draw(generator)
        count = max(1, round((asked - self.overhead_tokens) * self.words_per_token))
        prompt = self._salted(index, " ".join(generator.choices(WORDS, k=count)))
        return Ask(index, self._body([{"role": "user", "content": prompt}], answered))

    def follow(self, before: Ask, answer: str) -> Ask:
        """The next turn of a conversation, after `answer`."""
        said = [{"role": "assistant", "content": answer}, {"role": "user", "content": before.turns[0]}]
        body = before.body | {"messages": before.body["messages"] + said}
        return Ask(before.index, body, before.expected, before.turns[1:])

    def _ask_line(self, index: int, line: Line) -> Ask:
        expected = (line.expected,) if isinstance(line.expected, str) else tuple(line.expected)
        generator = random.Random(f"request {self.seed} {index}")
        limit = line.max_tokens or self.output_tokens.draw(generator)
        messages = [dict(message) for message in line.messages]
        if not messages:
            messages = [{"role": "user", "content": line.turns[0] if line.turns else line.prompt}]
        first = messages[0]
        if isinstance(first.get("content"), str):
            messages[0] = first | {"content": self._salted(index, first["content"])}
        return Ask(index, self._body(messages, limit), expected, tuple(line.turns[1:]))

    def _salted(self, index: int, prompt: str) -> str:
        return f"{self.salt}-{index} {prompt}" if self.salt else prompt

    def _body(self, messages: list[dict[str, Any]], max_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model}
        body |= {"messages": messages} if self.chat else {"prompt": messages[-1]["content"]}
        body |= {"max_tokens": max_tokens, "stream": self.stream}
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        return body | self.extra


def read_lines(path: Path, *, chat: bool = True) -> tuple[Line, ...]:
    """A JSONL file of prompts, messages or turns. Raises `ConfigError` with the number of the line that is wrong."""
    lines = []
    for number, text in enumerate(_read(path).splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = msgspec.json.decode(text, type=Line)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise ConfigError(f"{path}, line {number}: {error}. A line is such as {{'prompt': 'Hello'}}.") from error
        if sum((bool(line.prompt), bool(line.messages), bool(line.turns))) != 1:
            raise ConfigError(f"{path}, line {number}: it must have one of prompt, messages or turns.")
        if not chat and not line.prompt:
            raise ConfigError(f"{path}, line {number}: completions take prompt only. Leave out --completions.")
        lines.append(line)
    if not lines:
        raise ConfigError(f"{path} has no requests. Write one JSON object a line, such as {{'prompt': 'Hello'}}.")
    return tuple(lines)


class TraceLine(Struct):
    """A request of a trace: when, in seconds (`at_s`) or milliseconds (`timestamp`), and how long."""

    at_s: float | None = None
    timestamp: float | None = None
    input_length: int = 64
    output_length: int = 32


def read_trace(path: Path) -> tuple[tuple[float, ...], tuple[tuple[int, int], ...]]:
    """Times in seconds from the first request, and lengths in tokens. Raises `ConfigError`."""
    found = []
    for number, text in enumerate(_read(path).splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = msgspec.json.decode(text, type=TraceLine)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise ConfigError(f"{path}, line {number}: {error}.") from error
        moment = line.at_s if line.at_s is not None else None if line.timestamp is None else line.timestamp / 1e3
        lengths = (line.input_length, line.output_length)
        if moment is None or not math.isfinite(moment) or not all(0 < length <= MAX_TOKENS for length in lengths):
            raise ConfigError(
                f"{path}, line {number}: a request needs at_s (seconds) or timestamp (milliseconds), and may have "
                "input_length and output_length in tokens."
            )
        found.append((moment, lengths))
    if not found:
        raise ConfigError(f"{path} has no requests.")
    found.sort(key=lambda pair: pair[0])
    return tuple(moment - found[0][0] for moment, _ in found), tuple(lengths for _, lengths in found)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from error
