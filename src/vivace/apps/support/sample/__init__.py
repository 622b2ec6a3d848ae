"""The sample shop "Fern & Lantern": lamps, plants and tableware. Articles, intents, people, orders and questions, all
made up. It knows how its files are laid out, and nothing of where they are loaded into.

    articles/NAME.md       an article; NAME.zh.md is the same subject in Chinese
    intents.json           what customers want, with examples by language; `none` holds examples of no intent
    users.json             people without passwords: whoever loads them sets some
    orders.json            their orders
    questions.jsonl        questions with the articles that answer them; none, where no article does
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from vivace.apps.support.intents import Example

NO_INTENT = "none"


@dataclass(frozen=True, slots=True)
class SampleArticle:
    article_id: str
    language: Literal["en", "zh"]
    title: str
    markdown: str


@dataclass(frozen=True, slots=True)
class SampleUser:
    email: str
    name: str
    role: Literal["customer", "agent", "admin"]
    language: Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class SampleItem:
    name: str
    quantity: int
    price_usd: str


@dataclass(frozen=True, slots=True)
class SampleOrder:
    number: str
    email: str
    state: str
    placed: str
    """A date, YYYY-MM-DD."""
    items: tuple[SampleItem, ...]


@dataclass(frozen=True, slots=True)
class SampleQuestion:
    question: str
    language: Literal["en", "zh"]
    articles: tuple[str, ...]
    """Ids of the articles that answer it, any of which will do."""


@dataclass(frozen=True, slots=True)
class Sample:
    articles: tuple[SampleArticle, ...]
    examples: tuple[Example, ...]
    users: tuple[SampleUser, ...]
    orders: tuple[SampleOrder, ...]
    questions: tuple[SampleQuestion, ...]


@cache
def load_sample() -> Sample:
    """Everything the sample shop has, as it comes with the package."""
    return Sample(
        articles=tuple(_load_articles()),
        examples=tuple(_load_examples()),
        users=tuple(SampleUser(**user) for user in json.loads(_read("users.json"))),
        orders=tuple(
            SampleOrder(**order | {"items": tuple(SampleItem(**item) for item in order["items"])})
            for order in json.loads(_read("orders.json"))
        ),
        questions=tuple(
            SampleQuestion(**row | {"articles": tuple(row["articles"])})
            for row in map(json.loads, _read("questions.jsonl").splitlines())
        ),
    )


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _load_articles() -> list[SampleArticle]:
    articles = []
    for file in sorted(files(__name__).joinpath("articles").iterdir(), key=lambda file: file.name):
        article_id, text = file.name.removesuffix(".md"), file.read_text(encoding="utf-8")
        title = text.split("\n", 1)[0].removeprefix("# ")
        articles.append(SampleArticle(article_id, "zh" if article_id.endswith(".zh") else "en", title, text))
    return articles


def _load_examples() -> list[Example]:
    intents: dict[str, dict[str, list[str]]] = json.loads(_read("intents.json"))
    return [
        Example(text, None if label == NO_INTENT else label)
        for label, languages in intents.items()
        for texts in languages.values()
        for text in texts
    ]
