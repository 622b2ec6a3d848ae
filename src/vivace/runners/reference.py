"""The runner that others are tested against: numpy, one row at a time, each formula as it is written in its source.

Slow on purpose. It keeps the runner contract and the paged cache, so that a wrong block table gives a wrong answer
here too, but no kernel's layout: quantisation is imitated by rounding floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vivace.batch import BLOCK_SIZE, Batch, Handle, Logprobs, Row, RunnerLimits, Sampling, StepResult, Want
from vivace.models.checkpoint import Tensor
from vivace.models.compressed import QuantizedTensor
from vivace.models.config import Activation, ModelConfig
from vivace.models.weights import LayerWeights, Linear, ModelWeights, Norm

Array = NDArray[np.float32]

OUTLIER_RATIO = 16.0
MAX_OUTLIERS = 16


@dataclass(frozen=True, slots=True)
class Quantization:
    """How linear layers round. The default is what the native `int8` does."""

    weights: Literal["bf16", "int8", "int4"] = "int8"
    """`bf16` leaves activations alone; `int4` keeps embedding and head int8."""
    group_size: int = 32
    """Of int4: inputs that share one weight scale."""
    activation_group: int = 128
    """Inputs that share one activation scale."""
    keep_outliers: bool = True
    """Inputs above 16 times their group's mean magnitude stay float, at most 16 in a row."""


@dataclass(slots=True)
class _Slot:
    sampling: Sampling
    table: list[int] = field(default_factory=list)
    pending: int = 0
    history: list[int] = field(default_factory=list)
    """The token at every position that is computed, if the sampling reads them."""
    logprobs: list[Logprobs] = field(default_factory=list)
    """Of the tokens chosen in the step under way, if the sampling asks for them."""


class ReferenceRunner:
    """Implements `vivace.batch.Runner`. `quantization` None computes in float32 throughout."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        *,
        blocks: int = 256,
        slots: int = 64,
        quantization: Quantization | None = None,
    ) -> None:
        self._config, self._weights, self._quantization = config, weights, quantization
        self._limits = RunnerLimits(slots, blocks, 1 << 20, config.context_length, config.vocab_size)
        shape = (len(config.layers), blocks, BLOCK_SIZE, config.kv_heads, config.head_dim)
        cache_type = np.float32 if quantization is None else np.float16
        self._keys, self._values = np.zeros(shape, cache_type), np.zeros(shape, cache_type)
        self._slots: dict[int, _Slot] = {}
        self._matrices: dict[str, Array] = {}
        """Linear weights as this quantisation remembers them, by tensor name."""

    @property
    def limits(self) -> RunnerLimits:
        return self._limits

    def launch(self, batch: Batch) -> Handle:
        tokens: list[Sequence[int]] = []
        scores: dict[int, Sequence[float]] = {}
        logprobs: dict[int, Sequence[Logprobs]] = {}
        hidden: dict[int, memoryview[float]] = {}
        steps = 1
        for index, row in enumerate(batch.rows):
            slot = self._open(row)
            fed = list(row.tokens) or [slot.pending]
            self._remember(slot, row.position, fed)
            states = self.hidden_states(slot.table, fed, row.position)
            made: list[int] = []
            if row.want == Want.SAMPLE:
                made = self._sample_burst(row, slot, states[-1], len(fed), batch.max_steps)
                steps = max(steps, len(made))
            elif row.want == Want.VERIFY:
                made = self._verify(row, slot, states, fed)
            elif row.want == Want.SCORE:
                log_probabilities = log_softmax(self.logits(states))
                scores[index] = [float(log_probabilities[i, target]) for i, target in enumerate(row.targets)]
            elif row.want == Want.HIDDEN:
                hidden[index] = memoryview(self._final(states).tobytes()).cast("f")
            tokens.append(made)
            if slot.logprobs:
                logprobs[index] = slot.logprobs
        return StepResult(tokens, steps, scores, logprobs, hidden)

    def collect(self, handle: Handle) -> StepResult:
        assert isinstance(handle, StepResult), "a handle of another runner"
        return handle

    def interrupt(self) -> None:
        """A reference is never in a hurry."""

    def close(self) -> None:
        self._slots.clear()

    def _open(self, row: Row) -> _Slot:
        if row.opens is not None:
            self._slots[row.slot] = _Slot(row.opens, history=list(row.history))
        slot = self._slots[row.slot]
        slot.table.extend(row.blocks)
        slot.logprobs = []
        return slot

    def _remember(self, slot: _Slot, position: int, fed: Sequence[int]) -> None:
        """Of a proposal that was refused, what is in the slot is overwritten by what came instead."""
        if slot.sampling.reads_history:
            assert len(slot.history) >= position, "tokens before the row are missing from the slot's history"
            slot.history[position:] = fed

    def _choose(self, slot: _Slot, state: Array, position: int, mask: bytes | None = None) -> int:
        logits = self.logits(state[None])[0]
        slot.pending = sample(logits, slot.sampling, position, slot.history[:position], mask)
        if slot.sampling.logprobs >= 0:
            slot.logprobs.append(report_logprobs(logits, slot.pending, slot.sampling.logprobs))
        return slot.pending

    def _sample_burst(self, row: Row, slot: _Slot, state: Array, fed: int, max_steps: int) -> list[int]:
        assert row.mask is None or row.limit == 1, "a row with a mask in a burst"
        made = [self._choose(slot, state, row.position + fed, row.mask)]
        while len(made) < min(row.limit, max_steps) and made[-1] not in slot.sampling.stop_token_ids:
            position = row.position + fed + len(made) - 1
            self._remember(slot, position, [slot.pending])
            state = self.hidden_states(slot.table, [slot.pending], position)[-1]
            made.append(self._choose(slot, state, position + 1))
        return made

    def _verify(self, row: Row, slot: _Slot, states: Array, fed: list[int]) -> list[int]:
        made: list[int] = []
        for i in range(len(fed)):
            made.append(self._choose(slot, states[i], row.position + i + 1))
            if i + 1 < len(fed) and made[-1] != fed[i + 1]:
                break
        return made

    def hidden_states(self, table: Sequence[int], tokens: Sequence[int], position: int) -> Array:
        """The residual stream after the last layer, [tokens, hidden], for tokens from `position` on."""
        config = self._config
        x = self._dense(self._weights.embedding)[list(tokens)]
        x = x * np.float32(config.embedding_scale)
        positions = np.arange(position, position + len(tokens))
        if self._weights.positions is not None:
            x = x + self._weights.positions.to_f32()[positions]
        for index, layer in enumerate(self._weights.layers):
            attended = self._attention(index, layer, self._norm(layer.attention_norm, x), table, positions)
            x = x + self._post_norm(layer.attention_post_norm, attended)
            x = x + self._post_norm(layer.mlp_post_norm, self._mlp(layer, self._norm(layer.mlp_norm, x)))
        return x

    def logits(self, states: Array) -> Array:
        """[rows, vocab] from residual states [rows, hidden]."""
        head = self._weights.head or Linear(self._weights.embedding)
        return self._linear(head, self._final(states))

    def _final(self, states: Array) -> Array:
        return self._norm(self._weights.final_norm, states)

    def _norm(self, norm: Norm, x: Array) -> Array:
        """RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016)."""
        if self._config.norm == "rms":
            scaled = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self._config.norm_eps))
        else:
            centred = x - np.mean(x, axis=-1, keepdims=True)
            variance = np.mean(centred * centred, axis=-1, keepdims=True)
            scaled = centred / np.sqrt(variance + np.float32(self._config.norm_eps))
        scaled = scaled * norm.weight
        result: Array = scaled if norm.bias is None else scaled + norm.bias
        return result

    def _post_norm(self, norm: Norm | None, x: Array) -> Array:
        return x if norm is None else self._norm(norm, x)

    def _mlp(self, layer: LayerWeights, x: Array) -> Array:
        up = self._linear(layer.up, x)
        inner = _activate(self._config.activation, up if layer.gate is None else self._linear(layer.gate, x))
        return self._linear(layer.down, inner if layer.gate is None else inner * up)

    def _attention(
        self, index: int, layer: LayerWeights, x: Array, table: Sequence[int], positions: NDArray[Any]
    ) -> Array:
        """Scaled dot-product attention (Vaswani et al. 2017) over grouped heads (Ainslie et al. 2023)."""
        config, tokens = self._config, len(positions)
        query = self._linear(layer.query, x).reshape(tokens, config.heads, config.head_dim)
        key = self._linear(layer.key, x).reshape(tokens, config.kv_heads, config.head_dim)
        query = query if layer.query_norm is None else self._norm(layer.query_norm, query)
        key = key if layer.key_norm is None else self._norm(layer.key_norm, key)
        rope = config.layers[index].rope
        if rope >= 0:
            query, key = self._rotate(query, rope, positions), self._rotate(key, rope, positions)
        blocks, offsets = np.asarray(table)[positions // BLOCK_SIZE], positions % BLOCK_SIZE
        self._keys[index, blocks, offsets] = key
        self._values[index, blocks, offsets] = self._linear(layer.value, x).reshape(key.shape)

        seen = int(positions[-1]) + 1
        keys, values = (self._read_cache(cache[index], table, seen) for cache in (self._keys, self._values))
        scores = np.einsum("thd,shd->hts", query * np.float32(config.attention_scale), keys)
        distance = positions[:, None] - np.arange(seen)[None]
        window = config.layers[index].window or seen
        scores = np.where((distance >= 0) & (distance < window), scores, np.float32(-np.inf))
        attended = np.einsum("hts,shd->thd", np.exp(log_softmax(scores)), values)
        return self._linear(layer.output, attended.reshape(tokens, -1).astype(np.float32))

    def _read_cache(self, cache: NDArray[Any], table: Sequence[int], seen: int) -> Array:
        """The first `seen` tokens of a block table, [tokens, heads, head_dim]: each key-value head once for every
        query head that reads it."""
        config = self._config
        tokens = cache[list(table)].reshape(-1, config.kv_heads, config.head_dim)[:seen].astype(np.float32)
        return np.repeat(tokens, config.heads // config.kv_heads, axis=1)

    def _rotate(self, x: Array, rope: int, positions: NDArray[Any]) -> Array:
        """Rotary positions (Su et al. 2021), pairs half a rotated width apart."""
        frequencies = np.array(self._config.ropes[rope].inverse_frequencies, np.float32)
        angles = positions.astype(np.float32)[:, None] * frequencies
        scale = np.float32(self._config.ropes[rope].scale)
        cosine, sine = np.cos(angles)[:, None] * scale, np.sin(angles)[:, None] * scale
        half = len(frequencies)
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], axis=-1)

    def _linear(self, linear: Linear, x: Array) -> Array:
        y = self._multiply(linear.weight, x if linear.factor is None else self._multiply(linear.factor, x))
        return y if linear.bias is None else y + linear.bias.to_f32()

    def _multiply(self, matrix: Tensor | QuantizedTensor, x: Array) -> Array:
        if self._quantization is not None and self._quantization.weights != "bf16":
            x = quantize_activations(x, self._quantization)
        y: Array = x @ self._dense(matrix).T
        return y

    def _dense(self, matrix: Tensor | QuantizedTensor) -> Array:
        """Integers as they are stored, floats rounded as the format has it."""
        return matrix.to_f32() if isinstance(matrix, QuantizedTensor) else self._matrix(matrix.name, matrix.to_f32)

    def _matrix(self, name: str, read: Any) -> Array:
        if name not in self._matrices:
            matrix = read()
            self._matrices[name] = self._round(name, matrix)
        return self._matrices[name]

    def _round(self, name: str, matrix: Array) -> Array:
        if self._quantization is None:
            return matrix
        head = self._weights.head or Linear(self._weights.embedding)
        tables = [part.name for part in (self._weights.embedding, head.weight, head.factor) if part is not None]
        kind = "int8" if name in tables and self._quantization.weights == "int4" else self._quantization.weights
        if kind == "bf16":
            return round_to_bf16(matrix)
        return quantize_rows(matrix) if kind == "int8" else quantize_groups(matrix, self._quantization.group_size)


def round_to_bf16(matrix: Array) -> Array:
    """To the nearest bf16, ties to even."""
    bits = matrix.astype(np.float32).view(np.uint32)
    rounded: Array = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    return rounded


def quantize_rows(matrix: Array) -> Array:
    """Round each row to 255 levels, symmetric, one scale a row."""
    scale = np.abs(matrix).max(axis=1, keepdims=True) / np.float32(127)
    codes = np.rint(np.divide(matrix, scale, out=np.zeros_like(matrix), where=scale > 0))
    rounded: Array = (codes * scale).astype(np.float32)
    return rounded


def quantize_groups(matrix: Array, group_size: int) -> Array:
    """Round each group of a row to the levels -8..7 times the f16 scale that loses least in the square: the group's
    extreme on -8 or on 7, and what lies beyond 60 to 100 per cent of it clipped."""
    rounded = np.zeros_like(matrix)
    for first in range(0, matrix.shape[1], group_size):
        group = matrix[:, first : first + group_size]
        extreme = np.take_along_axis(group, np.abs(group).argmax(axis=1)[:, None], axis=1)
        least = np.full((len(group), 1), np.inf)
        for level in (-8.0, 7.0):
            for percent in range(100, 55, -5):
                scale = (extreme / np.float32(level) * np.float32(percent) / 100).astype(np.float16).astype(np.float32)
                inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
                values = np.clip(np.rint(group * inverse), -8, 7) * scale
                error = ((group - values) ** 2).sum(axis=1, keepdims=True)
                better = error < least
                least = np.where(better, error, least)
                rounded[:, first : first + group_size] = np.where(
                    better, values, rounded[:, first : first + group_size]
                )
    return rounded


def quantize_activations(x: Array, quantization: Quantization) -> Array:
    """Round each group of a row to 255 levels, leaving its outliers as they are."""
    rounded = x.astype(np.float32, copy=True)
    for row in rounded.reshape(-1, x.shape[-1]):
        room = MAX_OUTLIERS if quantization.keep_outliers else 0
        for first in range(0, x.shape[-1], quantization.activation_group):
            group = row[first : first + quantization.activation_group]
            outlier = np.abs(group) > OUTLIER_RATIO * np.abs(group).mean()
            if outlier.sum() > room:
                outlier[:] = False
            room -= int(outlier.sum())
            scale = np.abs(np.where(outlier, 0, group)).max() / np.float32(127)
            if scale > 0:
                group[:] = np.where(outlier, group, np.rint(group / scale) * scale)
    return rounded


def _activate(activation: Activation, x: Array) -> Array:
    """SiLU as x * sigmoid(x); GELU (Hendrycks and Gimpel 2016), exact or by its tanh approximation."""
    if activation == "silu":
        gate = (1 + np.tanh(x / 2)) / 2
    elif activation == "gelu_tanh":
        gate = (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3))) / 2
    else:
        gate = (1 + np.vectorize(math.erf, otypes=[np.float32])(x / np.float32(np.sqrt(2)))) / 2
    activated: Array = (x * gate).astype(np.float32)
    return activated


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def report_logprobs(logits: Array, token: int, count: int) -> Logprobs:
    """Of a chosen token and of the `count` likeliest; of equals, the lowest ids."""
    log_probabilities = log_softmax(logits.astype(np.float64))
    likeliest = np.argsort(-logits, kind="stable")[:count]
    return Logprobs(float(log_probabilities[token]), [(int(t), float(log_probabilities[t])) for t in likeliest])


def sample(
    logits: Array, sampling: Sampling, position: int, history: Sequence[int] = (), mask: bytes | None = None
) -> int:
    """The token at `position`, as `Sampling` says. `history` holds every token before it, if the sampling reads it."""
    logits = adjust(logits, sampling, position, history, mask)
    if sampling.temperature <= 0 or sampling.top_k == 1:
        return int(logits.argmax())
    weights = np.exp(((logits - logits.max()) / np.float32(sampling.temperature)).astype(np.float64))
    order = keep_likeliest(weights, sampling)
    cumulative = np.cumsum(weights[order])
    target = random_number(sampling.seed, position) * cumulative[-1]
    return int(order[min(int(np.searchsorted(cumulative, target, side="right")), len(order) - 1)])


def adjust(logits: Array, sampling: Sampling, position: int, history: Sequence[int], mask: bytes | None) -> Array:
    """Everything that changes logits before a token is drawn: a mask, a bias, penalties, the ban on stop tokens.

    The repetition penalty is that of CTRL (Keskar et al. 2019), the other two are those of the OpenAI API.
    """
    logits = logits.astype(np.float32, copy=True)
    if mask is not None:
        allowed = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[: len(logits)].astype(bool)
        assert allowed.any(), "a mask that allows nothing"
        logits[~allowed] = -np.inf
    for token, bias in sampling.logit_bias:
        logits[token] += np.float32(bias)
    if sampling.reads_history:
        assert len(history) == position, "the history does not reach up to the token to choose"
        seen = np.unique(np.asarray(history, np.int64))
        penalty = np.float32(sampling.repetition_penalty)
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        tokens, times = np.unique(np.asarray(history[sampling.prompt_length :], np.int64), return_counts=True)
        frequency = np.float32(sampling.frequency_penalty) * times.astype(np.float32)
        logits[tokens] -= np.float32(sampling.presence_penalty) + frequency
    if position - sampling.prompt_length < sampling.min_tokens:
        logits[list(sampling.stop_token_ids)] = -np.inf
    return logits


def keep_likeliest(weights: NDArray[np.float64], sampling: Sampling) -> NDArray[np.intp]:
    """The tokens that top-k, top-p and min-p leave, likeliest first; where none applies, all by their ids."""
    limited = 0 < sampling.top_k < len(weights)
    if not limited and sampling.top_p >= 1 and sampling.min_p <= 0:
        return np.flatnonzero(weights)
    order = np.argsort(-weights, kind="stable")
    if limited:
        order = order[: sampling.top_k]
    if sampling.top_p < 1:
        cumulative = np.cumsum(weights[order])
        order = order[: int(np.searchsorted(cumulative, sampling.top_p * cumulative[-1])) + 1]
    kept: NDArray[np.intp] = order[(weights[order] > 0) & (weights[order] >= sampling.min_p * weights[order[0]])]
    return kept


def random_number(seed: int, position: int) -> float:
    """Uniform in [0, 1): two rounds of SplitMix64 (Steele, Lea, Flood 2014)."""
    return (_scramble(_scramble(seed) ^ position) >> 11) * 2.0**-53


def _scramble(x: int) -> int:
    mask = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)
