"""Whether a certificate still holds here: files first, then the machine, then the measurement once more.

The verdict is a pure function (`judge`) of what was certified and what was found; `verify` finds it, with a real
`vivace serve` on the certificate's own directory. Quality is not measured again: the files are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from vivace.bench.stats import required_sample
from vivace.errors import VivaceError
from vivace.fit.certificate import (
    QUANTILES,
    Certificate,
    Estimate,
    MachineRecord,
    Measurement,
    find_changes,
    read_certificate,
)
from vivace.fit.certify import Document, Say, calibrate_client, measure, serving, summarize_documents
from vivace.fit.machine import describe_machine, measure_bandwidth
from vivace.fit.objective import LATENCIES, MEMORY, Constraint
from vivace.machine import allowed_cores

SLOWER = 0.9
"""A machine that reads more slowly than this share of the slowest look of the certificate is not what it was."""
MOVED = 1.5
"""Medians of so many times the certified ones, intervals apart, are no noise."""
FAULTS = 0.005
"""Of all requests, the share that may fail for other reasons than time, beside what did when it was certified."""
ROUNDS = 3
"""A limit that is missed, but not beyond chance, is looked at again, up to so many times in all."""


class Verdict(StrEnum):
    HOLDS = "holds"
    """The limits are kept, and nothing is much slower than it was."""
    SLOWER = "slower machine"
    """It does not hold, and the machine reads memory more slowly than when it was certified."""
    DRIFTED = "drifted"
    """It does not hold, though the machine is as fast as it was."""
    BROKEN = "broken"
    """The server does not start, or requests fail."""
    REFUSED = "refused"
    """Another machine, or a changed model: nothing was measured, for it would say nothing."""


EXIT_STATUS = {
    Verdict.HOLDS: 0,
    Verdict.SLOWER: 10,
    Verdict.DRIFTED: 11,
    Verdict.BROKEN: 12,
    Verdict.REFUSED: 13,
}
"""Apart from those of `vivace bench`, and from 1 and 2, which are errors of the command itself."""


@dataclass(frozen=True, slots=True)
class Check:
    """A limit, and what was found now."""

    limit: str
    most: float
    value: float | None
    """None where too many had no answer."""
    low: float | None
    high: float | None
    kept: bool
    sure: bool
    """The interval lies on one side of the limit."""


@dataclass(frozen=True, slots=True)
class Verification:
    verdict: Verdict
    reasons: tuple[str, ...]
    """Why, in words."""
    read_gb_per_s: float = 0.0
    """The slower of before and after; 0 if it was not measured."""
    checks: tuple[Check, ...] = ()
    measured: Measurement | None = None

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "verdict": self.verdict.value,
            "exit_status": self.exit_status,
            "reasons": list(self.reasons),
            "read_gb_per_s": self.read_gb_per_s,
            "checks": [asdict(check) for check in self.checks],
            "measured": None if self.measured is None else msgspec.to_builtins(self.measured),
        }


# Judging


def check_limits(constraints: Iterable[Constraint], measured: Measurement) -> tuple[Check, ...]:
    """Limits on times and memory; what the sample does not bear is not kept, and not sure."""
    checks = []
    for limit in constraints:
        if limit.name in LATENCIES:
            checks.append(_check_estimate(limit, measured.find(limit.name)))
        elif limit.name == MEMORY and measured.server_bytes:
            used = float(measured.server_bytes)
            checks.append(Check(limit.name, limit.limit, used, used, used, used <= limit.limit, True))
    return tuple(checks)


def _check_estimate(limit: Constraint, estimate: Estimate | None) -> Check:
    if estimate is None:
        return Check(limit.name, limit.limit, None, None, None, False, False)
    kept = estimate.value is not None and estimate.value <= limit.limit
    above = estimate.low is None or estimate.low > limit.limit
    below = estimate.high is not None and estimate.high <= limit.limit
    return Check(limit.name, limit.limit, estimate.value, estimate.low, estimate.high, kept, above or below)


def find_moved(certified: Measurement, measured: Measurement) -> list[str]:
    """Medians that are much later than they were."""
    found = []
    for name in ("ttft_p50", "tpot_p50", "total_p50"):
        then, now = certified.find(name), measured.find(name)
        if then is None or now is None or then.high is None:
            continue
        if now.low is None or now.low > MOVED * then.high:
            value = "without an answer" if now.value is None else f"{now.value:.3g} ms"
            found.append(f"{name} was {then.value or 0.0:.3g} ms and is {value}")
    return found


def has_faults(certified: Measurement, measured: Measurement) -> bool:
    """Whether more requests fail, for other reasons than time, than did then and a few may."""
    return measured.failed / measured.offered > FAULTS + certified.failed / certified.offered


def judge(certificate: Certificate, measured: Measurement, read_gb_per_s: float) -> Verification:
    """Compare what was found with what was certified."""
    checks = check_limits(certificate.objective.constraints, measured)
    machine = certificate.machine

    def say(verdict: Verdict, reasons: Sequence[str]) -> Verification:
        return Verification(verdict, tuple(reasons), read_gb_per_s, checks, measured)

    if has_faults(certificate.measured, measured):
        return say(Verdict.BROKEN, [f"{measured.failed:,} of {measured.offered:,} requests failed"])
    reasons = [_describe_miss(check) for check in checks if not check.kept]
    reasons += find_moved(certificate.measured, measured)
    if not reasons:
        kept = f"all {len(checks)} limits are kept" if checks else "the medians are what they were"
        return say(Verdict.HOLDS, [kept])
    if read_gb_per_s < SLOWER * machine.read_gb_per_s_low:
        then = f"{machine.read_gb_per_s:.1f} GB/s ({machine.read_gb_per_s_low:.1f} at worst)"
        return say(
            Verdict.SLOWER, [f"the machine reads {read_gb_per_s:.1f} GB/s, where it was certified at {then}", *reasons]
        )
    return say(Verdict.DRIFTED, reasons)


def _describe_miss(check: Check) -> str:
    unit = "bytes" if check.limit == MEMORY else "ms"
    if check.value is None:
        why = "too many requests had no answer" if check.sure else "the sample is too small for it"
        return f"{check.limit} is to be {check.most:g} {unit} at most: {why}"
    chance = "" if check.sure else ", though chance may explain that"
    return f"{check.limit} is {check.value:.4g} {unit}, more than {check.most:g}{chance}"


# Finding out


@dataclass(frozen=True, slots=True)
class Tools:
    """What touches the machine, so that tests need not."""

    describe_machine: Callable[[Certificate], MachineRecord]
    measure_bandwidth: Callable[[Certificate], float]
    replay: Callable[[Certificate, Path, int, int], Document]
    """Certificate, its directory, how many requests, and the place of the first."""


def verify(place: Path, *, tools: Tools | None = None, say: Say = lambda text: None) -> Verification:
    """Check the files, look at the machine, and measure again.

    Raises `CertificateError` for a certificate that cannot be read, or `ConfigError` for a workload that cannot.
    """
    tools = tools or _REAL
    certificate, directory = read_certificate(place)
    say("Comparing the variant's files with their digests")
    changes = find_changes(certificate, directory)
    if changes:
        return Verification(Verdict.REFUSED, tuple(f"the model has changed: {change}" for change in changes))
    say("Measuring the machine")
    machine = tools.describe_machine(certificate)
    difference = certificate.machine.find_difference(machine)
    if difference:
        return Verification(Verdict.REFUSED, (difference,), machine.read_gb_per_s)
    documents: list[Document] = []
    requests = count_requests(certificate)
    try:
        for number in range(ROUNDS):
            say(f"Measuring, round {number + 1}: {requests:,} requests")
            documents.append(tools.replay(certificate, directory, requests, number * requests))
            measured = summarize_documents(documents, certificate.workload.seed)
            checks = check_limits(certificate.objective.constraints, measured)
            if has_faults(certificate.measured, measured) or all(check.kept or check.sure for check in checks):
                break
    except VivaceError as error:
        return Verification(Verdict.BROKEN, (str(error),), machine.read_gb_per_s)
    slowest = min(machine.read_gb_per_s, tools.measure_bandwidth(certificate))
    return judge(certificate, measured, slowest)


def count_requests(certificate: Certificate) -> int:
    """As many as were certified, or more where a limit's percentile takes more."""
    names = [limit.name for limit in certificate.objective.constraints if limit.name in LATENCIES]
    return max(
        certificate.workload.requests, *(required_sample(QUANTILES[name.partition("_")[2]]) for name in names), 0
    )


def _describe_here(certificate: Certificate) -> MachineRecord:
    return describe_machine(certificate.machine.read_bytes, certificate.settings)


def _measure_bandwidth_here(certificate: Certificate) -> float:
    return median(measure_bandwidth(certificate.machine.read_bytes, certificate.settings.threads or allowed_cores()))


def _replay_here(certificate: Certificate, directory: Path, requests: int, first: int) -> Document:
    """A fresh server each time, as `vivace serve OUT` starts it."""
    calibration = calibrate_client(certificate.workload, directory) if not first else None
    with serving([str(directory)]) as served:
        return measure(served, certificate.workload, directory, calibration=calibration, requests=requests, first=first)


_REAL = Tools(_describe_here, _measure_bandwidth_here, _replay_here)
