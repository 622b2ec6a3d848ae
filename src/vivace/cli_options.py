"""Options that several commands have, and the config that they make. Knows no command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def _read_memory(context: click.Context, parameter: click.Parameter, gib: float) -> int:
    """Bytes. Raises `click.BadParameter` for what no machine has."""
    if not 2**-30 <= gib <= 2**20:
        raise click.BadParameter(f"{gib} is no size in GiB; give one from 2**-30 to 2**20.")
    return int(gib * 2**30)


def add_model_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--quantize", type=click.Choice(["none", "bf16", "int8", "int4"]), default="int8",
                     show_default=True, help="Format of the weights; none is exact f32."),
        click.option("--group-size", type=click.Choice([32, 64, 128]), default=32, show_default=True,
                     help="Inputs that share a scale, under int4."),
        click.option("--quantize-tables", is_flag=True, help="Under int4, embedding and head too; else they are int8."),
        click.option("--threads", type=click.IntRange(0, 1024), default=0, help="0, the default: all cores allowed."),
        click.option("--max-batch", "--max-sequences", "max_sequences", type=click.IntRange(1, 2**20), default=1024,
                     show_default=True, help="Sequences under way at once; the rest wait."),
        click.option("--prompt-chunk", type=click.IntRange(1, 2**20), metavar="TOKENS",
                     help="Most tokens of a step over all sequences: longer prompts take several. Default: 1024, or "
                     "the batch limit if that is more."),
        click.option("--kv-memory", type=float, default=1.0, show_default=True, metavar="GIB",
                     callback=_read_memory, help="Memory for the KV cache, taken as it fills."),
    ):  # fmt: skip
        command = option(command)
    return command


def add_speculation_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--draft", metavar="DRAFT_MODEL",
                     help="A smaller model of the same tokenizer, served as int8, whose tokens are proposed instead."),
        click.option("--speculate", type=click.Choice(["lookup", "off"]), default="off", show_default=True,
                     help="Propose what followed the same words before, and verify it where that is faster; "
                     "answers stay the same."),
    ):  # fmt: skip
        command = option(command)
    return command


def add_sampling_options(command: Callable[..., None]) -> Callable[..., None]:
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


def model_options(
    quantize: str,
    group_size: int,
    quantize_tables: bool,
    threads: int,
    max_sequences: int,
    prompt_chunk: int | None,
    kv_memory: int,
) -> dict[str, Any]:
    return {
        "quantize": quantize,
        "group_size": group_size,
        "quantize_tables": quantize_tables,
        "threads": threads,
        "max_sequences": max_sequences,
        "max_batch_tokens": prompt_chunk or max(1024, max_sequences),
        "kv_memory_bytes": kv_memory,
    }
