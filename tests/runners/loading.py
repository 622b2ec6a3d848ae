"""Tiny models loaded into every runner, and batches for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivace.batch import BLOCK_SIZE, Batch, Row, Sampling, StepResult, Want
from vivace.models.checkpoint import Checkpoint
from vivace.models.config import ModelConfig, read_config
from vivace.models.weights import ModelWeights, read_weights
from vivace.runners.native import NativeConfig, NativeRunner, Quantize, load_native_runner
from vivace.runners.reference import Quantization, ReferenceRunner


@dataclass(frozen=True)
class Loaded:
    """One checkpoint, ready for any runner."""

    config: ModelConfig
    weights: ModelWeights

    def native(self, quantize: Quantize, threads: int = 2, max_batch_tokens: int = 512) -> NativeRunner:
        settings = NativeConfig(quantize=quantize, threads=threads, max_sequences=64, max_batch_tokens=max_batch_tokens)
        return load_native_runner(self.config, self.weights, settings)

    def reference(self, quantize: Quantize) -> ReferenceRunner:
        quantization = None if quantize == "none" else Quantization(quantize)
        return ReferenceRunner(self.config, self.weights, quantization=quantization)

    def head(self) -> NDArray[np.float32]:
        """[vocab, hidden]"""
        return (self.weights.embedding if self.weights.head is None else self.weights.head.weight).to_f32()


def load_directory(directory: Path) -> Loaded:
    config = read_config(directory)
    return Loaded(config, read_weights(config, Checkpoint.open(directory)))


def random_prompt(length: int, seed: int = 0, vocab: int = 256) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocab, length)]


def blocks_for(tokens: int, first: int = 0) -> list[int]:
    return list(range(first, first + -(-tokens // BLOCK_SIZE)))


def run(runner: NativeRunner | ReferenceRunner, *rows: Row, max_steps: int = 1) -> StepResult:
    """One step, with all the time in the world for a burst."""
    return runner.collect(runner.launch(Batch(rows, max_steps, burst_ms=1e9)))


def hidden_of(result: StepResult, row: int, width: int) -> NDArray[np.float32]:
    """[tokens, width]"""
    return np.asarray(result.hidden[row], np.float32).reshape(-1, width)


def generate(
    runner: NativeRunner | ReferenceRunner, prompt: Sequence[int], sampling: Sampling, count: int, slot: int = 0
) -> list[int]:
    """`count` tokens, in one burst."""
    row = Row(slot, 0, prompt, blocks_for(len(prompt) + count), Want.SAMPLE, count, opens=sampling)
    return list(run(runner, row, max_steps=count).tokens[0])
