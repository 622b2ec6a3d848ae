"""Checkpoints that were quantised before run on their own integers, in every runner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.checkpoints import read_tensors, set_fields, write_llama
from tests.runners.loading import Loaded, blocks_for, load_directory, random_prompt, run
from vivace.batch import Row, Sampling, Want
from vivace.models.checkpoint import Tensor
from vivace.models.compressed import QuantizedTensor
from vivace.models.weights import LayerWeights, Linear
from vivace.native import supported_isas
from vivace.runners.native import Quantize

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "groups": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}),
    "asymmetric": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": False}),
    "channels": ("pack-quantized", {"num_bits": 4, "strategy": "channel"}),
    "int8": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
}
LINEARS = ("query", "key", "value", "output", "up", "down", "gate")


def write_compressed(directory: Path, name: str, keep: tuple[str, ...] = ()) -> Path:
    """A Llama checkpoint as the compressed-tensors library stores it, but for the projections in `keep`."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization.utils import calculate_qparams
    from safetensors.torch import save_file

    layout, settings = FORMATS[name]
    write_llama(directory, tied=False, hidden=256, intermediate=192, attention_bias=True)
    group = {"targets": ["Linear"], "weights": settings | {"type": "int"}}
    scheme = library.quantization.QuantizationScheme(**group)
    compressor = library.compressors.BaseCompressor.get_value_from_registry(layout)
    stored = {}
    for place, array in read_tensors(directory / "model.safetensors").items():
        module, _, part = place.rpartition(".")
        matrix = torch.tensor(array)
        if part != "weight" or not module.endswith("_proj") or module.endswith(keep or "-"):
            stored[place] = matrix
            continue
        groups = matrix.reshape(len(matrix), -1, settings.get("group_size") or matrix.shape[1])
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
        state = {"weight": matrix, "weight_scale": scale, "weight_zero_point": zero}
        packed = compressor.compress(state, scheme)
        stored |= {f"{module}.{part}": tensor.contiguous() for part, tensor in packed.items()}
    save_file(stored, directory / "model.safetensors")
    described = {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}
    return set_fields(directory, quantization_config=described)


def dequantise(loaded: Loaded) -> Loaded:
    """The same model with floats for integers."""

    def as_floats(linear: Linear | None) -> Linear | None:
        if linear is None or isinstance(linear.weight, Tensor):
            return linear
        return replace(linear, weight=Tensor(linear.weight.name, "F32", linear.weight.to_f32()))

    def change(layer: LayerWeights) -> LayerWeights:
        changes: dict[str, Any] = {name: as_floats(getattr(layer, name)) for name in LINEARS}
        return replace(layer, **changes)

    weights = replace(loaded.weights, layers=tuple(change(layer) for layer in loaded.weights.layers))
    return Loaded(loaded.config, weights)


def reference_logits(loaded: Loaded) -> NDArray[np.float32]:
    runner = loaded.reference("none")
    return runner.logits(runner.hidden_states(blocks_for(30), random_prompt(30), 0))


def native_scores(loaded: Loaded, quantize: Quantize) -> NDArray[np.float32]:
    prompt = random_prompt(30)
    row = Row(0, 0, prompt, blocks_for(30), Want.SCORE, 1, targets=prompt, opens=Sampling())
    return np.array(run(loaded.native(quantize), row).scores[0], np.float32)


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("name", FORMATS)  # with int8 codes down to -128, which bytes cannot negate
def test_a_compressed_model_answers_as_its_floats_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, isa: str
) -> None:
    monkeypatch.setenv("VIVACE_ISA", isa)
    loaded = load_directory(write_compressed(tmp_path / "model", name))
    assert all(isinstance(getattr(loaded.weights.layers[0], linear).weight, QuantizedTensor) for linear in LINEARS)
    floats = dequantise(loaded)
    logits = reference_logits(floats)
    np.testing.assert_array_equal(reference_logits(loaded), logits)
    scores = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    expected = scores[np.arange(30), random_prompt(30)]
    error = np.abs(native_scores(loaded, "int8") - expected).mean()
    # What int8 activations cost on a random model, and far less than integers read wrongly.
    assert error < 2 * np.abs(native_scores(floats, "int8") - expected).mean() + 0.05


def test_linears_beside_integers_may_be_floats(tmp_path: Path) -> None:
    loaded = load_directory(write_compressed(tmp_path / "model", "groups", keep=("q_proj", "up_proj")))
    assert isinstance(loaded.weights.layers[0].query.weight, Tensor)
    floats = dequantise(loaded)
    difference = native_scores(loaded, "int8") - native_scores(floats, "int8")
    assert np.abs(difference).mean() < 0.2
