"""What this client costs on this machine, measured on a server that computes nothing.

Knows nothing of the server that will be measured.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

from vivace.bench.processes import Measured, run_plans
from vivace.bench.worker import Plan, Stage
from vivace.bench.workload import Lengths, Workload
from vivace.errors import VivaceError


@dataclass(frozen=True, slots=True)
class Calibration:
    """The client's own part. All of it includes the null server's and the kernel's work for one machine's loopback."""

    floor_ttft_ms_p50: float
    floor_ttft_ms_p99: float
    """Of one request at a time to a server that answers at once."""
    event_cost_us: float
    """Processor time of the client for each streamed event that comes in a read of its own."""
    events: int
    events_per_read: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@contextmanager
def null_server(*arguments: str) -> Iterator[str]:
    """A null server in a process of its own; its URL. Raises `VivaceError` when it does not start."""
    command = [sys.executable, "-m", "vivace.bench.null_server", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise VivaceError("The null server did not start. Run python -m vivace.bench.null_server to see why.")
            yield url
        finally:
            process.terminate()


def calibrate(*, chat: bool = True) -> Calibration:
    """Takes about two seconds."""
    with null_server("--tpot-ms", "1") as url:
        alone = _run(url, Workload(model="null", chat=chat, output_tokens=Lengths("fixed", 2)), 1, 400)
        crowd = _run(url, Workload(model="null", chat=chat, output_tokens=Lengths("fixed", 50)), 8, 120)
    floor = np.array([seen.service_ttft_ms for seen in alone.observations if seen.ok], dtype=np.float64)
    if not len(floor):
        raise VivaceError("The client cannot reach a server of its own on 127.0.0.1. Skip it with --no-calibrate.")
    events = sum(seen.chunks for seen in crowd.observations)
    reads = sum(len(seen.arrivals) for seen in crowd.observations)
    return Calibration(
        floor_ttft_ms_p50=float(np.quantile(floor, 0.5)),
        floor_ttft_ms_p99=float(np.quantile(floor, 0.99)),
        event_cost_us=1e6 * sum(outcome.cpu_s for outcome in crowd.outcomes) / max(1, events),
        events=events,
        events_per_read=events / max(1, reads),
    )


def _run(url: str, workload: Workload, concurrency: int, requests: int) -> Measured:
    return run_plans(
        [Plan(urls=[url], workload=workload, stages=[Stage(concurrency=concurrency, requests=requests)], warmup=8)]
    )
