"""The commands about certificates, and what a certificate is to `vivace serve`. Argument parsing, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vivace.errors import CertificateError, ConfigError

if TYPE_CHECKING:
    from vivace.fit.certificate import Certificate

_FILE = click.Path(dir_okay=False, path_type=Path)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _quietly(quiet: bool) -> Callable[[str], None]:
    return (lambda text: None) if quiet else _say


# serve


def take_certificate(
    context: click.Context, model: str, options: dict[str, Any], budget: str | None
) -> tuple[str, str | None, Certificate | None]:
    """The model to serve, its budget, and the certificate that lies in its directory, if one does. Options that the
    command line leaves open are set as it says.

    Raises `CertificateError` when it is no longer about these files.
    """
    place = Path(model)
    if not (place / "certificate.json").is_file():
        return model, budget, None
    from vivace.fit.certificate import find_changes, locate_variant, read_certificate

    certificate, directory = read_certificate(place)
    changes = find_changes(certificate, directory, hashes=False)
    if changes:
        raise CertificateError(
            f"{place} is not what its certificate was made of: {'; '.join(changes[:3])}. Certify it again, or serve it "
            "with --no-certificate."
        )
    difference = compare_machine(certificate)
    if difference:
        _say(f"The certificate's settings are used, but its times say nothing here: {difference}.")
    settings = certificate.settings
    certified = {
        "quantize": settings.quantize,
        "group_size": settings.group_size,
        "quantize_tables": settings.quantize_tables,
        "threads": settings.threads,
        "max_sequences": settings.max_sequences,
        "prompt_chunk": settings.max_batch_tokens,
        "kv_memory": settings.kv_memory_bytes,
        "speculate": settings.speculate,
    }
    for name, value in certified.items():
        if context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
            options[name] = value
    limits = certificate.objective.budget.as_dict()
    asked = " ".join(f"{name.removesuffix('_ms')}={limit!r}ms" for name, limit in limits.items())
    return locate_variant(certificate.variant, directory), budget or asked or None, certificate


def describe_certified(certificate: Certificate | None) -> Any:
    """What the server watches its answers against: the limits that were certified, or medians where there are none."""
    if certificate is None:
        return ()
    from vivace.fit.certificate import QUANTILES
    from vivace.fit.objective import LATENCIES
    from vivace.server.drift import CertifiedLimit

    limits = {one.name: one.limit for one in certificate.objective.constraints if one.name in LATENCIES}
    if not limits:
        medians = {name: certificate.measured.find(name) for name in ("ttft_p50", "tpot_p50", "total_p50")}
        limits = {name: MEDIAN_ROOM * found.value for name, found in medians.items() if found and found.value}
    return tuple(
        CertifiedLimit(name, metric, QUANTILES[percentile], ms)  # type: ignore[arg-type]
        for name, ms in limits.items()
        for metric, _, percentile in [name.partition("_")]
    )


MEDIAN_ROOM = 1.5
"""Without limits, a median of so many times the certified one is drift."""


def compare_machine(certificate: Certificate) -> str:
    """Why the certificate's times say nothing of this machine; empty if they do."""
    from vivace.machine import allowed_cores, read_cpu_name

    machine = certificate.machine
    if machine.cpu != read_cpu_name():
        return f"it was measured on {machine.cpu}, and this is {read_cpu_name()}"
    if machine.cores != allowed_cores():
        return f"it was measured on {machine.cores} cores, and here are {allowed_cores()}"
    return ""


# verify


@click.command()
@click.argument("out", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Do not say what is being done.")
def verify(out: Path, as_json: bool, quiet: bool) -> None:
    """Measure again what the certificate in the directory OUT says, and say whether it holds here.

    Exit status: 0 it holds; 10 it does not, and the machine is slower than it was; 11 it does not, though the machine
    is as fast as it was; 12 the server does not start, or requests fail; 13 refused, since the machine is another one
    or the model has changed; 1 the certificate cannot be read.
    """
    from vivace.fit.verify import verify as replay

    found = replay(out, say=_quietly(quiet))
    if as_json:
        click.echo(json.dumps(found.as_dict()))
        raise SystemExit(found.exit_status)
    click.echo(f"{found.verdict.value.upper()}: {'; '.join(found.reasons)}")
    for check in found.checks:
        value = "none" if check.value is None else f"{check.value:.4g}"
        between = f" ({check.low:.4g} to {check.high:.4g})" if check.low is not None and check.high is not None else ""
        click.echo(f"  {check.limit:10} {value}{between}, at most {check.most:g}: {'kept' if check.kept else 'missed'}")
    if found.read_gb_per_s:
        click.echo(f"  {'bandwidth':10} {found.read_gb_per_s:.1f} GB/s")
    raise SystemExit(found.exit_status)


# plan


@click.command()
@click.option("--certificate", "place", required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE",
              help="The certificate, or the directory that it lies in.")  # fmt: skip
@click.option("--rate", "rates", required=True, metavar="A,B,...", help="Requests a second of all replicas together.")
@click.option("--budget", default="", help='Such as "ttft_p99=30ms tpot_p99=2ms". Default: the certificate\'s own.')
@click.option("--headroom", type=click.FloatRange(0, 1, max_open=True), default=0.2, show_default=True,
              help="Share of a replica's capacity that stays free.")  # fmt: skip
@click.option("--requests", type=click.IntRange(700, 10**6), default=2000, show_default=True,
              help="Of each simulated run.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--html", "html_file", type=_FILE, help="Write a page, one file.")
def plan(
    place: Path,
    rates: str,
    budget: str,
    headroom: float,
    requests: int,
    seed: int,
    as_json: bool,
    html_file: Path | None,
) -> None:
    """Say how many replicas of a certified variant keep a budget at a rate, by simulation.

    Exit status: 0; 1 when no rate keeps the budget.
    """
    from vivace.fit.certificate import read_certificate
    from vivace.fit.objective import parse_objective
    from vivace.fit.plan import plan as simulate_plan
    from vivace.fit.plan_page import render_plan, write_plan

    try:
        numbers = [float(rate) for rate in rates.split(",")]
    except ValueError as error:
        raise ConfigError(f"{rates!r} is no list of rates. Give one such as 10,1000,100000.") from error
    certificate, _ = read_certificate(place)
    objective = parse_objective(budget) if budget else None
    found = simulate_plan(certificate, numbers, objective, headroom=headroom, requests=requests, seed=seed)
    if html_file is not None:
        try:
            html_file.write_text(render_plan(found), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"Cannot write {html_file}: {error.strerror}. Give another place.") from error
    click.echo(json.dumps(found.as_dict()) if as_json else write_plan(found))
