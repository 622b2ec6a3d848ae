"""`vivace eval`: argument parsing, as in `cli`, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

_FORMATS = click.Choice(["none", "bf16", "int8", "int4"])


@click.command("eval")
@click.argument("model", default="mini")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Plain text, or JSON lines of {messages}, {context, question, answers} or {text, label}; also .gz.",
)
@click.option("--against", metavar="BASE", help="Also measure this model, and say how far MODEL has come from it.")
@click.option(
    "--through",
    type=click.Choice(["engine", "transformers", "both"]),
    default="engine",
    show_default=True,
    help="What computes: this engine, as it serves, or transformers in f32.",
)
@click.option("--quantize", type=_FORMATS, default="int8", show_default=True, help="The engine's format of MODEL.")
@click.option("--against-quantize", type=_FORMATS, default="none", show_default=True, help="And of BASE.")
@click.option(
    "--length",
    type=click.IntRange(16, 2**24),
    default=512,
    show_default=True,
    help="Tokens of a window of text, and of a conversation that count.",
)
@click.option(
    "--limit",
    type=click.IntRange(0, 10**6),
    default=200,
    show_default=True,
    help="Records drawn, or windows of text; 0 takes all.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1, 2**20),
    default=128,
    show_default=True,
    help="Of a reply that is looked at for its end.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the records drawn.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="0, the default: all cores allowed.")
@click.option(
    "--divergence/--no-divergence",
    default=True,
    show_default=True,
    help="With --against, KL and agreement: the part that takes longest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate_command(model: str, data: Path, against: str | None, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Measure how good MODEL is on a file: perplexity, answers, intents, endings; with intervals."""
    from vivace.evaluation.evaluate import EvaluationConfig, evaluate
    from vivace.evaluation.report import print_evaluation
    from vivace.progress import show_progress

    with show_progress(f"Evaluating {model}", sys.stderr) as progress:
        document = evaluate(model, data, against, EvaluationConfig(**options), progress)
    click.echo(json.dumps(document) if as_json else print_evaluation(document))
