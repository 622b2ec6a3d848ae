"""A matrix of low rank loses nothing as two, and one that would not be faster as two stays whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.compress.test_prune import EXACT, Tensors, change, run
from tests.compress.variants import largest_difference, score_with_engine, write_model
from vivace.compress.factoring import choose_rank, find_root
from vivace.compress.low_rank import LowRank
from vivace.compress.variant import open_variant
from vivace.errors import RecipeError
from vivace.info import describe_model
from vivace.models.model import open_model


def thin(tensors: Tensors) -> None:
    """MLPs of rank 16."""
    for name, weight in tensors.items():
        if ".mlp." in name:
            left, values, right = np.linalg.svd(weight, full_matrices=False)
            tensors[name] = ((left[:, :16] * values[:16]) @ right[:16]).astype(np.float32)


@pytest.mark.parametrize("method", ["svd", "activation"])
@pytest.mark.parametrize("amount", ["rank=16", "energy=0.9999", "share=0.3"])
def test_a_matrix_of_low_rank_loses_nothing(tmp_path: Path, method: str, amount: str) -> None:
    model = change(write_model(tmp_path / "model"), thin)
    manifest = run(tmp_path, model, f"low_rank({amount}, method={method}, part=mlp)")
    report = manifest["steps"][0]
    assert (report["factored"], report["left_whole"]) == (6, 0)
    assert not report["loads_in_transformers"]
    found = describe_model(open_model(str(tmp_path / "out")))
    assert found.parameters == manifest["after"]["parameters"] < manifest["before"]["parameters"]
    assert largest_difference(score_with_engine(tmp_path / "out"), score_with_engine(model)) < EXACT


def test_what_two_factors_would_not_make_faster_stays_whole(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    report = run(tmp_path, model, "low_rank(energy=0.9999, method=svd)")["steps"][0]
    assert report["factored"] == 0
    assert all(row["why_whole"] for row in report["linears"])
    assert largest_difference(score_with_engine(tmp_path / "out"), score_with_engine(model)) < 1e-6


def test_with_the_data_in_mind_outputs_are_closer() -> None:
    """Inputs that lie in few directions: W S keeps those, the plain SVD the large weights."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 4, generator=generator) @ torch.randn(4, 32, generator=generator)
    weight = torch.randn(48, 32, generator=generator)
    root = find_root(inputs.T @ inputs / 400)
    errors = []
    for matrix, back in ((weight, torch.eye(32)), (weight @ root, torch.linalg.inv(root))):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        low = (left[:, :4] * values[:4]) @ right[:4] @ back
        errors.append(float((inputs @ (low - weight).T).square().sum() / (inputs @ weight.T).square().sum()))
    assert errors[1] < 0.01 < errors[0]


def test_ranks_follow_from_share_and_energy() -> None:
    energies = torch.tensor([0.5, 0.8, 0.95, 1.0]).repeat_interleave(16)
    assert choose_rank(LowRank(share=0.5), 64, 64, energies) == 16
    assert choose_rank(LowRank(energy=0.9), 64, 64, energies) == 48
    assert choose_rank(LowRank(rank=7), 64, 64, energies) == 7


def test_what_transformers_cannot_read_is_read_again_as_it_was(tmp_path: Path) -> None:
    """As a recipe does that goes on after it."""
    model = write_model(tmp_path / "model")
    run(tmp_path, model, "prune_width(0.25, per_layer=true), low_rank(0.5)")
    variant = open_variant(tmp_path / "out")
    widths = [layer.mlp.down_proj.down.in_features for layer in variant.layers]
    assert variant.changes.get("intermediate_size", widths) == widths
    ids = torch.tensor([[*b"the order has not come yet and I want my money back"]])
    logs: Any = variant.model(ids).logits[0].log_softmax(-1)
    mine = logs[:-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
    assert largest_difference(mine, score_with_engine(tmp_path / "out")) < EXACT


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("low_rank(rank=500)", "rank is 500, above the 64 of the smallest linear"),
        ("low_rank", "takes one of share, rank and energy; 0 are given"),
        ("low_rank(0.5, rank=3)", "2 are given"),
        ("low_rank(energy=1)", "energy is 1"),
        ("int8, low_rank(0.5)", "Put the step that quantises last"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(tmp_path: Path, recipe: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        run(tmp_path, write_model(tmp_path / "model"), recipe)
