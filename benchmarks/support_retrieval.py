"""Search and answers without a model in the customer-service application, beside plain search.

python benchmarks/support_retrieval.py sample                 the sample shop's questions, English and Chinese, and
                                                              everyday ones, of which some were never tuned on
python benchmarks/support_retrieval.py qa QA.jsonl.gz ...     questions on contexts: {"context", "question", "answers"}
python benchmarks/support_retrieval.py latency TEXT.jsonl.gz ...   10^5 passages of {"messages": [...]} or {"context"}

Plain search is FTS5 as it comes (`porter unicode61`, `trigram` for Chinese; every word of the question, OR), and the
cosine of scikit-learn's TF-IDF as it comes (of one and two characters for Chinese). An article counts once in a
list, at its best passage.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from vivace.apps.support.extract import answer_from
from vivace.apps.support.grounding import check_answer
from vivace.apps.support.index import ArticlePassages, Hit, PassageIndex
from vivace.apps.support.passages import Passage, cut_passages
from vivace.apps.support.sample import load_sample
from vivace.apps.support.synonyms import NONE
from vivace.apps.support.words import has_chinese

TENANT = "shop"
DEPTH = 5
EVERYDAY = Path(__file__).with_name("support_everyday.jsonl")


@dataclass(frozen=True)
class Question:
    text: str
    articles: tuple[str, ...]
    answers: tuple[str, ...] = ()


Search = Callable[[str], list[str]]
"""Article ids for a question, best first, perhaps several times each."""


class PlainSearch:
    """FTS5 and TF-IDF as they come."""

    def __init__(self, articles: Sequence[ArticlePassages]) -> None:
        rows = [(article.article_id, passage) for article in articles for passage in article.passages]
        self.ids = [article for article, _ in rows]
        self.texts = [f"{passage.title}\n{passage.heading}\n{passage.text}" for _, passage in rows]
        self.connection = sqlite3.connect(":memory:")
        for table, tokenizer in (("words", "porter unicode61"), ("trigrams", "trigram")):
            self.connection.execute(f"CREATE VIRTUAL TABLE {table} USING fts5 (text, tokenize = '{tokenizer}')")
            self.connection.executemany(f"INSERT INTO {table} (rowid, text) VALUES (?, ?)", list(enumerate(self.texts)))
        self.spaces = []
        for vectorizer in (TfidfVectorizer(), TfidfVectorizer(analyzer="char", ngram_range=(1, 2))):
            self.spaces.append((vectorizer, vectorizer.fit_transform(self.texts)))

    def by_bm25(self, question: str) -> list[str]:
        if has_chinese(question):
            runs = re.findall(r"\w+", question)
            table, words = "trigrams", [run[at : at + 3] for run in runs for at in range(len(run) - 2)]
        else:
            table, words = "words", re.findall(r"\w+", question)
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        found = self.connection.execute(
            f"SELECT rowid FROM {table} WHERE {table} MATCH ? ORDER BY rank LIMIT 50", (match,)
        )
        return [self.ids[row] for (row,) in found]

    def by_tfidf(self, question: str) -> list[str]:
        vectorizer, matrix = self.spaces[has_chinese(question)]
        cosines = (matrix @ vectorizer.transform([question]).T).toarray().ravel()
        return [self.ids[at] for at in np.argsort(-cosines, kind="stable")[:50] if cosines[at] > 0]


def score(search: Search, questions: Sequence[Question]) -> str:
    ranks = []
    for question in questions:
        articles = list(dict.fromkeys(search(question.text)))[:DEPTH]
        ranks.append(next((at for at, article in enumerate(articles, 1) if article in question.articles), None))
    recall = statistics.mean(rank is not None for rank in ranks)
    return f"recall@{DEPTH} {recall:.3f}  MRR {statistics.mean(1 / rank if rank else 0 for rank in ranks):.3f}"


def compare(name: str, articles: Sequence[ArticlePassages], questions: Sequence[Question], folder: str) -> None:
    answerable = [question for question in questions if question.articles]
    passages = sum(len(article.passages) for article in articles)
    print(f"\n{name}: {len(articles)} articles, {passages} passages, {len(answerable)} questions with an answer")
    plain = PlainSearch(articles)
    print(f"  FTS5 BM25 as it comes       {score(plain.by_bm25, answerable)}")
    print(f"  TF-IDF as it comes          {score(plain.by_tfidf, answerable)}")
    for label, thesaurus in (("fused, without synonyms", {"thesaurus": NONE}), ("fused", {})):
        index = PassageIndex(Path(folder) / f"{name}-{len(thesaurus)}.db", **thesaurus)
        index.rebuild(TENANT, articles)

        def search(question: str, index: PassageIndex = index) -> list[str]:
            return [hit.article_id for hit in index.search(TENANT, question, 50)]

        print(f"  {label:<27} {score(search, answerable)}")
        if not thesaurus:
            answer(lambda text, index=index: index.search(TENANT, text, DEPTH), questions, plain)  # type: ignore[misc]
            refuse(index, articles, answerable)
        index.close()


def refuse(index: PassageIndex, articles: Sequence[ArticlePassages], questions: Sequence[Question]) -> None:
    """What is refused of the questions whose articles are left out of the index: every second one."""
    kept = articles[::2]
    names = {article.article_id for article in kept}
    index.rebuild(TENANT, kept)
    refused: dict[bool, list[bool]] = {True: [], False: []}
    for question in questions:
        text = answer_from(index.search(TENANT, question.text, DEPTH), question.text)
        refused[any(article in names for article in question.articles)].append(not text)
    print(
        f"    with every second article left out: {share(sum(refused[False]), len(refused[False]))} refused of the"
        f" questions on those, {share(sum(refused[True]), len(refused[True]))} of the others"
    )


def answer(search: Callable[[str], list[Hit]], questions: Sequence[Question], plain: PlainSearch) -> None:
    """What the passage fallback says: supported, of the right article, refused; plain search shows its first hit."""
    given = {question: (hits := search(question.text), answer_from(hits, question.text)) for question in questions}
    able = [question for question in questions if question.articles]
    unable = [question for question in questions if not question.articles]
    answered = [question for question in questions if given[question][1]]
    supported = [
        check_answer(given[question][1], [hit.text for hit in given[question][0]], "other", True).supported
        for question in answered
    ]
    right = [question for question in able if given[question][1] and is_right(question, *given[question])]
    print(f"  answers from passages: {share(sum(supported), len(answered))} of those given supported by their passages")
    print(
        f"    questions with an answer: {share(len(right), len(able))} answered from the right place,"
        f" {share(sum(not given[question][1] for question in able), len(able))} refused"
    )
    first = [question for question in able if plain.by_bm25(question.text)[:1] and is_first_right(question, plain)]
    print(f"    plain search's first hit is right for {share(len(first), len(able))}")
    if unable:
        refused = sum(not given[question][1] for question in unable)
        empty = sum(not plain.by_bm25(question.text) for question in unable)
        print(
            f"    questions without an answer: {share(refused, len(unable))} refused;"
            f" plain search finds nothing for {share(empty, len(unable))}"
        )


def is_right(question: Question, hits: Sequence[Hit], text: str) -> bool:
    """Whether a gold answer stands in the text; where there are none, whether it comes from a right article."""
    if question.answers:
        return any(answer in text for answer in question.answers)
    return any(hit.article_id in question.articles for hit in hits if text in hit.text)


def is_first_right(question: Question, plain: PlainSearch) -> bool:
    return plain.by_bm25(question.text)[0] in question.articles


def share(part: int, whole: int) -> str:
    return f"{part}/{whole} ({100 * part / whole:.1f}%)" if whole else "none"


def read_sample(language: str) -> tuple[list[ArticlePassages], list[Question]]:
    sample = load_sample()
    articles = [
        ArticlePassages(article.article_id, 1, tuple(cut_passages(article.markdown, "markdown")))
        for article in sample.articles
    ]
    questions = [
        Question(question.question, question.articles) for question in sample.questions if question.language == language
    ]
    return articles, questions


def read_everyday(*, held_out: bool) -> tuple[list[ArticlePassages], list[Question]]:
    rows = map(json.loads, EVERYDAY.read_text(encoding="utf-8").splitlines())
    questions = [Question(row["question"], tuple(row["articles"])) for row in rows if row["held_out"] == held_out]
    return read_sample("en")[0], questions


def read_lines(paths: Iterable[str]) -> Iterator[dict[str, object]]:
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)


def read_qa(paths: Sequence[str]) -> tuple[list[ArticlePassages], list[Question]]:
    contexts: dict[str, str] = {}
    questions = []
    for row in read_lines(paths):
        article = contexts.setdefault(str(row["context"]), f"context-{len(contexts)}")
        answers = tuple(map(str, row["answers"]))  # type: ignore[call-overload]
        questions.append(Question(str(row["question"]), (article,) if answers else (), answers))
    articles = [
        ArticlePassages(name, 1, tuple(cut_passages(text, "text", limit=4000))) for text, name in contexts.items()
    ]
    return articles, list(dict.fromkeys(questions))


def read_corpus(paths: Sequence[str], count: int, words_each: int) -> list[ArticlePassages]:
    """Passages of about `words_each` words, cut from the texts as they come; every 10 make an article."""
    passages: list[Passage] = []
    held: list[str] = []
    for row in read_lines(paths):
        turns = row.get("messages") or [{"content": row.get("context", "")}]
        for turn in turns:  # type: ignore[attr-defined]
            held += str(turn["content"]).split()
            if len(held) >= words_each:
                passages.append(Passage(" ".join(held[:4]), "", " ".join(held[:120])))
                held = []
        if len(passages) >= count:
            break
    passages = passages[:count]
    return [
        ArticlePassages(f"text-{at}", 1, tuple(passages[at : at + 10])) for at in range(0, len(passages), 10)
    ]  # fmt: skip


def measure_latency(paths: Sequence[str], file: Path, count: int, searches: int, threads: int) -> None:
    articles, questions = read_sample("en")
    corpus = read_corpus(paths, count - sum(len(article.passages) for article in articles), 45)
    index = PassageIndex(file)
    if not index.versions(TENANT):
        start = time.perf_counter()
        index.rebuild(TENANT, [*articles, *corpus])
        print(f"indexed in {time.perf_counter() - start:.1f} s")
    total = sum(len(article.passages) for article in [*articles, *corpus])
    print(f"{total} passages, {file.stat().st_size / 1e6:.0f} MB")
    texts = [question.text for question in questions + read_sample("zh")[1]]
    texts += [article.passages[0].text[:90] for article in corpus[:: max(1, len(corpus) // 150)]]
    for at_once in sorted({1, threads}):
        report(f"{at_once} at once", time_searches(index, texts, searches, at_once))
    start = time.perf_counter()
    index.replace(TENANT, articles[0].article_id, 2, articles[0].passages)
    print(f"replace an article: {1000 * (time.perf_counter() - start):.1f} ms")
    report("after it", time_searches(index, texts, searches // 10, 1))
    index.close()


def time_searches(index: PassageIndex, texts: Sequence[str], searches: int, threads: int) -> list[float]:
    times: list[float] = []

    def work(first: int) -> None:
        for at in range(first, searches, threads):
            start = time.perf_counter()
            index.search(TENANT, texts[at % len(texts)], DEPTH)
            times.append(1000 * (time.perf_counter() - start))

    for text in texts[:5]:
        index.search(TENANT, text, DEPTH)
    workers = [threading.Thread(target=work, args=(at,)) for at in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return times


def report(name: str, times: Sequence[float]) -> None:
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    print(f"search, {name}: n {len(times)}  p50 {p50:.1f}  p90 {p90:.1f}  p99 {p99:.1f}  longest {max(times):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sample", "qa", "latency"))
    parser.add_argument("files", nargs="*", help="JSON lines, gzipped")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--searches", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--index", type=Path, help="keep the index in this file, and take it where it is there already")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "sample":
            for language in ("en", "zh"):
                compare(f"sample-{language}", *read_sample(language), folder)
            for name, held_out in (("everyday", False), ("everyday-held-out", True)):
                compare(name, *read_everyday(held_out=held_out), folder)
        elif arguments.what == "qa":
            compare("qa", *read_qa(arguments.files), folder)
        else:
            file = arguments.index or Path(folder) / "latency.db"
            measure_latency(arguments.files, file, arguments.passages, arguments.searches, arguments.threads)


if __name__ == "__main__":
    main()
