from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoints import Dtype, to_bfloat16, write_json, write_safetensors, write_tensors
from vivace.errors import CheckpointError
from vivace.models.checkpoint import Checkpoint

ARRAYS = {
    "matrix": np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4),
    "vector": np.array([1.0, -0.5, 3.14159], dtype=np.float32),
    "scalar": np.array(2.5, dtype=np.float32),
    "empty": np.zeros((0, 4), dtype=np.float32),
}

Entry = dict[str, Any]


def entry(begin: int = 0, end: int = 4, dtype: str = "F32", shape: Any = (1,)) -> Entry:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def open_file(directory: Path, header: object, body: bytes = b"\0" * 4) -> Checkpoint:
    write_safetensors(directory / "model.safetensors", header, body)
    return Checkpoint.open(directory)


def refusal(directory: Path) -> str:
    """Read every tensor: the message of the error that this ends in, or else the file's name."""
    try:
        checkpoint = Checkpoint.open(directory)
        for name in checkpoint:
            assert checkpoint.tensor(name).to_f32().shape == checkpoint.tensor(name).shape
    except CheckpointError as error:
        return str(error)
    return "model.safetensors"


def write_shards(directory: Path, **places: str) -> None:
    for shard in set(places.values()):
        tensors = {name: np.ones(3, np.float32) for name, place in places.items() if place == shard}
        write_tensors(directory / shard, tensors)
    write_json(directory / "model.safetensors.index.json", {"weight_map": places})


def rewrite_index(directory: Path, **changes: Any) -> None:
    path = directory / "model.safetensors.index.json"
    write_json(path, {"weight_map": json.loads(path.read_text())["weight_map"] | changes})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_are_those_that_the_safetensors_library_reads(tmp_path: Path, dtype: Dtype) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    write_tensors(tmp_path / "model.safetensors", ARRAYS, dtype)
    expected = load_file(tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint.names) == set(expected)
    for name, values in expected.items():
        assert values.dtype == getattr(torch, dtype)
        assert checkpoint.tensor(name).shape == tuple(values.shape)
        np.testing.assert_array_equal(checkpoint.tensor(name).to_f32(), values.float().numpy(), strict=True)


def test_a_file_that_the_safetensors_library_wrote_is_read_in_every_type(tmp_path: Path) -> None:
    numpy_face = pytest.importorskip("safetensors.numpy")
    types = {"F32": "<f4", "F16": "<f2", "I8": "i1", "U8": "u1", "I32": "<i4", "I64": "<i8"}
    arrays = {code: np.arange(24).reshape(2, 3, 4).astype(kind) for code, kind in types.items()}
    numpy_face.save_file(arrays, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = Checkpoint.open(tmp_path)
    for code, array in arrays.items():
        tensor = checkpoint.tensor(code)
        assert tensor.dtype == code
        np.testing.assert_array_equal(tensor.data, array, strict=True)


def test_bfloat16_is_held_as_the_upper_halves(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", ARRAYS, "bfloat16")
    tensor = Checkpoint.open(tmp_path).tensor("matrix", (3, 4))
    np.testing.assert_array_equal(tensor.data, to_bfloat16(ARRAYS["matrix"]), strict=True)
    np.testing.assert_allclose(tensor.to_f32(), ARRAYS["matrix"], rtol=2**-8)


def test_tensors_are_views_of_the_file_that_nobody_can_write_to(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", ARRAYS)
    checkpoint = Checkpoint.open(tmp_path)
    tensor = checkpoint.tensor("matrix")
    assert not tensor.data.flags.owndata
    assert not tensor.data.flags.writeable
    assert np.shares_memory(tensor.data, checkpoint.tensor("matrix").to_f32())


def test_tensors_are_aligned_even_in_a_file_that_is_not(tmp_path: Path) -> None:
    header = {"odd": entry(0, 1, "U8"), "matrix": entry(1, 49, "F32", [3, 4])}
    tensor = open_file(tmp_path, header, b"\7" + ARRAYS["matrix"].tobytes()).tensor("matrix")
    assert tensor.data.flags.aligned
    np.testing.assert_array_equal(tensor.data, ARRAYS["matrix"])


def test_a_missing_tensor_names_itself_and_the_file(tmp_path: Path) -> None:
    checkpoint = open_file(tmp_path, {"there": entry()})
    assert "there" in checkpoint
    assert "absent" not in checkpoint
    with pytest.raises(CheckpointError, match=r"model\.safetensors .*no tensor 'absent'"):
        checkpoint.tensor("absent")


def test_a_wrong_shape_is_told_with_both_shapes(tmp_path: Path) -> None:
    checkpoint = open_file(tmp_path, {"a": entry(0, 24, shape=[2, 3])}, bytes(24))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'a' has shape \[2, 3\].*\[3, 2\]"):
        checkpoint.tensor("a", (3, 2))


def test_a_type_that_cannot_be_read_spoils_only_its_own_tensor(tmp_path: Path) -> None:
    checkpoint = open_file(tmp_path, {"mask": entry(0, 4, "BOOL", [4]), "a": entry(4, 8)}, bytes(8))
    assert checkpoint.tensor("a").shape == (1,)
    with pytest.raises(CheckpointError, match=r"'mask' is stored as BOOL; it must be one of F32"):
        checkpoint.tensor("mask")


@pytest.mark.parametrize(
    "header",
    [
        [],
        "text",
        {"a": 3},
        {"a": {}},
        {"a": entry(dtype="F33")},
        {"a": entry(dtype=["F32"])},  # type: ignore[arg-type]
        {"a": entry(shape=3)},
        {"a": entry(shape=[-1])},
        {"a": entry(shape=[-1, -1])},
        {"a": entry(shape=[1.0])},
        {"a": entry(shape=[True])},
        {"a": entry(shape=[1] * 100)},
        {"a": entry(shape=[2])},
        {"a": entry(shape=[2**62, 4])},
        {"a": entry(0, 0, shape=[0, 2**55, 2**55])},
        {"a": entry(0, 0, shape=[10**100, 0])},
        {"a": entry(-4, 0)},
        {"a": entry(4, 0)},
        {"a": entry(0, 8, shape=[2])},
        {"a": entry(4, 8)},
        {"a": entry(0, 4), "b": entry(0, 4)},
        {"a": entry(0, 4), "b": entry(2, 6)},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": "04"}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}},
        {"__metadata__": 3, "a": entry()},
        {"__metadata__": {"x": 3}, "a": entry()},
        {},
    ],
)
def test_a_header_that_lies_is_refused_by_file(tmp_path: Path, header: object) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_file(tmp_path, header)


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    one = json.dumps(entry())
    text = f'{{"a": {one}, "a": {one}}}'.encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(CheckpointError, match="twice"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("kept", [0, 7, 8, 20, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, ARRAYS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        Checkpoint.open(tmp_path)


def test_a_header_beyond_the_formats_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((100_000_001).to_bytes(8, "little"))
    with path.open("r+b") as file:
        file.truncate(200_000_000)  # sparse
    with pytest.raises(CheckpointError, match="the format allows 100000000"):
        Checkpoint.open(tmp_path)


def test_bytes_that_follow_the_last_tensor_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="too long"):
        open_file(tmp_path, {"a": entry()}, bytes(5))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=500, deadline=None)
@given(length=st.integers(0, 80) | st.integers(0, 2**64 - 1), rest=st.binary(max_size=80))
def test_random_bytes_give_only_checkpoint_errors(tmp_path: Path, length: int, rest: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + rest)
    assert "model.safetensors" in refusal(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=1000, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 4), cut=st.integers(0, 40))
def test_a_valid_file_with_bytes_changed_gives_tensors_or_checkpoint_errors(
    tmp_path: Path, seed: int, count: int, cut: int
) -> None:
    path, choice = tmp_path / "model.safetensors", random.Random(seed)
    write_tensors(path, ARRAYS)
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(count):
        data[choice.randrange(header)] = choice.choice(b'0123456789-.eE+[]{}",: \xff\0FBI')
    path.write_bytes(data[: len(data) - cut] if cut % 4 == 0 else data)
    assert "model.safetensors" in refusal(tmp_path)


sizes = st.integers(-1, 9) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "I64", "BOOL", "F4", ""]) | st.none(),
        "shape": st.lists(sizes, max_size=10) | sizes | st.none(),
        "data_offsets": st.lists(sizes, max_size=3) | st.text(max_size=3),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=500, deadline=None)
@given(header=st.dictionaries(st.text(max_size=3), entries, max_size=3), size=st.integers(0, 16))
def test_any_header_gives_tensors_or_checkpoint_errors(tmp_path: Path, header: dict[str, Entry], size: int) -> None:
    write_safetensors(tmp_path / "model.safetensors", header, bytes(size))
    assert "model.safetensors" in refusal(tmp_path)


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    write_shards(tmp_path, a="model-1.safetensors", b="model-2.safetensors", c="model-1.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    assert sorted(checkpoint) == sorted(checkpoint.names) == ["a", "b", "c"]
    assert all(checkpoint.tensor(name, (3,)).to_f32().tolist() == [1, 1, 1] for name in checkpoint.names)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, a="model-1.safetensors", b="model-2.safetensors")
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors is missing"):
        Checkpoint.open(tmp_path)


def test_a_tensor_that_its_shard_does_not_hold_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, a="model-1.safetensors", b="model-2.safetensors")
    rewrite_index(tmp_path, b="model-1.safetensors")
    with pytest.raises(CheckpointError, match=r"index\.json places tensor 'b' in model-1\.safetensors"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "a\\b.safetensors", "..safetensors",
     "weights.bin", "", 3, None, ["model-1.safetensors"], "a\0.safetensors", "x" * 300 + ".safetensors"],
)  # fmt: skip
def test_an_index_reaches_no_file_but_safetensors_beside_it(tmp_path: Path, shard: Any) -> None:
    write_shards(tmp_path, a="model-1.safetensors")
    rewrite_index(tmp_path, b=shard)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": []}', '{"weight_map": 3}'])
def test_a_broken_index_is_refused_by_name(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickle_is_never_loaded_and_the_remedy_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02.")
    with pytest.raises(CheckpointError, match=rf"pickle \({name}\).*never loaded.*Convert .*safetensors"):
        Checkpoint.open(tmp_path)


def test_a_directory_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        Checkpoint.open(tmp_path)
