"""llama.cpp's figures for many sequences at once, through llama-cpp-python's low-level batch, as one line of JSON.

    peer/bin/python benchmarks/peer_llama_cpp.py MODEL.gguf --concurrent 64

Runs in an environment of its own, with llama-cpp-python and numpy. Greedy; every sequence has its own random prompt.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np


def fill(
    batch: Any, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wants: Sequence[bool]
) -> None:
    batch.n_tokens = len(tokens)
    for i, (token, position, sequence, want) in enumerate(zip(tokens, positions, sequences, wants, strict=True)):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
        batch.seq_id[i][0], batch.logits[i] = sequence, want


def decode(context: Any, batch: Any) -> None:
    if llama_cpp.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")


def choose(context: Any, row: int, vocab: int) -> int:
    logits = llama_cpp.llama_get_logits_ith(context, row)
    values = np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (vocab,))
    return int(values.argmax())


def generate(context: Any, batch: Any, vocab: int, count: int, prompt: int, new_tokens: int, seed: int) -> None:
    prompts = np.random.default_rng(seed).integers(300, 8000, (count, prompt))
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    pending = []
    per_batch = 2048 // prompt
    for first in range(0, count, per_batch):
        chunk = range(first, min(count, first + per_batch))
        rows = [(int(prompts[s][p]), p, s, p == prompt - 1) for s in chunk for p in range(prompt)]
        fill(batch, *zip(*rows, strict=True))
        decode(context, batch)
        pending += [choose(context, (i + 1) * prompt - 1, vocab) for i in range(len(chunk))]
    for step in range(new_tokens - 1):
        fill(batch, pending, [prompt + step] * count, range(count), [True] * count)
        decode(context, batch)
        pending = [choose(context, row, vocab) for row in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--concurrent", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    arguments = parser.parse_args()
    llama_cpp.llama_backend_init()
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(arguments.model.encode(), llama_cpp.llama_model_default_params())
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = arguments.concurrent * (arguments.prompt + arguments.new_tokens + 32)
    settings.n_batch = settings.n_ubatch = 2048
    settings.n_seq_max = arguments.concurrent
    settings.kv_unified = True
    settings.n_threads = settings.n_threads_batch = len(os.sched_getaffinity(0))
    context = llama_cpp.llama_init_from_model(model, settings)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(2048, 0, 1)
    for attempt in range(3):
        start = time.perf_counter()
        generate(context, batch, vocab, arguments.concurrent, arguments.prompt, arguments.new_tokens, attempt)
        seconds = time.perf_counter() - start
    print(json.dumps({"engine": "llama.cpp", "tokens_per_s": arguments.concurrent * arguments.new_tokens / seconds}))


if __name__ == "__main__":
    main()
