"""The commands of `vivace bench` that measure servers over HTTP: argument parsing, as in `cli`, and nothing else."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vivace.errors import ConfigError

if TYPE_CHECKING:
    from vivace.bench.experiment import Experiment
    from vivace.bench.processes import Measured, OnProgress

_FILE = click.Path(dir_okay=False, path_type=Path)
_INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Seconds(click.ParamType[float]):
    """Seconds, or with a unit: 500ms, 30s, 2m."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        number, unit = value, 1.0
        for suffix, factor in (("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
            if value.endswith(suffix):
                number, unit = value[: -len(suffix)], factor
                break
        try:
            seconds = float(number) * unit
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= 1e6:
            self.fail(f"{value!r} is no time. Give seconds, or a unit too: 500ms, 30s, 2m.", parameter, context)
        return seconds


SECONDS = _Seconds()
_Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _add(*options: _Decorator) -> _Decorator:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_add_load = _add(
    click.option("--rate", type=float, default=0.0, metavar="PER_S", help="Open loop: send so many a second."),
    click.option("--arrivals", type=click.Choice(["poisson", "constant", "bursts"]), help="Default: poisson."),
    click.option("--burst", type=click.IntRange(1, 10**6), default=8, show_default=True, help="Requests of a burst."),
    click.option("--trace", type=_INPUT, help="Open loop: replay a JSONL of at_s (or timestamp, ms) and lengths."),
    click.option("--concurrency", type=click.IntRange(0, 10**5), default=0, help="Closed loop: so many at once."),
    click.option("--think", type=SECONDS, default=0.0, help="Pause after an answer: closed loop, conversations."),
)
_add_length = _add(
    click.option("--duration", type=SECONDS, default=0.0, help="How long to send. Default: 30s, or --requests."),
    click.option("--requests", type=click.IntRange(0, 10**7), default=0, help="How many to send."),
)
_add_asking = _add(
    click.option("--model", default="", help="Default: the first the server lists."),
    click.option("--preset", help="Lengths, arrivals and budget by name; mlperf-llama3.1-8b-interactive is one."),
    click.option("--warmup", type=click.IntRange(0, 10**5), default=8, show_default=True, help="Requests before."),
    click.option("--input-tokens", metavar="LENGTHS", help="128, uniform:64:256, normal:128:32, lognormal:128:0.5."),
    click.option("--output-tokens", metavar="LENGTHS", help="The same, of answers. Default: 32; 64 for prompts."),
    click.option("--workload", type=_INPUT, help="A JSONL of prompt, messages or turns, max_tokens, expected."),
    click.option("--salt", is_flag=True, help="Begin every prompt differently, so that no prefix cache helps."),
    click.option("--completions", is_flag=True, help="Use /completions instead of /chat/completions."),
    click.option("--stream/--no-stream", default=True, help="Streaming is the default."),
    click.option("--temperature", type=float, default=0.0, show_default=True),
    click.option("--extra", default="{}", metavar="JSON", help="More fields of each body: '{\"ignore_eos\": true}'."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of moments, lengths and prompts."),
)
_add_client = _add(
    click.option("--budget", default="", help="Such as ttft=200ms,tpot=20ms,total=2s."),
    click.option("--attain", type=float, help="Share of requests to keep it. Default: 0.99."),
    click.option("--header", multiple=True, metavar="'NAME: VALUE'", help="Sent with each request, told nowhere."),
    click.option("--insecure", is_flag=True, help="Take any TLS certificate."),
    click.option("--timeout", type=SECONDS, default=120.0, show_default=True, help="Of one request."),
    click.option("--connections", type=click.IntRange(0, 10**5), default=0, help="At most so many; default: any."),
    click.option("--processes", type=click.IntRange(0, 256), default=0, help="Of the client. Default: as needed."),
    click.option("--tokenizer", default="", help="A tokenizer.json, where the server does not count tokens."),
    click.option("--pid", type=click.IntRange(0), default=0, help="Of the server. Default: who listens there."),
    click.option("--no-calibrate", is_flag=True, help="Do not measure this client first (2 s)."),
    click.option("--quiet", is_flag=True, help="Show nothing while it runs."),
)
_add_output = _add(
    click.option("--json", "json_file", type=_FILE, help="Write all results, raw numbers too; - is standard output."),
    click.option("--html", "html_file", type=_FILE, help="Write a report, one file."),
)


def _build(url: str, options: dict[str, Any]) -> Experiment:
    """Raises `ConfigError`."""
    import msgspec

    from vivace.bench.experiment import Experiment
    from vivace.bench.presets import find_preset
    from vivace.bench.schedule import Load
    from vivace.bench.workload import Workload, parse_lengths, read_lines, read_trace
    from vivace.budget import Budget, parse_budget

    preset = find_preset(options["preset"]) if options["preset"] else None
    chat = not options["completions"]
    times, lengths = read_trace(options["trace"]) if options["trace"] else ((), ())
    lines = read_lines(options["workload"], chat=chat) if options["workload"] else ()
    try:
        extra = msgspec.json.decode(options["extra"], type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"--extra is no JSON object: {error}.") from error
    budget = options["budget"] or (preset.budget if preset else "")
    workload = Workload(
        model=options["model"],
        chat=chat,
        stream=options["stream"],
        input_tokens=parse_lengths(options["input_tokens"] or (preset.input_tokens if preset else "64")),
        output_tokens=parse_lengths(options["output_tokens"] or (preset.output_tokens if preset else "32")),
        lengths=lengths,
        lines=lines,
        salt=secrets.token_hex(8) if options["salt"] else "",
        temperature=options["temperature"],
        extra=extra,
        seed=options["seed"],
    )
    load = Load(
        rate=options["rate"],
        arrivals=options["arrivals"] or (preset.arrivals if preset else "poisson"),
        burst=options["burst"],
        concurrency=options["concurrency"],
        think_ms=1e3 * options["think"],
        duration_s=options["duration"] or (0.0 if options["requests"] or times else 30.0),
        requests=options["requests"],
        times=times,
        connections=options["connections"],
    )
    return Experiment(
        url=url,
        workload=workload,
        load=load,
        limits=parse_budget(budget) if budget else Budget(),
        needed=options["attain"] or (preset.needed if preset else 0.99),
        warmup=options["warmup"],
        processes=options["processes"],
        timeout_s=options["timeout"],
        headers=tuple(_split_header(header) for header in options["header"]),
        verify=not options["insecure"],
        tokenizer=options["tokenizer"],
        seed=options["seed"],
        pid=options["pid"],
        calibrated=not options["no_calibrate"],
    )


def _split_header(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f"{header.partition(':')[0]!r} is no header. Give it as --header 'Name: value'.")
    return name.strip(), value.strip()


def _live(title: str, quiet: bool) -> AbstractContextManager[OnProgress | None]:
    """A live view on standard error, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    from vivace.bench.terminal import LiveView

    return LiveView(title)


def _say(text: str) -> None:
    click.echo(text, err=True)


@click.command("http")
@click.argument("url")
@_add_load
@_add_length
@_add_asking
@_add_client
@_add_output
@click.option("--hdr", "hdr_file", type=_FILE, help="Write HdrHistogram logs of the times (needs vivace[bench]).")
def bench_http(url: str, json_file: Path | None, html_file: Path | None, hdr_file: Path | None, **options: Any) -> None:
    """Measure the server of the OpenAI API at URL, which includes its /v1.

    Exit status: 0; 1 when requests failed; 99 when the budget is missed; 3 when it is missed and the client is to
    blame.
    """
    from vivace.bench.documents import exit_status, print_run, write_document
    from vivace.bench.experiment import measure_client, prepare, run

    experiment, _ = prepare(_build(url, options))
    calibration = measure_client(experiment)
    with _live(f"{experiment.workload.model}: {experiment.load.describe()}", options["quiet"]) as on_progress:
        document, measured = run(experiment, calibration, on_progress)
    write_document(document, json_file, html_file)
    if hdr_file is not None:
        from vivace.bench.histogram import write_log

        write_log(measured, hdr_file)
    if str(json_file) != "-":
        click.echo(print_run(document))
    raise SystemExit(exit_status(document))


@click.command("sweep")
@click.argument("url")
@click.option("--rates", default="", metavar="A,B,...", help="Open loop: one run at each rate.")
@click.option("--concurrencies", default="", metavar="A,B,...", help="Closed loop: one run at each.")
@click.option("--arrivals", type=click.Choice(["poisson", "constant", "bursts"]), help="Default: poisson.")
@click.option("--burst", type=click.IntRange(1, 10**6), default=8, show_default=True)
@click.option("--think", type=SECONDS, default=0.0, help="Pause after an answer.")
@_add_length
@_add_asking
@_add_client
@_add_output
def bench_sweep(
    url: str, rates: str, concurrencies: str, json_file: Path | None, html_file: Path | None, **options: Any
) -> None:
    """Measure the server at URL once for each rate or concurrency: its throughput-latency curve."""
    from dataclasses import replace

    from vivace.bench.documents import exit_status, print_sweep, sweep_document, write_document
    from vivace.bench.experiment import measure_client, prepare, run

    if bool(rates) == bool(concurrencies):
        raise ConfigError("Say over what to sweep: --rates 1,2,4 or --concurrencies 1,2,4.")
    try:
        offers = [
            {"rate": float(rate), "concurrency": 0} if rates else {"rate": 0.0, "concurrency": int(rate)}
            for rate in (rates or concurrencies).split(",")
        ]
    except ValueError as error:
        raise ConfigError(f"{rates or concurrencies!r} is no list of numbers. Give one such as 1,2,4.") from error
    experiment, _ = prepare(_build(url, options | _NO_LOAD | offers[0]))
    calibration = measure_client(experiment)
    documents = []
    for offer in offers:
        load = replace(experiment.load, rate=float(offer["rate"]), concurrency=int(offer["concurrency"]))
        with _live(f"{experiment.workload.model}: {load.describe()}", options["quiet"]) as on_progress:
            document, _ = run(replace(experiment, load=load), calibration, on_progress)
        documents.append(document)
        if document["stopped_early"]:
            break
    swept = sweep_document(documents)
    write_document(swept, json_file, html_file)
    if str(json_file) != "-":
        click.echo(print_sweep(swept))
    raise SystemExit(max(exit_status(document) == 1 for document in documents))


_NO_LOAD = {"rate": 0.0, "concurrency": 0, "trace": None}


@click.command("find-max")
@click.argument("url")
@click.option("--arrivals", type=click.Choice(["poisson", "constant", "bursts"]), help="Default: poisson.")
@click.option("--burst", type=click.IntRange(1, 10**6), default=8, show_default=True)
@click.option("--think", type=SECONDS, default=0.0, help="Pause between a conversation's turns.")
@click.option("--start", type=click.FloatRange(1e-3, 1e5), default=1.0, show_default=True, help="The first rate tried.")
@click.option("--precision", type=click.FloatRange(0.01, 1.0), default=0.1, show_default=True, help="Of the interval.")
@click.option("--segment", type=SECONDS, default=5.0, show_default=True, help="The first look at a rate.")
@click.option("--most", type=SECONDS, default=60.0, show_default=True, help="The longest spent on a rate.")
@_add_asking
@_add_client
@_add_output
def bench_find_max(
    url: str,
    start: float,
    precision: float,
    segment: float,
    most: float,
    json_file: Path | None,
    html_file: Path | None,
    **options: Any,
) -> None:
    """Find the highest open-loop rate at which the server at URL keeps --budget, as an interval.

    Exit status: 0; 99 when no rate keeps the budget; 1 when there was no finding out.
    """
    from vivace.bench.documents import find_max_document, find_max_status, print_find_max, write_document
    from vivace.bench.experiment import measure_client, prepare
    from vivace.bench.search import find_max, try_rate

    length = {"duration": segment, "requests": 0}
    experiment, _ = prepare(_build(url, options | _NO_LOAD | length | {"rate": start}))
    if not experiment.limits:
        raise ConfigError("Say what is to be kept: --budget ttft=200ms,tpot=20ms, or a --preset.")
    if experiment.needed < 0.6:
        raise ConfigError("--attain below 0.6 leaves too little to tell rates apart by. Give a higher one.")
    calibration = measure_client(experiment)

    def attempt(rate: float) -> Any:
        with _live(f"{experiment.workload.model}: {rate:g} requests/s", options["quiet"]) as on_progress:
            trial = try_rate(experiment, calibration, rate, segment, most, on_progress)
        if not options["quiet"]:
            verdict = ("kept" if trial.kept else "missed") + ("" if trial.decided else ", not sure")
            _say(f"{rate:10.2f} requests/s: {verdict}; {trial.hits:,} of {trial.offered:,} in {trial.seconds:.0f} s")
        return trial

    document = find_max_document(experiment, find_max(attempt, start, precision))
    write_document(document, json_file, html_file)
    if str(json_file) != "-":
        click.echo(print_find_max(document))
    raise SystemExit(find_max_status(document))


@click.command("compare")
@click.argument("what", nargs=-1, required=True, metavar="A.json B.json | URL")
@click.option("--vs", default="", metavar="URL2", help="Measure both servers, in turn, block by block.")
@click.option("--blocks", type=click.IntRange(2, 1000), default=20, show_default=True, help="Turns of each server.")
@click.option(
    "--smallest",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="The least difference that matters.",
)
@_add_load
@_add_length
@_add_asking
@_add_client
@_add_output
def bench_compare(
    what: tuple[str, ...],
    vs: str,
    blocks: int,
    smallest: float,
    json_file: Path | None,
    html_file: Path | None,
    **options: Any,
) -> None:
    """Compare two results, or with --vs two servers: is the second worse, better, or is there no evidence?

    Exit status: 0; 4 when the second is worse; 1 when there was nothing to compare.
    """
    from vivace.bench.documents import (
        compare_files,
        compare_status,
        comparison_document,
        print_comparison,
        read_document,
        write_document,
    )

    if vs:
        if len(what) != 1:
            raise ConfigError("With --vs give one URL before it: vivace bench compare URL --vs URL2.")
        experiment, measured = _measure_both(what[0], vs, blocks, options)
        document = comparison_document(experiment, vs, measured, smallest)
    else:
        if len(what) != 2:
            raise ConfigError("Give two files that bench http --json wrote, or one URL and --vs URL2.")
        document = compare_files(read_document(Path(what[0])), read_document(Path(what[1])), smallest)
    write_document(document, json_file, html_file)
    if str(json_file) != "-":
        click.echo(print_comparison(document))
    raise SystemExit(compare_status(document))


def _measure_both(url: str, other_url: str, blocks: int, options: dict[str, Any]) -> tuple[Experiment, Measured]:
    """The experiment and what was measured of both servers."""
    from dataclasses import replace

    from vivace.bench.compare import plan_in_turn
    from vivace.bench.experiment import prepare
    from vivace.bench.processes import run_plans

    experiment = _build(url, options)
    other, _ = prepare(replace(experiment, url=other_url))
    experiment, _ = prepare(experiment)
    plan = plan_in_turn(experiment, other_url, other.workload.model, blocks)
    with _live(f"{url} and {other_url} in turn", options["quiet"]) as on_progress:
        return experiment, run_plans([plan], on_progress)


COMMANDS = (bench_http, bench_find_max, bench_sweep, bench_compare)
