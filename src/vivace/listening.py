"""What an HTTP server needs around uvicorn: a bound socket, its URL, and who gets the signals. Knows no app."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vivace.errors import ConfigError


def listen(host: str, port: int, remedy: str) -> socket.socket:
    """A socket bound to the address; port 0 takes a free one.

    Raises `ConfigError`, with the remedy, when that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"Cannot listen on {host} port {port}: {error}. {remedy}") from error


def find_url(sock: socket.socket) -> str:
    """Where a bound socket is reached by HTTP."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def handling_signals(handle: Callable[[int, FrameType | None], None], switch_s: float) -> Iterator[None]:
    """While this is open, `handle` gets SIGINT and SIGTERM, and threads take turns every `switch_s` seconds.

    Call from the main thread. With uvicorn's own handler, for before uvicorn sets it and for when it raises the signal
    again at the end."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(switch_s)
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.setswitchinterval(interval_s)
