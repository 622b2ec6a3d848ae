"""How far the measuring client carries, on a server that computes nothing; prints one line of JSON a run.

python benchmarks/client_limits.py rates          open loop, streamed, 16 events an answer
python benchmarks/client_limits.py concurrencies  closed loop, the same
python benchmarks/client_limits.py event          processor time of the client for each streamed event
python benchmarks/client_limits.py wrk            closed loop without streaming, in turn with wrk (Debian's)
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from vivace.bench.calibrate import calibrate, null_server
from vivace.bench.experiment import Experiment, measure_client, run
from vivace.bench.schedule import Load
from vivace.bench.workload import Lengths, Workload

WORKLOAD = Workload(model="null", input_tokens=Lengths("fixed", 32), output_tokens=Lengths("fixed", 16))


def show(label: str, document: dict[str, Any]) -> None:
    found, throughput, client = document["ttft_ms"], document["throughput"], document["client"]
    figures = {
        "offered_per_s": document["offered_rate"],
        "answered_per_s": throughput["requests_per_s"],
        "events_per_s": throughput["output_tokens_per_s"],
        "ttft_ms_p50": found["p50"],
        "ttft_ms_p99": found["p99"],
        "send_lag_ms_p99": document["send_lag_ms"]["p99"],
        "client_busy": client["busy"],
        "client_processes": client["processes"],
        "failed": document["requests"]["failed"],
    }
    print(label, json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}), flush=True)


def measure_rates() -> None:
    with null_server("--ttft-ms", "2", "--tpot-ms", "1") as url:
        base = Experiment(url, WORKLOAD, Load(rate=1, duration_s=4))
        calibration = measure_client(base)
        for rate in (50, 100, 200, 400, 600, 800, 1200):
            load = Load(rate=rate, duration_s=4)
            show(f"rate {rate}", run(replace(base, load=load), calibration)[0])


def measure_concurrencies() -> None:
    with null_server("--ttft-ms", "2", "--tpot-ms", "1") as url:
        base = Experiment(url, WORKLOAD, Load(concurrency=1, duration_s=4))
        for concurrency in (1, 4, 16, 64, 256, 1000, 2000):
            load = Load(concurrency=concurrency, duration_s=4)
            show(f"concurrency {concurrency}", run(replace(base, load=load), None)[0])


def measure_event() -> None:
    for _ in range(5):
        print(json.dumps(calibrate().as_dict()), flush=True)


def run_wrk(url: str, body: bytes, concurrency: int, seconds: float) -> float:
    """Requests a second."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write('wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n')
        script.write(f"wrk.body = {json.dumps(body.decode())}\n")
        script.flush()
        command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds:g}s", "-s", script.name, f"{url}/chat/completions"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    assert found, text
    return float(found[1])


def measure_wrk() -> None:
    """Servers that take 5 and 20 ms: what both clients are to agree on is their rate."""
    workload = msgspec.structs.replace(WORKLOAD, stream=False)
    body = msgspec.json.encode(workload.ask(0).body)
    for delay_ms in (5, 20):
        with null_server("--ttft-ms", str(delay_ms)) as url:
            for concurrency in (1, 4, 16):
                experiment = Experiment(url, workload, Load(concurrency=concurrency, duration_s=2))
                pairs = [
                    (run_wrk(url, body, concurrency, 2), run(experiment, None)[0]["throughput"]["requests_per_s"])
                    for _ in range(3)
                ]
                ratios = [ours / theirs for theirs, ours in pairs]
                print(
                    f"{delay_ms} ms, {concurrency} at once: wrk {statistics.median(pair[0] for pair in pairs):.1f}/s, "
                    f"vivace bench {statistics.median(pair[1] for pair in pairs):.1f}/s, "
                    f"ratio {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})",
                    flush=True,
                )


KINDS: dict[str, Callable[[], None]] = {
    "rates": measure_rates,
    "concurrencies": measure_concurrencies,
    "event": measure_event,
    "wrk": measure_wrk,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    KINDS[parser.parse_args().kind]()


if __name__ == "__main__":
    main()
