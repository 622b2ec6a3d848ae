"""A certificate is read strictly, and knows the files that it was made of."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from tests.fit.certificates import certify_fake, write_model
from vivace.errors import CertificateError
from vivace.fit.certificate import (
    CERTIFICATE,
    Certificate,
    Record,
    find_changes,
    parse_certificate,
    read_certificate,
    write_certificate,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "variant")


def raw(model: Path) -> Any:
    certify_fake(model)
    return json.loads((model / CERTIFICATE).read_text())


def test_what_was_written_is_read_back_the_same(model: Path) -> None:
    written = certify_fake(model)
    for place in (model, model / CERTIFICATE):
        assert read_certificate(place) == (written, model)


def test_writing_leaves_no_scraps(model: Path) -> None:
    certify_fake(model)
    assert {path.name for path in model.iterdir()} == {"config.json", "model.safetensors", CERTIFICATE}


def test_a_directory_without_one_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="vivace fit MODEL OUT"):
        read_certificate(tmp_path)


def test_one_that_cannot_be_written_says_so(model: Path) -> None:
    certificate = certify_fake(model)
    with pytest.raises(CertificateError, match="directory to write to"):
        write_certificate(certificate, model / "nowhere")


# Strict reading


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of all objects in a document."""
    found = [path] if isinstance(value, dict) else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [deeper for key, child in children for deeper in paths(child, (*path, key))]


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


FREE = {("versions",), ("variant", "files"), ("measured", "timeline_ms")}
"""Objects whose names are data."""


def test_an_unknown_field_anywhere_is_refused(model: Path) -> None:
    sound = raw(model)
    objects = [path for path in paths(sound) if path not in FREE]
    assert len(objects) > 15
    for path in objects:
        broken = copy.deepcopy(sound)
        at(broken, path)["surprise"] = 1
        with pytest.raises(CertificateError):
            parse_certificate(json.dumps(broken).encode())


def test_a_missing_part_is_named(model: Path) -> None:
    sound = raw(model)
    for name in ("machine", "variant", "settings", "workload", "objective", "measured", "floor", "cost"):
        broken = {key: value for key, value in sound.items() if key != name}
        with pytest.raises(CertificateError, match=name):
            parse_certificate(json.dumps(broken).encode())


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("format",), 2, "format 2; this version reads 1"),
        (("machine", "cores"), 0, "cores"),
        (("machine", "read_gb_per_s"), -1.0, "read_gb_per_s"),
        (("measured", "answered"), 799, "do not add up"),
        (("measured", "failed"), -1, "failed"),
        (("workload", "rate"), 0.0, "either a rate or a concurrency"),
        (("workload", "input_tokens"), "many", "no number of tokens"),
        (("workload", "lines"), "../secret.jsonl", "without a directory"),
        (("settings", "quantize"), "int3", "int3"),
        (("objective", "constraints", 0, "name"), "ttft_p42", "ttft_p42"),
        (("objective", "constraints", 0, "limit"), -5.0, "no number from 0 on"),
        (("objective", "constraints", 1, "name"), "ttft_p99", "not each once"),
        (("variant", "base", "sha256"), "abc", "sha256"),
        (("cost", "base_ms"), "slow", "base_ms"),
    ],
)
def test_a_value_out_of_its_range_is_named(model: Path, path: tuple[Any, ...], value: Any, match: str) -> None:
    broken = raw(model)
    at(broken, path[:-1])[path[-1]] = value
    with pytest.raises(CertificateError, match=match):
        parse_certificate(json.dumps(broken).encode())


def test_a_file_outside_of_the_directory_is_refused(model: Path) -> None:
    broken = raw(model)
    broken["variant"]["files"]["../../etc/passwd"] = broken["variant"]["files"]["config.json"]
    with pytest.raises(CertificateError, match="outside of the variant's directory"):
        parse_certificate(json.dumps(broken).encode())


def test_a_huge_file_is_not_read(model: Path) -> None:
    with (model / CERTIFICATE).open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(CertificateError, match="larger than"):
        read_certificate(model)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_refuse(data: bytes) -> Certificate | None:
    """Any other error than ours ends the test."""
    with suppress(CertificateError):
        return parse_certificate(data)
    return None


@RELAXED
@given(st.data())
def test_any_value_in_any_place_gives_a_certificate_or_our_error(model: Path, data: st.DataObject) -> None:
    broken = raw(model)
    parent = at(broken, data.draw(st.sampled_from(paths(broken))))
    key = data.draw(st.sampled_from(sorted(parent))) if parent else "new"
    if data.draw(st.booleans()):
        parent[key] = data.draw(JSON)
    else:
        parent.pop(key, None)
    read = read_or_refuse(json.dumps(broken).encode("utf-8", "surrogatepass"))
    if read is not None:
        assert parse_certificate(msgspec.json.encode(read)) == read


@RELAXED
@given(st.binary(max_size=200), st.integers(0, 5000), st.integers(0, 200))
def test_any_bytes_anywhere_give_a_certificate_or_our_error(model: Path, noise: bytes, start: int, cut: int) -> None:
    data = msgspec.json.encode(certify_fake(model))
    for broken in (noise, data[:start] + noise + data[start + cut :], b"[" * 5000):
        read_or_refuse(broken)


def test_every_part_is_frozen_and_refuses_unknown_fields() -> None:
    parts: list[type[Struct]] = [Record, *Record.__subclasses__()]
    assert Certificate in parts
    for part in parts:
        assert part.__struct_config__.frozen, part
        assert part.__struct_config__.forbid_unknown_fields, part


# Files


def test_unchanged_files_have_no_changes(model: Path) -> None:
    assert find_changes(certify_fake(model), model) == []


def test_a_changed_missing_or_added_file_is_named(model: Path) -> None:
    certificate = certify_fake(model)
    (model / "model.safetensors").write_bytes(b"WEIGHTS")  # as many bytes
    (model / "config.json").unlink()
    (model / "extra.safetensors").write_bytes(b"")
    assert find_changes(certificate, model) == [
        "config.json is missing",
        "model.safetensors is not the one that was measured",
        "extra.safetensors was not there",
    ]


def test_sizes_alone_see_what_has_another_size(model: Path) -> None:
    certificate = certify_fake(model)
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    assert find_changes(certificate, model, hashes=False) == []
    (model / "model.safetensors").write_bytes(b"more")
    assert find_changes(certificate, model, hashes=False) == ["model.safetensors has 4 bytes instead of 7"]


def test_files_that_no_server_reads_may_come_and_go(model: Path) -> None:
    certificate = certify_fake(model)
    for name in ("certificate.html", "notes.txt"):
        (model / name).write_text("x")
    assert find_changes(certificate, model) == []


def test_a_variant_beside_its_certificate_may_be_moved(model: Path, tmp_path: Path) -> None:
    certificate = certify_fake(model)
    moved = model.rename(tmp_path / "elsewhere")
    assert find_changes(certificate, moved) == []
