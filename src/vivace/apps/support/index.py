"""Search over passages: BM25 of SQLite's FTS5 beside TF-IDF→SVD vectors, fused by reciprocal rank.

One file, a cache derived from the articles: it can be deleted and rebuilt. It does not know where articles come from,
nor what is done with a hit.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivace.apps.support.passages import Passage
from vivace.apps.support.synonyms import SHOP, Term, Thesaurus
from vivace.apps.support.vectors import NO_VECTORS, Floats, TenantVectors, VectorSpace
from vivace.apps.support.words import STOP_STEMS, find_chinese, has_chinese, split_words
from vivace.errors import ConfigError, DataError

SCHEMA_VERSION = 1
RANK_OFFSET = 60
"""k of reciprocal rank fusion, 1 / (k + rank): Cormack, Clarke, Buettcher, SIGIR 2009."""

COLUMN_WEIGHTS = (2.0, 2.0, 1.0)
"""Of title, heading and text in BM25."""

CANDIDATES = 50
"""Taken of each list before they are fused."""

SYNONYM = 0.5
"""Weight of a synonym in a question's vector; the word that was used has 1."""

COVERED_BY_SYNONYM = 0.8
"""What a synonym in a passage counts for the score; the word that was used counts 1."""

HELD, HELD_IN_TITLE, NAMED = 0.4, 0.16, 0.2
"""What counts beside the fused ranks, of which the best is 1: the share of the question that stands in a passage, that
in its title and heading, and the share of the title's words that the question names. Passages about the question go
before those that mention it. Tried on the sample's questions and on everyday ones, 0 to 0.8."""

WEAK = 0.35
"""A best score below this is tried again with the words of the other language."""

ROWS_SCORED = 4_000
"""Rows that BM25 is worked out for, about: a question's commonest words are left out where there are more."""

REFIT_SHARE = 0.2
"""Of a tenant's passages that change before its vectors are fitted anew; until then new ones use the old space."""

MAX_QUERY_WORDS = 96
"""Synonyms among them; what is beyond is not looked for."""

MAX_COUNTS = 200_000

ROWS_A_TENANT = 1 << 32

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tenants (
    number INTEGER PRIMARY KEY, tenant TEXT NOT NULL UNIQUE, next_row INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0, changed INTEGER NOT NULL DEFAULT 0, space BLOB
);
CREATE TABLE IF NOT EXISTS passages (
    row INTEGER PRIMARY KEY, tenant TEXT NOT NULL, article_id TEXT NOT NULL, version INTEGER NOT NULL,
    position INTEGER NOT NULL, title TEXT NOT NULL, heading TEXT NOT NULL, text TEXT NOT NULL, vector BLOB
);
CREATE INDEX IF NOT EXISTS passages_by_article ON passages (tenant, article_id);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (title, heading, text, tokenize = "unicode61 remove_diacritics 0");
CREATE VIRTUAL TABLE IF NOT EXISTS word_counts USING fts5vocab (words, 'row');
CREATE VIRTUAL TABLE IF NOT EXISTS trigrams USING fts5 (title, heading, text, tokenize = "trigram");
"""


@dataclass(frozen=True, slots=True)
class ArticlePassages:
    """One article as the index takes it."""

    article_id: str
    version: int
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found. `rank` counts from 1. `score`, from 0 to 1, says how much of what the question asks about stands
    in the passage, whatever its rank: rare words count more, words that the tenant's articles never use count most."""

    passage_id: int
    article_id: str
    version: int
    title: str
    heading: str
    text: str
    score: float
    rank: int


class PassageIndex:
    """The index of all tenants' articles in one SQLite file. Safe to share between threads; other processes may read
    and write the same file.

    A search sees its tenant's passages only: rows of a tenant have numbers of a range of its own, which every query is
    bounded to, and the tenant's name is compared in SQL where rows are read. How often a word occurs, which weighs in
    BM25, is counted over the whole file.
    """

    def __init__(self, path: Path | str, thesaurus: Thesaurus = SHOP) -> None:
        """Open the file, or make it. Raises `ConfigError` where it is no index of this version."""
        self._path = str(path)
        self._thesaurus = thesaurus
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._vectors: dict[str, tuple[int, TenantVectors]] = {}
        self._counts: dict[str, tuple[int, dict[str, int]]] = {}
        self._closed = False
        self._writer = self._connect()
        try:
            self._prepare()
        except BaseException:
            self._writer.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA busy_timeout = 30000")
        return connection

    def _prepare(self) -> None:
        try:
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute("PRAGMA synchronous = NORMAL")
            version = int(self._writer.execute("PRAGMA user_version").fetchone()[0])
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{self._path} cannot be used as an index ({error}): delete it, it is rebuilt from the articles"
            ) from error
        if version not in (0, SCHEMA_VERSION):
            raise ConfigError(
                f"{self._path} is an index of version {version}, not {SCHEMA_VERSION}: delete it, it is rebuilt"
            )
        self._writer.executescript(_SCHEMA)
        self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the file. Searches under way end first only if their threads were joined."""
        self._closed = True
        self._writer.close()
        while not self._readers.empty():
            self._readers.get().close()

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        if self._closed:
            raise ConfigError("the index is closed: open it again")
        try:
            connection = self._readers.get_nowait()
        except queue.Empty:
            connection = self._connect()
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.execute("ROLLBACK")
            self._readers.put(connection)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            if self._closed:
                raise ConfigError("the index is closed: open it again")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    def replace(self, tenant: str, article_id: str, version: int, passages: Sequence[Passage]) -> None:
        """Put an article's passages in the place of those it had, all at once for any search."""
        with self._transaction() as connection:
            number = _number_of(connection, tenant)
            known = self._vectors_now(connection, tenant)
            removed = _delete(connection, tenant, article_id)
            article = ArticlePassages(article_id, version, tuple(passages))
            rows, matrix = _insert(connection, tenant, number, article, known.space)
            generation = _note_change(connection, tenant, number, len(removed) + len(passages))
        if generation is not None:
            self._vectors[tenant] = (generation, known.without(removed).plus(rows, matrix))

    def remove(self, tenant: str, article_id: str) -> bool:
        """Take an article out; whether there was one."""
        with self._transaction() as connection:
            number = _find_number(connection, tenant)
            known = self._vectors_now(connection, tenant)
            removed = _delete(connection, tenant, article_id)
            if number is None or not removed:
                return False
            generation = _note_change(connection, tenant, number, len(removed))
        if generation is not None:
            self._vectors[tenant] = (generation, known.without(removed))
        return True

    def rebuild(self, tenant: str, articles: Iterable[ArticlePassages]) -> None:
        """Put these articles in the place of everything the tenant had, and fit its vectors once."""
        with self._transaction() as connection:
            number = _number_of(connection, tenant)
            _delete_all(connection, tenant, number)
            for article in articles:
                _insert(connection, tenant, number, article, None)
            _fit(connection, tenant, number)

    def versions(self, tenant: str) -> dict[str, int]:
        """The version of every article that the index holds of a tenant."""
        with self._reader() as connection:
            rows = connection.execute("SELECT DISTINCT article_id, version FROM passages WHERE tenant = ?", (tenant,))
            return {str(article): int(version) for article, version in rows}

    def search(self, tenant: str, query: str, limit: int = 5) -> list[Hit]:
        """The passages that fit a question best, the best first; none where not a word of it occurs.

        The question is data: no character of it is query syntax.
        """
        if limit < 1:
            raise DataError(f"a search returns at least one passage, not {limit}: raise the limit")
        query = query.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        terms = self._thesaurus.expand(query)
        if not terms:
            return []
        with self._reader() as connection:
            vectors = self._vectors_now(connection, tenant)
            number = _find_number(connection, tenant)
            if number is None or vectors.space is None:
                return []
            counts = self._counts_now(tenant)
            hits = _search(connection, tenant, number, vectors, counts, query, terms, limit)
            if not hits or max(hit.score for hit in hits) < WEAK:
                across = self._thesaurus.expand(query, across=True)
                others = (
                    _search(connection, tenant, number, vectors, counts, query, across, limit)
                    if across != terms
                    else []
                )
                hits = max(hits, others, key=lambda found: max((hit.score for hit in found), default=0.0))
        return hits

    def _vectors_now(self, connection: sqlite3.Connection, tenant: str) -> TenantVectors:
        """The tenant's vectors as the connection's transaction sees them, read where another process changed them."""
        row = connection.execute("SELECT generation, number FROM tenants WHERE tenant = ?", (tenant,)).fetchone()
        if row is None:
            return NO_VECTORS
        generation, number = int(row[0]), int(row[1])
        known = self._vectors.get(tenant)
        if known is None or known[0] != generation:
            rows = connection.execute(
                "SELECT row, vector FROM passages WHERE tenant = ? AND vector IS NOT NULL ORDER BY row", (tenant,)
            )
            known = (generation, TenantVectors.read(_load_space(connection, number), rows))
            self._vectors[tenant] = known
        return known[1]

    def _counts_now(self, tenant: str) -> dict[str, int]:
        """In how many passages words occur, as far as it was counted since the tenant's last change: counting reads a
        word's whole list. (Other tenants' changes are not seen; the counts choose words, and weigh nothing.)"""
        generation = self._vectors[tenant][0]
        known = self._counts.get(tenant)
        if known is None or known[0] != generation or len(known[1]) > MAX_COUNTS:
            known = (generation, {})
            self._counts[tenant] = known
        return known[1]


def fuse(lists: Iterable[Sequence[int]], offset: int = RANK_OFFSET) -> dict[int, float]:
    """Of each row the sum of 1 / (offset + rank) over the lists it stands in."""
    sums: dict[int, float] = {}
    for rows in lists:
        for rank, row in enumerate(rows, 1):
            sums[row] = sums.get(row, 0.0) + 1 / (offset + rank)
    return sums


def quote(word: str) -> str:
    """A word as an FTS5 string: whatever it holds, it is text."""
    return '"' + word.replace('"', '""') + '"'


def _search(
    connection: sqlite3.Connection,
    tenant: str,
    number: int,
    vectors: TenantVectors,
    counts: dict[str, int],
    query: str,
    terms: Sequence[Term],
    limit: int,
) -> list[Hit]:
    """BM25, vectors, trigrams for Chinese, and all that these found by how much of the question it covers, fused; then
    ordered by that and by what they cover."""
    phrases = [phrase for term in terms for phrase in term.phrases]
    words = list(dict.fromkeys(word for term in terms for word in term.words))
    weights = dict.fromkeys(words, SYNONYM) | {term.word: term.weight for term in terms}
    searched = [*((word,) for word in words), *dict.fromkeys(phrases)][:MAX_QUERY_WORDS]
    lists = [_rank_by_words(connection, number, searched, counts), vectors.rank(weights, CANDIDATES)]
    if has_chinese(query):
        lists.append(_rank_by_trigrams(connection, number, query))
    covered = _cover(connection, {row for rows in lists for row in rows}, terms, vectors.space)
    lists.append(sorted(covered, key=lambda row: (-covered[row].whole, -covered[row].title, row)))
    best = _in_article_order(connection, _order(fuse(lists), covered)[:limit], covered)
    return _read_hits(connection, tenant, best, covered)


def _order(sums: Mapping[int, float], covered: Mapping[int, _Cover]) -> list[int]:
    most = max(sums.values(), default=1.0)
    values = {
        row: total / most + HELD * cover.whole + HELD_IN_TITLE * cover.title + NAMED * cover.named
        for row, total in sums.items()
        for cover in (covered[row],)
    }
    return sorted(values, key=lambda row: (-values[row], row))


def _rank_by_words(
    connection: sqlite3.Connection, number: int, phrases: Sequence[tuple[str, ...]], known_counts: dict[str, int]
) -> list[int]:
    """Rows by words, and by phrases of several: what is rarest of what is asked, as far as there is time for."""
    single = {word for phrase in phrases for word in phrase}
    if uncounted := [word for word in single if word not in known_counts]:
        known_counts |= dict.fromkeys(uncounted, 0) | _count_rows(connection, uncounted)
    counts = {" ".join(phrase): min(known_counts[word] for word in phrase) for phrase in phrases}
    known = sorted((words for words, count in counts.items() if count), key=counts.__getitem__)
    if not known:
        return []
    chosen = [known[0]]
    rows = counts[known[0]]
    for words in known[1:]:
        rows += counts[words]
        if rows > ROWS_SCORED:
            break
        chosen.append(words)
    match = " OR ".join(map(quote, chosen))
    if counts[known[0]] > ROWS_SCORED and len(known) > 1:
        match = f"{quote(known[0])} AND ({' OR '.join(map(quote, known[1:4]))})"
    return _rank(connection, "words", number, match)


def _count_rows(connection: sqlite3.Connection, words: Collection[str]) -> dict[str, int]:
    """In how many passages each word occurs, over all tenants."""
    marks = ", ".join("?" * len(words))
    rows = connection.execute(f"SELECT term, doc FROM word_counts WHERE term IN ({marks})", tuple(words))
    return {str(term): int(count) for term, count in rows}


def _rank_by_trigrams(connection: sqlite3.Connection, number: int, query: str) -> list[int]:
    runs = find_chinese(query)
    pieces = list(dict.fromkeys(run[at : at + 3] for run in runs for at in range(len(run) - 2)))[:MAX_QUERY_WORDS]
    return _rank(connection, "trigrams", number, " OR ".join(map(quote, pieces))) if pieces else []


def _rank(connection: sqlite3.Connection, table: str, number: int, match: str) -> list[int]:
    """Rows of one tenant by BM25. `table` is one of ours, `match` made of quoted words."""
    weights = ", ".join(map(str, COLUMN_WEIGHTS))
    rows = connection.execute(
        f"SELECT rowid FROM {table} WHERE {table} MATCH ? AND rowid BETWEEN ? AND ? AND rank MATCH 'bm25({weights})'"
        " ORDER BY rank LIMIT ?",
        (match, number * ROWS_A_TENANT, (number + 1) * ROWS_A_TENANT - 1, CANDIDATES),
    )
    return [int(row) for (row,) in rows]


@dataclass(frozen=True, slots=True)
class _Cover:
    """How question and passage overlap: shares of what is asked about, weighed by rarity, and of the title."""

    whole: float
    """Of the question, in the passage with its title and heading."""
    title: float
    """Of the question, in title and heading."""
    named: float
    """Of the title's words that say something, in the question or among its synonyms."""


def _cover(
    connection: sqlite3.Connection, rows: Iterable[int], terms: Sequence[Term], space: VectorSpace | None
) -> dict[int, _Cover]:
    """What of the question stands in each row."""
    rarities = space.weights([term.word for term in terms]) if space else [1.0] * len(terms)
    weights = [term.weight * rarity for term, rarity in zip(terms, rarities, strict=True)]
    presence = _Presence(terms, [weight / sum(weights) for weight in weights])
    found_in = {}
    numbers = tuple(rows)
    marks = ", ".join("?" * len(numbers))
    found = connection.execute(f"SELECT rowid, title, heading, text FROM words WHERE rowid IN ({marks})", numbers)
    for row, title, heading, text in found:
        titled = title.split()
        above = {*titled, *heading.split()}
        about = [word for word in titled if word not in STOP_STEMS]
        found_in[int(row)] = _Cover(
            presence.share_in(above.union(text.split())),
            presence.share_in(above),
            sum(word in presence.words for word in about) / max(1, len(about)),
        )
    return found_in


class _Presence:
    """How much of what is asked about stands among some words. Looks at the words both have, which are few."""

    def __init__(self, terms: Sequence[Term], weights: Sequence[float]) -> None:
        self.words: dict[str, list[tuple[int, float]]] = {}
        """By each word of the question and of its synonyms: the terms that it is found for, and their weights then."""
        self._phrases: list[tuple[int, float, tuple[str, ...]]] = []
        for at, (term, weight) in enumerate(zip(terms, weights, strict=True)):
            self.words.setdefault(term.word, []).append((at, weight))
            for other in term.others:
                self.words.setdefault(other, []).append((at, COVERED_BY_SYNONYM * weight))
            self._phrases += [(at, COVERED_BY_SYNONYM * weight, phrase) for phrase in term.phrases]
        self._phrased = frozenset(phrase[0] for _, _, phrase in self._phrases)

    def share_in(self, words: AbstractSet[str]) -> float:
        found: dict[int, float] = {}
        for word in self.words.keys() & words:
            for at, weight in self.words[word]:
                found[at] = max(weight, found.get(at, 0.0))
        if not self._phrased.isdisjoint(words):
            for at, weight, phrase in self._phrases:
                if at not in found and all(word in words for word in phrase):
                    found[at] = weight
        return sum(found.values())


def _read_hits(
    connection: sqlite3.Connection, tenant: str, rows: Sequence[int], covered: Mapping[int, _Cover]
) -> list[Hit]:
    marks = ", ".join("?" * len(rows))
    found = connection.execute(
        f"SELECT row, article_id, version, title, heading, text FROM passages WHERE +tenant = ? AND row IN ({marks})",
        (tenant, *rows),
    )
    by_row = {int(row): rest for row, *rest in found}
    hits: list[Hit] = []
    for row in rows:
        article, version, title, heading, text = by_row[row]
        hits.append(Hit(row, article, version, title, heading, text, covered[row].whole, len(hits) + 1))
    return hits


def _in_article_order(connection: sqlite3.Connection, rows: Sequence[int], covered: Mapping[int, _Cover]) -> list[int]:
    """The same places for each article's passages, but of those that hold as much of the question the one that stands
    first in the article goes first: what is general stands before what is special."""
    marks = ", ".join("?" * len(rows))
    found = connection.execute(f"SELECT row, article_id FROM passages WHERE row IN ({marks})", tuple(rows))
    article_of = {int(row): str(article) for row, article in found}
    waiting: dict[str, list[int]] = {}
    for row in sorted(rows, key=lambda row: (-covered[row].whole, row)):
        waiting.setdefault(article_of[row], []).append(row)
    return [waiting[article_of[row]].pop(0) for row in rows]


def _find_number(connection: sqlite3.Connection, tenant: str) -> int | None:
    row = connection.execute("SELECT number FROM tenants WHERE tenant = ?", (tenant,)).fetchone()
    return int(row[0]) if row else None


def _number_of(connection: sqlite3.Connection, tenant: str) -> int:
    connection.execute("INSERT INTO tenants (tenant, next_row) VALUES (?, 0) ON CONFLICT DO NOTHING", (tenant,))
    return int(connection.execute("SELECT number FROM tenants WHERE tenant = ?", (tenant,)).fetchone()[0])


def _delete(connection: sqlite3.Connection, tenant: str, article_id: str) -> list[int]:
    """The rows that were the article's."""
    rows = connection.execute(
        "DELETE FROM passages WHERE tenant = ? AND article_id = ? RETURNING row", (tenant, article_id)
    ).fetchall()
    for table in ("words", "trigrams"):
        connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", rows)
    return [int(row) for (row,) in rows]


def _delete_all(connection: sqlite3.Connection, tenant: str, number: int) -> None:
    bounds = (number * ROWS_A_TENANT, (number + 1) * ROWS_A_TENANT - 1)
    for table in ("words", "trigrams"):
        connection.execute(f"DELETE FROM {table} WHERE rowid BETWEEN ? AND ?", bounds)
    connection.execute("DELETE FROM passages WHERE tenant = ?", (tenant,))


def _insert(
    connection: sqlite3.Connection, tenant: str, number: int, article: ArticlePassages, space: VectorSpace | None
) -> tuple[list[int], Floats]:
    """The article's rows, and their vectors if there is a space for them: [passages, dimensions]."""
    count = len(article.passages)
    first = connection.execute(
        "UPDATE tenants SET next_row = next_row + ? WHERE number = ? RETURNING next_row - ?", (count, number, count)
    ).fetchone()[0]
    rows = [number * ROWS_A_TENANT + first + at for at in range(count)]
    fields = [(passage.title, passage.heading, passage.text) for passage in article.passages]
    words = [[split_words(field) for field in three] for three in fields]
    vectors = (
        space.project([[*title, *heading, *text] for title, heading, text in words])
        if space
        else np.zeros((count, 0), np.float32)
    )
    blobs = [vector.tobytes() if space else None for vector in vectors]
    connection.executemany(
        "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (row, tenant, article.article_id, article.version, at, *three, blob)
            for at, (row, three, blob) in enumerate(zip(rows, fields, blobs, strict=True))
        ],
    )
    connection.executemany(
        "INSERT INTO words (rowid, title, heading, text) VALUES (?, ?, ?, ?)",
        [(row, *map(" ".join, three)) for row, three in zip(rows, words, strict=True)],
    )
    connection.executemany(
        "INSERT INTO trigrams (rowid, title, heading, text) VALUES (?, ?, ?, ?)",
        [(row, *three) for row, three in zip(rows, fields, strict=True) if has_chinese("".join(three))],
    )
    return rows, vectors


def _note_change(connection: sqlite3.Connection, tenant: str, number: int, passages: int) -> int | None:
    """The new generation, or None where new vectors were fitted: once a fifth of the passages has changed."""
    generation, changed = connection.execute(
        "UPDATE tenants SET generation = generation + 1, changed = changed + ? WHERE number = ?"
        " RETURNING generation, changed",
        (passages, number),
    ).fetchone()
    count = connection.execute("SELECT count(*) FROM passages WHERE tenant = ?", (tenant,)).fetchone()[0]
    if changed < REFIT_SHARE * count:
        return int(generation)
    _fit(connection, tenant, number)
    return None


def _fit(connection: sqlite3.Connection, tenant: str, number: int) -> None:
    """Vectors of all the tenant's passages in a space of their own."""
    bounds = (number * ROWS_A_TENANT, (number + 1) * ROWS_A_TENANT - 1)
    found = connection.execute(
        "SELECT rowid, title, heading, text FROM words WHERE rowid BETWEEN ? AND ? ORDER BY rowid", bounds
    ).fetchall()
    space, vectors = VectorSpace.fit([" ".join(three).split() for _, *three in found])
    connection.executemany(
        "UPDATE passages SET vector = ? WHERE tenant = ? AND row = ?",
        [(vector.tobytes(), tenant, row) for vector, (row, *_) in zip(vectors, found, strict=True)],
    )
    connection.execute(
        "UPDATE tenants SET space = ?, changed = 0, generation = generation + 1 WHERE number = ?",
        (space.dump() if found else None, number),
    )


def _load_space(connection: sqlite3.Connection, number: int) -> VectorSpace | None:
    blob = connection.execute("SELECT space FROM tenants WHERE number = ?", (number,)).fetchone()[0]
    return VectorSpace.load(blob) if blob else None
