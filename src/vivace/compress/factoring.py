"""Factors linears. Needs torch; the settings stand in `low_rank.py`.

A linear whose factors would not have far fewer weights to read stays whole: two products of one token read
rank * (out + in) weights where one reads out * in, but the second waits for the first, and neither shares a pass with
the linears beside it any more. How many fewer it takes was measured in the engine.
"""

from __future__ import annotations

from typing import Any

import torch

from vivace.compress.factored import Factored
from vivace.compress.low_rank import LowRank
from vivace.compress.step import Report, Work
from vivace.compress.variant import Variant, find_linears
from vivace.compress.walk import LayerWalk

WORTHWHILE = 0.6
"""Of a linear's weights; factors that have more of them leave it whole. With half of them, a token took 0.91 and 0.86
of its time in models of 16 and 135 million parameters; with 0.7 of them 1.20 and 1.03 (benchmarks/LOG.md)."""
MULTIPLE = 16
"""Ranks are multiples: the engine computes as many outputs at a time, whole or not."""
DAMPING = 1e-4
NOT_STANDARD = "Factored layers run in this engine; transformers does not load such a checkpoint."


def factor_layers(variant: Variant, work: Work, step: LowRank) -> Report:
    rows = []
    walk = None
    if step.method == "activation":
        assert work.calibration is not None, "checked before any work"
        walk = LayerWalk(variant.model, work.calibration.sequences)
    for index, layer in enumerate(variant.layers):
        moments = {} if walk is None else {name: m.second for m in walk.observe(index)[0] for name in m.linears}
        for name, linear in list(find_linears(layer)):
            if step.part == "all" or (step.part == "mlp") == name.startswith("mlp."):
                rows.append({"layer": index, "name": name} | _factor(layer, name, linear, moments.get(name), step))
        if walk is not None:
            walk.states = walk.run(index)
        work.progress((index + 1) / len(variant.layers))
    factored = sum(row["rank"] is not None for row in rows)
    report: Report = {"factored": factored, "left_whole": len(rows) - factored, "linears": rows}
    if factored:
        report |= {"loads_in_transformers": False, "note": NOT_STANDARD}
    return report


def _factor(layer: Any, name: str, linear: Any, second: Any, step: LowRank) -> dict[str, Any]:
    out, width = linear.weight.shape
    root = None if second is None else find_root(second)
    left, values, right = torch.linalg.svd((linear.weight if root is None else linear.weight @ root).double(), False)
    energies = values.square().cumsum(0) / values.square().sum().clamp(min=1e-30)
    rank = choose_rank(step, out, width, energies)
    row = {"out": out, "in": width, "rank": rank, "energy": float(energies[rank - 1])}
    if rank * (out + width) > WORTHWHILE * out * width:
        return row | {"rank": None, "energy": 1.0, "why_whole": "two products would take as long as one"}
    factored = Factored(out, rank, width, linear.bias)
    down = right[:rank] if root is None else torch.linalg.solve(root.double().T, right[:rank].T).T
    balance = values[:rank].sqrt()
    with torch.no_grad():
        factored.up.weight.copy_(left[:, :rank] * balance)
        factored.down.weight.copy_(down * balance[:, None])
    owner, _, last = name.rpartition(".")
    setattr(layer.get_submodule(owner), last, factored)
    return row


def choose_rank(step: LowRank, out: int, width: int, energies: Any) -> int:
    """What the step asks for; by share or energy a multiple of `MULTIPLE`."""
    most = min(out, width)
    if step.rank is not None:
        return min(step.rank, most)
    if step.share is not None:
        wanted = int(step.share * out * width / (out + width)) // MULTIPLE * MULTIPLE
    else:
        assert step.energy is not None, "checked when the step was made"
        wanted = -(-(int((energies < step.energy).sum()) + 1) // MULTIPLE) * MULTIPLE
    return max(1, min(most, wanted or MULTIPLE))


def find_root(second: Any) -> Any:
    """S with S Sᵀ = E[x xᵀ], damped so that it has an inverse."""
    damped = second.double() + DAMPING * second.diagonal().mean().double().clamp(min=1e-12) * torch.eye(
        len(second), dtype=torch.float64
    )
    return torch.linalg.cholesky(damped).to(second.dtype)
