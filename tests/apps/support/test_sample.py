"""The sample shop is whole: every language has enough of everything, and what refers to another exists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from vivace.apps.support.extract import answer_from
from vivace.apps.support.index import ArticlePassages, PassageIndex
from vivace.apps.support.passages import cut_passages
from vivace.apps.support.redact import redact
from vivace.apps.support.sample import load_sample


def test_there_is_enough_of_everything_in_both_languages() -> None:
    sample = load_sample()
    articles = Counter(article.language for article in sample.articles)
    assert articles["en"] >= 60
    assert articles["zh"] >= 15
    assert len(sample.questions) >= 120
    assert Counter(question.language for question in sample.questions if not question.articles).keys() == {"en", "zh"}
    labels = Counter((example.label, example.text.isascii()) for example in sample.examples)
    assert len({label for label, _ in labels} - {None}) >= 12
    assert min(labels.values()) >= 12


def test_what_refers_to_another_exists() -> None:
    sample = load_sample()
    articles = {article.article_id for article in sample.articles}
    assert {name for question in sample.questions for name in question.articles} <= articles
    assert {order.email for order in sample.orders} <= {user.email for user in sample.users if user.role == "customer"}
    assert {user.role for user in sample.users} == {"customer", "agent", "admin"}
    assert all(article.article_id.removesuffix(".zh") in articles for article in sample.articles)


def test_nothing_is_there_twice() -> None:
    sample = load_sample()
    assert len({example.text.lower() for example in sample.examples}) == len(sample.examples)
    assert len({question.question for question in sample.questions}) == len(sample.questions)
    assert len({order.number for order in sample.orders}) == len(sample.orders)


def test_nobody_is_real() -> None:
    sample = load_sample()
    assert all(user.email.endswith(".example") for user in sample.users)
    assert all(set(redact(article.markdown).kinds) <= {"email"} for article in sample.articles)


def test_most_questions_find_their_article(tmp_path: Path) -> None:
    sample = load_sample()
    index = PassageIndex(tmp_path / "index.db")
    index.rebuild(
        "shop",
        [ArticlePassages(one.article_id, 1, tuple(cut_passages(one.markdown, "markdown"))) for one in sample.articles],
    )
    able = [question for question in sample.questions if question.articles]
    hits = {question: index.search("shop", question.question) for question in able}
    right = sum(any(hit.article_id in question.articles for hit in found) for question, found in hits.items())
    assert right >= 0.85 * len(able)
    assert answer_from(index.search("shop", "Where is Mount Everest?"), "Where is Mount Everest?") == ""
    index.close()
