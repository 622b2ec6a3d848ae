"""What this machine and this installation have, for a person who wonders why something is slow or missing."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from vivace import __version__
from vivace.machine import allowed_cores, present_cores, read_cpu_name, total_memory_bytes
from vivace.native import measure_read_bandwidth, supported_isas

MAIN_MEMORY_BYTES = 512 << 20
CACHE_BYTES = 8 << 20

OPTIONAL_PARTS = {
    "torch": "what tests and compression need",
    "transformers": "what tests compare with",
    "compressed_tensors": "writing pre-quantised checkpoints",
    "ray": "serving from several machines",
}


@dataclass(frozen=True, slots=True)
class MachineInfo:
    cpu: str
    isas: tuple[str, ...]
    """Instruction sets that can run, best first: the first is used."""
    cores_present: int
    cores_allowed: int
    """By affinity and cgroup."""
    memory_bytes: int
    memory_read_gb_per_s: float
    """All allowed cores together, from 512 MB."""
    cache_read_gb_per_s: float
    """The same from 8 MB."""
    python: str
    vivace: str
    optional: dict[str, str]
    """Version by module; empty where it is not installed."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_machine() -> MachineInfo:
    """Look, and measure for about a second."""
    cores = allowed_cores()
    return MachineInfo(
        cpu=read_cpu_name(),
        isas=tuple(supported_isas()),
        cores_present=present_cores(),
        cores_allowed=cores,
        memory_bytes=total_memory_bytes(),
        memory_read_gb_per_s=measure_read_bandwidth(MAIN_MEMORY_BYTES, cores, 8),
        cache_read_gb_per_s=measure_read_bandwidth(CACHE_BYTES, cores, 50),
        python=platform.python_version(),
        vivace=__version__,
        optional={module: _find_version(module) for module in OPTIONAL_PARTS},
    )


def _find_version(module: str) -> str:
    if find_spec(module) is None:
        return ""
    try:
        return version(module.replace("_", "-"))
    except PackageNotFoundError:
        return "present"
