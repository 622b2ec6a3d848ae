"""Certificates and bench documents made up on the spot. Nothing is measured."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec

from vivace.fit.certificate import (
    Certificate,
    CostRecord,
    Estimate,
    FloorRecord,
    LengthsRecord,
    MachineRecord,
    Measurement,
    Pieces,
    Times,
    build_certificate,
    write_certificate,
)
from vivace.fit.objective import parse_objective
from vivace.fit.settings import EngineSettings
from vivace.fit.workload import WorkloadSpec

MACHINE = MachineRecord(
    cpu="A CPU",
    isa="avx2",
    cores=2,
    memory_bytes=2**33,
    read_bytes=2**24,
    read_gb_per_s=40.0,
    read_gb_per_s_low=36.0,
    multiply_gops_per_s=500.0,
)
COST = CostRecord(
    base_ms=1.0,
    token_ms=0.1,
    sequence_ms=0.05,
    context_ms=1e-5,
    noise=0.05,
    error=0.02,
    passes=100,
    slots=64,
    blocks=4096,
    max_batch_tokens=512,
    context_length=2048,
)


TIMELINE_MS = {
    "client": 0.1,
    "preprocess": 0.5,
    "network": 0.3,
    "queue": 1.0,
    "prefill": 8.0,
    "decode": 50.0,
    "flush": 0.1,
}


def spread(middle: float, n: int = 800) -> Times:
    """Times whose p99 is four times the median, with intervals of a tenth to either side."""
    values = {"p50": middle, "p95": 2 * middle, "p99": 4 * middle}
    return Times(
        n=n,
        percentiles={name: Estimate(value=ms, low=0.9 * ms, high=1.1 * ms) for name, ms in values.items()},
    )


def measurement(ttft: float = 10.0, tpot: float = 1.0, total: float = 60.0, **changes: Any) -> Measurement:
    found = Measurement(
        began="2026-01-01T00:00:00+00:00",
        seconds=80.0,
        offered=800,
        answered=800,
        refused=0,
        failed=0,
        requests_per_s=10.0,
        output_tokens_per_s=480.0,
        prompt_tokens=LengthsRecord(median=64.0, sigma=0.3),
        answer_tokens=LengthsRecord(median=32.0, sigma=0.3),
        ttft=spread(ttft),
        tpot=spread(tpot),
        total=spread(total),
        timeline_ms=TIMELINE_MS,
        server_bytes=10**8,
    )
    return msgspec.structs.replace(found, **changes)


def certify_fake(directory: Path, budget: str = "ttft_p99=50ms tpot_p99=5ms", **changes: Any) -> Certificate:
    """A certificate beside a model's files, as if it had been measured."""
    certificate = build_certificate(
        Pieces(
            model=str(directory),
            directory=directory,
            base=str(directory),
            recipe="",
            settings=EngineSettings(threads=1, max_sequences=64),
            workload=WorkloadSpec(rate=10.0, requests=800),
            objective=parse_objective(budget),
            machine=MACHINE,
            measured=measurement(),
            quality=None,
            floor=FloorRecord(step_bytes=2**24, token_ms=0.42, token_share=0.42),
            cost=COST,
        )
    )
    certificate = msgspec.structs.replace(certificate, **changes)
    write_certificate(certificate, directory)
    return certificate


def write_model(directory: Path) -> Path:
    """Files that nobody opens but to hash them."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def document(
    ttft: float = 10.0, tpot: float = 1.0, n: int = 800, errors: dict[str, int] | None = None, seed: int = 0
) -> dict[str, Any]:
    """What `bench.experiment.run` returns, of log-normal times with these medians. Errors by kind, and how many."""
    generator = random.Random(seed)
    kinds = [kind for kind, count in (errors or {}).items() for _ in range(count)]
    error = kinds + [""] * (n - len(kinds))
    first = [ttft * generator.lognormvariate(0, 0.3) for _ in range(n)]
    each = [tpot * generator.lognormvariate(0, 0.3) for _ in range(n)]
    failed = [bool(kind) for kind in error]
    refused = kinds.count("refused")

    def only_answered(values: list[float]) -> list[float | None]:
        return [None if bad else value for value, bad in zip(values, failed, strict=True)]

    return {
        "began": "2026-01-01T00:00:00+00:00",
        "window_s": 80.0,
        "requests": {
            "offered": n,
            "answered": n - len(kinds),
            "refused": refused,
            "failed": len(kinds) - refused,
            "errors": [
                {"kind": kind, "count": count, "first": "The server broke off: bang"}
                for kind, count in (errors or {}).items()
            ],
        },
        "throughput": {"output_tokens": 32 * (n - len(kinds))},
        "timeline": {"requests": n, "mean_ms": {f"{name}_ms": ms for name, ms in TIMELINE_MS.items()}},
        "resources": {"rss_bytes_max": 10**8},
        "client": {"share_of_tail": 0.01},
        "raw": {
            "error": error,
            "ttft_ms": only_answered(first),
            "tpot_ms": only_answered(each),
            "e2e_ms": only_answered([a + 31 * b for a, b in zip(first, each, strict=True)]),
            "prompt_tokens": [64] * n,
            "tokens": [32] * n,
        },
    }
