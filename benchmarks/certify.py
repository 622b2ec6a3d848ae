"""Certify a model as it is, and hold the simulator against a real server at other rates than the certified one.

    python -m benchmarks.certify mini OUT --rate 20 --budget "ttft_p99=60ms tpot_p99=10ms" --also 10,40

Prints, for each rate, what was measured through HTTP beside what the certificate's step costs foretell. The server is
started anew for each rate, as `vivace serve OUT` starts it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from vivace.fit.certificate import Certificate
from vivace.fit.certify import certify, measure, serving, summarize_documents
from vivace.fit.objective import parse_objective
from vivace.fit.plan import compare_with_measured
from vivace.fit.settings import EngineSettings
from vivace.fit.workload import WorkloadSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rate", type=float, default=0.0, help="Requests a second; or give --concurrency.")
    parser.add_argument("--concurrency", type=int, default=0)
    parser.add_argument("--requests", type=int, default=700)
    parser.add_argument("--budget", required=True)
    parser.add_argument("--also", default="", help="Other rates, parted by commas.")
    arguments = parser.parse_args()
    workload = WorkloadSpec(rate=arguments.rate, concurrency=arguments.concurrency, requests=arguments.requests)
    objective = parse_objective(arguments.budget)
    certificate = certify(arguments.model, arguments.out, EngineSettings(), workload, objective, say=_say)
    machine, cost = certificate.machine, certificate.cost
    print(
        f"reads {machine.read_gb_per_s:.1f} GB/s ({machine.read_gb_per_s_low:.1f}); a token takes {certificate.floor}"
    )
    print(f"a pass: {cost.step_cost()}, noise {cost.noise:.3f}, error {cost.error:.3f}")
    _compare(certificate)
    for rate in filter(None, arguments.also.split(",")):
        _compare(_measure_at(certificate, arguments.out, float(rate)))


def _measure_at(certificate: Certificate, out: Path, rate: float) -> Certificate:
    """The certificate as it would be, had this rate been offered; its step costs are as they were."""
    workload = msgspec.structs.replace(certificate.workload, rate=rate, concurrency=0)
    with serving([str(out)]) as served:
        document = measure(served, workload, out)
    measured = summarize_documents([document], workload.seed)
    timeline = certificate.measured.timeline_ms
    measured = msgspec.structs.replace(measured, timeline_ms=timeline)
    return msgspec.structs.replace(certificate, workload=workload, measured=measured)


def _compare(certificate: Certificate) -> None:
    measured = certificate.measured
    lost = measured.offered - measured.answered
    print(f"{certificate.workload}: {lost} of {measured.offered} not answered")
    for one in compare_with_measured(certificate):
        simulated = "none" if one.simulated_ms is None else f"{one.simulated_ms:.3f}"
        print(f"  {one.name:10} simulated {simulated:>9}  measured {one.measured_ms:9.3f}  {one.ratio or 0:.2f}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
