"""The command line: the only argument parsing. It builds configs, calls functions, and prints.

Imports of what a command needs stand inside it: `vivace --help` should not wait for a tokenizer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import Any, TextIO

import click

from vivace import __version__
from vivace.cli_eval import evaluate_command
from vivace.errors import ConfigError, RequestError, VivaceError

_ELSEWHERE = {"compress": "vivace.cli_compress", "support": "vivace.cli_support"}
"""Commands by name, and the module that has a function of that name."""


class _Group(click.Group):
    """Turns our own errors into one line on standard error and exit status 1, and imports commands that have a file of
    their own when they are asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *_ELSEWHERE])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _ELSEWHERE:
            return super().get_command(context, name)
        command: click.Command = getattr(import_module(_ELSEWHERE[name]), name)
        return command

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except VivaceError as error:
            raise click.ClickException(str(error)) from error


def _read_memory(context: click.Context, parameter: click.Parameter, gib: float) -> int:
    """Bytes. Raises `click.BadParameter` for what no machine has."""
    if not 2**-30 <= gib <= 2**20:
        raise click.BadParameter(f"{gib} is no size in GiB; give one from 2**-30 to 2**20.")
    return int(gib * 2**30)


def _add_model_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--quantize", type=click.Choice(["none", "bf16", "int8", "int4"]), default="int8",
                     show_default=True, help="Format of the weights; none is exact f32."),
        click.option("--group-size", type=click.Choice([32, 64, 128]), default=32, show_default=True,
                     help="Inputs that share a scale, under int4."),
        click.option("--quantize-tables", is_flag=True, help="Under int4, embedding and head too; else they are int8."),
        click.option("--threads", type=click.IntRange(0, 1024), default=0, help="0, the default: all cores allowed."),
        click.option("--max-batch", "--max-sequences", "max_sequences", type=click.IntRange(1, 2**20), default=1024,
                     show_default=True, help="Sequences under way at once; the rest wait."),
        click.option("--kv-memory", type=float, default=1.0, show_default=True, metavar="GIB",
                     callback=_read_memory, help="Memory for the KV cache, taken as it fills."),
    ):  # fmt: skip
        command = option(command)
    return command


def _add_speculation_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--speculate", type=click.Choice(["lookup", "off"]), default="off", show_default=True,
                        help="Propose what followed the same words before, and verify it where that is faster; "
                        "answers stay the same.")(command)  # fmt: skip


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


def _add_sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed((
        click.option("--max-tokens", type=click.IntRange(1),
                     help="Default: until the model ends or its context is full."),
        click.option("--min-tokens", type=click.IntRange(0), default=0, help="Do not let the model end before."),
        click.option("--temperature", type=float, help="0 is greedy. Default: as the model's files say."),
        click.option("--top-k", type=click.IntRange(0, 2**31 - 1), help="0 keeps all tokens."),
        click.option("--top-p", type=float),
        click.option("--min-p", type=float, help="Leave out tokens less likely than this share of the likeliest."),
        click.option("--repetition-penalty", type=float, help="Above 1: against tokens of prompt and answer."),
        click.option("--presence-penalty", type=float, default=0.0, help="Above 0: against tokens of the answer."),
        click.option("--frequency-penalty", type=float, default=0.0, help="The same, for each time they came."),
        click.option("--seed", type=int),
        click.option("--stop", multiple=True, help="End before this text; may be given several times."),
        click.option("--ignore-eos", is_flag=True, help="Go on past the model's own end."),
        click.option("--logprobs", type=int, help="With --json: log-probabilities of each token and of so many more."),
        click.option("--prompt-logprobs", is_flag=True, help="With --json: those of the prompt's tokens."),
    )):  # fmt: skip
        command = option(command)
    return command


def _model_options(
    quantize: str, group_size: int, quantize_tables: bool, threads: int, max_sequences: int, kv_memory: int
) -> dict[str, Any]:
    return {
        "quantize": quantize,
        "group_size": group_size,
        "quantize_tables": quantize_tables,
        "threads": threads,
        "max_sequences": max_sequences,
        "max_batch_tokens": max(1024, max_sequences),
        "kv_memory_bytes": kv_memory,
    }


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="vivace %(version)s")
def main() -> None:
    """Real-time LLM inference: a model and a latency budget in, a server that keeps it out."""


@main.command()
@click.argument("model", default="mini")
@click.option("--prompt", required=True, help="Text to continue, or with --chat what the user says.")
@click.option("--chat", is_flag=True, help="Put the prompt through the model's chat template.")
@_add_sampling_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with tokens and timing.")
@_add_speculation_option
@_add_model_options
def generate(model: str, prompt: str, chat: bool, as_json: bool, speculate: str, **options: Any) -> None:
    """Continue PROMPT with MODEL: mini (embedded), a directory, or a hub id."""
    from vivace.llm import load
    from vivace.progress import show_progress
    from vivace.sampling import SamplingParams

    sampling = {name: options.pop(name) for name in SamplingParams.__slots__ if name in options}
    try:
        params = SamplingParams(**sampling)
    except RequestError as error:
        raise click.UsageError(str(error)) from error
    if not as_json and (params.logprobs is not None or params.prompt_logprobs):
        raise click.UsageError("--logprobs and --prompt-logprobs are printed with --json only; add it.")
    with show_progress(f"Loading {model}", sys.stderr) as progress:
        loaded = load(model, progress=progress, speculate=speculate, **_model_options(**options))
    with loaded as llm:
        request = [{"role": "user", "content": prompt}] if chat else prompt
        if as_json:
            click.echo(json.dumps(_describe(llm.model.name, llm.generate(request, params))))
            return
        for piece in llm.stream(request, params):
            _write(piece)
        _write("\n")


def _write(text: str) -> None:
    """To standard output at once, with a question mark for what it cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _describe(model: str, generation: Any) -> dict[str, Any]:
    described = {
        "model": model,
        "text": generation.text,
        "token_ids": generation.token_ids,
        "finish_reason": generation.finish_reason,
        "usage": {
            "prompt_tokens": generation.prompt_tokens,
            "completion_tokens": len(generation.token_ids),
            "cached_tokens": generation.cached_tokens,
        },
        "timing": generation.timing.as_dict(),
    }
    if generation.logprobs is not None:
        described["logprobs"] = [asdict(logprobs) for logprobs in generation.logprobs]
    if generation.prompt_logprobs is not None:
        described["prompt_logprobs"] = generation.prompt_logprobs
    return described


@main.command()
@click.argument("models", nargs=-1, metavar="[MODEL | NAME=MODEL...]")
@click.option(
    "--ladder",
    multiple=True,
    metavar="NAME=MODEL...",
    help="Variants of one model, the best first: the next answers what the one before cannot in time.",
)
@click.option("--app", "app_name", type=click.Choice(["support"]), help="An application to run beside the server.")
@click.option("--app-option", "app_options", multiple=True, metavar="OPTION=VALUE",
              help="Of the application, such as port=8080; vivace support --help has them.")  # fmt: skip
@_add_server_options
@_add_speculation_option
@_add_model_options
def serve(
    models: tuple[str, ...],
    ladder: tuple[str, ...],
    app_name: str | None,
    app_options: tuple[str, ...],
    api_keys: tuple[str, ...],
    api_key_file: TextIO | None,
    budget: str | None,
    **options: Any,
) -> None:
    """Serve MODEL (mini, a directory, a GGUF file, or a hub id) on an OpenAI-compatible API, with a chat page at /."""
    from vivace.budget import NO_BUDGET, parse_budget
    from vivace.cli_support import beside_server
    from vivace.engine.admission import AdmissionConfig
    from vivace.engine.scheduler import SchedulerConfig
    from vivace.engine.speculation import MAX_PROPOSED
    from vivace.launch import launch, open_ladder
    from vivace.progress import show_progress
    from vivace.runners.native import NativeConfig
    from vivace.server import app

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
    )
    policy = SchedulerConfig(
        max_waiting=options.pop("max_waiting"),
        policy=options.pop("policy"),
        max_proposed=MAX_PROPOSED[options.pop("speculate")],
    )
    rules = AdmissionConfig(by_forecast=options.pop("admission"), pressed_max_tokens=options.pop("pressed_max_tokens"))
    opened = open_ladder(_name_models(models, ladder))
    with show_progress(f"Loading {', '.join(model.name for model in opened.values())}", sys.stderr) as progress:
        launched = launch(opened, NativeConfig(**_model_options(**options)), policy, rules, progress)
    try:
        model = opened[launched.first]
        model.tokenizer.prepare_chat()
        summary = _summarize(model, launched.runners[launched.first], options["quantize"])
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
    _write_table(
        {
            "model": f"{summary['model']}, context {summary['context_length']:,} tokens",
            "format": f"{summary['format']}, {summary['weight_bytes'] / 1e6:,.1f} MB of weights",
            "floor": f"{summary['floor_ms_per_token']:.3f} ms a token, reading {summary['read_gb_per_s']} GB/s; "
            f"{summary['kernels']}, {summary['threads']} threads",
            "chat page": f"{url}/",
            "API": f"{url}/v1   (OpenAI-compatible; described at {url}/docs)",
        }
    )
    click.echo("Ctrl-C stops")
    start_app(url)


@main.command()
@click.argument("model", default="mini")
@click.option("--against", metavar="BASE", help="Also show how much smaller MODEL is than this one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(model: str, against: str | None, as_json: bool) -> None:
    """Show MODEL's shape, its bytes in each format, and the fastest this machine could run it."""
    from vivace.info import describe_model
    from vivace.models.model import open_model

    found = describe_model(open_model(model), None if against is None else open_model(against))
    if as_json:
        click.echo(json.dumps(found.as_dict()))
        return
    widths = found.intermediate_sizes
    inner = f"{widths[0]}" if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
    tied = ", tied" if found.tied else ""
    _write_table(
        {
            "model": f"{found.name} ({found.family})",
            "parameters": f"{found.parameters / 1e6:,.1f} million",
            "shape": f"{found.layers} layers, hidden {found.hidden_size}, MLP {inner}, {found.heads} heads of "
            f"{found.head_dim} on {found.kv_heads} key-value heads",
            "vocabulary": f"{found.vocab_size:,}{tied}",
            "context": f"{found.context_length:,} tokens, {found.kv_bytes_per_token:,} bytes of KV cache each",
            "weights' files": f"{found.stored_bytes / 1e6:,.1f} MB",
        }
        | (_describe_compression(found.compression) if found.compression else {})
    )
    _write("\nformat   MB a step   bf16 / this   read at GB/s   floor, ms a token\n")
    for kind in found.formats:
        _write(
            f"{kind.name:6} {kind.step_bytes / 1e6:11,.1f} {kind.compression_ratio:13.2f} "
            f"{kind.bandwidth_gb_per_s:14.1f} {kind.floor_ms:19.3f}\n"
        )


def _describe_compression(found: Any) -> dict[str, str]:
    return {
        "compression": f"{found.parameter_ratio:.3f} by parameters, {found.byte_ratio:.3f} by bytes, from "
        f"{found.original} ({found.original_parameters / 1e6:,.1f} million, {found.original_bytes / 1e6:,.1f} MB)"
    }


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Show what this machine and this installation have, bandwidth measured."""
    from vivace.doctor import OPTIONAL_PARTS, describe_machine

    found = describe_machine()
    if as_json:
        click.echo(json.dumps(found.as_dict()))
        return
    parts = {
        module: f"{found.optional[module] or 'not installed'} ({purpose})" for module, purpose in OPTIONAL_PARTS.items()
    }
    _write_table(
        {
            "cpu": found.cpu,
            "kernels": f"{found.isas[0]} (can run: {', '.join(found.isas)})",
            "cores": f"{found.cores_allowed} allowed by affinity and cgroup, of {found.cores_present}",
            "memory": f"{found.memory_bytes / 2**30:.1f} GiB, read at {found.memory_read_gb_per_s:.1f} GB/s "
            f"({found.cache_read_gb_per_s:.1f} from cache)",
            "versions": f"vivace {found.vivace}, Python {found.python}",
        }
        | parts
    )


def _write_table(rows: dict[str, str]) -> None:
    for name, value in rows.items():
        _write(f"{name:19} {value}\n")


class _BenchGroup(click.Group):
    """Imports the commands that measure servers when one is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        self._add_server_commands()
        return super().list_commands(context)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.commands:
            self._add_server_commands()
        return super().get_command(context, name)

    def _add_server_commands(self) -> None:
        from vivace.cli_bench import COMMANDS

        for command in COMMANDS:
            self.add_command(command)


@main.group(cls=_BenchGroup)
def bench() -> None:
    """Measure."""


@bench.command("engine")
@click.argument("model", default="mini")
@click.option("--prompt", type=click.IntRange(1), default=128, show_default=True, help="Tokens in.")
@click.option("--new-tokens", type=click.IntRange(2), default=128, show_default=True, help="Tokens out.")
@click.option("--concurrent", type=click.IntRange(1), default=1, show_default=True, help="Sequences at once.")
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="The median run counts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_add_model_options
def bench_engine(
    model: str, prompt: int, new_tokens: int, concurrent: int, runs: int, as_json: bool, **options: Any
) -> None:
    """Time MODEL in this process, without HTTP, beside what the machine could do at best."""
    from vivace.llm import load_runner
    from vivace.models.model import open_model
    from vivace.runners.native import NativeConfig
    from vivace.speed import limit_cache, measure_engine

    opened = open_model(model)
    config = limit_cache(opened, NativeConfig(**_model_options(**options)), concurrent, prompt + new_tokens)
    runner = load_runner(opened, config)
    try:
        report = measure_engine(opened, runner, options["quantize"], concurrent, prompt, new_tokens, runs)
    finally:
        runner.close()
    if as_json:
        click.echo(json.dumps(report))
        return
    _write_table({name: f"{value:,.4g}" if isinstance(value, float) else f"{value}" for name, value in report.items()})


main.add_command(evaluate_command)
