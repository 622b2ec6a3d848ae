"""What this process may use of the machine it runs on, and of what is installed. Knows nothing of models."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def present_cores() -> int:
    """Cores the machine has, allowed or not."""
    return os.cpu_count() or 1


def total_memory_bytes() -> int:
    """Main memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """As the system has it: the first core's model, or else the architecture."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def find_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Of the libraries, by their names on PyPI, those that are installed."""
    found = {}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def allowed_cores() -> int:
    """Cores this process may run on: the smaller of its affinity and its cgroup's quota, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present_cores()
    quota = _cgroup_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return max(1, min(affinity, affinity if quota is None else math.ceil(quota)))


def _cgroup_quota(root: Path, membership: Path) -> float | None:
    """Cores' worth of time that the process's cgroup and all above it grant; None where none sets a limit."""
    quotas = (_read_quota(directory) for directory in _cgroups(root, membership))
    return min((quota for quota in quotas if quota is not None), default=None)


def _cgroups(root: Path, membership: Path) -> Iterator[Path]:
    """Directories of the process's cgroups. A container sees its own at the root, whatever the file says."""
    yield root
    yield root / "cpu"
    try:
        lines = membership.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:  # id:controllers:path, and version 2 names no controllers
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if path.startswith("/..") or (controllers and "cpu" not in controllers.split(",")):
            continue  # out of this container's sight, or no limit on time
        top = root / "cpu" if controllers else root
        group = top / path.lstrip("/")
        yield from (group, *(parent for parent in group.parents if parent.is_relative_to(top)))


def _read_quota(directory: Path) -> float | None:
    """Of one cgroup, version 2 or else version 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((directory / name).read_text() for name in names).split()
            return int(quota) / int(period) if int(quota) > 0 else None
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None
