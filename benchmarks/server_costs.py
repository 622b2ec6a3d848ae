"""What the server's parts cost in CPU time, in microseconds: those on the event loop, and those off it.

    python benchmarks/server_costs.py [MODEL]

Prints medians as JSON. Whatever runs on the event loop for one update of one stream should stay under 50.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from vivace.budget import NO_BUDGET, Timeline
from vivace.engine.constraint import Grammar, ask_mask
from vivace.grammar import GrammarCompiler
from vivace.models.model import open_model
from vivace.server.answer import TOKENS_AT_A_TIME
from vivace.server.jobs import prepare_chat, prepare_completion
from vivace.server.metrics import Metrics
from vivace.server.replies import ChatReplies, Piece, Whole, make_usage

TEXT = "Once upon a time there was a server. "


def cost_us(call: Callable[[], Any], times: int = 500) -> float:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return round(1e6 * statistics.median(spent), 1)


def body(name: str, **fields: Any) -> bytes:
    return json.dumps({"model": name, "max_tokens": 32} | fields).encode()


def main() -> None:
    model = open_model(sys.argv[1] if len(sys.argv) > 1 else "mini")
    usage = make_usage(3, 2, 1, Timeline(1, 2, 3, 4, 5))
    replies, metrics = ChatReplies("chatcmpl-1", 7, model.name), Metrics(None)  # type: ignore[arg-type]
    tokens = (model.tokenizer.encode(TEXT) * 20)[:TOKENS_AT_A_TIME]
    whole = Whole("x" * 200, finish_reason="stop")
    short = body(model.name, messages=[{"role": "user", "content": TEXT}])
    long = body(model.name, messages=[{"role": "user", "content": TEXT * 50}])
    text = body(model.name, prompt=TEXT)
    compiler = GrammarCompiler(model.tokenizer, model.config.vocab_size, model.generation.stop_token_ids)
    constraint = compiler(Grammar("json_schema", '{"type": "object"}'))
    figures = {
        "on the loop": {
            "detokenise 1 token": cost_us(lambda: model.tokenizer.stream(()).push(tokens[:1])),
            f"detokenise {TOKENS_AT_A_TIME} tokens, a stop string": cost_us(
                lambda: model.tokenizer.stream(("zz",)).push(tokens)
            ),
            "write a chunk": cost_us(lambda: replies.piece(0, Piece(" town"))),
            "write a whole reply": cost_us(lambda: replies.whole([whole], usage)),
            "count an answer": cost_us(lambda: metrics.record(usage)),
        },
        "off the loop": {
            "prepare a completion": cost_us(lambda: prepare_completion(model, text, time.monotonic(), NO_BUDGET)),
            "prepare a chat": cost_us(lambda: prepare_chat(model, short, time.monotonic(), NO_BUDGET)),
            "prepare a chat of 1,850 characters": cost_us(
                lambda: prepare_chat(model, long, time.monotonic(), NO_BUDGET)
            ),
            "mask of a JSON object": cost_us(lambda: ask_mask(constraint, model.config.vocab_size)),
        },
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
