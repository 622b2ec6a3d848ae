"""The command `vivace fit`: argument parsing, as in `cli`, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vivace.cli_bench import SECONDS

if TYPE_CHECKING:
    from vivace.fit.config import FitConfig
    from vivace.fit.pipeline import Fitted
    from vivace.fit.workload import WorkloadSpec

_INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)

INFEASIBLE_STATUS = 99
"""As of a bench that misses its budget."""
STOPPED_STATUS = 130
"""As of a program that Ctrl-C ended."""


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL... [OUT]")
@click.option("--out", type=click.Path(path_type=Path), help="Where the variant goes; or the last argument.")
@click.option("--budget", required=True, help='Such as "ttft_p99=30ms tpot_p99=2ms memory=500MB loss=2%".')
@click.option(
    "--workload",
    default="chat",
    show_default=True,
    metavar="PRESET|FILE",
    help="Lengths by the name of a preset of vivace bench, or a JSONL of prompts, messages or turns.",
)
@click.option("--concurrency", type=click.IntRange(1, 10**4), help="So many clients, each asking when answered.")
@click.option("--rate", type=click.FloatRange(0, 1e6, min_open=True), help="Requests a second instead.")
@click.option("--requests", type=click.IntRange(16, 10**6), help="Offered to each variant. Default: as p99 takes.")
@click.option("--time", "limit_s", type=SECONDS, default="30m", show_default=True, help="For all of the search.")
@click.option(
    "--prefer",
    type=click.Choice(["loss", "speed"]),
    default="loss",
    show_default=True,
    help="Of variants that keep the budget: the least loss, or the fastest.",
)
@click.option(
    "--data",
    type=_INPUT,
    help="Text or conversations to calibrate on, a part of it set aside to judge by. Default: the model writes some.",
)
@click.option("--time-only", is_flag=True, help="Do not measure loss: of untrained shapes.")
@click.option("--distil", type=click.FloatRange(0, min_open=True), metavar="MINUTES",
              help="Train each finalist towards the original for so long, outside of the time given.")  # fmt: skip
@click.option("--trials", type=click.IntRange(1, 10**6), default=400, show_default=True, help="Candidates to try.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Of PyTorch. Default: what is fastest.")
@click.option("--resume", is_flag=True, help="Go on where a search with the same arguments was cut off.")
@click.option("--no-certificate", is_flag=True, help="Write no certificate.")
def fit(models: tuple[str, ...], out: Path | None, no_certificate: bool, **options: Any) -> None:
    """Search for the variant of MODEL, and how to serve it, that keeps a budget on this machine; write it to OUT.

    Several models may be given: it also chooses between them, and loss is against the first. Exit status: 0; 99 when
    nothing keeps the budget, and OUT is the nearest, or when the best missed it as it was certified.
    """
    from vivace.fit.issue import write_best
    from vivace.fit.pipeline import fit as search

    config = _build(models, out, options)
    fitted = search(config)
    settings = write_best(fitted, config)
    click.echo(_summarize(fitted, config))
    kept = fitted.infeasible is None
    if fitted.infeasible is not None:
        click.echo(f"NOTHING KEEPS THE BUDGET: {fitted.infeasible}")
    elif fitted.document is None:
        kept = False
        click.echo(
            "NOT CONFIRMED: the best kept the budget in turn with the baseline, but nothing did when measured by "
            "itself. Allow more in --budget, or search for longer with --time."
        )
    elif not no_certificate:
        from vivace.fit.issue import issue_certificate

        text, kept = issue_certificate(fitted, config, settings, lambda text: click.echo(text, err=True))
        click.echo(text)
    click.echo(f"serve it:   vivace serve {config.out} {' '.join(settings.as_arguments())}")
    raise SystemExit(INFEASIBLE_STATUS if not kept else STOPPED_STATUS if fitted.stopped else 0)


def _build(models: tuple[str, ...], out: Path | None, options: dict[str, Any]) -> FitConfig:
    """Raises `ConfigError`, or `click.UsageError` when there is no place to write to."""
    from vivace.fit.config import FitConfig
    from vivace.fit.objective import parse_objective

    if out is None:
        if len(models) < 2:
            raise click.UsageError("Say where the variant goes: vivace fit MODEL OUT, or --out OUT.")
        *rest, last = models
        models, out = tuple(rest), Path(last)
    workload, lines = _read_workload(options)
    return FitConfig(
        models=models,
        out=out,
        objective=parse_objective(options["budget"], options["prefer"]),
        workload=workload,
        lines=lines,
        data=options["data"],
        time_only=options["time_only"],
        limit_s=options["limit_s"],
        trials=options["trials"],
        distil_minutes=options["distil"] or 0.0,
        seed=options["seed"],
        threads=options["threads"],
        resume=options["resume"],
    )


def _read_workload(options: dict[str, Any]) -> tuple[WorkloadSpec, Path | None]:
    """Raises `ConfigError`."""
    from vivace.bench.presets import PRESETS, find_preset
    from vivace.bench.stats import required_sample
    from vivace.errors import ConfigError
    from vivace.fit.workload import WorkloadSpec

    if options["rate"] and options["concurrency"]:
        raise ConfigError("A workload has either a --rate or a --concurrency. Give one of them.")
    offered = {"rate": options["rate"]} if options["rate"] else {"concurrency": options["concurrency"] or 8}
    asked = {"requests": options["requests"] or required_sample(0.99), "seed": options["seed"], **offered}
    name = options["workload"]
    if name not in PRESETS and Path(name).is_file():
        return WorkloadSpec(salted=True, **asked), Path(name)
    preset = find_preset(name)
    return WorkloadSpec(input_tokens=preset.input_tokens, output_tokens=preset.output_tokens, **asked), None


def _summarize(fitted: Fitted, config: FitConfig) -> str:
    from vivace.fit.view import Line, write_lines

    best = fitted.best
    assert best is not None, "something was written"
    lines = [Line(f"{one.candidate.describe()}{'  <- OUT' if one is best else ''}", one.values, True)
             for one in fitted.realised]  # fmt: skip
    rows = [
        f"tried {fitted.report['tried']} candidates, realised {len(fitted.realised)}, "
        f"in {fitted.report['seconds'] / 60:.1f} min",
        write_lines(config.objective, [Line("the baseline: untold, int8", best.baseline, True), *lines]),
        f"best:       {best.candidate.describe()}",
        f"recipe:     {best.recipe[:200] or 'none: the files as they are'}",
        f"baseline:   {best.verdict} in times, measured in turn",
    ]
    if fitted.floor is not None:
        floor = fitted.floor
        share = floor.tpot_ms / best.values["tpot_p50"] if best.values.get("tpot_p50") else 0.0
        rows.append(
            f"floor:      {floor.tpot_ms:.3f} ms a token by {floor.bound}, {share:.0%} of what was measured; "
            f"{floor.ttft_ms:.2f} ms to the first"
        )
    return "\n".join(rows)
