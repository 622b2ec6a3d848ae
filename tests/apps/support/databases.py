"""A PostgreSQL of the tests' own, started in a folder of its own, and empty databases in it."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path("/nowhere")]
START_S = 120


@dataclass
class PostgreSQL:
    """A running cluster."""

    port: int
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def make_database(self) -> str:
        """The URL of an empty one."""
        import psycopg

        name = f"test_{next(self.numbers)}"
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="tester", dbname="postgres", autocommit=True
        ) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://tester@127.0.0.1:{self.port}/{name}"


@contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """Skips the test where there is none to start. Its folder is none of pytest's, which others may not enter."""
    pytest.importorskip("psycopg", reason="psycopg is not installed; pip install 'psycopg[binary]'")
    binaries = BINARIES[-1]
    if not (binaries / "initdb").exists():
        pytest.skip("no PostgreSQL below /usr/lib/postgresql; apt-get install postgresql")
    as_root = os.getuid() == 0
    if as_root and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser to run it as postgres")
    prefix = ["runuser", "-u", "postgres", "--"] if as_root else []
    port = find_port()

    def run(*command: str) -> None:
        done = subprocess.run([*prefix, *command], cwd="/", capture_output=True, text=True, timeout=START_S)
        assert done.returncode == 0, done.stdout + done.stderr

    with tempfile.TemporaryDirectory(prefix="vivace-postgresql-") as directory:
        if as_root:
            shutil.chown(directory, "postgres")
        data, log = f"{directory}/data", f"{directory}/log"
        initialize = ("-A", "trust", "-U", "tester", "-E", "UTF8", "--locale=C", "--no-sync")
        run(str(binaries / "initdb"), "-D", data, *initialize)
        options = (
            f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories= -c fsync=off -c max_connections=200"
        )
        control = (str(binaries / "pg_ctl"), "-D", data, "-w", "-t", str(START_S))
        run(*control, "-l", log, "-o", options, "start")
        try:
            yield PostgreSQL(port)
        finally:
            run(*control, "-m", "immediate", "stop")


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
