"""llama-cpp-python's own server, which also says how long its engine has computed.

    peer/bin/python benchmarks/llama_cpp_server.py MODEL.gguf PORT [CONTEXT]

Runs in an environment of its own, with llama-cpp-python[server]. GET /engine gives the milliseconds spent inside
`Llama.eval` and `Llama.sample` since the last GET, which is the engine's share of a completion's time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import llama_cpp
import uvicorn
from llama_cpp.server.app import create_app
from llama_cpp.server.settings import ModelSettings, ServerSettings

spent = {"ms": 0.0}


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            spent["ms"] += 1000 * (time.perf_counter() - began)

    return call


def take() -> dict[str, float]:
    taken = dict(spent)
    spent["ms"] = 0.0
    return taken


def main() -> None:
    path, port = sys.argv[1], int(sys.argv[2])
    llama_cpp.Llama.eval = timed(llama_cpp.Llama.eval)
    llama_cpp.Llama.sample = timed(llama_cpp.Llama.sample)
    context = int(sys.argv[3]) if len(sys.argv) > 3 else 512
    model = ModelSettings(model=path, model_alias="peer", n_ctx=context, n_threads=2, n_threads_batch=2, verbose=False)
    app = create_app(server_settings=ServerSettings(port=port), model_settings=[model])
    app.get("/engine")(take)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
