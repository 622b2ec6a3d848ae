"""What this process may use of the machine it runs on. Knows nothing of models."""

from __future__ import annotations

import math
import os
from pathlib import Path


def allowed_cores() -> int:
    """Cores this process may run on: the smaller of its affinity and its cgroup's quota, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(affinity, affinity if quota is None else math.ceil(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Cores' worth of time the cgroup grants (version 2, else version 1); None where it sets no limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None
