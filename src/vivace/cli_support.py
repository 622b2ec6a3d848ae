"""`vivace support` and `vivace serve --app support`: argument parsing, as in `cli`, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from vivace.errors import ConfigError

STOP_S = 10.0
"""How long the application may take to end beside a server that ends."""

_MISSING = "The customer-service application needs more packages: pip install 'vivace[support]'"


@click.group(invoke_without_command=True)
@click.option("--server", default="http://127.0.0.1:8000", show_default=True, metavar="URL",
              help="Any OpenAI-compatible server.")  # fmt: skip
@click.option("--model", default="", help="Default: the first that the server lists.")
@click.option("--api-key-file", type=click.File(), help="The server's key, in the first line; - is standard input.")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), default=Path("support-data"),
              show_default=True, help="Signing key, index and SQLite database.")  # fmt: skip
@click.option("--database", default="", metavar="URL",
              help="Such as postgresql+psycopg://USER@HOST/NAME. Default: SQLite in the directory.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback unless told otherwise.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--tenant", "tenants", multiple=True, default=("shop",), show_default=True,
              help="A shop that is served; may be given several times, the first is the default.")  # fmt: skip
@click.option("--embed-origin", "embed_origins", multiple=True, metavar="ORIGIN",
              help="A site that may show the chat, such as https://shop.example; may be repeated.")  # fmt: skip
@click.option("--trusted-proxy", "trusted_proxies", multiple=True, metavar="ADDRESS",
              help="Whose X-Forwarded-For is believed; may be given several times.")  # fmt: skip
@click.option("--max-answer-tokens", type=click.IntRange(1, 4096), default=96, show_default=True)
@click.option("--max-passages", type=click.IntRange(1, 20), default=3, show_default=True,
              help="Passages that an answer is made from.")  # fmt: skip
@click.option("--allow-private-webhooks", is_flag=True, help="Webhooks may lead into private networks.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(["info", "warning", "error"]), default="warning", show_default=True)
@click.option("--beside", is_flag=True, hidden=True, help="Ends when standard input does.")
@click.pass_context
def support(context: click.Context, /, api_key_file: TextIO | None, beside: bool, **options: Any) -> None:
    """Customer service on SERVER: chat, agent desk and admin pages. Begin with `vivace support init --sample`."""
    with _needing_packages():
        from vivace.apps.support.settings import SupportConfig

        key = api_key_file.readline().strip() if api_key_file else ""
        config = SupportConfig(api_key=key, **options)
        context.obj = config
        if context.invoked_subcommand is not None:
            return
        from vivace.apps.support.app import serve

        if beside:
            threading.Thread(target=_end_with_input, daemon=True).start()
        serve(config, lambda url: _announce(url, config.log_format == "json"))


@support.command()
@click.option("--sample", is_flag=True, help="With a sample shop: articles, intents, users and orders.")
@click.option("--email", default="admin@example.com", show_default=True, help="Of the first admin.")
@click.option("--password-file", type=click.File(), help="The admin's password, in the first line. Default: a new one, "
              "printed once.")  # fmt: skip
@click.pass_obj
def init(config: Any, sample: bool, email: str, password_file: TextIO | None) -> None:
    """Make the database, and an admin to sign in as."""
    with _needing_packages():
        from vivace.apps.support.setup import initialize

        password = password_file.readline().strip() if password_file else None
        for line in initialize(config, sample=sample, email=email, password=password):
            click.echo(line)


@support.command()
@click.argument("email")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, metavar="URL",
              help="Where the application is reached from outside.")  # fmt: skip
@click.pass_obj
def reset_password(config: Any, email: str, url: str) -> None:
    """Make a link with which EMAIL's owner sets a new password, once, within an hour."""
    with _needing_packages():
        from vivace.apps.support.setup import make_reset_link

        link = make_reset_link(config, email)
        click.echo(f"{url.rstrip('/')}{link.path}")
        click.echo("It works once, for an hour. Give it to nobody but its owner.", err=True)


def _announce(url: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"event": "support", "url": url}))
        return
    for name, path in (("customer chat", "/"), ("agent desk", "/agent"), ("admin", "/admin"), ("health", "/health")):
        click.echo(f"{name:14} {url}{path}")
    sys.stdout.flush()


@contextmanager
def _needing_packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("vivace"):
            raise
        raise ConfigError(f"{_MISSING} ({error.name} is not there).") from error


def _end_with_input() -> None:
    """The server that started this process holds the other end, and is gone when it closes."""
    while sys.stdin.readline():
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def beside_server(app: str | None, options: list[str], api_key: str) -> Iterator[Callable[[str], None]]:
    """Something to call with the server's URL, which starts the application in a process of its own; it ends with the
    block.

    In its own process, so that its retrieval and its database never hold up the server's event loop.
    """
    running: list[subprocess.Popen[str]] = []

    def start(url: str) -> None:
        if app is None:
            return
        command = [sys.executable, "-m", "vivace", app, "--server", url, "--beside", *options]
        process = subprocess.Popen([*command, "--api-key-file", "-"], stdin=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdin is not None
        process.stdin.write(f"{api_key}\n")
        process.stdin.flush()

    try:
        yield start
    finally:
        for process in running:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
