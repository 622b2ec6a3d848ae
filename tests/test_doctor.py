"""What `vivace doctor` says of the machine."""

from __future__ import annotations

from vivace import __version__
from vivace.doctor import OPTIONAL_PARTS, describe_machine
from vivace.native import supported_isas


def test_the_machine_is_described_and_measured() -> None:
    found = describe_machine()
    assert found.cpu
    assert list(found.isas) == supported_isas()
    assert 1 <= found.cores_allowed <= found.cores_present
    assert found.memory_bytes > 2**28
    assert 0.1 < found.memory_read_gb_per_s < 10_000
    assert 0.1 < found.cache_read_gb_per_s < 100_000
    assert found.vivace == __version__


def test_optional_parts_are_listed_whether_there_or_not() -> None:
    found = describe_machine().optional
    assert found.keys() == OPTIONAL_PARTS.keys()
    assert found["transformers"].count(".") >= 1
