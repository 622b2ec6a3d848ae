"""The command `vivace compress`: argument parsing, as in `cli`, and nothing else."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

_INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--recipe", metavar="STEPS", help="Such as int8, or int4(group_size=32, method=awq).")
@click.option("--recipe-file", type=_INPUT, help="The same as YAML: a list of steps.")
@click.option("--data", type=_INPUT, help="Conversations (JSON lines of messages) or text to calibrate on; .gz too.")
@click.option("--calibration-tokens", type=int, help="How many of its tokens to look at.  [default: 16384]")
@click.option("--sequence-length", type=int, help="In tokens.  [default: 256]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(0, 1024),
    default=0,
    help="Of PyTorch. Default: its own choice; fewer are faster on cores that others use too.",
)
@click.option("--resume", is_flag=True, help="Go on where a run with the same arguments was cut off.")
@click.option("--json", "as_json", is_flag=True, help="Print recipe.json, not a summary.")
def compress(
    model: str,
    out: Path,
    recipe: str | None,
    recipe_file: Path | None,
    data: Path | None,
    calibration_tokens: int | None,
    sequence_length: int | None,
    seed: int,
    threads: int,
    resume: bool,
    as_json: bool,
) -> None:
    """Make a smaller model of MODEL and write it to the directory OUT, as a standard checkpoint.

    A recipe is a list of steps, each with its settings; recipe.json in OUT says what was done and what it cost.
    """
    from vivace.compress import CalibrationConfig, parse_recipe, read_recipe_file
    from vivace.compress import compress as run
    from vivace.progress import show_progress

    if (recipe is None) == (recipe_file is None):
        raise click.UsageError("Say what to do: --recipe STEPS or --recipe-file FILE, one of them.")
    steps = parse_recipe(recipe) if recipe is not None else read_recipe_file(recipe_file or Path())
    given = {"tokens": calibration_tokens, "length": sequence_length}
    manifest = run(
        model,
        steps,
        out,
        data=data,
        calibration=CalibrationConfig(**{name: value for name, value in given.items() if value is not None}),
        seed=seed,
        threads=threads,
        resume=resume,
        progress=partial(show_progress, output=sys.stderr),
    )
    click.echo(json.dumps(manifest, indent=2) if as_json else _summarize(out, manifest))


def _summarize(out: Path, manifest: dict[str, Any]) -> str:
    before, after = manifest["before"], manifest["after"]
    ratio = manifest["compression_ratio"]
    lines = [
        f"{'weights':13} {before['weight_bytes'] / 1e6:,.1f} MB to {after['weight_bytes'] / 1e6:,.1f} MB "
        f"({ratio['bytes']:.2f} times smaller)",
        f"{'parameters':13} {before['parameters'] / 1e6:,.1f} to {after['parameters'] / 1e6:,.1f} million",
    ]
    if after["held_out_perplexity"] is not None:
        lines.append(
            f"{'perplexity':13} {before['held_out_perplexity']:.3f} to {after['held_out_perplexity']:.3f} "
            "on text set aside from the data; weights only"
        )
    return "\n".join([*lines, f"{'written':13} {out}, with recipe.json"])
