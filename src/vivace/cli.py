"""The command line: the only argument parsing. It builds configs, calls functions, and prints.

Imports of what a command needs stand inside it: `vivace --help` should not wait for a tokenizer.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib import import_module
from typing import Any

import click

from vivace import __version__
from vivace.cli_eval import evaluate_command
from vivace.cli_options import add_model_options, add_sampling_options, add_speculation_options, model_options
from vivace.cli_output import write, write_table
from vivace.errors import RequestError, VivaceError

_ELSEWHERE = {
    "serve": "vivace.cli_serve",
    "compress": "vivace.cli_compress",
    "fit": "vivace.cli_fit",
    "verify": "vivace.cli_certificate",
    "plan": "vivace.cli_certificate",
    "support": "vivace.cli_support",
}
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


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="vivace %(version)s")
def main() -> None:
    """Real-time LLM inference: a model and a latency budget in, a server that keeps it out."""


@main.command()
@click.argument("model", default="mini")
@click.option("--prompt", required=True, help="Text to continue, or with --chat what the user says.")
@click.option("--chat", is_flag=True, help="Put the prompt through the model's chat template.")
@add_sampling_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with tokens and timing.")
@add_speculation_options
@add_model_options
def generate(
    model: str, prompt: str, chat: bool, as_json: bool, speculate: str, draft: str | None, **options: Any
) -> None:
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
        loaded = load(model, progress=progress, speculate=speculate, draft=draft, **model_options(**options))
    with loaded as llm:
        request = [{"role": "user", "content": prompt}] if chat else prompt
        if as_json:
            click.echo(json.dumps(_describe(llm.model.name, llm.generate(request, params))))
            return
        for piece in llm.stream(request, params):
            write(piece)
        write("\n")


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
    write_table(
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
    write("\nformat   MB a step   bf16 / this   read at GB/s   floor, ms a token\n")
    for kind in found.formats:
        write(
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
    write_table(
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
@add_model_options
def bench_engine(
    model: str, prompt: int, new_tokens: int, concurrent: int, runs: int, as_json: bool, **options: Any
) -> None:
    """Time MODEL in this process, without HTTP, beside what the machine could do at best."""
    from vivace.llm import load_runner
    from vivace.models.model import open_model
    from vivace.runners.native import NativeConfig
    from vivace.speed import limit_cache, measure_engine

    opened = open_model(model)
    config = limit_cache(opened, NativeConfig(**model_options(**options)), concurrent, prompt + new_tokens)
    runner = load_runner(opened, config)
    try:
        report = measure_engine(opened, runner, options["quantize"], concurrent, prompt, new_tokens, runs)
    finally:
        runner.close()
    if as_json:
        click.echo(json.dumps(report))
        return
    write_table({name: f"{value:,.4g}" if isinstance(value, float) else f"{value}" for name, value in report.items()})


main.add_command(evaluate_command)
