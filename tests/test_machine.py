from __future__ import annotations

import os
from pathlib import Path

import pytest

from vivace import machine
from vivace.machine import _cgroup_quota, allowed_cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def quota(tmp_path: Path, files: dict[str, str], membership: str = "0::/\n") -> float | None:
    write(tmp_path / "cgroup", membership)
    for name, text in files.items():
        write(tmp_path / "fs" / name, text)
    return _cgroup_quota(tmp_path / "fs", tmp_path / "cgroup")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n"}, None),
        ({"cpu.max": ""}, None),
        ({"cpu.max": "a lot\n"}, None),
        ({"cpu.max": "100000 0\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read_in_either_version(
    tmp_path: Path, files: dict[str, str], cores: float | None
) -> None:
    assert quota(tmp_path, files) == cores


def test_a_groups_quota_counts_and_those_of_the_groups_above_it(tmp_path: Path) -> None:
    files = {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n", "a/b/c/cpu.max": "300000 100000\n"}
    assert quota(tmp_path, files, "0::/a/b/c\n") == 2
    assert quota(tmp_path, files | {"a/b/c/cpu.max": "100000 100000\n"}, "0::/a/b/c\n") == 1
    assert quota(tmp_path, files, "0::/elsewhere\n") is None


def test_a_groups_quota_counts_in_version_1_too(tmp_path: Path) -> None:
    files = {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}
    assert quota(tmp_path, files, "5:memory:/b\n4:cpu,cpuacct:/a\n0::/\n") == 2.5
    assert quota(tmp_path, files, "5:memory:/a\n4:cpu,cpuacct:/b\n") is None


def test_a_group_outside_of_what_is_mounted_sets_no_limit(tmp_path: Path) -> None:
    write(tmp_path / "cpu.max", "100000 100000\n")
    assert quota(tmp_path, {"cpu.max": "300000 100000\n"}, "0::/../..\nnonsense\n") == 3


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert _cgroup_quota(tmp_path / "fs", tmp_path / "cgroup") is None


def test_affinity_bounds_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6})
    for granted, cores in ((None, 3), (8.0, 3), (1.2, 2), (0.1, 1)):
        monkeypatch.setattr(machine, "_cgroup_quota", lambda root, membership, granted=granted: granted)
        assert allowed_cores() == cores


def test_this_machine_has_cores() -> None:
    assert 1 <= allowed_cores() <= (os.cpu_count() or 1)
