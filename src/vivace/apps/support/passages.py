"""Articles cut into passages: Markdown, HTML, CSV and plain text, at headings and paragraphs, none above a limit.

It knows forms, not shops: what a text says is data, also where it reads like an instruction.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import PurePath
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

from vivace.apps.support.words import HAN, split_sentences
from vivace.errors import DataError

Format = Literal["markdown", "html", "csv", "text"]

SUFFIXES: dict[str, Format] = {
    ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html", ".csv": "csv", ".txt": "text",
}  # fmt: skip

MAX_ARTICLE_CHARACTERS = 2_000_000
LIMIT = 700
"""Width of a passage: about 110 English words. One Chinese character is as wide as two Latin ones."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of an article that can be quoted alone. `heading` is the path below the title ("Refunds › Cards")."""

    title: str
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """What stands under one heading: paragraphs, list items, rows."""

    heading: str
    blocks: tuple[str, ...]


def format_of(name: str) -> Format:
    """The format that a file's name says. Raises `DataError` for others."""
    suffix = PurePath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{name!r} is no article: give a file that ends in {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def cut_passages(source: str, form: Format, title: str = "", limit: int = LIMIT) -> list[Passage]:
    """The passages of an article, in its order.

    `title` is what the article is called where it does not say so itself by a first heading. Neighbouring paragraphs
    under one heading share a passage up to `limit`; a longer one is cut between sentences, a longer sentence between
    words. Raises `DataError` where the source is too long or holds no text.
    """
    if form not in READERS:
        raise DataError(f"no format is called {form!r}: it is one of {', '.join(READERS)}")
    if len(source) > MAX_ARTICLE_CHARACTERS:
        raise DataError(f"an article has at most {MAX_ARTICLE_CHARACTERS:,} characters, not {len(source):,}: split it")
    if limit < 40:
        raise DataError(f"a passage's limit is at least 40, not {limit}")
    found, sections = READERS[form](source.replace("\x00", " ").encode("utf-8", "replace").decode())
    title = found or title
    passages = [
        Passage(title, section.heading, text) for section in sections for text in _fill(list(section.blocks), limit)
    ]
    if not passages:
        raise DataError("the article holds no text: write a paragraph under its heading")
    return passages


def width(text: str) -> int:
    """Characters, Chinese ones counted twice."""
    return len(text) + len(re.findall(f"[{HAN}]", text))


def _fill(blocks: list[str], limit: int) -> Iterator[str]:
    filled: list[str] = []
    for block in (piece for whole in blocks for piece in _cut_block(whole, limit)):
        if filled and width("\n".join(filled)) + 1 + width(block) > limit:
            yield "\n".join(filled)
            filled = []
        filled.append(block)
    if filled:
        yield "\n".join(filled)


def _cut_block(block: str, limit: int) -> Iterator[str]:
    """Pieces of one paragraph, none wider than the limit."""
    if width(block) <= limit:
        yield block
        return
    held = ""
    for piece in (part for sentence in split_sentences(block) for part in _cut_words(sentence, limit)):
        if held and width(held) + 1 + width(piece) > limit:
            yield held
            held = piece
        else:
            held = f"{held} {piece}" if held else piece
    if held:
        yield held


def _cut_words(sentence: str, limit: int) -> Iterator[str]:
    while width(sentence) > limit:
        at = limit if width(sentence[:limit]) <= limit else limit // 2
        space = sentence.rfind(" ", limit // 4, at)
        at = space if space > 0 else at
        yield sentence[:at].strip()
        sentence = sentence[at:].strip()
    if sentence:
        yield sentence


def _read_text(source: str) -> tuple[str, list[Section]]:
    blocks = [_one_line(block) for block in re.split(r"\n\s*\n", source)]
    return "", [Section("", tuple(block for block in blocks if block))]


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


class _Sections:
    """Collects blocks under a path of headings; the first heading of level 1 is the title."""

    def __init__(self) -> None:
        self.title = ""
        self.sections: list[Section] = []
        self._path: list[tuple[int, str]] = []
        self._blocks: list[str] = []

    def head(self, level: int, text: str) -> None:
        self.close()
        text = _one_line(text)
        if level == 1 and not self.title:
            self.title = text
            return
        self._path = [*(step for step in self._path if step[0] < level), (level, text)]

    def add(self, text: str) -> None:
        if text := text.strip():
            self._blocks.append(text)

    def close(self) -> None:
        if self._blocks:
            self.sections.append(Section(" › ".join(text for _, text in self._path if text), tuple(self._blocks)))
        self._blocks = []


_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def _read_markdown(source: str) -> tuple[str, list[Section]]:
    sections = _Sections()
    tokens = _MARKDOWN.parse(re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.DOTALL))
    row: list[str] = []
    columns: list[str] = []
    item = ""
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "inline":
            text, opener = _inline_text(token), before.type if before else ""
            if opener == "heading_open":
                sections.head(int(before.tag[1]) if before else 1, text)
            elif opener in ("th_open", "td_open"):
                row.append(_one_line(text))
            else:
                sections.add(item + _one_line(text))
                item = ""
        elif token.type in ("fence", "code_block"):
            sections.add(token.content.rstrip())
        elif token.type == "list_item_open":
            item = f"{token.info}. " if token.info else "- "
        elif token.type == "tr_close":
            if columns:
                sections.add(_row_text(columns, row))
            columns, row = columns or row, []
        elif token.type == "table_close":
            columns = []
    sections.close()
    return sections.title, sections.sections


def _inline_text(token: Token) -> str:
    parts = []
    for child in token.children or []:
        if child.type in ("text", "code_inline", "html_inline") or child.type == "image":
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return "".join(parts)


def _row_text(columns: list[str], cells: list[str]) -> str:
    """One row of a table as a sentence of its own, so that it can be quoted without the others."""
    named = zip(columns, cells, strict=False)
    return "; ".join(f"{column}: {cell}" if column else cell for column, cell in named if cell)


_BLOCK_TAGS = """
    p div li ul ol tr table section article header footer main aside blockquote pre dl dt dd br hr form figure
    figcaption details summary address body html
"""


class _HtmlReader(HTMLParser):
    """Text by block; scripts, styles and what else is not shown are left out."""

    HIDDEN = frozenset({"script", "style", "template", "noscript", "svg", "head", "nav", "iframe", "object"})
    BLOCKS = frozenset(_BLOCK_TAGS.split())

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections = _Sections()
        self.page_title = ""
        self._parts: list[str] = []
        self._hidden: list[str] = []
        self._heading = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = True
        elif tag in self.HIDDEN:
            self._hidden.append(tag)
        elif re.fullmatch("h[1-6]", tag):
            self.end_block()
            self._heading = int(tag[1])
        elif tag in self.BLOCKS:
            self.end_block()
            if tag == "li":
                self._parts.append("- ")
        elif tag in ("td", "th") and self._parts:
            self._parts.append("; ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        elif re.fullmatch("h[1-6]", tag) or tag in self.BLOCKS:
            self.end_block()

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.page_title += data
        elif not self._hidden:
            self._parts.append(data)

    def end_block(self) -> None:
        text = _one_line("".join(self._parts))
        self._parts = []
        if self._heading:
            self.sections.head(self._heading, text)
            self._heading = 0
        elif text != "-":
            self.sections.add(text)


def _read_html(source: str) -> tuple[str, list[Section]]:
    reader = _HtmlReader()
    reader.feed(source)
    reader.close()
    reader.end_block()
    reader.sections.close()
    return reader.sections.title or _one_line(reader.page_title), reader.sections.sections


QUESTION_COLUMNS = ("question", "title", "heading", "topic", "问题", "标题")
ANSWER_COLUMNS = ("answer", "text", "content", "body", "答案", "回答", "内容")


def _read_csv(source: str) -> tuple[str, list[Section]]:
    """A column of questions and one of answers where the first row names them; else all columns by their names."""
    try:
        rows = [[_one_line(cell) for cell in row] for row in csv.reader(io.StringIO(source, newline=""), strict=True)]
    except csv.Error as error:
        raise DataError(
            f"the CSV cannot be read ({error}): save it with commas and double quotes, as RFC 4180 has it"
        ) from error
    rows = [row for row in rows if any(row)]
    if len(rows) < 2:
        raise DataError("the CSV holds no row below its first: name the columns there, for example question,answer")
    columns = [cell.lower() for cell in rows[0]]
    asked = next((columns.index(name) for name in QUESTION_COLUMNS if name in columns), None)
    answered = next((columns.index(name) for name in ANSWER_COLUMNS if name in columns), None)
    sections = []
    for row in rows[1:]:
        if len(row) != len(columns):
            raise DataError(f"a row of the CSV has {len(row)} cells, not {len(columns)}: {','.join(row)[:80]!r}")
        if answered is None:
            sections.append(Section("", (_row_text(rows[0], row),)))
        elif row[answered]:
            sections.append(Section(row[asked] if asked is not None else "", (row[answered],)))
    return "", sections


READERS: dict[str, Callable[[str], tuple[str, list[Section]]]] = {
    "markdown": _read_markdown, "html": _read_html, "csv": _read_csv, "text": _read_text,
}  # fmt: skip
