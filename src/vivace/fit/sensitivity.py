"""What each choice costs in loss, measured on a model in memory: the divergence of its next token from the original's.

- A part of a layer in int4, by the very method that will be used: all layers from its own on are run. In int8 it is
  that times the ratio of the errors of its outputs, since both are small: the divergence is then of second order.
- Layers left out: each alone, which gives the order; then so many of them together, in that order.
- Narrow and factored MLPs, and tables as integers: the whole model, each setting by itself.

As many tokens are looked at as the time allows. Needs torch.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vivace.compress.assign import PARTS
from vivace.compress.calibrate import Calibration
from vivace.compress.layerwise import Quantization, round_weight
from vivace.compress.low_rank import LowRank
from vivace.compress.prune import PruneWidth
from vivace.compress.pruning import keep_layers
from vivace.compress.rounding import (
    Format,
    apply_scales,
    measure_output_error,
    round_nearest,
    search_scales,
)
from vivace.compress.step import Work
from vivace.compress.variant import Variant, find_decoder, find_linears
from vivace.compress.walk import LayerWalk, Moments
from vivace.fit.allocate import Losses
from vivace.fit.space import Space

MOST_BYTES = 1 << 29
"""Of the original's distributions, which are kept."""
LEAST_SEQUENCES = 1
GROUP_SIZE = 32

Progress = Callable[[float], None]


@dataclass(slots=True)
class _Probe:
    """The original's distributions on some sequences, and how far from them a model is."""

    variant: Variant
    sequences: Sequence[Sequence[int]]
    original: list[Any]
    """[length, vocab] log-probabilities of each sequence."""

    def diverge(self, model: Any) -> float:
        """Mean KL(original || model) of a token, in nats."""
        total = 0.0
        with torch.inference_mode():
            for sequence, before in zip(self.sequences, self.original, strict=True):
                logits = model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0]
                total += _find_divergence(before, torch.log_softmax(logits, -1))
        return total / len(self.sequences)


def measure_losses(
    variant: Variant,
    calibration: Calibration,
    space: Space,
    how: Quantization,
    limit_s: float,
    scratch: Path,
    progress: Progress = lambda share: None,
    clock: Callable[[], float] = time.monotonic,
) -> Losses:
    """The costs of everything in a space, in about `limit_s` seconds at most; what there was no time for is left out
    of it, by having no cost."""
    begun = clock()
    choose_threads()
    probe = _open_probe(variant, calibration.sequences, len(space.tables), limit_s / 2, clock)
    parts, alone = _measure_layers(probe, how, lambda share: progress(0.6 * share))
    drops = sorted(range(len(alone)), key=alone.__getitem__)[: space.max_dropped]
    tables = {"f32": 0.0, "bf16": 0.0} | _measure_tables(probe)
    depth, width, rank = [0.0], {1.0: 0.0}, {0.0: 0.0}
    work = Work(0, scratch, Calibration(tuple(map(tuple, probe.sequences)), (), calibration.digest))
    for count in range(1, len(drops) + 1):
        if depth[-1] > 1.0 or (count > 1 and clock() - begun > 0.8 * limit_s):
            break
        depth.append(_without_layers(probe, drops[:count]))
    progress(0.7)
    for share in sorted(space.widths, reverse=True):
        if share < 1 and (len(width) == 1 or clock() - begun < 0.9 * limit_s):
            width[share] = _after(probe, PruneWidth(share=round(1 - share, 6)), work)
    progress(0.85)
    for share in sorted(space.ranks, reverse=True):
        if share and clock() - begun < limit_s:
            rank[share] = _after(probe, LowRank(share=share, part="mlp"), work)
    progress(1.0)
    return Losses(parts, tables, drops[: len(depth) - 1], depth, width, rank)  # type: ignore[arg-type]


def choose_threads() -> int:
    """Let PyTorch use all cores where that is faster: beside another busy program it is many times slower."""
    before = torch.get_num_threads()
    matrix = torch.ones(512, 512)
    times = {}
    for count in (before, 1):
        torch.set_num_threads(count)
        begun = time.perf_counter()
        for _ in range(8):
            matrix @ matrix
        times[count] = time.perf_counter() - begun
    best = min(times, key=times.__getitem__)
    torch.set_num_threads(best)
    return best


def _open_probe(
    variant: Variant, sequences: Sequence[Sequence[int]], tables: int, limit_s: float, clock: Callable[[], float]
) -> _Probe:
    """As many sequences as there is time for. Parts take two runs of half the model each: one to round, one to look."""
    vocab = variant.model.get_output_embeddings().weight.shape[0]
    with torch.inference_mode():
        begun = clock()
        first = torch.log_softmax(variant.model(input_ids=torch.tensor([sequences[0]]), use_cache=False).logits[0], -1)
        each_s = max(1e-4, clock() - begun)
        runs = len(variant.layers) * (len(PARTS) + 1) / 2 + 2 * len(variant.layers) + 12 + tables
        by_time = int(limit_s / (runs * each_s))
        by_memory = MOST_BYTES // (len(sequences[0]) * vocab * 4)
        count = max(LEAST_SEQUENCES, min(len(sequences), by_time, by_memory))
        rest = [
            torch.log_softmax(variant.model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0], -1)
            for sequence in sequences[1:count]
        ]
    return _Probe(variant, sequences[:count], [first, *rest])


def _measure_layers(
    probe: _Probe, how: Quantization, progress: Progress
) -> tuple[dict[str, dict[str, float]], list[float]]:
    """Of each part in each format, and of each layer left out by itself."""
    variant = probe.variant
    walk = LayerWalk(variant.model, probe.sequences)
    parts: dict[str, dict[str, float]] = {}
    alone: list[float] = []
    with torch.no_grad():
        for index in range(len(variant.layers)):
            moments, after = walk.observe(index)
            parts |= _measure_parts(probe, walk, index, moments, how)
            alone.append(_look(probe, walk, index + 1))  # from the states before this layer: it is left out
            walk.states = after
            progress((index + 1) / len(variant.layers))
    return parts, alone


def _measure_parts(
    probe: _Probe, walk: LayerWalk, index: int, moments: Sequence[Moments], how: Quantization
) -> dict[str, dict[str, float]]:
    variant = probe.variant
    layer = variant.layers[index]
    by_name = {name: found for found in moments for name in found.linears}
    names = [name for name, _ in find_linears(layer)]
    found: dict[str, dict[str, float]] = {}
    for part, pattern in PARTS.items():
        ours = [name for name in names if re.fullmatch(pattern, name)]
        kept = {name: layer.get_submodule(name).weight.clone() for name in ours}
        errors = {4: 0.0, 8: 0.0}
        for name, weight in kept.items():
            rounded = round_weight(weight, by_name[name], Format(4, GROUP_SIZE, variant.dtype), how).to_floats()
            nearest = round_nearest(weight, Format(8, 0, variant.dtype)).to_floats()
            errors[4] += measure_output_error(rounded - weight, weight, by_name[name].second)
            errors[8] += measure_output_error(nearest - weight, weight, by_name[name].second)
            layer.get_submodule(name).weight.copy_(rounded)
        lost = _look(probe, walk, index)
        for name, weight in kept.items():
            layer.get_submodule(name).weight.copy_(weight)
        ratio = min(1.0, errors[8] / errors[4]) if errors[4] > 0 else 0.0
        found[f"{index}.{part}"] = {"int4": lost, "int8": lost * ratio}
    return found


def _look(probe: _Probe, walk: LayerWalk, index: int) -> float:
    """The divergence with the layers from `index` on run from the walk's states."""
    model = probe.variant.model
    norm, head = find_decoder(model).norm, model.get_output_embeddings()
    total, at = 0.0, 0
    for batch in range(len(walk.states)):
        for states in walk.run_rest(index, batch):
            total += _find_divergence(probe.original[at], torch.log_softmax(head(norm(states)), -1))
            at += 1
    return total / at


def _find_divergence(original: Any, other: Any) -> float:
    return max(0.0, float((original.exp() * (original - other)).sum(-1).mean()))


def _measure_tables(probe: _Probe) -> dict[str, float]:
    """Of embedding and head in int8 and in int4."""
    model, found = probe.variant.model, {}
    tables = {id(one.weight): one for one in (model.get_input_embeddings(), model.get_output_embeddings())}
    kept = {key: table.weight.clone() for key, table in tables.items()}
    for name, format in (("int8", Format(8, 0, torch.float32)), ("int4", Format(4, GROUP_SIZE, torch.float32))):
        with torch.no_grad():
            for key, table in tables.items():
                if format.bits == 8:
                    table.weight.copy_(round_nearest(kept[key], format).to_floats())
                else:
                    table.weight.copy_(apply_scales(kept[key], search_scales(kept[key], format), format).to_floats())
        found[name] = probe.diverge(model)
    with torch.no_grad():
        for key, table in tables.items():
            table.weight.copy_(kept[key])
    return found


def _without_layers(probe: _Probe, dropped: Sequence[int]) -> float:
    model = probe.variant.model
    decoder, config = find_decoder(model), copy.deepcopy(model.config)
    layers, places = decoder.layers, [getattr(layer.self_attn, "layer_idx", None) for layer in decoder.layers]
    before = dict(model.config.__dict__)
    try:
        keep_layers(probe.variant, [index for index in range(len(layers)) if index not in dropped])
        return probe.diverge(model)
    finally:
        decoder.layers = layers
        for layer, place in zip(layers, places, strict=True):
            if place is not None:
                layer.self_attn.layer_idx = place
        model.config.__dict__.update(before)
        assert model.config.num_hidden_layers == config.num_hidden_layers, "the config is as it was"


def _after(probe: _Probe, step: PruneWidth | LowRank, work: Work) -> float:
    """The divergence of a copy that a step was done to."""
    changed = Variant(copy.deepcopy(probe.variant.model), probe.variant.source, probe.variant.dtype)
    step.apply(changed, work)
    return probe.diverge(changed.model)


def assume_losses(space: Space) -> Losses:
    """Where nothing is measured: of each choice the share of the model's weights that it touches, by how coarse its
    format is. It says that finer is better, and no more."""
    config = space.config
    hidden, heads, keys = config.hidden_size, config.heads * config.head_dim, config.kv_heads * config.head_dim
    sizes = {
        "query_key_value": hidden * (heads + 2 * keys),
        "attention_output": hidden * heads,
        "mlp_in": hidden * config.layers[0].intermediate_size * (2 if config.gated else 1),
        "mlp_out": hidden * config.layers[0].intermediate_size,
    }
    whole = sum(sizes.values()) * space.layers + config.vocab_size * hidden
    coarse = {"int8": 2.0**-14, "int4": 2.0**-6}
    parts = {
        f"{layer}.{part}": {format: sizes[part] / whole * cost for format, cost in coarse.items()}
        for layer in range(space.layers)
        for part in sizes
    }
    table = config.vocab_size * hidden / whole
    tables = {"f32": 0.0, "bf16": 0.0} | {format: table * cost for format, cost in coarse.items()}
    return Losses(parts, tables, measured=False)  # type: ignore[arg-type]
