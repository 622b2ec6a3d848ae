"""Every test that touches the database runs on both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.apps.support.databases import PostgreSQL, running_postgresql
from tests.apps.support.people import Running, make_config, running

pytest.importorskip("sqlalchemy", reason="the support extra is not installed; pip install 'vivace[support]'")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    with running_postgresql() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'support.db'}"
    cluster: PostgreSQL = request.getfixturevalue("postgresql")
    return cluster.make_database()


@pytest.fixture
async def shop(database: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A small shop that is open."""
    async with running(make_config(tmp_path / "data", database)) as opened:
        yield opened
