"""`vivace support` as it is typed: made with a sample shop, served, and beside a server that takes it along when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from tests.apps.support.databases import find_port
from vivace.apps.support import accounts, intent_store, knowledge, password_resets
from vivace.apps.support.accounts import Passwords
from vivace.apps.support.settings import PasswordCost
from vivace.apps.support.store import open_store
from vivace.cli import main

WAIT_S = 120


def test_init_makes_an_admin_and_the_sample_shop_once(tmp_path: Path) -> None:
    arguments = ["support", "--directory", str(tmp_path), "init", "--sample", "--email", "boss@example.com"]
    first, second = (CliRunner().invoke(main, arguments) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    password = first.output.split("with the password ")[1].split(" ")[0]
    assert "account already" in second.output
    assert "not put in" in second.output
    store = open_store(f"sqlite:///{tmp_path / 'support.db'}")
    found = store.read(accounts.find_by_email, "shop", "boss@example.com")
    assert found is not None
    assert found[0].role == "admin"
    assert Passwords(PasswordCost(1, 8, 1)).verify(found[1], password)
    assert len(store.read(knowledge.list_page, "shop", None, None)) >= 60
    rules = {rule.label: rule.action for rule in store.read(intent_store.list_rules, "shop")}
    assert rules["talk_to_person"] == "handover"
    store.close()
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "support.db").stat().st_mode & 0o777 == 0o600


def test_a_forgotten_password_is_reset_by_a_link_that_is_printed(tmp_path: Path) -> None:
    start = ["support", "--directory", str(tmp_path)]
    CliRunner().invoke(main, [*start, "init", "--email", "boss@example.com"])
    done = CliRunner().invoke(main, [*start, "reset-password", "Boss@example.com", "--url", "https://help.example/"])
    assert done.exit_code == 0, done.output
    address, _, token = done.stdout.strip().partition("#")
    assert (address, len(token) >= 43) == ("https://help.example/reset", True)
    store = open_store(f"sqlite:///{tmp_path / 'support.db'}")
    assert store.write(password_resets.use, token, "a hash", time.time()).email == "boss@example.com"
    store.close()
    nobody = CliRunner().invoke(main, [*start, "reset-password", "nobody@example.com"])
    assert (nobody.exit_code, "no account" in nobody.output) == (1, True), nobody.output


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--database", "mysql://x/y"], "sqlite"),
        (["--database", "nonsense"], "sqlite:///FILE"),
        (["--database", "sqlite://"], "memory"),
        (["--server", "model"], "http://127.0.0.1:8000"),
        (["--tenant", "A B"], "a-z"),
    ],
)
def test_what_cannot_work_is_one_line_with_the_remedy(options: list[str], word: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["support", "--directory", str(tmp_path), *options, "init"])
    assert (done.exit_code, word in done.output, "Traceback" in done.output) == (1, True, False), done.output


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_application_starts_beside_the_server_and_ends_with_it(
    how: signal.Signals, llama_directory: Path, tmp_path: Path
) -> None:
    """Also when the server is killed: it cannot say goodbye, but the application's standard input ends."""
    port = find_port()
    app_options = ["--app-option", f"port={port}", "--app-option", f"directory={tmp_path}"]
    options = ["--port", "0", "--threads", "1", "--log-format", "json", "--api-key", "secret", "--app", "support"]
    command = [sys.executable, "-m", "vivace", "serve", str(llama_directory), *options, *app_options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert json.loads(server.stdout.readline())["event"] == "serving"
            assert f":{port}/admin" in "".join(server.stdout.readline() for _ in range(4))
            assert httpx.get(f"http://127.0.0.1:{port}/health").json()["model_server"] is True
            server.send_signal(how)
            server.wait(WAIT_S)
            end = time.monotonic() + WAIT_S
            while _is_up(port):
                assert time.monotonic() < end, "the application outlived its server"
                time.sleep(0.05)
        finally:
            server.kill()


def _is_up(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/health", timeout=1)
    except httpx.TransportError:
        return False
    return True
