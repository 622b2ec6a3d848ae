"""`vivace serve`: arguments to configs, the server started, and what it says of itself.

Imports of what a server needs stand inside: `vivace serve --help` should not wait for a tokenizer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

import click

from vivace.cli_certificate import describe_certified, take_certificate
from vivace.cli_options import add_model_options, add_speculation_options, model_options
from vivace.cli_output import write_table
from vivace.errors import ConfigError


def _add_server_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed((
        click.option("--host", default="127.0.0.1", show_default=True, help="Loopback unless told otherwise."),
        click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
                     help="0 takes a free one."),
        click.option(
            "--api-key",
            "api_keys",
            multiple=True,
            metavar="KEY",
            help="Requests must bring it as a bearer token; may be given several times.",
        ),
        click.option("--api-key-file", type=click.File(), help="The same, one a line: not for everyone's eyes in ps."),
        click.option(
            "--max-waiting",
            type=click.IntRange(1),
            default=4096,
            show_default=True,
            help="Requests that may wait for a place; more are refused with 429.",
        ),
        click.option("--budget", metavar="BUDGET",
                     help='Of every request that asks for no less, such as "ttft=50ms tpot=5ms total=300ms".'),
        click.option("--admission/--no-admission", default=True, show_default=True,
                     help="Refuse at once what would miss its deadline. Without, only what waits is bounded."),
        click.option("--pressed-max-tokens", type=click.IntRange(0), default=0, metavar="TOKENS",
                     help="Cut answers to this length rather than refuse them. Default: never."),
        click.option("--policy", type=click.Choice(["edf", "fifo", "shortest"]), default="edf", show_default=True,
                     help="Who goes first within a priority: earliest deadline, first to come, least work."),
        click.option(
            "--max-body",
            type=click.IntRange(1),
            default=4 * 2**20,
            show_default=True,
            metavar="BYTES",
            help="Longest request body.",
        ),
        click.option(
            "--drain",
            type=click.FloatRange(0),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="At the end, how long answers under way may take to finish.",
        ),
        click.option(
            "--response-cache",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            metavar="MIB",
            help="Memory for answers to requests without chance (temperature 0, or a seed): the same request is then "
            "answered at once, and equal requests under way share one computation. 0 keeps none, so that every time "
            "measured is that of a computed answer. Cache-Control: no-store or no-cache on a request is honoured.",
        ),
        click.option(
            "--response-cache-ttl",
            type=click.FloatRange(0, min_open=True),
            default=3600.0,
            show_default=True,
            metavar="SECONDS",
            help="How long a kept answer is told.",
        ),
        click.option(
            "--coalesce",
            is_flag=True,
            help="Share computations between equal requests under way without keeping answers.",
        ),
        click.option(
            "--share-responses",
            is_flag=True,
            help="Kept and shared answers may go to other API keys than the one that asked first.",
        ),
        click.option(
            "--isolate-prefixes",
            is_flag=True,
            help="Requests with different API keys share no prefix of their prompts, unless they bring a cache_salt.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="Of the summary on standard output and the log on standard error.",
        ),
        click.option(
            "--log-level",
            type=click.Choice(["info", "warning", "error"]),
            default="warning",
            show_default=True,
            help="info has a line for each request; never what was asked or answered.",
        ),
    )):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL | NAME=MODEL...]")
@click.option(
    "--ladder",
    multiple=True,
    metavar="NAME=MODEL...",
    help="Variants of one model, the best first: the next answers what the one before cannot in time.",
)
@click.option("--certificate/--no-certificate", default=True,
              help="Take budget and settings from the certificate beside the model, where options leave them open, and "
              "watch answers against it.")  # fmt: skip
@click.option("--app", "app_name", type=click.Choice(["support"]), help="An application to run beside the server.")
@click.option("--app-option", "app_options", multiple=True, metavar="OPTION=VALUE",
              help="Of the application, such as port=8080; vivace support --help has them.")  # fmt: skip
@_add_server_options
@add_speculation_options
@add_model_options
@click.pass_context
def serve(
    context: click.Context,
    /,
    models: tuple[str, ...],
    ladder: tuple[str, ...],
    app_name: str | None,
    app_options: tuple[str, ...],
    api_keys: tuple[str, ...],
    api_key_file: TextIO | None,
    budget: str | None,
    draft: str | None,
    certificate: bool,
    **options: Any,
) -> None:
    """Serve MODEL (mini, a directory, a GGUF file, or a hub id) on an OpenAI-compatible API, with a chat page at /."""
    from vivace.budget import NO_BUDGET, parse_budget
    from vivace.cli_support import beside_server
    from vivace.engine.admission import AdmissionConfig
    from vivace.engine.scheduler import SchedulerConfig
    from vivace.engine.speculation import find_max_proposed
    from vivace.launch import launch, open_ladder
    from vivace.llm import open_draft
    from vivace.progress import show_progress
    from vivace.runners.native import NativeConfig
    from vivace.server import app

    named, certified = _name_models(models, ladder), None
    if certificate and not ladder:
        named[""], budget, certified = take_certificate(context, named[""], options, budget)
    keys = [line.strip() for line in api_key_file or () if line.strip()]
    config = app.ServerConfig(
        host=options.pop("host"),
        port=options.pop("port"),
        max_body_bytes=options.pop("max_body"),
        budget=parse_budget(budget) if budget else NO_BUDGET,
        drain_ms=1000 * options.pop("drain"),
        api_keys=(*api_keys, *keys),
        response_cache_bytes=2**20 * options.pop("response_cache"),
        response_cache_ttl_s=options.pop("response_cache_ttl"),
        coalesce=options.pop("coalesce"),
        share_responses=options.pop("share_responses"),
        isolate_prefixes=options.pop("isolate_prefixes"),
        log_format=options.pop("log_format"),
        log_level=options.pop("log_level"),
        certified=describe_certified(certified),
    )
    policy = SchedulerConfig(
        max_waiting=options.pop("max_waiting"),
        policy=options.pop("policy"),
        max_proposed=find_max_proposed(options.pop("speculate"), draft=draft is not None),
    )
    rules = AdmissionConfig(by_forecast=options.pop("admission"), pressed_max_tokens=options.pop("pressed_max_tokens"))
    opened = open_ladder(named)
    small = None if draft is None else open_draft(draft, next(iter(opened.values())))
    with show_progress(f"Loading {', '.join(model.name for model in opened.values())}", sys.stderr) as progress:
        launched = launch(opened, NativeConfig(**model_options(**options)), policy, rules, progress, small)
    try:
        model = opened[launched.first]
        model.tokenizer.prepare_chat()
        summary = _summarize(model, launched.runners[launched.first], options["quantize"])
        if small is not None and launched.draft is not None:
            summary |= {"draft": small.name, "draft_weight_bytes": launched.draft.weight_bytes}
        key = config.api_keys[0] if config.api_keys else ""
        with beside_server(app_name, [f"--{option}" for option in app_options], key) as start_app:
            app.serve(
                model, launched.bridge, config, partial(_announce, summary, config.log_format == "json", start_app)
            )
    finally:
        launched.close()


def _name_models(models: tuple[str, ...], ladder: tuple[str, ...]) -> dict[str, str]:
    """What to serve, by the name of the variant; one model alone has none. Raises `ConfigError`."""
    from vivace.launch import parse_ladder

    if ladder:
        return parse_ladder([rung for text in (*ladder, *models) for rung in text.split()])
    if len(models) > 1:
        raise ConfigError(f"{', '.join(models)} are several models. Serve one, or a --ladder of NAME=MODEL.")
    return {"": models[0] if models else "mini"}


def _summarize(model: Any, runner: Any, quantize: str) -> dict[str, Any]:
    """What is served, and the fastest that this machine could: the time to read a step's bytes, as measured now."""
    from vivace.info import MAX_MEASURED_BYTES
    from vivace.native import measure_read_bandwidth

    bandwidth = measure_read_bandwidth(min(runner.step_bytes, MAX_MEASURED_BYTES), runner.threads, 3)
    return {
        "model": model.name,
        "format": quantize,
        "weight_bytes": runner.weight_bytes,
        "context_length": model.config.context_length,
        "kernels": runner.isa,
        "threads": runner.threads,
        "read_gb_per_s": round(bandwidth, 1),
        "floor_ms_per_token": round(runner.step_bytes / bandwidth / 1e6, 4),
    }


def _announce(summary: dict[str, Any], as_json: bool, start_app: Callable[[str], None], url: str) -> None:
    if as_json:
        click.echo(json.dumps({"event": "serving", "url": url} | summary))
        start_app(url)
        return
    write_table(
        {
            "model": f"{summary['model']}, context {summary['context_length']:,} tokens",
            "format": f"{summary['format']}, {summary['weight_bytes'] / 1e6:,.1f} MB of weights",
            "draft": f"{summary['draft']}, {summary['draft_weight_bytes'] / 1e6:,.1f} MB of weights"
            if "draft" in summary
            else "none",
            "floor": f"{summary['floor_ms_per_token']:.3f} ms a token, reading {summary['read_gb_per_s']} GB/s; "
            f"{summary['kernels']}, {summary['threads']} threads",
            "chat page": f"{url}/",
            "API": f"{url}/v1   (OpenAI-compatible; described at {url}/docs)",
        }
    )
    click.echo("Ctrl-C stops")
    start_app(url)
