from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivace.errors import CheckpointError
from vivace.models.fields import MAX_JSON_BYTES, Fields, read_fields


def fields(**values: object) -> Fields:
    return Fields(Path("config.json"), values)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        read_fields(tmp_path / "config.json")


def test_a_file_beyond_the_bound_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": "' + b"x" * MAX_JSON_BYTES + b'"}')
    with pytest.raises(CheckpointError, match="larger than 16 MiB"):
        read_fields(path)


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a": NaN}', b'{"a": Infinity}', b"\xff{}", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_what_is_no_json_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"config\.json holds broken JSON"):
        read_fields(path)


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("[1]")
    with pytest.raises(CheckpointError, match="no object"):
        read_fields(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.binary(max_size=64) | st.text(alphabet='{}[]",:0123456789.eE+-ntf\\u ', max_size=64).map(str.encode))
def test_any_bytes_give_an_object_or_a_checkpoint_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    try:
        message = str(path) if isinstance(read_fields(path).values, dict) else ""
    except CheckpointError as error:
        message = str(error)
    assert str(path) in message


@pytest.mark.parametrize("value", [0, -1, 11, 2.0, "3", True, [3], 10**400])
def test_an_integer_out_of_range_or_of_another_type_names_file_and_field(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: layers is .*a whole number from 1 to 10"):
        fields(layers=value).integer("layers", 1, 10)


@pytest.mark.parametrize("value", ["1", True, [1.0], 1e13, 1e-13, -1.0, 0, 10**400])
def test_a_number_of_an_impossible_size_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match="factor"):
        fields(factor=value).number("factor", above=0.0)


@pytest.mark.parametrize("value", [0, "false", [], {}])
def test_a_boolean_is_true_or_false(value: object) -> None:
    with pytest.raises(CheckpointError, match="true or false"):
        fields(tied=value).boolean("tied", False)


def test_null_counts_as_missing() -> None:
    assert fields(layers=None).integer("layers", 1, 10, 7) == 7
    with pytest.raises(CheckpointError, match="layers is missing"):
        fields(layers=None).integer("layers", 1, 10)


def test_a_field_of_a_field_is_named_with_its_path() -> None:
    with pytest.raises(CheckpointError, match=r"rope\.factor is 'x'"):
        fields(rope={"factor": "x"}).child("rope").number("factor")


def test_lists_are_read_whole() -> None:
    lists = fields(a=[1, 2], b=[1, 2.5], c=["x", "y"])
    assert lists.integers("a", 2, 0, 2) == (1, 2)
    assert lists.numbers("b", 2) == (1.0, 2.5)
    assert lists.texts("c", 2) == ("x", "y")


@pytest.mark.parametrize("value", [[1], [1, 2, 3], "12", {"0": 1, "1": 2}, 12])
def test_a_list_of_another_length_or_no_list_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"widths is .*a list of 2 items"):
        fields(widths=value).integers("widths", 2, 1, 10)


@pytest.mark.parametrize("item", [0, 11, "3", 2.0, True, None])
def test_an_item_that_cannot_be_is_named_with_its_place(item: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: widths\.1 is"):
        fields(widths=[3, item]).integers("widths", 2, 1, 10)


def test_a_missing_list_is_named() -> None:
    with pytest.raises(CheckpointError, match="widths is missing"):
        fields(widths=None).numbers("widths", 2)


def test_defaults_fill_what_is_absent_but_not_what_is_null() -> None:
    filled = fields(window=None, layers=3).with_defaults(window=4096, layers=2, heads=8)
    assert "window" not in filled
    assert (filled.values["layers"], filled.values["heads"]) == (3, 8)
