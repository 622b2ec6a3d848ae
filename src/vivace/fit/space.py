"""What may be chosen for a model: formats, depth, width, rank, and how it is served.

A *candidate* says all of it. A decoder layer has four *parts*, the matrices that the engine packs as one: those that
make queries, keys and values; the attention's output; those into the MLP; the one out of it. Each part of each layer
has a format of its own. What the engine and checkpoints allow:

- int8 and int4 linears are stored in the checkpoint as integers, part by part.
- A linear that is stored as floats is packed as it is loaded, in the engine's format (`EngineSettings.quantize`), and
  so are factored matrices, embedding and head, which share one format, the *tables*. Under int4 tables may be int8.

So f32 and bf16 parts go with tables of the same, and int8 and int4 parts with any.

Knows shapes and recipes; no weights, no times and no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from vivace.compress.assign import Assign
from vivace.compress.low_rank import LowRank
from vivace.compress.prune import FUSED, DropLayers, PruneWidth
from vivace.compress.quantize import find_widths
from vivace.compress.step import Step
from vivace.errors import ConfigError
from vivace.fit.settings import EngineSettings, Speculate
from vivace.machine import allowed_cores
from vivace.models.config import ModelConfig
from vivace.runners.native import Quantize

Format = Literal["f32", "bf16", "int8", "int4"]
FORMATS: tuple[Format, ...] = ("f32", "bf16", "int8", "int4")
"""From the most bytes to the least."""

Part = Literal["query_key_value", "attention_output", "mlp_in", "mlp_out"]
PARTS: tuple[Part, ...] = ("query_key_value", "attention_output", "mlp_in", "mlp_out")
MLP_PARTS: tuple[Part, ...] = ("mlp_in", "mlp_out")

_QUANTIZE: dict[Format, Quantize] = {"f32": "none", "bf16": "bf16", "int8": "int8", "int4": "int4"}


@dataclass(frozen=True, slots=True)
class Structure:
    """What is left of the original's architecture."""

    dropped: tuple[int, ...] = ()
    """Layers of the original that are left out, in order."""
    width: float = 1.0
    """Share of the MLPs' units that stays."""
    rank: float = 0.0
    """Share of the MLPs' parameters that two factors have together; 0: they are not factored."""

    def __str__(self) -> str:
        parts = [f"without layers {', '.join(map(str, self.dropped))}"] if self.dropped else []
        parts += [f"width {self.width:g}"] if self.width < 1 else []
        parts += [f"MLP rank {self.rank:g}"] if self.rank else []
        return ", ".join(parts) or "whole"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point of the space."""

    model: str
    """By the name it was given."""
    structure: Structure
    formats: tuple[tuple[Format, ...], ...]
    """Of each layer that is left, of its `PARTS` in their order."""
    tables: Format
    settings: EngineSettings = field(default_factory=EngineSettings)
    """Of its format only what `resolve_settings` makes of the above."""
    distilled: bool = False

    def __post_init__(self) -> None:
        check_formats(self.formats, self.tables, factored=self.structure.rank > 0)

    @property
    def resolved(self) -> EngineSettings:
        """The settings it is served with: its own, in the format that floats and tables have."""
        quantize, tables = _QUANTIZE[self.tables], self.tables == "int4"
        if self.structure.rank and self.tables == "int8" and self.formats and self.formats[0][2] == "int4":
            quantize = "int4"
        return replace(self.settings, quantize=quantize, quantize_tables=tables)

    def count(self, format: Format) -> int:
        """Parts of layers in that format."""
        return sum(row.count(format) for row in self.formats)

    def describe(self) -> str:
        """In a few words."""
        formats = "+".join(f"{self.count(one)} {one}" for one in FORMATS if self.count(one))
        uniform = [one for one in FORMATS if self.count(one) == len(self.formats) * len(PARTS)]
        words = [uniform[0] if uniform else formats, f"tables {self.tables}"]
        words += [] if self.structure == Structure() else [str(self.structure)]
        words += ["distilled"] if self.distilled else []
        settings = self.settings
        words += [f"{settings.threads} threads"] if settings.threads else []
        words += [f"batch {settings.max_sequences}, chunk {settings.max_batch_tokens}"]
        return ", ".join([*words, *(["lookup"] if settings.speculate == "lookup" else [])])

    def write_recipe(self, method: str, distil: Sequence[Step] = ()) -> tuple[Step, ...]:
        """The steps that make the variant of the original; none, where its files serve as they are."""
        structure = self.structure
        steps: list[Step] = []
        if structure.dropped:
            steps.append(DropLayers(layers=structure.dropped))
        if structure.width < 1:
            steps.append(PruneWidth(share=round(1 - structure.width, 6)))
        if structure.rank:
            steps.append(LowRank(share=structure.rank, part="mlp"))
        steps += distil if self.distilled else ()
        int8, int4 = self._name("int8"), self._name("int4")
        if int8 or int4:
            steps.append(Assign(int8=int8, int4=int4, group_size=32, method=method))  # type: ignore[arg-type]
        return tuple(steps)

    def _name(self, format: Format) -> tuple[str, ...]:
        """Parts in that format that are stored so, as `assign` names them."""
        stored = [part for part in PARTS if not (self.structure.rank and part in MLP_PARTS)]
        return tuple(
            f"{layer}.{part}"
            for layer, row in enumerate(self.formats)
            for part, one in zip(PARTS, row, strict=True)
            if one == format and part in stored
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


def check_formats(formats: Sequence[Sequence[Format]], tables: Format, *, factored: bool) -> None:
    """Raise `ConfigError` for formats that the engine cannot hold together."""
    allowed = allowed_formats(tables)
    for row in formats:
        if len(row) != len(PARTS) or any(one not in allowed for one in row):
            raise ConfigError(f"Beside {tables} tables, the parts of a layer can be {', '.join(allowed)}, not {row}.")
    if factored and len({one for row in formats for one in row[2:]}) > 1:
        raise ConfigError("Factored MLPs are packed as they are loaded, so that all have one format.")


def allowed_formats(tables: Format) -> tuple[Format, ...]:
    """Of parts beside these tables."""
    return (tables, "int8", "int4") if tables in ("f32", "bf16") else ("int8", "int4")


def read_candidate(values: dict[str, Any]) -> Candidate:
    """The inverse of `Candidate.as_dict`."""
    structure = values["structure"]
    return Candidate(
        values["model"],
        Structure(tuple(structure["dropped"]), structure["width"], structure["rank"]),
        tuple(tuple(row) for row in values["formats"]),
        values["tables"],
        EngineSettings(**values["settings"]),
        values["distilled"],
    )


@dataclass(frozen=True, slots=True)
class Space:
    """What may be chosen for one model on this machine."""

    model: str
    config: ModelConfig
    threads: tuple[int, ...]
    tables: tuple[Format, ...]
    widths: tuple[float, ...]
    ranks: tuple[float, ...]
    max_dropped: int
    batches: tuple[int, ...]
    chunks: tuple[int, ...]
    speculations: tuple[Speculate, ...] = ("off", "lookup")

    @property
    def layers(self) -> int:
        return len(self.config.layers)

    def uniform(
        self, format: Format, tables: Format | None = None, settings: EngineSettings | None = None
    ) -> Candidate:
        """The whole model in one format; tables too, unless said."""
        rows = ((format,) * len(PARTS),) * self.layers
        return Candidate(self.model, Structure(), rows, tables or format, settings or EngineSettings())


def open_space(model: str, config: ModelConfig, concurrency: int) -> Space:
    """What the engine and the compression steps allow for a model under so many requests at once.

    Raises `ConfigError` for a model whose weights are integers already.
    """
    if config.quantization is not None:
        raise ConfigError(f"{model} holds integers already, which nothing can be chosen for. Give the original model.")
    narrow = all(width % 32 == 0 for width in find_widths(config))
    formats = FORMATS if narrow and config.family != "gpt2" else FORMATS[:3]
    shaped = config.family not in FUSED and config.gated
    cores = allowed_cores()
    batch = max(1, concurrency)
    return Space(
        model=model,
        config=config,
        threads=tuple(sorted({max(1, cores // 2), cores})),
        tables=formats,
        widths=(1.0, 0.875, 0.75, 0.625, 0.5) if shaped else (1.0,),
        ranks=(0.0, 0.75, 0.5) if shaped else (0.0,),
        max_dropped=min(len(config.layers) - 1, max(1, len(config.layers) // 2)),
        batches=tuple(sorted({max(1, batch // 2), batch, 2 * batch, 4 * batch})),
        chunks=tuple(chunk for chunk in (32, 64, 128, 256, 512, 1024) if chunk >= batch) or (batch,),
    )


def keep_width(width: int, share: float) -> int:
    """Units that stay of an MLP, as `prune_width` rounds them."""
    return width if share >= 1 else PruneWidth(share=round(1 - share, 6)).keep(width)


def count_rank(out: int, inputs: int, share: float) -> int:
    """The rank at which two factors have this share of a matrix's parameters, as `low_rank` rounds it."""
    return max(1, math.floor(share * out * inputs / (out + inputs)))
