"""The real app on one of the HTTP servers that were considered for it.

    python benchmarks/serve_stack.py uvicorn|granian MODEL PORT

`vivace serve` uses the first: uvicorn with uvloop and httptools. granian is run embedded, in the engine's own process.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from vivace.engine.bridge import EngineThread
from vivace.engine.engine import Engine
from vivace.grammar import GrammarCompiler
from vivace.llm import load_runner
from vivace.models.model import open_model
from vivace.runners.native import NativeConfig
from vivace.server.app import ServerConfig, build_app, serve


def main() -> None:
    stack, name, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = open_model(name)
    runner = load_runner(model, NativeConfig(max_sequences=1024, kv_memory_bytes=2**30))
    compiler = GrammarCompiler(model.tokenizer, model.config.vocab_size, model.generation.stop_token_ids)
    bridge, config = EngineThread(Engine(runner), compiler), ServerConfig(port=port)
    if stack == "uvicorn":
        serve(model, bridge, config)
        return
    from granian.constants import Interfaces
    from granian.server.embed import Server

    app = build_app(model, bridge, config)
    server = Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGI, backlog=2048, log_enabled=False)
    uvloop.run(run(server))


async def run(server: object) -> None:
    serving = server.serve()  # type: ignore[attr-defined]
    await asyncio.ensure_future(serving)


if __name__ == "__main__":
    main()
