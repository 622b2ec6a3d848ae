"""Measures a given model under given settings through HTTP, and certifies what was found.

The server is a real `vivace serve` in a process of its own, the client is the bench. Knows no search: what was
foretold, compared and rejected is told by the caller.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.bench.calibrate import Calibration
from vivace.bench.experiment import measure_client, prepare, run
from vivace.bench.processes import OnProgress
from vivace.bench.stats import quantile, quantile_interval, required_sample
from vivace.budget import Budget
from vivace.errors import CertificateError, VivaceError
from vivace.fit.certificate import (
    QUANTILES,
    Candidate,
    Certificate,
    CostRecord,
    Estimate,
    FloorRecord,
    LengthsRecord,
    MachineRecord,
    Measurement,
    Pieces,
    Prediction,
    QualityRecord,
    Rejection,
    Times,
    build_certificate,
    write_certificate,
)
from vivace.fit.certificate_page import write_page
from vivace.fit.machine import describe_machine
from vivace.fit.objective import Objective
from vivace.fit.settings import EngineSettings
from vivace.fit.steps import Lengths, measure_steps
from vivace.fit.workload import LINES, WorkloadSpec
from vivace.llm import load_runner
from vivace.models.config import ModelConfig
from vivace.models.model import open_model
from vivace.speed import count_prompt_operations

START_S = 600.0
"""A server that cannot be reached by then never will."""
STOP_S = 30.0
LAST_CHARACTERS = 2000
"""Of what a server that failed wrote to standard error."""

MOST_TIMED = 256
"""Sequences in the largest pass that is timed."""

Document = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Served:
    """A running `vivace serve`."""

    url: str
    """With /v1."""
    pid: int
    summary: Document
    """What it said of itself when it was up."""


def describe_serving(model: str, settings: EngineSettings, budget: Budget) -> list[str]:
    """Arguments of `vivace serve` that say all of it, whatever a certificate beside the model says."""
    limits = [f"{name.removesuffix('_ms')}={limit!r}ms" for name, limit in budget.as_dict().items()]
    return [model, "--no-certificate", *settings.as_arguments(), *(["--budget", ",".join(limits)] if limits else [])]


@contextmanager
def serving(arguments: Sequence[str], start_s: float = START_S) -> Iterator[Served]:
    """`vivace serve` with these arguments in a process of its own, on a free port of this machine.

    Raises `VivaceError` with its own words when it does not come up; it does not outlive the block.
    """
    command = [sys.executable, "-m", "vivace", "serve", *arguments, "--port", "0", "--log-format", "json"]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        watchdog = threading.Timer(start_s, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            watchdog.cancel()
            if not line.strip():
                process.wait()
                errors.seek(0)
                said = errors.read()[-LAST_CHARACTERS:].strip() or f"nothing within {start_s:g} s"
                raise VivaceError(f"The server did not start. It said: {said}")
            summary = json.loads(line)
            yield Served(f"{summary['url']}/v1", process.pid, summary)
        finally:
            watchdog.cancel()
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


# Measuring


def measure(
    served: Served,
    workload: WorkloadSpec,
    directory: Path,
    *,
    calibration: Calibration | None = None,
    requests: int = 0,
    first: int = 0,
    on_progress: OnProgress | None = None,
) -> Document:
    """Offer the workload once; the bench's document of the run, with the raw numbers.

    Raises `ConfigError` when the server cannot be asked, or when the workload's lines cannot be read.
    """
    experiment, _ = prepare(workload.experiment(served.url, directory, pid=served.pid, requests=requests, first=first))
    return run(experiment, calibration, on_progress)[0]


def calibrate_client(workload: WorkloadSpec, directory: Path) -> Calibration | None:
    """What the client costs on this machine, against a server that computes nothing; takes about two seconds."""
    return measure_client(workload.experiment("http://127.0.0.1:9/v1", directory))


def summarize_documents(documents: Sequence[Document], seed: int) -> Measurement:
    """One or several runs of a workload taken together. Percentiles are over all requests offered: one without an
    answer counts as slower than any other."""
    raw = [document["raw"] for document in documents]
    failed = np.array([bool(error) for columns in raw for error in columns["error"]])
    seconds = sum(document["window_s"] for document in documents)
    counts = {
        name: sum(document["requests"][name] for document in documents)
        for name in ("offered", "answered", "refused", "failed")
    }
    counts["late"] = sum(_count_late(document["requests"]["errors"]) for document in documents)
    counts["failed"] -= counts["late"]
    tokens = sum(document["throughput"]["output_tokens"] or 0 for document in documents)
    used = [document["resources"] or {} for document in documents]
    return Measurement(
        began=documents[0]["began"],
        seconds=seconds,
        **counts,
        requests_per_s=counts["answered"] / seconds,
        output_tokens_per_s=tokens / seconds,
        prompt_tokens=_fit_lengths(raw, "prompt_tokens"),
        answer_tokens=_fit_lengths(raw, "tokens"),
        ttft=_spread(_column(raw, "ttft_ms"), failed, seed),
        tpot=_spread(_column(raw, "tpot_ms"), failed, seed),
        total=_spread(_column(raw, "e2e_ms"), failed, seed),
        timeline_ms=_average_timeline(documents),
        server_bytes=max(int(one.get("rss_bytes_max") or 0) for one in used),
        client_share=max(document["client"]["share_of_tail"] for document in documents),
    )


def _count_late(errors: Sequence[Document]) -> int:
    """Failures that a deadline is the reason of; a stream that it ended has no status of its own."""
    return sum(
        error["count"]
        for error in errors
        if error["kind"] in ("http_504", "http_400")
        or (error["kind"] == "server_error" and "deadline" in error["first"])
    )


def _column(raw: Sequence[Document], name: str) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for columns in raw for value in columns[name]])


def _spread(values: NDArray[np.float64], failed: NDArray[np.bool_], seed: int) -> Times:
    """An answer of one token has no time per token, and is left out there."""
    ordered = np.sort(np.where(failed, math.inf, values)[failed | ~np.isnan(values)])
    n = len(ordered)
    borne = {name: q for name, q in QUANTILES.items() if n >= required_sample(q)}
    return Times(
        n=n,
        percentiles={
            name: Estimate(
                value=_finite(quantile(ordered, q)),
                low=_finite((interval := quantile_interval(ordered, q, seed))[0]),
                high=_finite(interval[1]),
            )
            for name, q in borne.items()
        },
    )


def _fit_lengths(raw: Sequence[Document], name: str) -> LengthsRecord:
    """Of what was answered; one token where nothing was counted."""
    counts = np.array([count for columns in raw for count in columns[name] if count] or [1], dtype=np.float64)
    return LengthsRecord(median=float(np.median(counts)), sigma=float(np.log(counts).std()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _average_timeline(documents: Sequence[Document]) -> dict[str, float]:
    told = [document["timeline"] for document in documents if document["timeline"]]
    total = sum(timeline["requests"] for timeline in told)
    names = told[0]["mean_ms"] if told else ()
    return {
        name.removesuffix("_ms"): max(0.0, sum(one["mean_ms"][name] * one["requests"] for one in told) / total)
        for name in names
    }


# What the variant could do at best, and what its steps cost


@dataclass(frozen=True, slots=True)
class Inspection:
    """A variant looked at in this process, without a server."""

    machine: MachineRecord
    cost: CostRecord
    step_bytes: int
    weight_bytes: int
    config: ModelConfig


def inspect(model: str, settings: EngineSettings, lengths: Lengths) -> Inspection:
    """Load the variant, measure the machine and the steps, and let it go. Raises a `ModelError` or `ConfigError`."""
    opened = open_model(model)
    runner = load_runner(opened, settings.as_native())
    try:
        machine = describe_machine(runner.step_bytes, settings)
        steps = measure_steps(runner, lengths)
        cost = CostRecord(
            base_ms=steps.cost.base_ms,
            token_ms=steps.cost.token_ms,
            sequence_ms=steps.cost.sequence_ms,
            context_ms=steps.cost.context_ms,
            noise=steps.noise,
            error=steps.error,
            passes=steps.passes,
            slots=runner.limits.slots,
            blocks=runner.limits.blocks,
            max_batch_tokens=runner.limits.max_batch_tokens,
            context_length=runner.limits.context_length,
        )
        return Inspection(machine, cost, runner.step_bytes, runner.weight_bytes, opened.config)
    finally:
        runner.close()


def find_lengths(measured: Measurement, settings: EngineSettings) -> Lengths:
    """The workload's own, and as many at once as the settings allow."""
    prompt, answer = round(measured.prompt_tokens.median), round(measured.answer_tokens.median)
    return Lengths(prompt, answer, min(settings.max_sequences, MOST_TIMED))


def find_floor(inspection: Inspection, lengths: Lengths, measured: Measurement) -> FloorRecord:
    """A token waits for every weight to be read; a prompt for its multiplications."""
    machine = inspection.machine
    token_ms = inspection.step_bytes / machine.read_gb_per_s / 1e6
    operations = count_prompt_operations(inspection.config, lengths.prompt)
    prompt_ms = operations / machine.multiply_gops_per_s / 1e6 if machine.multiply_gops_per_s else 0.0
    return FloorRecord(
        step_bytes=inspection.step_bytes,
        token_ms=token_ms,
        token_share=_share(token_ms, measured.tpot),
        prompt_tokens=lengths.prompt,
        prompt_operations=operations,
        prompt_ms=prompt_ms,
        prompt_share=_share(prompt_ms, measured.ttft),
    )


def _share(least_ms: float, times: Times) -> float:
    median = times.percentiles.get("p50")
    return least_ms / median.value if median is not None and median.value else 0.0


# Certifying


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a caller knows of a variant beside what is measured here."""

    base: str = ""
    """The model that it was made of; empty: itself."""
    recipe: str = ""
    quality: QualityRecord | None = None
    predictions: Sequence[Prediction] = ()
    """Of a figure that was to be measured, `measured` is filled in here."""
    pareto: Sequence[Candidate] = ()
    rejected: Sequence[Rejection] = ()


def certify(
    model: str,
    directory: Path,
    settings: EngineSettings,
    workload: WorkloadSpec,
    objective: Objective,
    findings: Findings | None = None,
    *,
    lines: Path | None = None,
    say: Say = lambda text: None,
    on_progress: OnProgress | None = None,
) -> Certificate:
    """Measure a model as `vivace serve` takes it, and write its certificate, and a page of it, into the directory.

    `lines` is the workload's own file, which is kept beside the certificate. Raises a `ModelError`, `ConfigError`, or
    `VivaceError` when the server does not start.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if lines is not None:
        if lines.resolve() != (directory / LINES).resolve():
            copyfile(lines, directory / LINES)
        workload = workload.with_lines()
    say("Measuring the client against a server that computes nothing")
    calibration = calibrate_client(workload, directory)
    say(f"Serving {model} and offering it {workload}")
    with serving(describe_serving(model, settings, objective.budget)) as served:
        document = measure(served, workload, directory, calibration=calibration, on_progress=on_progress)
    return certify_documents(model, directory, settings, workload, objective, [document], findings, say=say)


def certify_documents(
    model: str,
    directory: Path,
    settings: EngineSettings,
    workload: WorkloadSpec,
    objective: Objective,
    documents: Sequence[Document],
    findings: Findings | None = None,
    *,
    say: Say = lambda text: None,
) -> Certificate:
    """The same of runs that were made already, under these settings and this workload."""
    findings = findings or Findings()
    measured = summarize_documents(documents, workload.seed)
    if not measured.answered:
        first = next(iter(documents[0]["requests"]["errors"]), {"first": "nothing was offered"})
        raise CertificateError(f"Nothing was answered, so that there is nothing to certify: {first['first']}")
    say("Timing steps of all sizes, and the machine itself")
    lengths = find_lengths(measured, settings)
    inspection = inspect(model, settings, lengths)
    certificate = build_certificate(
        Pieces(
            model=model,
            directory=directory,
            base=findings.base or model,
            recipe=findings.recipe,
            settings=settings,
            workload=workload,
            objective=objective,
            machine=inspection.machine,
            measured=measured,
            quality=findings.quality,
            floor=find_floor(inspection, lengths, measured),
            cost=inspection.cost,
            predictions=findings.predictions,
            pareto=findings.pareto,
            rejected=findings.rejected,
        )
    )
    write_certificate(certificate, directory)
    write_page(certificate, directory)
    return certificate
