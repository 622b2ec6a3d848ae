"""Many streams at once: every one of them has to arrive whole, and none may lose a token.

    python -m benchmarks.server_streams --streams 1000 --tokens 64 --stack uvicorn

One process serves, another one reads: an asyncio client with a raw socket for each stream. A stream is whole if its
usage says as many tokens as were asked for and its text is that of the same request alone. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.server_overhead import running

HERE = Path(__file__).parent


def write_request(name: str, seed: int, tokens: int) -> bytes:
    fields = {
        "model": name,
        "messages": [{"role": "user", "content": f"Tell me about town number {seed % 20}."}],
        "max_tokens": tokens,
        "temperature": 0.8,
        "seed": seed % 20,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body = json.dumps(fields).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(port: int, request: bytes, began: float) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    text, usage, done, first_s = "", None, False, 0.0
    async for line in reader:
        if not line.startswith(b"data: "):
            continue
        first_s = first_s or time.perf_counter() - began
        if line.startswith(b"data: [DONE]"):
            done = True
            continue
        chunk = json.loads(line[6:])
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            text += choice["delta"].get("content", "")
    writer.close()
    return {"text": text, "usage": usage, "done": done, "first_s": first_s}


async def read_all(port: int, name: str, streams: int, tokens: int) -> dict[str, Any]:
    alone = [(await ask(port, write_request(name, seed, tokens), 0.0))["text"] for seed in range(20)]
    began = time.perf_counter()
    answers = await asyncio.gather(
        *(ask(port, write_request(name, seed, tokens), began) for seed in range(streams)), return_exceptions=True
    )
    wall_s = time.perf_counter() - began
    whole = [answer for answer in answers if not isinstance(answer, BaseException) and answer["done"]]
    counts = [answer["usage"]["completion_tokens"] for answer in whole]
    return {
        "streams": streams,
        "whole": len(whole),
        "errors": [repr(answer) for answer in answers if isinstance(answer, BaseException)][:3],
        "with every token": sum(count == tokens for count in counts),
        "same text as alone": sum(
            not isinstance(answer, BaseException) and answer["text"] == alone[seed % 20]
            for seed, answer in enumerate(answers)
        ),
        "wall_s": round(wall_s, 2),
        "tokens_per_s": round(sum(counts) / wall_s),
        "first token, median s": round(statistics.median(answer["first_s"] for answer in whole), 3) if whole else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--stack", default="uvicorn")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--port", type=int, default=28330)
    parser.add_argument("--client", action="store_true", help="Only read, from a server that runs.")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    name = Path(arguments.model).name
    if arguments.client:
        print(json.dumps(asyncio.run(read_all(arguments.port, name, arguments.streams, arguments.tokens))))
        return
    server = [sys.executable, str(HERE / "serve_stack.py"), arguments.stack, arguments.model, str(arguments.port)]
    with running(server, arguments.port):
        client = [sys.executable, "-m", "benchmarks.server_streams", *sys.argv[1:], "--client"]
        done = subprocess.run(client, check=True, capture_output=True, text=True)
        print(json.dumps({"stack": arguments.stack} | json.loads(done.stdout)))


if __name__ == "__main__":
    main()
