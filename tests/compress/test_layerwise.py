from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.checkpoints import write_qwen2  # noqa: E402
from tests.compress.variants import CALIBRATION, write_conversations, write_model  # noqa: E402
from tests.families import write_gemma3, write_mistral, write_phi3, write_qwen3  # noqa: E402
from vivace.compress import compress, layerwise  # noqa: E402
from vivace.compress.awq import find_folds, find_moments, fold_scales  # noqa: E402
from vivace.compress.rounding import Format  # noqa: E402
from vivace.compress.variant import open_variant  # noqa: E402
from vivace.compress.walk import LayerWalk  # noqa: E402

SEQUENCES = [[(7 * place + 13 * row) % 250 for place in range(48)] for row in range(6)]


@pytest.mark.parametrize("write", [write_model, write_qwen2, write_qwen3, write_mistral, write_gemma3, write_phi3])
def test_awq_folds_scales_without_changing_the_function(write: Callable[[Path], Path], tmp_path: Path) -> None:
    variant = open_variant(write(tmp_path / "model"))
    ids = torch.tensor(SEQUENCES)
    format, alphas = Format(4, 16, torch.float32), []
    with torch.no_grad():
        before = variant.model(ids).logits
        walk = LayerWalk(variant.model, SEQUENCES)
        for index, layer in enumerate(variant.layers):
            moments, walk.states = walk.observe(index)
            found = find_moments(moments)
            for fold in find_folds(variant.model.config, layer):
                formats = dict.fromkeys(fold.consumers, format)
                alphas.append(fold_scales(layer, fold, found[fold.consumers[0]], formats, torch.float32))
        after = variant.model(ids).logits
    assert len(alphas) == 4 * len(variant.layers)
    assert max(alphas) > 0
    assert torch.allclose(before, after, atol=2e-3 * float(before.abs().max()))


def test_a_walk_ends_where_the_model_does_and_sees_what_is_shared(tmp_path: Path) -> None:
    variant = open_variant(write_model(tmp_path / "model"))
    walk = LayerWalk(variant.model, SEQUENCES)
    for index in range(len(variant.layers)):
        moments, walk.states = walk.observe(index)
        assert [len(found.linears) for found in moments] == [3, 1, 2, 1]
        assert {found.tokens for found in moments} == {6 * 48}
    with torch.no_grad():
        states = variant.model.model.norm(torch.cat(walk.states))
        expected = variant.model.model(torch.tensor(SEQUENCES)).last_hidden_state
    assert torch.allclose(states, expected, atol=1e-4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("compress")
    return write_model(directory / "model", "bfloat16"), write_conversations(directory / "data.jsonl")


def run(files: tuple[Path, Path], recipe: str, out: Path, **more: Any) -> dict[str, Any]:
    return compress(files[0], recipe, out, data=files[1], calibration=CALIBRATION, **more)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_calibrated_methods_lose_less_of_the_outputs_than_rounding_to_nearest(
    method: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    step = run(files, f"int4(method={method})", tmp_path / "out")["steps"][0]
    assert len(step["linears"]) == 14
    assert step["mean_output_error"] < 0.8 * step["mean_nearest_output_error"]


def test_correction_is_reported_and_loses_less(files: tuple[Path, Path], tmp_path: Path) -> None:
    step = run(files, "int4(correct=bias, branch_rank=4)", tmp_path / "out")["steps"][0]
    assert step["mean_corrected_output_error"] < step["mean_output_error"]
    assert step["mean_branch_error"] < step["mean_output_error"]
    assert "none was written" in step["branch_note"]


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_killed_run_goes_on_and_ends_with_the_same_model(
    method: str, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = f"int4(method={method}, correct=bias)", tmp_path / "out"
    run(files, recipe, tmp_path / "whole")
    load, original = layerwise._load_layer, layerwise._quantize_layer

    def killed(*arguments: Any) -> Any:
        if "layers.1" in arguments[2]:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(layerwise, "_quantize_layer", killed)
    with pytest.raises(KeyboardInterrupt):
        run(files, recipe, out)
    assert not (out / "config.json").exists()
    monkeypatch.setattr(layerwise, "_quantize_layer", original)
    loaded: list[str] = []

    def count(*arguments: Any) -> Any:
        loaded.append(arguments[1])
        return load(*arguments)

    monkeypatch.setattr(layerwise, "_load_layer", count)
    with pytest.raises(Exception, match="Add --resume"):
        run(files, recipe, out)
    with pytest.raises(Exception, match="another seed"):
        run(files, recipe, out, resume=True, seed=5)
    run(files, recipe, out, resume=True)
    assert loaded == ["model.layers.0."]
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_seed_makes_the_same_model_again(files: tuple[Path, Path], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(files, "int4(method=gptq)", tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    shutil.rmtree(tmp_path / "a")
