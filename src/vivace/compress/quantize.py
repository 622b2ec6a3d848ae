"""The steps that quantise: `int8` and `int4`. Their settings and what is checked before any work.

How it is done stands in `layerwise.py`, which needs torch. What is quantised stays as it is under every `--quantize` of
the engine. Embedding and head are left in the checkpoint's own type unless `tables=int8`: the engine packs them as int8
as it loads, for `int8` and `int4`, so that only the file is smaller for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vivace.compress.step import Report, Shape, Work
from vivace.errors import RecipeError
from vivace.models.compressed import Setting
from vivace.models.config import MAX_WIDTH, ModelConfig

if TYPE_CHECKING:
    from vivace.compress.variant import Variant

Method = Literal["rtn", "mse", "importance", "awq", "gptq"]
CALIBRATED: tuple[Method, ...] = ("importance", "awq", "gptq")
"""Methods that look at activations."""

Tables = Literal["float", "int8"]
"""Embedding and head, as stored."""
Correction = Literal["none", "bias"]
Activations = Literal["int8", "none"]


@dataclass(frozen=True, slots=True)
class Int8:
    """Every linear of the decoder in int8, with a scale for each output."""

    name: ClassVar[str] = "int8"

    correct: Correction = "none"
    """`bias`: add to each output what it lost on average, where the architecture has biases or may have them."""
    activations: Activations = "int8"
    """Declare in the config that activations are int8 with a scale for each 128 inputs, as the engine has them. `none`
    declares nothing: for engines that refuse such a config."""
    tables: Tables = "float"
    """`int8`: embedding and head too, with a scale for each token. Tied ones stay tied."""

    @property
    def needs_data(self) -> bool:
        return self.correct != "none"

    def check(self, shape: Shape) -> Shape:
        check_tables(self.name, self.tables, shape)
        return _check_quantize(self.name, shape, Setting(8, False, True, 0))

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.layerwise import Quantization, name_linears, quantize_layers
        from vivace.compress.rounding import Format

        formats = dict.fromkeys(name_linears(variant), Format(8, 0, variant.dtype))
        return quantize_layers(variant, work, Quantization("rtn", self.correct, self.activations, self.tables), formats)


@dataclass(frozen=True, slots=True)
class Int4:
    """Every linear of the decoder in int4, with a scale for each group of inputs of an output."""

    name: ClassVar[str] = "int4"

    group_size: Literal[32, 64, 128] = 32
    method: Method = "mse"
    """`rtn`: round to nearest. `mse`: clip where that loses less. `importance`: the same, by how large inputs are.
    `awq`: make room for the weights of large inputs first. `gptq`: let later weights make up for earlier ones."""
    correct: Correction = "none"
    act_order: bool = True
    """gptq: begin with the largest inputs."""
    damping: float = 0.01
    """gptq: share of the mean of the moments' diagonal that is added to it."""
    branch_rank: int = 0
    """Report too what a low-rank branch of that rank beside each linear would bring. It is not written: a standard
    checkpoint has no place for it."""
    activations: Activations = "int8"
    tables: Tables = "float"
    """As for `int8`."""

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise RecipeError(f"int4: damping is {self.damping}; it must be above 0 and at most 1.")
        if not 0 <= self.branch_rank <= MAX_WIDTH:
            raise RecipeError(f"int4: branch_rank is {self.branch_rank}; it must be 0 (none) to {MAX_WIDTH}.")

    @property
    def needs_data(self) -> bool:
        return self.method in CALIBRATED or self.correct != "none" or self.branch_rank > 0

    def check(self, shape: Shape) -> Shape:
        check_rank(self.name, "branch_rank", self.branch_rank, shape)
        check_tables(self.name, self.tables, shape)
        for width in sorted(find_widths(shape.config)):
            if width % self.group_size:
                fitting = [size for size in (32, 64) if size < self.group_size and width % size == 0]
                remedy = f"group_size={fitting[-1]}" if fitting else "int8"
                raise RecipeError(
                    f"int4: groups of {self.group_size} do not divide the {width} inputs of some linears of this "
                    f"model. Use {remedy}."
                )
        return _check_quantize(self.name, shape, Setting(4, True, True, self.group_size))

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.layerwise import Quantization, name_linears, quantize_layers
        from vivace.compress.rounding import Format

        formats = dict.fromkeys(name_linears(variant), Format(4, self.group_size, variant.dtype))
        how = Quantization(
            self.method, self.correct, self.activations, self.tables, self.act_order, self.damping, self.branch_rank
        )
        return quantize_layers(variant, work, how, formats)


def find_widths(config: ModelConfig) -> set[int]:
    """The numbers of inputs that linears of the decoder have."""
    inner = {layer.intermediate_size for layer in config.layers}
    return {config.hidden_size, config.heads * config.head_dim} | inner


def check_rank(step: str, name: str, rank: int, shape: Shape) -> None:
    """Raise `RecipeError` for a rank above that of the smallest linear."""
    config = shape.config
    smallest = min(find_widths(config) | {config.kv_heads * config.head_dim})
    if rank > smallest:
        raise RecipeError(f"{step}: {name} is {rank}; the smallest linear of this model has rank {smallest} at most.")


def check_tables(step: str, tables: Tables, shape: Shape) -> None:
    """Raise `RecipeError` for models whose embedding has to stay as it is."""
    if tables != "float" and shape.config.embedding_scale != 1:
        raise RecipeError(
            f"{step}: this model multiplies its embedding by {shape.config.embedding_scale:g} in a module of its own, "
            "which compressed-tensors does not quantise. Leave tables out."
        )


def _check_quantize(step: str, shape: Shape, setting: Setting) -> Shape:
    shape.require_floats(step)
    if shape.config.family == "gpt2":
        raise RecipeError(
            f"{step}: GPT-2 keeps its matrices transposed, which compressed-tensors has no layout for. Serve it with "
            f"--quantize {step}, which quantises as it loads."
        )
    return replace(shape, quantized=True, config=replace(shape.config, quantization=(setting,)))
