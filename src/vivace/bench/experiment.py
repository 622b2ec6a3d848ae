"""One measurement from its settings to its document: probe, plan, run, summarize.

Knows no command line, no terminal and no page.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from vivace.bench.calibrate import Calibration, calibrate
from vivace.bench.client import ConnectionPool, Reply, encode_request, parse_url
from vivace.bench.observation import Observation
from vivace.bench.probe import Found, probe
from vivace.bench.processes import Measured, OnProgress, run_plans
from vivace.bench.resources import ProcessWatch, find_listener, parse_metrics
from vivace.bench.schedule import Load, fix_times
from vivace.bench.summary import raw_arrays, summarize_run
from vivace.bench.worker import Plan, Stage
from vivace.bench.workload import Workload
from vivace.budget import NO_BUDGET, Budget
from vivace.errors import ConfigError

FORMAT = 1
"""Of the JSON document."""
BUSY_TARGET = 0.5
"""Client processes are so many that none should be busier than this."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Experiment:
    """All that one measurement is told."""

    url: str
    workload: Workload
    load: Load
    limits: Budget = NO_BUDGET
    needed: float = 0.99
    """The share of requests that is to keep the limits."""
    warmup: int = 8
    processes: int = 0
    """0 chooses by what the calibration says."""
    timeout_s: float = 120.0
    headers: tuple[tuple[str, str], ...] = ()
    verify: bool = True
    tokenizer: str = ""
    seed: int = 0
    pid: int = 0
    """Of the server; 0 looks for whoever listens, if the URL is of this machine."""
    calibrated: bool = True
    first: int = 0
    """The place in the workload of the first request."""

    def __post_init__(self) -> None:
        if not 0 < self.needed < 1:
            raise ConfigError(f"The share that keeps the budget is {self.needed:g}; it must be between 0 and 1.")
        if self.tokenizer and not Path(self.tokenizer).is_file():
            raise ConfigError(f"There is no tokenizer file {self.tokenizer}. Give a tokenizer.json.")


def prepare(experiment: Experiment) -> tuple[Experiment, Found]:
    """Ask the server; the workload then names its model and knows how it counts. Raises `ConfigError`."""
    found = probe(
        experiment.url,
        experiment.workload,
        experiment.headers,
        verify=experiment.verify,
        timeout_s=experiment.timeout_s,
    )
    changes: dict[str, Any] = {"model": found.model}
    if found.words_per_token:
        changes |= {"words_per_token": found.words_per_token, "overhead_tokens": found.overhead_tokens}
    return replace(experiment, workload=msgspec.structs.replace(experiment.workload, **changes)), found


def measure_client(experiment: Experiment) -> Calibration | None:
    """None when that is not wanted."""
    return calibrate(chat=experiment.workload.chat) if experiment.calibrated else None


def make_plans(experiment: Experiment, calibration: Calibration | None) -> list[Plan]:
    """One for each client process; they share out the requests in turn."""
    times = fix_times(experiment.load, experiment.seed) if experiment.load.open else []
    if experiment.load.open and not times:
        raise ConfigError("No request falls into the time to measure. Give a longer --duration, or a higher --rate.")
    count = experiment.processes or _choose_processes(experiment, calibration)
    count = max(1, min(count, len(times) or experiment.load.concurrency))
    return [_make_plan(experiment, _make_stage(experiment, times, number, count), number) for number in range(count)]


def _make_plan(experiment: Experiment, stage: Stage, number: int) -> Plan:
    connections = experiment.load.connections
    return Plan(
        urls=[experiment.url],
        workload=experiment.workload,
        stages=[stage],
        warmup=experiment.warmup,
        think_ms=experiment.load.think_ms,
        connections=max(1, connections - number) if connections else 0,
        timeout_s=experiment.timeout_s,
        headers=list(experiment.headers),
        verify=experiment.verify,
        tokenizer=experiment.tokenizer,
    )


def _make_stage(experiment: Experiment, times: list[float], number: int, count: int) -> Stage:
    load, first = experiment.load, experiment.first
    if load.open:
        return Stage(entries=[(first + i, times[i]) for i in range(number, len(times), count)])
    return Stage(
        concurrency=_share(load.concurrency, number, count),
        first=first + number,
        stride=count,
        requests=_share(load.requests, number, count),
        duration_s=load.duration_s,
    )


def _share(total: int, number: int, count: int) -> int:
    return total // count + (number < total % count)


def _choose_processes(experiment: Experiment, calibration: Calibration | None) -> int:
    """A limit on connections is kept by one process."""
    load = experiment.load
    if calibration is None or load.connections or not load.open:
        return 1
    tokens = experiment.workload.output_tokens.a if experiment.workload.stream else 1
    rate = load.rate or len(load.times) / max(1e-9, load.times[-1])
    busy = rate * (tokens + 10) * calibration.event_cost_us * 1e-6
    return max(1, min(len(os.sched_getaffinity(0)), math.ceil(busy / BUSY_TARGET)))


def run(
    experiment: Experiment, calibration: Calibration | None, on_progress: OnProgress | None = None
) -> tuple[dict[str, Any], Measured]:
    """The document, ready for JSON, and what it was made of. `experiment` is a prepared one."""
    plans = make_plans(experiment, calibration)
    began = datetime.now(UTC)
    pid = experiment.pid or _find_server(experiment)
    with ExitStack() as stack:
        watch = stack.enter_context(ProcessWatch(pid)) if pid else None
        before = {} if watch else _scrape(experiment)
        measured = run_plans(plans, on_progress)
        after = {} if watch else _scrape(experiment)
    document = describe(experiment, began)
    document |= summarize_run(
        measured, experiment.load, experiment.limits, experiment.needed, calibration, experiment.seed
    )
    tokens = document["throughput"]["output_tokens"]
    if watch is not None:
        document["resources"] = watch.describe(measured.started, measured.ended, tokens)
    else:
        document["resources"] = _from_metrics(before, after, measured.ended - measured.started, tokens)
    document["raw"] = raw_arrays(measured)
    return document, measured


def describe(experiment: Experiment, began: datetime) -> dict[str, Any]:
    """What was measured, and where. Headers are not told: they hold keys."""
    load, workload = experiment.load, experiment.workload
    asked = "a file" if workload.lines else "a trace" if workload.lengths else "random words"
    return {
        "format": FORMAT,
        "tool": f"vivace bench {version('vivace')}",
        "began": began.isoformat(timespec="seconds"),
        "url": experiment.url,
        "model": workload.model,
        "seed": experiment.seed,
        "load": asdict(replace(load, times=())) | {"describe": load.describe()},
        "workload": {
            "from": asked,
            "chat": workload.chat,
            "stream": workload.stream,
            "input_tokens": None if workload.lines or workload.lengths else str(workload.input_tokens),
            "output_tokens": None if workload.lengths else str(workload.output_tokens),
            "salted": bool(workload.salt),
            "temperature": workload.temperature,
            "warmup": experiment.warmup,
        },
        "environment": describe_environment(),
    }


def describe_environment() -> dict[str, Any]:
    """The client's machine; the server's too, when it is the same."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
        "load_average": os.getloadavg()[0],
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _find_server(experiment: Experiment) -> int | None:
    target = parse_url(experiment.url)
    return find_listener(target.port) if target.host in LOOPBACK else None


def _scrape(experiment: Experiment) -> dict[str, float]:
    """The server's own metrics, at /metrics beside the API; nothing where there are none."""

    async def ask() -> dict[str, float]:
        target = parse_url(experiment.url, verify=experiment.verify)
        pool = ConnectionPool(replace(target, path=""))
        reply = Reply(Observation(index=0, scheduled=0.0), asyncio.get_running_loop().create_future(), stream=True)
        await pool.exchange(encode_request(replace(target, path=""), "GET", "/metrics"), reply, 5.0)
        pool.close()
        return parse_metrics(reply.body.decode("utf-8", "replace")) if reply.status == 200 else {}

    return uvloop.run(ask())


def _from_metrics(
    before: dict[str, float], after: dict[str, float], wall_s: float, tokens: int | None
) -> dict[str, Any] | None:
    if "cpu_s" not in before or "cpu_s" not in after:
        return None
    cpu_s = after["cpu_s"] - before["cpu_s"]
    return {
        "from": "the server's /metrics, warm-up included",
        "cpu_s": cpu_s,
        "cores_used": cpu_s / wall_s,
        "rss_bytes_max": after.get("rss_bytes"),
        "tokens_per_cpu_s": tokens / cpu_s if tokens and cpu_s > 0 else None,
    }
