"""The database: tables, and transactions on SQLite (WAL) or PostgreSQL.

A function that works in a transaction takes a `Connection` first; `Store.write` and `Store.read` run it. Every
statement is built by SQLAlchemy, with values as parameters. Knows no rules: what may be written when is its callers'
affair.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from vivace.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

BUSY_S = 30.0
"""How long a writer waits for another process's."""

metadata = sa.MetaData()

_ID = sa.String(40)
_TENANT = sa.String(40)
_TIME = sa.Double  # Unix seconds


def make_id() -> str:
    """Of a row: 96 bits of chance, so that ids cannot be guessed."""
    return secrets.token_hex(12)


def _id(name: str, target: str, **options: Any) -> sa.Column[Any]:
    """A reference that goes when its target goes."""
    return sa.Column(name, _ID, sa.ForeignKey(f"{target}.id", ondelete="CASCADE"), **options)


accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("tenant", _TENANT, nullable=False),
    sa.Column("role", sa.String(10), nullable=False),
    sa.Column("email", sa.String(254)),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("language", sa.String(8), nullable=False),
    sa.Column("personal", sa.Boolean, nullable=False, default=False),
    sa.Column("disabled", sa.Boolean, nullable=False, default=False),
    sa.Column("password_hash", sa.String(200)),
    sa.Column("created_at", _TIME, nullable=False),
    sa.UniqueConstraint("tenant", "email"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    _id("account_id", "accounts", nullable=False, index=True),
    sa.Column("generation", sa.Integer, nullable=False, default=0),
    sa.Column("rotated_at", _TIME, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("expires_at", _TIME, nullable=False, index=True),
    sa.Column("revoked_at", _TIME),
)

password_resets = sa.Table(
    "password_resets",
    metadata,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    _id("account_id", "accounts", nullable=False, index=True),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("expires_at", _TIME, nullable=False, index=True),
)

orders = sa.Table(
    "orders",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("tenant", _TENANT, nullable=False),
    _id("account_id", "accounts", nullable=False, index=True),
    sa.Column("number", sa.String(40), nullable=False),
    sa.Column("status", sa.String(200), nullable=False),
    sa.Column("placed_at", _TIME, nullable=False),
    sa.Column("items", sa.JSON, nullable=False),
    sa.Column("total", sa.String(40), nullable=False),
    sa.UniqueConstraint("tenant", "number"),
)

conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("tenant", _TENANT, nullable=False),
    _id("account_id", "accounts", nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Column("reason", sa.String(20)),
    sa.Column("agent_id", _ID, sa.ForeignKey("accounts.id", ondelete="SET NULL"), index=True),
    sa.Column("language", sa.String(8), nullable=False),
    sa.Column("last_event", sa.Integer, nullable=False, default=0),
    sa.Column("negative_turns", sa.Integer, nullable=False, default=0),
    sa.Column("thumbs_down", sa.Integer, nullable=False, default=0),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("updated_at", _TIME, nullable=False),
    sa.Column("waiting_since", _TIME),
    sa.Column("closed_at", _TIME),
    sa.Index("conversations_by_state", "tenant", "state", "waiting_since"),
    sa.Index("conversations_by_time", "tenant", "updated_at"),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("tenant", _TENANT, nullable=False),
    _id("conversation_id", "conversations", nullable=False),
    sa.Column("event", sa.Integer, nullable=False),
    sa.Column("author", sa.String(10), nullable=False),
    sa.Column("author_id", _ID, sa.ForeignKey("accounts.id", ondelete="SET NULL")),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("language", sa.String(8), nullable=False),
    sa.Column("client_id", sa.String(64)),
    sa.Column("reply_to", _ID, unique=True),
    sa.Column("due", sa.Boolean, nullable=False, default=False),
    sa.Column("redacted", sa.JSON, nullable=False),
    sa.Column("intent", sa.String(80)),
    sa.Column("sentiment", sa.String(10)),
    sa.Column("unanswered", sa.Boolean, nullable=False, default=False),
    sa.Column("source", sa.String(10)),
    sa.Column("citations", sa.JSON, nullable=False),
    sa.Column("timeline", sa.JSON),
    sa.Column("first_token_ms", sa.Double),
    sa.Column("total_ms", sa.Double),
    sa.Column("created_at", _TIME, nullable=False),
    sa.UniqueConstraint("conversation_id", "event"),
    sa.UniqueConstraint("conversation_id", "client_id"),
    sa.Index("messages_by_time", "tenant", "created_at"),
    sa.Index("messages_due", "due", sqlite_where=sa.text("due"), postgresql_where=sa.text("due")),
)
"""A bot's message has `reply_to`, and no two have the same. `due`: a question that the bot still has to answer."""

events = sa.Table(
    "events",
    metadata,
    _id("conversation_id", "conversations", primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("message_id", _ID),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
)
"""What a message says stands in `messages` alone; its event refers to it."""

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("message_id", _ID, sa.ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tenant", _TENANT, nullable=False),
    _id("conversation_id", "conversations", nullable=False, index=True),
    sa.Column("rating", sa.String(4), nullable=False),
    sa.Column("reason", sa.String(20)),
    sa.Column("text", sa.Text),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Index("feedback_by_time", "tenant", "created_at"),
)

articles = sa.Table(
    "articles",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("tenant", _TENANT, nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False, default=False),
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("format", sa.String(10), nullable=False),
    sa.Column("passages", sa.Integer, nullable=False, default=0),
    sa.Column("updated_at", _TIME, nullable=False),
)

article_versions = sa.Table(
    "article_versions",
    metadata,
    _id("article_id", "articles", primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("format", sa.String(10), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False, default=False),
    sa.Column("author_id", _ID, sa.ForeignKey("accounts.id", ondelete="SET NULL")),
    sa.Column("updated_at", _TIME, nullable=False),
)

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("tenant", _TENANT, primary_key=True),
    sa.Column("label", sa.String(80), primary_key=True),
    sa.Column("action", sa.String(10), nullable=False),
    sa.Column("replies", sa.JSON, nullable=False),
    sa.Column("examples", sa.JSON, nullable=False),
    sa.Column("updated_at", _TIME, nullable=False),
)

shop_settings = sa.Table(
    "shop_settings",
    metadata,
    sa.Column("tenant", _TENANT, primary_key=True),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("updated_at", _TIME, nullable=False),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("tenant", _TENANT, nullable=False, index=True),
    sa.Column("url", sa.String(500), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, default=True),
    sa.Column("created_at", _TIME, nullable=False),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("tenant", _TENANT, nullable=False),
    _id("webhook_id", "webhooks", nullable=False, index=True),
    sa.Column("status", sa.String(10), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("error", sa.String(200)),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("next_at", _TIME, nullable=False),
    sa.Index("deliveries_due", "status", "next_at"),
)
"""Written in the transaction of the change they tell of, so that none is lost and none told of what did not happen."""

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("tenant", _TENANT, nullable=False, index=True),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("actor", _ID),
    sa.Column("action", sa.String(40), nullable=False),
    sa.Column("subject", sa.String(120)),
    sa.Column("detail", sa.JSON, nullable=False),
)


class Store:
    """An open database. Thread-safe; all calls block, so they belong on a worker thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._writer = engine.execution_options(writing=True)
        # SQLite has one writer; those of this process queue here, in order, and not by its sleeping and trying again.
        self._turn = threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write: kept when the block ends, undone when it raises."""
        if not self._is_sqlite:
            with self._writer.begin() as connection:
                yield connection
            return
        with self._turn, self._writer.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, of one state of the database."""
        with self._engine.begin() as connection:
            yield connection

    def write(self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.writing() as connection:
            return function(connection, *args, **kwargs)

    def read(self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.reading() as connection:
            return function(connection, *args, **kwargs)

    def shrink(self) -> None:
        """After deletions: SQLite's log of changes must not keep what was deleted."""
        if self._is_sqlite:
            with self._turn, self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._engine.dispose()


def open_store(url: str, pool_size: int = 8) -> Store:
    """Open the database and make the tables that are missing. Raises `ConfigError`."""
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise ConfigError(f"The database is {parsed.get_backend_name()}; give an URL of sqlite or postgresql.")
        engine = _open_sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _open_postgresql(parsed, pool_size)
        metadata.create_all(engine)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"The database's URL cannot be used ({type(error).__name__}). Write sqlite:///FILE or "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME, and pip install 'psycopg[binary]' for the second."
        ) from error
    except sa.exc.DBAPIError as error:
        shown = parsed.render_as_string(hide_password=True)
        raise ConfigError(f"The database {shown} cannot be opened: {error.orig}. Is it running, and yours?") from error
    return Store(engine)


def _open_postgresql(url: sa.URL, pool_size: int) -> Engine:
    driver = url if url.drivername != "postgresql" else url.set(drivername="postgresql+psycopg")
    return sa.create_engine(driver, pool_size=pool_size, max_overflow=2, pool_pre_ping=True, hide_parameters=True)


def _open_sqlite(url: sa.URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigError("An SQLite database in memory does not outlive the process; write sqlite:///FILE.")
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_S, "check_same_thread": False}, hide_parameters=True)
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions: `_begin_sqlite` does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock at once: one that reads first and then cannot write would fail half-way."""
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
