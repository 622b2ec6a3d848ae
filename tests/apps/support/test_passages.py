"""Articles become passages that can be quoted alone: nothing is lost, nothing is too long, nothing hidden is shown."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.apps.support.passages import Passage, cut_passages, format_of, width
from vivace.errors import DataError

ARTICLE = """---
author: x
---
# Returns

You may return **most** items within [45 days](https://x.example).

## Refunds

1. Pack it.
2. Send it.

### Cards

| Card | Days |
|---|---|
| Visa | 5 |
| PayPal | 1 |

```
code stays
```
"""


def test_markdown_is_cut_at_its_headings() -> None:
    assert cut_passages(ARTICLE, "markdown") == [
        Passage("Returns", "", "You may return most items within 45 days."),
        Passage("Returns", "Refunds", "1. Pack it.\n2. Send it."),
        Passage("Returns", "Refunds › Cards", "Card: Visa; Days: 5\nCard: PayPal; Days: 1\ncode stays"),
    ]


def test_html_shows_what_a_reader_sees() -> None:
    page = """<html><head><title>Shop</title><style>p{}</style></head><body><nav>Menu</nav><h1>Returns</h1><p>Within <b>45</b>
      days &amp; free.<script>alert(1)</script></p><h2>How</h2><ul><li>Pack</li><li>Send</li></ul>
      <table><tr><th>Card</th><th>Days</th></tr><tr><td>Visa</td><td>5</td></tr></table></body></html>"""
    assert cut_passages(page, "html") == [
        Passage("Returns", "", "Within 45 days & free."),
        Passage("Returns", "How", "- Pack\n- Send\nCard; Days\nVisa; 5"),
    ]


def test_a_table_of_questions_is_a_passage_each() -> None:
    source = 'Question,Answer\n"Free, really?","Yes, from 60 dollars."\nWhen?,Soon.\n'
    assert cut_passages(source, "csv", "FAQ") == [
        Passage("FAQ", "Free, really?", "Yes, from 60 dollars."), Passage("FAQ", "When?", "Soon."),
    ]  # fmt: skip


def test_other_tables_name_their_columns() -> None:
    assert [passage.text for passage in cut_passages("lamp,watts\nWren,40\nHeron,60\n", "csv")] == [
        "lamp: Wren; watts: 40", "lamp: Heron; watts: 60",
    ]  # fmt: skip


def test_neighbouring_paragraphs_share_a_passage_up_to_the_limit() -> None:
    text = "\n\n".join(["one " * 20] * 6)
    passages = cut_passages(text, "text", limit=200)
    assert [len(passage.text.split("\n")) for passage in passages] == [2, 2, 2]


@pytest.mark.parametrize(
    ("source", "form", "remedy"),
    [
        ("", "text", "write a paragraph"), ("# Only a title", "markdown", "write a paragraph"), ("<script>x</script>", "html", "write a paragraph"),
        ("a,b\n", "csv", "name the columns"), ("a,b\n1,2,3\n", "csv", "3 cells"), ('a,b\n"1,2\n', "csv", "RFC 4180"), ("x", "pdf", "one of"),
        ("x" * 2_000_001, "text", "split it"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_what_to_do(source: str, form: str, remedy: str) -> None:
    with pytest.raises(DataError, match=remedy):
        cut_passages(source, form)  # type: ignore[arg-type]


def test_the_name_says_the_format() -> None:
    assert format_of("A/returns.MD") == "markdown"
    with pytest.raises(DataError, match=r"\.csv"):
        format_of("returns.pdf")


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(" .\n退。"), min_size=1, max_size=400)


@given(TEXTS, st.integers(40, 120))
def test_plain_text_loses_nothing_and_keeps_the_limit(source: str, limit: int) -> None:
    if not source.strip():
        return
    passages = cut_passages(source, "text", limit=limit)
    assert "".join("".join(passage.text for passage in passages).split()) == "".join(source.split())
    assert all(width(passage.text) <= limit for passage in passages)


@given(st.text(max_size=300), st.sampled_from(["markdown", "html", "csv", "text"]))
def test_any_text_is_cut_or_refused(source: str, form: str) -> None:
    try:
        passages = cut_passages(source, form, "t")  # type: ignore[arg-type]
    except DataError:
        return
    assert passages
    assert all(passage.text.strip() and width(passage.text) <= 700 for passage in passages)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_what_a_table_holds_comes_back(rows: list[tuple[str, str]]) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([("question", "answer"), *rows])
    wanted = [" ".join(answer.split()) for question, answer in rows if answer.strip()]
    if wanted:
        passages = cut_passages(file.getvalue(), "csv", limit=2000)
        assert [passage.text for passage in passages] == wanted
