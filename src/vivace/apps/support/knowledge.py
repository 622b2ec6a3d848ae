"""The knowledge base: articles and all their versions in the database, and the index kept in step with them.

The database is what counts; the index is made of it and can be made again. An article is data: whatever it says, it
is cut, indexed and quoted, never obeyed. Knows no HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.audit import note
from vivace.apps.support.index import ArticlePassages, Hit, PassageIndex
from vivace.apps.support.passages import Format, Passage, cut_passages
from vivace.apps.support.store import Store, article_versions, articles, make_id
from vivace.errors import ConflictError, NotFoundError

PAGE = 100
MAX_QUERY_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Article:
    """One version of an article. `text` is empty in lists."""

    id: str
    title: str
    format: str
    version: int
    text: str
    passages: int
    updated_at: float
    updated_by: str | None
    deleted: bool = False


def create(
    connection: Connection, tenant: str, title: str, format: str, text: str, author: str | None, now: float
) -> str:
    """The new article's id."""
    id = make_id()
    values = {"id": id, "tenant": tenant, "version": 0, "title": title, "format": format, "updated_at": now}
    connection.execute(sa.insert(articles).values(values))
    _add_version(connection, tenant, id, 0, title, format, text, author, now)
    return id


def update(
    connection: Connection,
    tenant: str,
    id: str,
    version: int,
    title: str,
    format: str,
    text: str,
    author: str | None,
    now: float,
    *,
    deleted: bool = False,
) -> None:
    """The next version after `version`. Raises `NotFoundError`, or `ConflictError` if that is not the last."""
    find(connection, tenant, id)
    _add_version(connection, tenant, id, version, title, format, text, author, now, deleted=deleted)


def _add_version(
    connection: Connection,
    tenant: str,
    id: str,
    after: int,
    title: str,
    format: str,
    text: str,
    author: str | None,
    now: float,
    *,
    deleted: bool = False,
) -> None:
    values = {"version": after + 1, "title": title, "format": format, "updated_at": now, "deleted": deleted}
    statement = sa.update(articles).where(articles.c.id == id, articles.c.version == after).values(values)
    if connection.execute(statement).rowcount == 0:
        raise ConflictError("The article was changed since you read it. Read it again, and make your change there.")
    kept = values | {"article_id": id, "text": text, "author_id": author}
    connection.execute(sa.insert(article_versions).values(kept))
    action = "article.delete" if deleted else "article.save"
    note(connection, tenant, author, action, id, {"version": after + 1, "characters": len(text)}, now)


def _select(tenant: str) -> sa.Select[Any]:
    joined = sa.and_(article_versions.c.article_id == articles.c.id, article_versions.c.version == articles.c.version)
    columns = (articles, article_versions.c.text, article_versions.c.author_id.label("updated_by"))
    return sa.select(*columns).join(article_versions, joined).where(articles.c.tenant == tenant)


def _read_row(row: Any, *, text: bool = True) -> Article:
    values = {name: row[name] for name in Article.__slots__ if name in row}
    return Article(**values | ({} if text else {"text": ""}))


def find(connection: Connection, tenant: str, id: str) -> Article:
    """As it is now. Raises `NotFoundError`."""
    row = connection.execute(_select(tenant).where(articles.c.id == id)).mappings().one_or_none()
    if row is None or row["deleted"]:
        raise NotFoundError("There is no such article.")
    return _read_row(row)


def list_page(connection: Connection, tenant: str, query: str | None, before: float | None) -> list[Article]:
    """The latest changed first, without their texts; those with `query` in the title, if there is one."""
    found = _select(tenant).where(articles.c.deleted.is_(False))
    if query:
        found = found.where(articles.c.title.icontains(query, autoescape=True))
    if before is not None:
        found = found.where(articles.c.updated_at < before)
    found = found.order_by(articles.c.updated_at.desc(), articles.c.id).limit(PAGE)
    return [_read_row(row, text=False) for row in connection.execute(found).mappings()]


def list_versions(connection: Connection, tenant: str, id: str) -> list[dict[str, Any]]:
    """The latest first. Raises `NotFoundError`."""
    query = (
        sa.select(article_versions)
        .join(articles, articles.c.id == article_versions.c.article_id)
        .where(articles.c.tenant == tenant, articles.c.id == id)
        .order_by(article_versions.c.version.desc())
    )
    rows = connection.execute(query).mappings().all()
    if not rows:
        raise NotFoundError("There is no such article.")
    names = ("version", "title", "updated_at", "deleted")
    return [{name: row[name] for name in names} | {"updated_by": row["author_id"]} for row in rows]


def find_version(connection: Connection, tenant: str, id: str, version: int) -> Article:
    """As it was. Raises `NotFoundError`."""
    query = (
        sa.select(article_versions, articles.c.id, articles.c.passages)
        .join(articles, articles.c.id == article_versions.c.article_id)
        .where(articles.c.tenant == tenant, articles.c.id == id, article_versions.c.version == version)
    )
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError("There is no such version of an article.")
    return _read_row(dict(row) | {"updated_by": row["author_id"]})


def restore(connection: Connection, tenant: str, id: str, version: int, author: str, now: float) -> None:
    """A new version equal to that one, also of a deleted article. Raises `NotFoundError`."""
    old = find_version(connection, tenant, id, version)
    query = sa.select(articles.c.version).where(articles.c.id == id)
    last = connection.execute(query).scalar_one()
    _add_version(connection, tenant, id, last, old.title, old.format, old.text, author, now)


def delete(connection: Connection, tenant: str, id: str, author: str, now: float) -> None:
    """Its versions stay. Raises `NotFoundError`."""
    article = find(connection, tenant, id)
    _add_version(
        connection, tenant, id, article.version, article.title, article.format, article.text, author, now, deleted=True
    )


def _list_current(connection: Connection, tenant: str) -> list[tuple[str, int]]:
    """Articles that are not deleted, and their versions."""
    query = sa.select(articles.c.id, articles.c.version)
    rows = connection.execute(query.where(articles.c.tenant == tenant, articles.c.deleted.is_(False)))
    return [(row.id, row.version) for row in rows]


class KnowledgeBase:
    """The index of the articles. Calls block, so they belong on a worker thread; thread-safe."""

    def __init__(self, store: Store, index: PassageIndex) -> None:
        self._store = store
        self._index = index
        self._turn = threading.Lock()

    def search(self, tenant: str, query: str, limit: int) -> list[Hit]:
        return self._index.search(tenant, query[:MAX_QUERY_CHARACTERS], limit)

    def close(self) -> None:
        self._index.close()

    def bring_into_step(self, tenant: str, id: str) -> int:
        """Index an article as the database has it now. Returns its number of passages."""
        with self._turn:
            try:
                article = self._store.read(find, tenant, id)
            except NotFoundError:
                self._index.remove(tenant, id)
                return 0
            passages = cut(article)
            self._index.replace(tenant, id, article.version, passages)
            self._store.write(_note_passages, id, len(passages))
            return len(passages)

    def bring_all_into_step(self, tenant: str) -> int:
        """At start: index what changed while nobody looked; all at once if the index is new. Returns how many."""
        current = dict(self._store.read(_list_current, tenant))
        indexed = self._index.versions(tenant)
        changed = [id for id in current.keys() | indexed.keys() if indexed.get(id) != current.get(id)]
        if indexed:
            for id in changed:
                self.bring_into_step(tenant, id)
        elif changed:
            self._rebuild(tenant, changed)
        return len(changed)

    def _rebuild(self, tenant: str, ids: Sequence[str]) -> None:
        with self._turn:
            articles = [self._store.read(find, tenant, id) for id in ids]
            cuts = [ArticlePassages(article.id, article.version, tuple(cut(article))) for article in articles]
            self._index.rebuild(tenant, cuts)
            for one in cuts:
                self._store.write(_note_passages, one.article_id, len(one.passages))


def _note_passages(connection: Connection, id: str, count: int) -> None:
    connection.execute(sa.update(articles).where(articles.c.id == id).values(passages=count))


def cut(article: Article) -> list[Passage]:
    """The passages of an article."""
    form: Format = article.format  # type: ignore[assignment]
    return cut_passages(article.text, form, article.title)
