"""Leaves out layers, MLP units, heads and single weights. Needs torch; the settings stand in `prune.py`.

What a unit or head adds to the residual is seen from the second moments of its outputs on the data: the energy of
what the output matrix makes of it. With `refit`, that matrix is then the one that comes closest to the former outputs
with what is left: W' = W M[:, kept] (M[kept, kept])⁻¹, least squares over the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vivace.compress.loss import measure_loss
from vivace.compress.prune import PruneHeads, PruneWidth
from vivace.compress.step import Report, Work
from vivace.compress.variant import Variant, find_decoder, find_linears
from vivace.compress.walk import LayerWalk, Moments

DAMPING = 0.01
"""Share of the mean of the moments' diagonal that is added to it before it is inverted."""

NO_SPEED = (
    "Zeros are stored and multiplied as any other weight: no engine here is faster, and no file smaller, for them."
)

LAYER_LISTS = ("layer_types", "no_rope_layers")
"""Fields of a config that have an item for each layer."""


# Layers


def drop_layers(variant: Variant, work: Work, count: int, by: str) -> Report:
    assert work.calibration is not None, "checked before any work"
    sequences = work.calibration.sequences
    if by == "similarity":
        costs = measure_change(variant, sequences)
        dropped = sorted(range(len(costs)), key=costs.__getitem__)[:count]
        rows = [{"layer": layer, "change": cost} for layer, cost in enumerate(costs)]
    else:
        dropped, rows = _choose_by_loss(variant, sequences, count, work)
    keep_layers(variant, [layer for layer in range(len(variant.layers)) if layer not in dropped])
    work.progress(1.0)
    return {"dropped": sorted(dropped), "layers": rows}


def measure_change(variant: Variant, sequences: Sequence[Sequence[int]]) -> list[float]:
    """1 - cos(input, output) of each layer, mean over tokens."""
    walk, costs = LayerWalk(variant.model, sequences), []
    for index in range(len(variant.layers)):
        after = walk.run(index)
        alike = [
            torch.nn.functional.cosine_similarity(x.float(), y.float(), dim=-1).flatten()
            for x, y in zip(walk.states, after, strict=True)
        ]
        costs.append(1 - float(torch.cat(alike).mean()))
        walk.states = after
    return costs


def _choose_by_loss(
    variant: Variant, sequences: Sequence[Sequence[int]], count: int, work: Work
) -> tuple[list[int], list[dict[str, Any]]]:
    decoder = find_decoder(variant.model)
    layers = list(decoder.layers)
    dropped: list[int] = []
    rows = []
    try:
        for turn in range(count):
            losses: dict[int, float] = {}
            for candidate in range(len(layers)):
                if candidate not in dropped:
                    left = [layer for index, layer in enumerate(layers) if index not in (*dropped, candidate)]
                    decoder.layers = torch.nn.ModuleList(left)
                    losses[candidate] = _measure(variant, sequences, len(left))
            dropped.append(min(losses, key=losses.__getitem__))
            rows.append({"layer": dropped[-1], "loss_without_nats": losses[dropped[-1]]})
            work.progress((turn + 1) / count)
    finally:
        decoder.layers = torch.nn.ModuleList(layers)
    return dropped, rows


def _measure(variant: Variant, sequences: Sequence[Sequence[int]], layers: int) -> float:
    """The loss of a model that has so many layers for the moment."""
    config, before = variant.model.config, variant.model.config.num_hidden_layers
    config.num_hidden_layers = layers
    try:
        loss = measure_loss(variant.model, sequences)
    finally:
        config.num_hidden_layers = before
    assert loss is not None, "no sequences"
    return loss


def keep_layers(variant: Variant, kept: Sequence[int]) -> None:
    """Leave out all other layers, and say so in the config."""
    decoder, config = find_decoder(variant.model), variant.model.config
    decoder.layers = torch.nn.ModuleList([decoder.layers[index] for index in kept])
    for place, layer in enumerate(decoder.layers):
        if hasattr(layer.self_attn, "layer_idx"):
            layer.self_attn.layer_idx = place
    for name in LAYER_LISTS:
        if getattr(config, name, None):
            setattr(config, name, [getattr(config, name)[index] for index in kept])
    config.num_hidden_layers = len(kept)


# Width


def prune_width(variant: Variant, work: Work, step: PruneWidth) -> Report:
    assert work.calibration is not None, "checked before any work"
    widths = [layer.mlp.down_proj.in_features for layer in variant.layers]
    if step.per_layer:
        energies = [
            find_unit_energies(m.second, variant.layers[i].mlp.down_proj.weight) for i, m in _observe(variant, work)
        ]
        keep = _share_out(energies, sum(step.keep(width) for width in widths), step.multiple)
    else:
        keep = [step.keep(width) for width in widths]
    rows = []
    for index, moments in _observe(variant, work):
        mlp = variant.layers[index].mlp
        energy = find_unit_energies(moments.second, mlp.down_proj.weight)
        kept = energy.topk(keep[index]).indices.sort().values
        for linear in (mlp.gate_proj, mlp.up_proj):
            cut_rows(linear, kept)
        lost = cut_columns(mlp.down_proj, kept, moments.second, refit=step.refit)
        rows.append({"layer": index, "width": len(kept), "of": widths[index], "output_error": lost})
    uniform = len(set(keep)) == 1
    if uniform:
        variant.model.config.intermediate_size = keep[0]
    else:
        variant.changes["intermediate_size"] = keep
    for layer, width in zip(variant.layers, keep, strict=True):
        if hasattr(layer.mlp, "intermediate_size"):
            layer.mlp.intermediate_size = width
    return {"layers": rows, "loads_in_transformers": uniform}


def _observe(variant: Variant, work: Work, part: str = "mlp.down_proj") -> Any:
    """Each layer's index and the moments of what goes into one of its linears, before that layer is changed. The layers
    after it then see what the changed one makes."""
    assert work.calibration is not None, "checked before any work"
    walk = LayerWalk(variant.model, work.calibration.sequences)
    for index in range(len(variant.layers)):
        moments, _ = walk.observe(index)
        yield index, next(found for found in moments if part in found.linears)
        walk.states = walk.run(index)
        work.progress((index + 1) / len(variant.layers))


def find_unit_energies(second: Any, weight: Any) -> Any:
    """[in]: E[x_j²] |W[:, j]|², what each input adds to the outputs by itself."""
    return second.diagonal() * weight.square().sum(0)


def _share_out(energies: Sequence[Any], total: int, multiple: int) -> list[int]:
    """How many units each layer keeps, so that the least energy is lost as a share of each layer's own; multiples
    all."""
    shares = []
    for layer, energy in enumerate(energies):
        ordered = (energy / energy.sum()).sort(descending=True).values
        for place in range(multiple, len(ordered) - multiple + 1, multiple):
            shares.append((float(ordered[place : place + multiple].sum()), layer))
    keep = [multiple] * len(energies)
    for _, layer in sorted(shares, reverse=True)[: max(0, total // multiple - len(energies))]:
        keep[layer] += multiple
    return keep


def cut_rows(linear: Any, kept: Any) -> None:
    """Leave out outputs."""
    linear.weight = torch.nn.Parameter(linear.weight[kept].clone(), requires_grad=False)
    if linear.bias is not None:
        linear.bias = torch.nn.Parameter(linear.bias[kept].clone(), requires_grad=False)
    linear.out_features = len(kept)


def cut_columns(linear: Any, kept: Any, second: Any, *, refit: bool) -> float:
    """Leave out inputs; the share of the outputs' energy that is lost."""
    whole = linear.weight.clone()
    weight = refit_columns(whole, kept, second) if refit else whole[:, kept].clone()
    off = whole.clone()
    off[:, kept] -= weight
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    linear.in_features = len(kept)
    lost, energy = ((off @ second) * off).sum(), ((whole @ second) * whole).sum()
    return float(lost.clamp(min=0) / energy) if energy > 0 else 0.0


def refit_columns(weight: Any, kept: Any, second: Any) -> Any:
    """[out, kept]: least squares of the former outputs on the inputs that are left."""
    left = second[kept][:, kept].double()
    left += DAMPING * left.diagonal().mean().clamp(min=1e-12) * torch.eye(len(left), dtype=torch.float64)
    # What is damped is the change, not the weight: with all inputs kept nothing changes.
    others = torch.ones(weight.shape[1], dtype=torch.bool)
    others[kept] = False
    cross = weight[:, others].double() @ second[others][:, kept].double()
    return weight[:, kept] + torch.linalg.solve(left, cross.T).T.to(weight.dtype)


# Heads


def prune_heads(variant: Variant, work: Work, step: PruneHeads) -> Report:
    config = variant.model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    group, count = heads // kv_heads, step.keep(kv_heads)
    rows = []
    for index, moments in _observe(variant, work, "self_attn.o_proj"):
        attention = variant.layers[index].self_attn
        energies = find_group_energies(moments, attention.o_proj.weight, kv_heads)
        kept = energies.topk(count).indices.sort().values
        keys = _spread(kept, head_dim)
        queries = _spread(kept, group * head_dim)
        cut_rows(attention.q_proj, queries)
        for linear in (attention.k_proj, attention.v_proj):
            cut_rows(linear, keys)
        lost = cut_columns(attention.o_proj, queries, moments.second, refit=step.refit)
        for name, value in (("num_heads", group * count), ("num_key_value_heads", count)):
            if hasattr(attention, name):
                setattr(attention, name, value)
        rows.append({"layer": index, "kept": kept.tolist(), "output_error": lost})
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = group * count, count, head_dim
    return {"layers": rows, "key_value_heads": count}


def find_group_energies(moments: Moments, weight: Any, groups: int) -> Any:
    """[groups]: E|W[:, g] x[g]|² of what each group of heads adds by itself."""
    size = weight.shape[1] // groups
    parts = [slice(g * size, (g + 1) * size) for g in range(groups)]
    return torch.stack([((weight[:, p] @ moments.second[p, p]) * weight[:, p]).sum() for p in parts])


def _spread(groups: Any, size: int) -> Any:
    """The places of whole groups."""
    return (groups[:, None] * size + torch.arange(size)).flatten()


# Single weights


def mask_magnitude(variant: Variant, work: Work, share: float) -> Report:
    rows = []
    with torch.no_grad():
        for index, layer in enumerate(variant.layers):
            for name, linear in find_linears(layer):
                mask = keep_largest(linear.weight.abs().flatten(), share).reshape(linear.weight.shape)
                linear.weight.mul_(mask)
                rows.append({"layer": index, "name": name, "zeros": 1 - float(mask.float().mean())})
            work.progress((index + 1) / len(variant.layers))
    return {"linears": rows, "speed": NO_SPEED}


def mask_wanda(variant: Variant, work: Work, share: float) -> Report:
    assert work.calibration is not None, "checked before any work"
    rows = []
    walk = LayerWalk(variant.model, work.calibration.sequences)
    for index, layer in enumerate(variant.layers):
        linears = dict(find_linears(layer))
        moments, _ = walk.observe(index)
        with torch.no_grad():
            for found in moments:
                for name in found.linears:
                    weight = linears[name].weight
                    mask = keep_largest(weight.abs() * found.power.sqrt(), share)
                    weight.mul_(mask)
                    rows.append({"layer": index, "name": name, "zeros": 1 - float(mask.float().mean())})
        walk.states = walk.run(index)
        work.progress((index + 1) / len(variant.layers))
    return {"linears": rows, "speed": NO_SPEED}


def keep_largest(scores: Any, share: float) -> Any:
    """A mask without the `share` of smallest scores of each row."""
    count = round(share * scores.shape[-1])
    mask = torch.ones_like(scores, dtype=torch.bool)
    return mask.scatter_(-1, scores.topk(count, dim=-1, largest=False).indices, False)
