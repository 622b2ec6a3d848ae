"""What a server's processes use while it is measured: processor time, memory, and the GPU where there is one.

Reads /proc on Linux; a server elsewhere is asked for its own metrics. Knows nothing of requests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from vivace.bench.timer import clock
from vivace.errors import ConfigError

EVERY_S = 0.5
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at a process and all its descendants."""

    moment: float
    cpu_s: float
    rss_bytes: int
    """Pages that several of them share count once for each."""
    processes: int
    gpu_percent: float | None = None
    gpu_bytes: int | None = None


def find_listener(port: int) -> int | None:
    """The process of this machine that listens on a TCP port; None if none is seen."""
    inodes = {inode for name in ("tcp", "tcp6") for inode in _listening(_PROC / "net" / name, port)}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = [pid for pid in _pids() if wanted and wanted & _links(_PROC / f"{pid}" / "fd")]
    return min(found, default=None)


def sample_tree(root: int) -> Sample | None:
    """None when the process is gone."""
    stats = {pid: stat for pid in _pids() if (stat := _read_stat(pid)) is not None}
    if root not in stats:
        return None
    tree, fresh = {root}, [root]
    while fresh:
        fresh = [pid for pid, stat in stats.items() if stat[0] in fresh and pid not in tree]
        tree.update(fresh)
    ticks = sum(stats[pid][1] for pid in tree)
    pages = sum(stats[pid][2] for pid in tree)
    return Sample(clock(), ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"), len(tree))


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()] if _PROC.is_dir() else []


def _read_stat(pid: int) -> tuple[int, int, int] | None:
    """Parent, clock ticks with those of children that ended, and resident pages."""
    try:
        fields = (_PROC / f"{pid}" / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(map(int, fields[11:15])), int(fields[21])


def _listening(path: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in path.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]


def _links(directory: Path) -> set[str]:
    found = set()
    with suppress(OSError):
        for entry in os.scandir(directory):
            with suppress(OSError):
                found.add(os.readlink(entry.path))
    return found


def read_gpu() -> tuple[float, int] | None:
    """Load in percent (the mean of all) and memory in bytes (the sum), by nvidia-smi; None where there is none."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        text = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        rows = [[float(part) for part in line.split(",")] for line in text.strip().splitlines()]
        if rows:
            return sum(row[0] for row in rows) / len(rows), int(sum(row[1] for row in rows) * 2**20)
    return None


def parse_metrics(text: str) -> dict[str, float]:
    """A server's own account of itself, of Prometheus' exposition: processor seconds and resident bytes."""
    names = {"process_cpu_seconds_total": "cpu_s", "process_resident_memory_bytes": "rss_bytes"}
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in names:
            with suppress(ValueError, IndexError):
                found[names[name]] = float(value.split()[0])
    return found


@dataclass
class ProcessWatch:
    """Looks at a process tree now and then, in a thread of its own. Raises `ConfigError` when there is no such pid."""

    pid: int
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        if sample_tree(self.pid) is None:
            raise ConfigError(f"There is no process {self.pid} on this machine. Check --pid.")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="resources", daemon=True)

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            sample = sample_tree(self.pid)
            if sample is not None:
                gpu = read_gpu()
                if gpu is not None:
                    sample = Sample(sample.moment, sample.cpu_s, sample.rss_bytes, sample.processes, *gpu)
                self.samples.append(sample)
            if self._done.wait(EVERY_S):
                return

    def describe(self, started: float, ended: float, tokens: int | None) -> dict[str, Any] | None:
        """Between the two moments, as near as it was looked at; None if it was looked at less than twice."""
        inside = [one for one in self.samples if started - EVERY_S <= one.moment <= ended + EVERY_S]
        if len(inside) < 2:
            return None
        cpu_s = inside[-1].cpu_s - inside[0].cpu_s
        gpu = [one.gpu_percent for one in inside if one.gpu_percent is not None]
        pairs = list(pairwise(inside))
        return {
            "from": f"/proc, process {self.pid} and its descendants",
            "cpu_s": cpu_s,
            "cores_used": cpu_s / (inside[-1].moment - inside[0].moment),
            "rss_bytes_max": max(one.rss_bytes for one in inside),
            "processes_max": max(one.processes for one in inside),
            "gpu_percent": sum(gpu) / len(gpu) if gpu else None,
            "gpu_bytes_max": max((one.gpu_bytes or 0 for one in inside), default=0) if gpu else None,
            "tokens_per_cpu_s": tokens / cpu_s if tokens and cpu_s > 0 else None,
            "samples": {
                "s": [round(b.moment - started, 3) for _, b in pairs],
                "cores": [round((b.cpu_s - a.cpu_s) / max(1e-9, b.moment - a.moment), 3) for a, b in pairs],
                "rss_mb": [round(b.rss_bytes / 1e6, 2) for _, b in pairs],
            },
        }
