"""What a server adds to the engine at batch 1: HTTP in to last byte, less the engine's own time.

    python benchmarks/server_overhead.py --model 15m --gguf 15m.gguf --peer peer/bin/python

Servers are asked in turn, each one request whole and one streamed, over one open connection by a client that does next
to nothing. The engine's own time is `usage.timing`'s queue, prefill and decode here; for llama-cpp-python's server it
is what benchmarks/llama_cpp_server.py measures around its engine's calls. Prints medians in milliseconds as JSON.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Connection:
    """One open connection, and the time from the first byte out to the last byte in."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.open()

    def open(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[bytes, float]:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        began = time.perf_counter()
        self.socket.sendall(f"{head}\r\n\r\n".encode() + body)
        reply = b""
        while not self._is_whole(reply):
            part = self.socket.recv(65536)
            if not part:
                raise SystemExit(f"the server closed the connection after {reply[-300:]!r}")
            reply += part
        return reply, 1000 * (time.perf_counter() - began)

    def _is_whole(self, reply: bytes) -> bool:
        head, found, body = reply.partition(b"\r\n\r\n")
        if not found:
            return False
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return len(body) >= int(line.partition(b":")[2])
        return body.endswith(b"0\r\n\r\n")


@contextmanager
def running(command: list[str], port: int) -> Iterator[Connection]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield connect(port, process)
        finally:
            process.terminate()
            process.wait(20)


def connect(port: int, process: subprocess.Popen[bytes]) -> Connection:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            return Connection(port)
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def engine_ms(connection: Connection, reply: bytes, peer: bool) -> float:
    if peer:
        told, _ = connection.ask("GET", "/engine")
        return float(json.loads(told.partition(b"\r\n\r\n")[2])["ms"])
    timing: dict[str, float] = json.loads(reply[reply.rindex(b'"timing":') + 9 :].partition(b"}")[0] + b"}")
    return timing["queue_ms"] + timing["prefill_ms"] + timing["decode_ms"]


def ask(connection: Connection, name: str, peer: bool, stream: bool, tokens: int) -> tuple[float, float]:
    """Milliseconds of the whole request, and of the engine."""
    fields: dict[str, Any] = {
        "model": name,
        "prompt": "Once upon a time there was a server.",
        "max_tokens": tokens,
        "temperature": 0,
        "stream": stream,
    }
    if not peer:
        fields |= {"ignore_eos": True, "cache_salt": f"{time.monotonic()}"}
        fields |= {"stream_options": {"include_usage": True}} if stream else {}
    reply, total_ms = connection.ask("POST", "/v1/completions", json.dumps(fields).encode())
    if b" 200 " not in reply[:20]:
        raise SystemExit(reply[:600].decode())
    return total_ms, engine_ms(connection, reply, peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--stacks", default="uvicorn")
    parser.add_argument("--gguf")
    parser.add_argument("--peer", default=sys.executable, help="A Python with llama-cpp-python[server].")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--port", type=int, default=28310)
    arguments = parser.parse_args()
    name = Path(arguments.model).name
    figures: dict[str, list[float]] = {}
    with ExitStack() as stack:
        servers = []
        for index, kind in enumerate(arguments.stacks.split(",")):
            port = arguments.port + index
            command = [sys.executable, str(HERE / "serve_stack.py"), kind, arguments.model, str(port)]
            servers.append((kind, name, stack.enter_context(running(command, port)), False))
        if arguments.gguf:
            port = arguments.port + 9
            command = [arguments.peer, str(HERE / "llama_cpp_server.py"), arguments.gguf, str(port)]
            servers.append(("llama-cpp-python", "peer", stack.enter_context(running(command, port)), True))
        for _, _, connection, _ in servers:
            connection.open()  # an idle one may have been closed meanwhile
        for turn in range(arguments.rounds + 5):
            for label, served, connection, peer in servers:
                for stream in (False, True):
                    total_ms, own_ms = ask(connection, served, peer, stream, arguments.tokens)
                    if turn >= 5:
                        key = f"{label} {'streamed' if stream else 'whole'}"
                        figures.setdefault(f"{key}, overhead ms", []).append(total_ms - own_ms)
                        figures.setdefault(f"{key}, total ms", []).append(total_ms)
    print(json.dumps({key: round(statistics.median(values), 3) for key, values in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
