from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.checkpoints import read_tensors, set_fields, write_llama, write_qwen2
from tests.families import write_gemma3, write_gpt2, write_mistral, write_phi3, write_qwen3
from tests.gguf_files import Stored, byte_level_metadata, convert, permute, store, write_gguf
from tests.runners.loading import Loaded, blocks_for, load_directory, random_prompt
from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.gguf import GgufFile
from vivace.models.gguf_blocks import FORMATS
from vivace.models.gguf_checkpoint import GgufCheckpoint, LazyTensor
from vivace.models.gguf_config import read_architecture, read_gguf_config
from vivace.models.weights import read_weights

NUMBERS = {blocks.name: number for number, blocks in FORMATS.items()}

Writer = Callable[[Path], Path]
FAMILIES: dict[str, Writer] = {
    "llama": lambda path: write_llama(path, tied=False),
    "llama with biases": lambda path: write_llama(path, attention_bias=True, mlp_bias=True, head_dim=24),
    "mistral": write_mistral,
    "qwen2": write_qwen2,
    "qwen3": write_qwen3,
    "gemma3": write_gemma3,
    "phi3": write_phi3,
    "gpt2": write_gpt2,
}


def load_file(path: Path) -> Loaded:
    file = GgufFile.open(path)
    config = read_gguf_config(file)
    return Loaded(config, read_weights(config, GgufCheckpoint(file, read_architecture(file), config)))


def open_checkpoint(path: Path) -> GgufCheckpoint:
    file = GgufFile.open(path)
    return GgufCheckpoint(file, read_architecture(file), read_gguf_config(file))


def logits(loaded: Loaded, length: int = 40) -> NDArray[np.float32]:
    runner = loaded.reference("none")
    return runner.logits(runner.hidden_states(blocks_for(length), random_prompt(length), 0))


def store_blocks(kind: str) -> Callable[[str, NDArray[np.float32]], Stored]:
    """Matrices in a block format, encoded by the gguf library, which does not know all; these get blocks at random,
    with scales of a sensible size."""
    quants = pytest.importorskip("gguf.quants")
    gguf = pytest.importorskip("gguf")

    def save(name: str, array: NDArray[np.float32]) -> Stored:
        blocks = FORMATS[NUMBERS[kind]]
        try:
            data = quants.quantize(np.ascontiguousarray(array), gguf.GGMLQuantizationType(NUMBERS[kind]))
        except NotImplementedError:
            random = np.random.default_rng(len(name) + array.size)
            shape = (len(array), array.shape[1] // blocks.weights, blocks.block_bytes)
            data = random.integers(0, 256, shape, dtype=np.uint8)
            halves = [slice(208, 210)] if kind == "Q6_K" else [slice(0, 2), slice(2, 4)]
            for place in halves:
                data[..., place] = np.array([2e-4 if kind == "Q6_K" else 1e-3], "<f2").view(np.uint8)
        return Stored(kind, array.shape, data.tobytes())

    return save


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_answers_as_it_does_from_its_hugging_face_directory(tmp_path: Path, family: str) -> None:
    directory = FAMILIES[family](tmp_path / "model")
    if family == "gemma3":
        set_fields(directory, query_pre_attn_scalar=24)  # the file has no field for it: the head's size
    path = convert(directory, tmp_path / "model.gguf")
    expected = logits(load_directory(directory))
    # Gemma's norms had 1 added to them, and lost their last bits by it.
    tolerance = 1e-4 if family == "gemma3" else 0
    np.testing.assert_allclose(logits(load_file(path)), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_model_answers_as_transformers_reads_it_from_the_same_file(tmp_path: Path, family: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    directory = FAMILIES[family](tmp_path / "model")
    path = convert(directory, tmp_path / "model.gguf", "F16")
    shape = transformers.AutoConfig.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.float32).eval()
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
    model.tie_weights()
    with torch.no_grad():
        expected = model(torch.tensor([random_prompt(40)])).logits[0].numpy()
    np.testing.assert_allclose(logits(load_file(path)), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision_is_exact_but_for_rounding(tmp_path: Path, kind: str) -> None:
    directory = write_llama(tmp_path / "model")
    loaded = load_file(convert(directory, tmp_path / "model.gguf", kind))
    for name, array in read_tensors(directory / "model.safetensors").items():
        tensor = open_checkpoint(tmp_path / "model.gguf").tensor(name)
        rounded = array.astype(np.float16).astype(np.float32) if kind == "F16" else None
        assert tensor.dtype == (kind if array.ndim == 2 else "F32")
        if array.ndim == 2 and rounded is not None:
            np.testing.assert_array_equal(tensor.to_f32(), rounded)
        np.testing.assert_allclose(tensor.to_f32(), array, rtol=2**-8, atol=1e-7)
    np.testing.assert_allclose(logits(loaded), logits(load_directory(directory)), atol=0.5)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
@pytest.mark.parametrize("write", [write_llama, write_qwen2], ids=["llama", "qwen2"])
def test_a_quantised_model_answers_as_its_dequantised_weights_do(
    tmp_path: Path, kind: str, write: Callable[..., Path]
) -> None:
    quants, gguf = pytest.importorskip("gguf.quants"), pytest.importorskip("gguf")
    save, number = store_blocks(kind), gguf.GGMLQuantizationType(NUMBERS[kind])

    def save_dequantised(name: str, array: NDArray[np.float32]) -> Stored:
        rows = np.frombuffer(save(name, array).data, np.uint8).reshape(len(array), -1)
        return store(quants.dequantize(rows, number), "F32")

    directory = write(tmp_path / "model", hidden=256, intermediate=256, layers=1)
    quantised = convert(directory, tmp_path / "model.gguf", save)
    plain = convert(directory, tmp_path / "plain.gguf", save_dequantised)
    expected = logits(load_file(plain))
    assert np.abs(expected).max() > 1
    np.testing.assert_array_equal(logits(load_file(quantised)), expected)


def test_rows_of_query_and_key_are_put_back_for_llama_alone(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "model", attention_bias=True)
    arrays = read_tensors(directory / "model.safetensors")
    checkpoint = open_checkpoint(convert(directory, tmp_path / "model.gguf"))
    for projection, heads in (("q_proj", 4), ("k_proj", 2), ("v_proj", 0)):
        for part in ("weight", "bias"):
            name = f"model.layers.0.self_attn.{projection}.{part}"
            np.testing.assert_array_equal(checkpoint.tensor(name).data, arrays[name])
            assert heads == 0 or not np.array_equal(arrays[name], permute(arrays[name], heads))


def test_a_matrix_is_decoded_when_it_is_looked_at_and_one_is_kept(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "model", hidden=1024, heads=8, intermediate=1024, vocab=320, layers=3)
    checkpoint = open_checkpoint(convert(directory, tmp_path / "model.gguf", store_blocks("Q8_0")))
    matrices = [name for name in checkpoint if ".mlp." in name]
    tracemalloc.start()
    tensors = [checkpoint.tensor(name, (1024, 1024)) for name in matrices]
    assert tracemalloc.get_traced_memory()[0] < 1 << 16
    for tensor in tensors:
        assert tensor.data is tensor.data
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    one = 1024 * 1024 * 4
    assert held < 1.1 * one
    assert peak < 2 * one


def test_what_a_matrix_holds_cannot_be_changed(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "model", intermediate=128)
    checkpoint = open_checkpoint(convert(directory, tmp_path / "model.gguf", store_blocks("Q8_0")))
    tensor = checkpoint.tensor("model.layers.0.self_attn.v_proj.weight")
    assert isinstance(tensor, LazyTensor)
    assert not tensor.data.flags.writeable


def test_parts_and_transposes_are_those_of_the_whole(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "model", intermediate=128)
    checkpoint = open_checkpoint(convert(directory, tmp_path / "model.gguf", store_blocks("Q8_0")))
    tensor = checkpoint.tensor("model.layers.0.self_attn.q_proj.weight")
    whole = tensor.data.copy()
    part = tensor.rows(8, 40)
    assert (part.shape, part.name) == ((32, 64), "model.layers.0.self_attn.q_proj.weight[8:40]")
    np.testing.assert_array_equal(part.data, whole[8:40])
    np.testing.assert_array_equal(part.rows(2, 5).data, whole[10:13])
    np.testing.assert_array_equal(tensor.transposed().data, whole.T)
    np.testing.assert_array_equal(tensor.transposed().rows(3, 9).data, whole.T[3:9])
    assert tensor.transposed().transposed() is tensor
    np.testing.assert_array_equal(part.transposed().data, whole[8:40].T)
    np.testing.assert_array_equal(tensor.to_f32(), whole)


def test_a_missing_tensor_and_a_wrong_shape_name_the_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(convert(write_llama(tmp_path / "model"), tmp_path / "model.gguf"))
    assert checkpoint.directory == tmp_path / "model.gguf"
    assert "model.norm.weight" in checkpoint
    assert "lm_head.weight" not in checkpoint
    with pytest.raises(CheckpointError, match=r"model\.gguf holds no tensor for 'lm_head\.weight'"):
        checkpoint.tensor("lm_head.weight")
    with pytest.raises(CheckpointError, match=r"model\.gguf: tensor 'output_norm\.weight' has shape \[64\].*\[65\]"):
        checkpoint.tensor("model.norm.weight", (65,))


def save_one_as(kind: str, chosen: str) -> Callable[[str, NDArray[np.float32]], Stored]:
    return lambda name, array: Stored(kind, (4, 256), bytes(4 * 84)) if name == chosen else store(array, "F32")


def test_blocks_that_cannot_be_read_spoil_only_their_own_tensor(tmp_path: Path) -> None:
    path = convert(write_llama(tmp_path / "model"), tmp_path / "model.gguf", save_one_as("Q2_K", "blk.1.ffn_up.weight"))
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensor("model.layers.1.mlp.gate_proj.weight").shape == (112, 64)
    with pytest.raises(
        UnsupportedModelError, match=r"'blk\.1\.ffn_up\.weight' is stored as Q2_K\. Supported are .*Q4_K"
    ):
        checkpoint.tensor("model.layers.1.mlp.up_proj.weight")


@pytest.mark.parametrize("name", ["blk.0.ffn_gate_exps.weight", "blk.x.ffn_up.weight", "attn_q.weight", "output.scale"])
def test_a_tensor_of_another_kind_of_model_is_refused(tmp_path: Path, name: str) -> None:
    tensors = {"token_embd.weight": store(np.zeros((320, 64), np.float32), "F32")}
    tensors[name] = store(np.zeros(4, np.float32), "F32")
    metadata: dict[str, Any] = {"general.architecture": "llama"} | byte_level_metadata()
    sizes = {"block_count": 1, "embedding_length": 64, "attention.head_count": 4, "feed_forward_length": 8}
    metadata |= {f"llama.{key}": size for key, size in (sizes | {"context_length": 64}).items()}
    metadata["llama.attention.layer_norm_rms_epsilon"] = 1e-5
    path = write_gguf(tmp_path / "model.gguf", metadata, tensors)
    with pytest.raises(UnsupportedModelError, match=rf"model\.gguf: tensor '{name}' is none that models"):
        open_checkpoint(path)


def test_heads_that_do_not_share_the_rows_are_refused(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "model")

    def save(name: str, array: NDArray[np.float32]) -> Stored:
        return store(array[:63] if name == "blk.0.attn_q.weight" else array, "F32")

    checkpoint = open_checkpoint(convert(directory, tmp_path / "model.gguf", save))
    with pytest.raises(CheckpointError, match=r"'blk\.0\.attn_q\.weight' has 63 rows, which 4 heads cannot share"):
        checkpoint.tensor("model.layers.0.self_attn.q_proj.weight")
