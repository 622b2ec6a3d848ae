from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gguf_files import NUMBERS, Stored, store, text, value, write_gguf
from vivace.errors import CheckpointError, UnsupportedModelError, VivaceError
from vivace.models.gguf import MAX_COUNT, MAX_HEADER_BYTES, MAX_STRINGS, GgufFile
from vivace.models.gguf_blocks import dequantize

MATRIX = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
METADATA = {"general.architecture": "llama", "llama.block_count": 2, "some.list": ["a", "\u00e9"], "some.on": True}
TENSORS = {"a": store(MATRIX, "F32"), "b": store(MATRIX[0], "F16"), "c": Stored("Q8_0", (2, 32), bytes(68))}


def write(directory: Path, **changes: Any) -> Path:
    return write_gguf(directory / "model.gguf", METADATA, TENSORS, **changes)


def header(tensors: int = 0, keys: int = 0, rest: bytes = b"", version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys) + rest


def tensor_info(name: str = "a", shape: tuple[int, ...] = (4, 3), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def open_bytes(directory: Path, data: bytes) -> GgufFile:
    path = directory / "model.gguf"
    path.write_bytes(data)
    return GgufFile.open(path)


def refusal(path: Path) -> str:
    """Look at everything a file holds: the message of the error that this ends in, or else the file's name."""
    try:
        file = GgufFile.open(path)
        for name, entry in file.entries.items():
            if entry.blocks.decode is not None:
                assert dequantize(entry.blocks, file.rows(name)).size == math.prod(entry.shape)
    except VivaceError as error:
        return str(error)
    return path.name


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_and_tensors_are_those_that_were_written(tmp_path: Path, version: int) -> None:
    file = GgufFile.open(write(tmp_path, version=version))
    assert dict(file.metadata.values) == METADATA
    assert {name: (entry.blocks.name, entry.shape) for name, entry in file.entries.items()} == {
        "a": ("F32", (3, 4)),
        "b": ("F16", (4,)),
        "c": ("Q8_0", (2, 32)),
    }
    np.testing.assert_array_equal(file.rows("a").view("<f4"), MATRIX)
    np.testing.assert_array_equal(file.rows("b").view("<f2"), MATRIX[:1].astype(np.float16))
    assert file.rows("c").shape == (2, 34)


def test_a_file_of_the_gguf_library_is_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["a", "b"])
    writer.add_token_scores([0.5, -1.5])
    writer.add_custom_alignment(64)
    writer.add_tensor("a", MATRIX)
    writer.add_tensor("q", np.tile(MATRIX.reshape(-1), (2, 8)), raw_dtype=None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile.open(path)
    assert file.metadata.number("llama.attention.layer_norm_rms_epsilon") == 1e-5
    assert file.metadata.values["tokenizer.ggml.tokens"] == ["a", "b"]
    assert file.metadata.values["tokenizer.ggml.scores"].tolist() == [0.5, -1.5]
    np.testing.assert_array_equal(file.rows("a").view("<f4"), MATRIX)
    np.testing.assert_array_equal(file.rows("q").view("<f4"), np.tile(MATRIX.reshape(-1), (2, 8)))


@pytest.mark.parametrize(
    ("kind", "number"),
    [("u8", 255), ("i8", -128), ("u16", 65535), ("i16", -5), ("u32", 2**32 - 1), ("i32", -(2**31)), ("u64", 2**64 - 1),
     ("i64", -(2**63)), ("f64", 1e-300), ("f32", 0.1), ("bool", False)],
)  # fmt: skip
def test_numbers_of_every_type_are_read(tmp_path: Path, kind: str, number: float) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"x": value(kind, number), "y": value(kind, [number, number])})
    file = GgufFile.open(path)
    assert file.metadata.values["x"] == number
    assert type(file.metadata.values["x"]) is type(number)
    assert file.metadata.values["y"].tolist() == [np.float32(number) if kind == "f32" else number] * 2


def test_rows_are_views_of_the_file_that_nobody_can_write_to(tmp_path: Path) -> None:
    file = GgufFile.open(write(tmp_path))
    assert np.shares_memory(file.rows("a"), file.rows("a"))
    assert not file.rows("a").flags.writeable


def test_data_begins_where_the_alignment_says(tmp_path: Path) -> None:
    metadata = METADATA | {"general.alignment": 256}
    path = write_gguf(tmp_path / "model.gguf", metadata, TENSORS, alignment=256)
    file = GgufFile.open(path)
    assert file.entries["a"].begin % 256 == file.entries["c"].begin % 256 == 0
    np.testing.assert_array_equal(file.rows("a").view("<f4"), MATRIX)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"GG", "is truncated"),
        (header(magic=b"GGML"), "does not begin with GGUF"),
        (header(tensors=MAX_COUNT + 1), "counts 65537 tensors"),
        (header(keys=2**64 - 1), "counts 0 tensors and 18446744073709551615 keys"),
        (header(keys=1), "is truncated"),
        (header(keys=1, rest=struct.pack("<Q", 2**63)), "a name in the header has"),
        (header(keys=1, rest=text("x") + struct.pack("<I", 99)), "x has a value of unknown type 99"),
        (header(keys=1, rest=text("x") + struct.pack("<IIQ", 9, 9, 1)), "x has a value of unknown type 9"),
        (header(keys=1, rest=text("x") + struct.pack("<IIQ", 9, 0, 2**63)), "is truncated"),
        (header(keys=1, rest=text("x") + struct.pack("<IIQ", 9, 8, 2**63)), "a list of 9223372036854775808 strings"),
        (header(keys=1, rest=text("x") + struct.pack("<IIQ", 9, 8, MAX_STRINGS)), "is truncated"),
        (header(keys=1, rest=text("x") + struct.pack("<IQ", 8, 2**62)), "is truncated|a name in the header"),
        (header(keys=1, rest=struct.pack("<Q", 1) + b"\xff" + value("u8", 1)), "no UTF-8"),
        (header(keys=2, rest=(text("x") + value("u8", 1)) * 2), "'x' is given twice"),
        (header(keys=1, rest=text("general.alignment") + value("u32", 0)), "general.alignment is 0"),
        (header(keys=1, rest=text("general.alignment") + value("u32", 12)), "a multiple of 8"),
        (header(tensors=1, rest=tensor_info(shape=(1,) * 5)), "'a' has 5 dimensions"),
        (header(tensors=1, rest=tensor_info(shape=(0, 3))), "no whole number of F32 blocks"),
        (header(tensors=1, rest=tensor_info(shape=(33, 3), kind=8)), "no whole number of Q8_0 blocks"),
        (header(tensors=1, rest=tensor_info(shape=(2**63, 2**63))), "is truncated.* ends at byte"),
        (header(tensors=1, rest=tensor_info()), "is truncated.*'a' ends at byte"),
        (header(tensors=1, rest=tensor_info(offset=32) + bytes(200)), "'a' begins at byte .* where .* should follow"),
        (header(tensors=2, rest=tensor_info("a") + tensor_info("b") + bytes(200)), "'b' begins at byte"),
        (header(tensors=2, rest=tensor_info("a") + tensor_info("a", offset=64) + bytes(200)), "there twice"),
    ],
)
def test_a_file_that_lies_is_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"model\.gguf.*({message})"):
        open_bytes(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(version=1), "of GGUF version 1; supported are versions 2 and 3"),
        (header(version=4), "of GGUF version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "in big-endian order"),
        (header(tensors=1, rest=tensor_info(kind=99)), "'a' is of type 99.*Q4_K"),
        (header(keys=1, rest=text("split.count") + value("u16", 3)), "one part of several; join them"),
    ],
)
def test_what_is_not_read_is_told_with_a_remedy(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"model\.gguf.*{message}"):
        open_bytes(tmp_path, data)


def test_a_directory_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        GgufFile.open(tmp_path / "absent.gguf")


def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match=r"model\.gguf"):
            GgufFile.open(path)


def test_a_header_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(keys=1, rest=text("x") + struct.pack("<IIQ", 9, 0, 2 * MAX_HEADER_BYTES)))
    with path.open("r+b") as file:
        file.truncate(4 * MAX_HEADER_BYTES)  # sparse
    with pytest.raises(CheckpointError, match="the header takes more than 256 MiB"):
        GgufFile.open(path)


def test_strings_are_bounded_over_all_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivace.models.gguf.MAX_STRINGS", 4)
    two = struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    assert open_bytes(tmp_path, header(keys=2, rest=text("x") + two + text("y") + two)).metadata.values
    with pytest.raises(CheckpointError, match="z is a list of 2 strings; a header may hold 4"):
        open_bytes(tmp_path, header(keys=3, rest=text("x") + two + text("y") + two + text("z") + two))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(rest=st.binary(max_size=120), tensors=st.integers(0, 3), keys=st.integers(0, 3))
def test_random_bytes_give_only_our_errors(tmp_path: Path, rest: bytes, tensors: int, keys: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(tensors, keys, rest))
    assert "model.gguf" in refusal(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    infos=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", ""]),
            st.lists(st.integers(0, 64) | st.integers(0, 2**64 - 1), max_size=4),
            st.sampled_from([*NUMBERS.values(), 4, 31]),
            st.integers(0, 3).map(lambda blocks: 32 * blocks) | st.integers(0, 2**64 - 1),
        ),
        max_size=3,
    ),
    size=st.integers(0, 400),
)
def test_any_tensor_infos_give_tensors_or_our_errors(tmp_path: Path, infos: list[Any], size: int) -> None:
    path = tmp_path / "model.gguf"
    rest = b"".join(tensor_info(name, tuple(shape), kind, offset) for name, shape, kind, offset in infos)
    path.write_bytes(header(len(infos), 0, rest) + bytes(size))
    assert "model.gguf" in refusal(path)
