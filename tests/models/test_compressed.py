from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.checkpoints import write_json, write_safetensors
from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.checkpoint import Checkpoint, Tensor
from vivace.models.compressed import QuantizedTensor, Scheme, Setting, read_linear, read_quantization, unpack_nibbles
from vivace.models.fields import Fields, read_fields

OUT, WIDTH = 24, 256
NAME = "model.layers.0.mlp.up_proj"
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "int32": "I32", "int64": "I64"}


def settings(**weights: Any) -> dict[str, Any]:
    """The quantization_config that llm-compressor writes for 4 bits in groups, but for `weights`."""
    values = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128} | weights
    group = {"targets": ["Linear"], "weights": values, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
        "sparsity_config": {},
        "transform_config": {},
    }


def read_settings(directory: Path, value: Any) -> Scheme | None:
    write_json(directory / "config.json", {"quantization_config": value})
    return read_quantization(read_fields(directory / "config.json"))


def write(directory: Path, tensors: dict[str, Any]) -> Checkpoint:
    """A checkpoint of torch's tensors or numpy's arrays, their names under the linear's."""
    header, body = {}, b""
    for name, tensor in tensors.items():
        plain = isinstance(tensor, np.ndarray)
        data = tensor.tobytes() if plain else tensor.contiguous().flatten().view(pytest.importorskip("torch").uint8)
        data = data if plain else data.numpy().tobytes()
        header[f"{NAME}.{name}"] = {
            "dtype": CODES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    write_safetensors(directory / "model.safetensors", header, body)
    return Checkpoint.open(directory)


def compress(directory: Path, layout: str, dtype: str = "bfloat16", **weights: Any) -> tuple[Any, NDArray[np.float32]]:
    """A random linear as the compressed-tensors library stores it, and the weights that it makes of that again."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    value = settings(**weights) | {"format": layout}
    scheme = QuantizationScheme(**value["config_groups"]["group_0"])
    matrix = torch.tensor(np.random.default_rng(0).standard_normal((OUT, WIDTH)) + 0.3, dtype=getattr(torch, dtype))
    strategy, size = scheme.weights.strategy, scheme.weights.group_size or WIDTH
    groups = matrix.reshape(1, 1, -1) if strategy == "tensor" else matrix.reshape(OUT, -1, size)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
    state = {"weight": matrix, "weight_scale": scale.to(matrix.dtype), "weight_zero_point": zero}
    if strategy == "tensor":
        state |= {"weight_scale": state["weight_scale"].reshape(1), "weight_zero_point": zero.reshape(1)}
    compressor = BaseCompressor.get_value_from_registry(layout)
    stored = compressor.compress(state, scheme)
    expected = compressor.decompress(dict(stored), scheme)["weight"].float().numpy()
    checkpoint, found = write(directory, stored), read_settings(directory, value)
    return read_linear(checkpoint, NAME, OUT, WIDTH, found), expected


def to_bits(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Rounded as the library rounds what it computes in the type of the scales."""
    torch = pytest.importorskip("torch")
    rounded: NDArray[np.float32] = torch.tensor(values).to(getattr(torch, dtype)).float().numpy()
    return rounded


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, 64, 128, None])
def test_packed_weights_are_those_that_the_library_unpacks(
    tmp_path: Path, dtype: str, symmetric: bool, group_size: int | None
) -> None:
    strategy = "group" if group_size else "channel"
    tensor, expected = compress(
        tmp_path, "pack-quantized", dtype, symmetric=symmetric, strategy=strategy, group_size=group_size
    )
    assert isinstance(tensor, QuantizedTensor)
    assert (tensor.bits, tensor.shape, tensor.group_size) == (4, (OUT, WIDTH), group_size or WIDTH)
    assert (tensor.zeros is None) == symmetric
    assert tensor.scales.shape == (OUT, WIDTH // tensor.group_size)
    np.testing.assert_array_equal(to_bits(tensor.to_f32(), dtype), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("strategy", ["channel", "tensor"])
@pytest.mark.parametrize("layout", ["int-quantized", "naive-quantized", "pack-quantized"])
def test_eight_bits_are_those_that_the_library_reads(tmp_path: Path, dtype: str, strategy: str, layout: str) -> None:
    tensor, expected = compress(tmp_path, layout, dtype, num_bits=8, strategy=strategy, group_size=None)
    assert isinstance(tensor, QuantizedTensor)
    assert (tensor.bits, tensor.codes.dtype.name) == (8, "int8")
    assert tensor.zeros is None
    assert tensor.scales.shape == (OUT, 1)
    np.testing.assert_array_equal(to_bits(tensor.to_f32(), dtype), expected)


@pytest.mark.parametrize("symmetric", [True, False])
def test_four_bits_in_bytes_are_packed_here(tmp_path: Path, symmetric: bool) -> None:
    tensor, expected = compress(tmp_path, "int-quantized", "float32", symmetric=symmetric, group_size=64)
    assert isinstance(tensor, QuantizedTensor)
    assert tensor.codes.shape == (OUT, WIDTH // 2)
    np.testing.assert_array_equal(tensor.to_f32(), expected)


def test_packed_codes_are_the_file_itself(tmp_path: Path) -> None:
    tensor, _ = compress(tmp_path, "pack-quantized")
    words = Checkpoint.open(tmp_path).tensor(f"{NAME}.weight_packed").data
    np.testing.assert_array_equal(tensor.codes, words.view(np.uint8))
    assert not tensor.codes.flags.owndata
    assert not tensor.codes.flags.writeable


def test_rows_are_those_of_the_whole(tmp_path: Path) -> None:
    tensor, _ = compress(tmp_path, "pack-quantized", "float32", symmetric=False, group_size=32)
    part = tensor.rows(5, 11)
    assert (part.name, part.shape) == (f"{NAME}.weight[5:11]", (6, WIDTH))
    np.testing.assert_array_equal(part.to_f32(), tensor.to_f32()[5:11])


@pytest.mark.parametrize("symmetric", [True, False])
def test_one_scale_an_output_may_be_split_over_smaller_groups(tmp_path: Path, symmetric: bool) -> None:
    tensor, _ = compress(
        tmp_path, "pack-quantized", "float32", strategy="channel", group_size=None, symmetric=symmetric
    )
    for limit, groups in ((128, 2), (96, 3), (256, 1)):
        split = tensor.split_groups(limit)
        assert split.scales.shape == (OUT, groups)
        assert split.zeros is None or split.zeros.shape == (OUT, groups)
        np.testing.assert_array_equal(split.to_f32(), tensor.to_f32())


def test_nibbles_are_unpacked_lower_half_first() -> None:
    assert unpack_nibbles(np.array([[0x21, 0x43]], np.uint8)).tolist() == [[1, 2, 3, 4]]


# Below, without the library.


def quantised(bits: Literal[4, 8] = 4, group_size: int = 128, **changes: Any) -> dict[str, Any]:
    """The tensors of a packed linear; None takes one out."""
    random = np.random.default_rng(1)
    tensors = {
        "weight_packed": random.integers(-(2**31), 2**31, (OUT, WIDTH * bits // 32)).astype(np.int32),
        "weight_scale": random.uniform(0.1, 1, (OUT, WIDTH // group_size)).astype(np.float32),
        "weight_shape": np.array([OUT, WIDTH]),
    }
    return {name: array for name, array in (tensors | changes).items() if array is not None}


PLAIN = (Setting(4, True, True, 128),)


def test_a_linear_that_was_left_as_it_is_is_a_tensor(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, {"weight": np.ones((OUT, WIDTH), np.float16)})
    for scheme in (PLAIN, None):
        assert isinstance(read_linear(checkpoint, NAME, OUT, WIDTH, scheme), Tensor)


def test_integers_without_settings_are_refused(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, {"weight": np.ones((OUT, WIDTH), np.int8)})
    with pytest.raises(CheckpointError, match=rf"'{NAME}\.weight' is stored as I8, and config\.json does not say how"):
        read_linear(checkpoint, NAME, OUT, WIDTH, None)


def test_each_linear_is_read_by_the_setting_that_fits_it(tmp_path: Path) -> None:
    scheme = (Setting(8, False, True, 0), Setting(4, True, True, 64), *PLAIN)
    for group_size in (64, 128):
        tensor = read_linear(write(tmp_path, quantised(group_size=group_size)), NAME, OUT, WIDTH, scheme)
        assert isinstance(tensor, QuantizedTensor)
        assert tensor.group_size == group_size


def test_one_scale_for_all_is_repeated(tmp_path: Path) -> None:
    for shape in ((), (1,), (1, 1)):
        tensors = {"weight": np.ones((OUT, WIDTH), np.int8), "weight_scale": np.full(shape, 0.5, np.float32)}
        tensor = read_linear(write(tmp_path, tensors), NAME, OUT, WIDTH, (Setting(8, False, True, 0),))
        assert isinstance(tensor, QuantizedTensor)
        assert tensor.scales.tolist() == [[0.5]] * OUT


def test_inputs_in_order_may_have_an_index_of_their_groups(tmp_path: Path) -> None:
    order = (np.arange(WIDTH) // 128).astype(np.int32)
    tensor = read_linear(write(tmp_path, quantised(weight_g_idx=order)), NAME, OUT, WIDTH, PLAIN)
    assert isinstance(tensor, QuantizedTensor)
    with pytest.raises(UnsupportedModelError, match=r"weight_g_idx' puts inputs into groups out of their order"):
        read_linear(write(tmp_path, quantised(weight_g_idx=order[::-1].copy())), NAME, OUT, WIDTH, PLAIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_scale": None}, "no tensor .*weight_scale"),
        ({"weight_shape": None}, "no tensor .*weight_shape"),
        (
            {"weight_shape": np.array([WIDTH, OUT])},
            r"weight_shape is \[256, 24\], but config\.json makes it \[24, 256\]",
        ),
        ({"weight_shape": np.array([24.0, 256.0], np.float32)}, "weight_shape is"),
        ({"weight_shape": np.array([24])}, r"weight_shape.* has shape \[1\]"),
        ({"weight_scale": np.ones((OUT, 2), np.int32)}, "weight_scale is stored as I32"),
        ({"weight_scale": np.ones((OUT + 1, 2), np.float32)}, r"weight_scale has shape \[25, 2\]"),
        ({"weight_scale": np.ones((OUT, 0), np.float32)}, r"weight_scale has shape \[24, 0\]"),
        ({"weight_scale": np.full((OUT, 2), np.nan, np.float32)}, "weight_scale holds what is no number"),
        ({"weight_scale": np.full((OUT, 2), -3e38, np.float32)}, "weight_scale holds .* of 1e.36 or more"),
        ({"weight_scale": np.ones((OUT, 3), np.float32)}, "3 scales an output, without zero points"),
        (
            {"weight_packed": np.zeros((OUT, 31), np.int32)},
            r"I32 \[24, 31\].*pack-quantized 4 bits symmetric in groups",
        ),
        ({"weight_packed": np.zeros((OUT, 32), np.int64)}, r"I64 \[24, 32\]"),
        ({"weight_packed": np.zeros(32 * OUT, np.int32)}, r"I32 \[768\]"),
    ],
)
def test_tensors_that_contradict_each_other_name_the_linear(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_linear(write(tmp_path, quantised(**changes)), NAME, OUT, WIDTH, PLAIN)
    assert NAME in str(caught.value)


@pytest.mark.parametrize(
    ("zeros", "message"),
    [
        (None, "without zero points"),
        (np.zeros((OUT, 2), np.int32), r"weight_zero_point' has shape \[24, 2\].*\[3, 2\]"),
        (np.zeros((3, 2), np.float32), "weight_zero_point is stored as F32"),
    ],
)
def test_zero_points_that_cannot_be_name_the_linear(tmp_path: Path, zeros: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_linear(
            write(tmp_path, quantised(weight_zero_point=zeros)), NAME, OUT, WIDTH, (Setting(4, True, False, 128),)
        )


def test_integers_beyond_their_bits_name_the_linear(tmp_path: Path) -> None:
    weight = np.zeros((OUT, WIDTH), np.int8)
    weight[3, 5] = 8
    tensors = {"weight": weight, "weight_scale": np.ones((OUT, 1), np.float32)}
    with pytest.raises(CheckpointError, match=rf"{NAME}.*outside of -8 to 7"):
        read_linear(write(tmp_path, tensors), NAME, OUT, WIDTH, (Setting(4, False, True, 0),))


def test_a_config_without_quantisation_has_no_scheme(tmp_path: Path) -> None:
    assert read_quantization(Fields(tmp_path / "config.json", {"hidden_size": 8})) is None


@pytest.mark.parametrize(
    ("value", "setting"),
    [
        (settings(), Setting(4, True, True, 128)),
        (settings(symmetric=False, group_size=32), Setting(4, True, False, 32)),
        (settings(strategy=None, group_size=64), Setting(4, True, True, 64)),
        (settings(strategy="channel", group_size=None), Setting(4, True, True, 0)),
        (settings(strategy=None, group_size=-1), Setting(4, True, True, 0)),
        (settings(num_bits=8, strategy="tensor", group_size=None) | {"format": "int-quantized"},
         Setting(8, False, True, 0)),
    ],
)  # fmt: skip
def test_settings_are_those_of_the_config(tmp_path: Path, value: Any, setting: Setting) -> None:
    assert read_settings(tmp_path, value) == (setting,)


def test_a_checkpoint_may_have_several_groups_each_with_its_format(tmp_path: Path) -> None:
    value = settings() | {"format": "mixed-precision"}
    eight = settings(num_bits=8, strategy="channel", group_size=None)["config_groups"]["group_0"]
    four = value["config_groups"]["group_0"] | {"format": "pack-quantized"}
    dynamic = {"num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": True, "type": "int"}
    value["config_groups"] = {
        "a": eight | {"format": "int-quantized", "input_activations": dynamic},
        "b": four,
        "c": four,
    }
    assert read_settings(tmp_path, value) == (Setting(8, False, True, 0), Setting(4, True, True, 128))


def in_group(**changes: Any) -> dict[str, Any]:
    value = settings()
    value["config_groups"]["group_0"] |= changes
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            "quantization_config.quant_method is 'gptq'; supported .* compressed-tensors",
        ),
        ({}, "quantization_config.quant_method is None"),
        (settings() | {"format": "marlin-24"}, "config_groups.group_0.format is None; supported .* pack-quantized"),
        (in_group(format="nvfp4-pack-quantized"), "group_0.format is 'nvfp4-pack-quantized'"),
        (settings() | {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is"),
        (settings() | {"transform_config": {"config_groups": {}}}, "transform_config is"),
        (settings() | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config is"),
        (settings(type="float"), "weights.type is 'float'; supported .* is int"),
        (settings(num_bits=3), "weights.num_bits is 3; supported .* is 4, 8"),
        (settings(strategy="block"), "weights.strategy is 'block'"),
        (settings(group_size=16), "weights.group_size is 16; supported .* is 32, 64, 128"),
        (settings(num_bits=8), "weights.strategy is 'group'"),
        (settings(num_bits=8, strategy="channel", group_size=None, symmetric=False), "weights.symmetric is False"),
        (settings(strategy="tensor", group_size=None, symmetric=False), "weights.symmetric is False"),
        (in_group(output_activations={"num_bits": 8}), "group_0.output_activations is"),
        (in_group(input_activations={"num_bits": 8, "dynamic": False}), "input_activations.dynamic is False"),
    ],
)
def test_settings_that_are_not_run_are_unsupported_by_field(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"config\.json: .*{message}.*Quantise the original model again"):
        read_settings(tmp_path, value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("int4", "quantization_config is 'int4'; it must be an object"),
        (settings() | {"config_groups": {}}, "config_groups is {}"),
        (settings() | {"config_groups": {"W4A16": ["Linear"]}}, r"W4A16 is \['Linear'\]"),
        (in_group(weights=None), "weights.num_bits is missing"),
        (settings(num_bits=True), "weights.num_bits is True"),
        (settings(symmetric="yes"), "weights.symmetric is 'yes'"),
        (settings(group_size="128"), "weights.group_size is '128'"),
        (settings(strategy=["group"]), "weights.strategy is"),
        (in_group(input_activations={"dynamic": "local"}), "input_activations.dynamic is 'local'"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_field(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        read_settings(tmp_path, value)
