"""What a certificate's requests were, and how they were offered: few enough words to be written down and replayed.

Knows nothing of servers and results; the bench turns it into bodies and moments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from vivace.bench.workload import Workload, parse_lengths, read_lines
from vivace.errors import ConfigError

if TYPE_CHECKING:
    from vivace.bench.experiment import Experiment

LINES = "workload.jsonl"
"""A workload of one's own is kept under this name beside the certificate."""


class WorkloadSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests from a seed, or the lines of a file in turn; offered at a rate, or by so many clients that wait.

    Raises `ConfigError` when a value is out of its range.
    """

    input_tokens: str = "lognormal:96:0.5"
    """Lengths as `vivace bench --input-tokens` takes them. Not used with lines."""
    output_tokens: str = "lognormal:48:0.5"
    lines: str = ""
    """The file's name, if what is asked comes from one."""
    rate: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """Requests a second, as a Poisson process; or give `concurrency`."""
    concurrency: Annotated[int, Meta(ge=0, le=10_000)] = 0
    requests: Annotated[int, Meta(ge=1, le=10_000_000)] = 800
    warmup: Annotated[int, Meta(ge=0, le=100_000)] = 16
    seed: Annotated[int, Meta(ge=0)] = 0
    chat: bool = True
    ignore_eos: bool = True
    """Answers have the length drawn for them, whatever the model would like."""
    salted: bool = False
    """Prompts begin differently, so that repeated lines find nothing in the prefix cache."""

    def __post_init__(self) -> None:
        parse_lengths(self.input_tokens)
        parse_lengths(self.output_tokens)
        if bool(self.rate) == bool(self.concurrency):
            raise ConfigError("A workload has either a rate or a concurrency. Give one of them.")
        if Path(self.lines).name != self.lines:
            raise ConfigError(f"The workload's lines are in {self.lines!r}; give a name without a directory.")

    def __str__(self) -> str:
        what = self.lines or f"prompts of {self.input_tokens} and answers of {self.output_tokens} tokens"
        how = f"{self.rate:g} requests/s, Poisson" if self.rate else f"{self.concurrency} at once"
        return f"{what}; {how}; {self.requests:,} requests, seed {self.seed}"

    def with_lines(self) -> WorkloadSpec:
        """The same, asking the lines that are kept beside the certificate."""
        return msgspec.structs.replace(self, lines=LINES)

    def experiment(self, url: str, directory: Path, *, pid: int = 0, requests: int = 0, first: int = 0) -> Experiment:
        """The measurement at a server's URL; lines are read from the directory. `requests`, if given, counts instead of
        the workload's own number, and `first` is the place where they begin. Raises `ConfigError`."""
        from vivace.bench.experiment import Experiment
        from vivace.bench.schedule import Load

        workload = Workload(
            model="",
            chat=self.chat,
            input_tokens=parse_lengths(self.input_tokens),
            output_tokens=parse_lengths(self.output_tokens),
            lines=read_lines(directory / self.lines, chat=self.chat) if self.lines else (),
            salt=f"certificate {self.seed}" if self.salted else "",
            extra={"ignore_eos": True} if self.ignore_eos else {},
            seed=self.seed,
        )
        load = Load(rate=self.rate, concurrency=self.concurrency, requests=requests or self.requests)
        return Experiment(
            url=url,
            workload=workload,
            load=load,
            warmup=self.warmup,
            seed=self.seed,
            pid=pid,
            first=first,
        )


def median_of(lengths: str) -> float:
    """Of a distribution of lengths, as `vivace bench` writes it. Raises `ConfigError`."""
    found = parse_lengths(lengths)
    return (found.a + found.b) / 2 if found.kind == "uniform" else found.a
