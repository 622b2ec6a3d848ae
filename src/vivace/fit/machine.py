"""This machine as a certificate has it: what it is, and how fast it reads and multiplies now."""

from __future__ import annotations

import platform
import time
from statistics import median

from vivace.fit.certificate import MachineRecord
from vivace.fit.settings import EngineSettings
from vivace.machine import allowed_cores, read_cpu_name, total_memory_bytes
from vivace.native import measure_multiply_rate, measure_read_bandwidth, supported_isas

LOOKS = 9
LOOK_EVERY_S = 0.1
"""Neighbours on the machine come and go: one look is luck."""
MAX_READ_BYTES = 1 << 30
"""More than any cache holds: beyond it, the bandwidth no longer depends on the size."""


def describe_machine(step_bytes: int, settings: EngineSettings) -> MachineRecord:
    """Look, and measure for a few seconds, with as many threads as the settings have."""
    read_bytes = min(step_bytes, MAX_READ_BYTES)
    isa, threads = supported_isas()[0], settings.threads or allowed_cores()
    looks = measure_bandwidth(read_bytes, threads)
    return MachineRecord(
        cpu=read_cpu_name(),
        isa=isa,
        cores=allowed_cores(),
        memory_bytes=total_memory_bytes(),
        read_bytes=read_bytes,
        read_gb_per_s=median(looks),
        read_gb_per_s_low=min(looks),
        multiply_gops_per_s=measure_multiply_rate(settings.quantize, isa, threads, 5) / 1e9,
        system=f"{platform.system()} {platform.release()}",
    )


def measure_bandwidth(read_bytes: int, threads: int, looks: int = LOOKS) -> list[float]:
    """GB/s, each look the best of three readings of that many bytes."""
    found = []
    for number in range(looks):
        if number:
            time.sleep(LOOK_EVERY_S)
        found.append(measure_read_bandwidth(read_bytes, threads, 3))
    return found
