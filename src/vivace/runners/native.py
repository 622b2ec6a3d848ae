"""The CPU runner: loads a checkpoint into the C++ core and puts batches into its terms.

Computes in `launch`; `collect` only hands over. Knows neither scheduling nor text.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vivace.batch import BLOCK_SIZE, Batch, Handle, Logprobs, Row, RunnerLimits, Sampling, StepResult
from vivace.errors import ConfigError, NativeError
from vivace.machine import allowed_cores
from vivace.models.checkpoint import Tensor
from vivace.models.compressed import QuantizedTensor
from vivace.models.config import ModelConfig
from vivace.models.weights import LayerWeights, Linear, ModelWeights, Norm, check_finite
from vivace.native import Decoder, Integers
from vivace.native import Sampling as NativeSampling

Quantize = Literal["none", "bf16", "int8", "int4"]
QUANTIZE: tuple[Quantize, ...] = ("none", "bf16", "int8", "int4")


ACTIVATION_GROUP = 128
"""Inputs that share an activation scale; integers of 4 bits need a weight scale for each of these at least."""


@dataclass(frozen=True, slots=True)
class NativeConfig:
    """How the CPU runner holds a model. Raises `ConfigError` for values that cannot be."""

    quantize: Quantize = "int8"
    """`none`: f32 arithmetic and f32 KV. The others keep KV in f16. `bf16`: weights rounded to bf16. `int8`: one scale
    an output. `int4`: one scale for each output and group of inputs, embedding and head int8. With integer weights,
    activations become int8 with a scale for each 128 inputs of a token. Weights that a checkpoint holds as integers
    already stay as they are."""
    group_size: int = 32
    """Inputs that share a scale under `int4`: 32, 64 or 128."""
    quantize_tables: bool = False
    """Under `int4`, embedding and head too."""
    threads: int = 0
    """0: all cores this process may use."""
    max_sequences: int = 1024
    """Sequences that may be under way at once."""
    max_batch_tokens: int = 1024
    """Tokens computed in one step, over all sequences."""
    kv_memory_bytes: int = 1 << 30
    """For the KV cache, taken from the system as it fills; never less than one full context."""

    def __post_init__(self) -> None:
        if self.quantize not in QUANTIZE:
            raise ConfigError(f"quantize is {self.quantize!r}; it must be one of {', '.join(QUANTIZE)}.")
        if self.threads < 0 or self.threads > 1024:
            raise ConfigError(f"threads is {self.threads}; it must be 0 (all allowed cores) to 1024.")
        if self.group_size not in (32, 64, 128):
            raise ConfigError(f"group_size is {self.group_size}; it must be 32, 64 or 128.")
        for name in ("max_sequences", "max_batch_tokens", "kv_memory_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.max_batch_tokens < self.max_sequences:
            raise ConfigError(
                f"max_batch_tokens is {self.max_batch_tokens}, below max_sequences ({self.max_sequences}); "
                "every running sequence needs one token a step."
            )


class NativeRunner:
    """Implements `vivace.batch.Runner` on the C++ core."""

    def __init__(self, decoder: Decoder, limits: RunnerLimits) -> None:
        self._decoder = decoder
        self._limits = limits

    @property
    def limits(self) -> RunnerLimits:
        return self._limits

    @property
    def isa(self) -> str:
        """The instruction set whose kernels run."""
        return self._decoder.isa

    @property
    def threads(self) -> int:
        return self._decoder.threads

    @property
    def weight_bytes(self) -> int:
        """Of all packed weights."""
        return self._decoder.weight_bytes

    @property
    def step_bytes(self) -> int:
        """Of the weights that a decoding step reads: all, but of an embedding that is not the head one row."""
        return self._decoder.step_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        return self._decoder.kv_bytes_per_token

    def launch(self, batch: Batch) -> Handle:
        rows = batch.rows
        tokens, steps, scores, hidden, logprobs = self._decoder.step(
            rows=[_as_tuple(row) for row in rows],
            tokens=[token for row in rows for token in row.tokens],
            blocks=[block for row in rows for block in row.blocks],
            targets=[target for row in rows for target in row.targets],
            history=[token for row in rows for token in row.history],
            samplings=[_as_native(row.opens) for row in rows if row.opens is not None],
            masks={index: row.mask for index, row in enumerate(rows) if row.mask is not None},
            max_steps=batch.max_steps,
            burst_ms=batch.burst_ms,
        )
        return StepResult(
            tokens,
            steps,
            scores,
            logprobs={row: [Logprobs(*token) for token in chosen] for row, chosen in logprobs.items()},
            hidden={row: memoryview(data).cast("f") for row, data in hidden.items()},
        )

    def collect(self, handle: Handle) -> StepResult:
        assert isinstance(handle, StepResult), "a handle of another runner"
        return handle

    def interrupt(self) -> None:
        self._decoder.interrupt()

    def close(self) -> None:
        del self._decoder


def _as_tuple(row: Row) -> tuple[int, int, int, int, int, int, int, int, bool]:
    return (
        row.slot,
        row.position,
        len(row.tokens),
        len(row.blocks),
        row.limit,
        len(row.targets),
        len(row.history),
        int(row.want),
        row.opens is not None,
    )


def _as_native(sampling: Sampling) -> NativeSampling:
    return NativeSampling(**{name: getattr(sampling, name) for name in Sampling.__slots__})


def load_native_runner(
    config: ModelConfig, weights: ModelWeights, native: NativeConfig, progress: Callable[[float], None] | None = None
) -> NativeRunner:
    """Check and pack a model's weights. `progress` is called with the share done, from 0 to 1.

    Raises `CheckpointError` for weights that are not finite; `NativeError` when the instruction set forced by
    VIVACE_ISA (a switch for tests) cannot run here.
    """
    limits = _plan_limits(config, native)
    try:
        decoder = Decoder(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            context_length=config.context_length,
            norm=config.norm,
            norm_eps=config.norm_eps,
            activation=config.activation,
            attention_scale=config.attention_scale,
            embedding_scale=config.embedding_scale,
            layers=[(layer.intermediate_size, layer.window, layer.rope) for layer in config.layers],
            ropes=[(list(rope.inverse_frequencies), rope.scale) for rope in config.ropes],
            format=native.quantize,
            table_format="int8" if native.quantize == "int4" and not native.quantize_tables else native.quantize,
            group_size=native.group_size,
            isa=os.environ.get("VIVACE_ISA", ""),
            threads=native.threads or allowed_cores(),
            slots=limits.slots,
            blocks=limits.blocks,
            max_batch_tokens=limits.max_batch_tokens,
        )
    except ValueError as error:
        raise NativeError(f"The native core refused this model: {error}.") from error
    _fill(decoder, weights, progress or (lambda share: None))
    return NativeRunner(decoder, limits)


def count_kv_bytes(config: ModelConfig, quantize: Quantize) -> int:
    """Of one token in the KV cache. Values are padded to whole vectors of 16."""
    padded_head_dim = -(-config.head_dim // 16) * 16
    element_bytes = 4 if quantize == "none" else 2
    return len(config.layers) * config.kv_heads * (config.head_dim + padded_head_dim) * element_bytes


def _plan_limits(config: ModelConfig, native: NativeConfig) -> RunnerLimits:
    token_bytes = count_kv_bytes(config, native.quantize)
    one_context = -(-config.context_length // BLOCK_SIZE)
    blocks = min(native.kv_memory_bytes // (token_bytes * BLOCK_SIZE), one_context * native.max_sequences)
    return RunnerLimits(
        slots=native.max_sequences,
        blocks=max(blocks, one_context),
        max_batch_tokens=native.max_batch_tokens,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
    )


def _fill(decoder: Decoder, weights: ModelWeights, progress: Callable[[float], None]) -> None:
    steps = len(weights.layers) + 2
    decoder.set_embedding(_matrix(weights.embedding))
    if weights.positions is not None:
        decoder.set_positions(weights.positions.to_f32().reshape(-1))
    progress(1 / steps)
    for index, layer in enumerate(weights.layers):
        _set_norms(decoder, index, layer)
        decoder.set_linear(index, "query_key_value", [_part(layer.query), _part(layer.key), _part(layer.value)])
        decoder.set_linear(index, "attention_output", [_part(layer.output)])
        decoder.set_linear(index, "mlp_in", [_part(part) for part in (layer.gate, layer.up) if part is not None])
        decoder.set_linear(index, "mlp_out", [_part(layer.down)])
        progress((index + 2) / steps)
    decoder.set_final_norm(weights.final_norm.weight, weights.final_norm.bias)
    if weights.head is not None:
        decoder.set_head(_part(weights.head))
    decoder.check_complete()
    progress(1.0)


def _set_norms(decoder: Decoder, index: int, layer: LayerWeights) -> None:
    for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm", "attention_post_norm", "mlp_post_norm"):
        norm: Norm | None = getattr(layer, name)
        if norm is not None:
            decoder.set_norm(index, name, norm.weight, norm.bias)


def _part(linear: Linear) -> tuple[Any, Any, Any]:
    bias = None if linear.bias is None else linear.bias.to_f32()
    return _matrix(linear.weight), bias, None if linear.factor is None else _matrix(linear.factor)


def _matrix(tensor: Tensor | QuantizedTensor) -> np.ndarray[Any, Any] | Integers:
    """Integers are packed as they are, whatever `quantize` asks for."""
    if isinstance(tensor, QuantizedTensor):
        split = tensor.split_groups(ACTIVATION_GROUP) if tensor.bits == 4 else tensor
        return Integers(split.codes, split.scales, split.zeros, split.group_size)
    check_finite(tensor)
    return np.ascontiguousarray(tensor.data)
