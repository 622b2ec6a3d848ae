"""The steps that leave parts of a model out: whole layers, MLP width, attention heads, single weights.

Settings, and what is checked before any work; how it is done stands in `pruning.py`, which needs torch. Layers, width
and heads leave a smaller model of the same architecture. Single weights become zeros that are stored and multiplied
as any other: no engine here is faster for them, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vivace.compress.step import Report, Shape, Work, check_share
from vivace.errors import RecipeError
from vivace.models.config import ModelConfig

if TYPE_CHECKING:
    from vivace.compress.variant import Variant

FUSED = ("phi3", "gpt2")
"""Families that keep several matrices as one, or transposed."""


@dataclass(frozen=True, slots=True)
class DropLayers:
    """Leave out whole layers: those that change least."""

    name: ClassVar[str] = "drop_layers"

    share: float = 0.25
    """Of the layers, rounded to whole ones; one at least is left out, and one stays."""
    by: Literal["similarity", "loss"] = "similarity"
    """`similarity`: the least 1 - cos(input, output), mean over tokens (Men et al., 2024). `loss`: one after the
    other, each time the one whose absence costs the least loss on the data."""
    layers: tuple[int, ...] = ()
    """Leave out these, by their numbers from 0, whatever share and measure say."""

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)
        if len(set(self.layers)) < len(self.layers) or any(layer < 0 for layer in self.layers):
            raise RecipeError(f"{self.name}: layers are {list(self.layers)}; name each once, from 0 on.")

    @property
    def needs_data(self) -> bool:
        return not self.layers

    def count(self, layers: int) -> int:
        """How many are left out."""
        if self.layers:
            return len(self.layers)
        return min(layers - 1, max(1, round(self.share * layers)))

    def check(self, shape: Shape) -> Shape:
        shape.require_floats(self.name)
        layers = shape.config.layers
        if len(layers) < 2:
            raise RecipeError(f"{self.name}: the model has {len(layers)} layer, and one must stay. Leave the step out.")
        if self.layers:
            if max(self.layers) >= len(layers) or len(self.layers) >= len(layers):
                raise RecipeError(
                    f"{self.name}: layers {list(self.layers)} cannot be left out of {len(layers)}: they count from 0, "
                    "and one must stay."
                )
            kept = tuple(layer for index, layer in enumerate(layers) if index not in self.layers)
        else:
            kept = layers[: len(layers) - self.count(len(layers))]
        return replace(shape, config=replace(shape.config, layers=kept))

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.pruning import drop_layers, keep_layers

        if self.layers:
            keep_layers(variant, [index for index in range(len(variant.layers)) if index not in self.layers])
            return {"dropped": sorted(self.layers)}
        return drop_layers(variant, work, self.count(len(variant.layers)), self.by)


@dataclass(frozen=True, slots=True)
class PruneWidth:
    """Leave out inner units of the MLPs: those that add least to its outputs."""

    name: ClassVar[str] = "prune_width"

    share: float = 0.25
    """Of each layer's units, rounded to a multiple of `multiple`."""
    per_layer: bool = False
    """Leave out more where it costs less. Widths then differ from layer to layer, which this engine runs and
    transformers does not load."""
    multiple: int = 32
    """Widths stay multiples of this: int4 groups and the engine's vectors need it."""
    refit: bool = True
    """Let the output matrix make up for what is missing, by least squares on the data."""

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)
        if not 1 <= self.multiple <= 4096:
            raise RecipeError(f"{self.name}: multiple is {self.multiple}; it must be 1 to 4096.")

    @property
    def needs_data(self) -> bool:
        return True

    def keep(self, width: int) -> int:
        """Units left of so many."""
        return max(self.multiple, round((1 - self.share) * width / self.multiple) * self.multiple)

    def check(self, shape: Shape) -> Shape:
        _check_structure(self.name, shape)
        for layer in shape.config.layers:
            if self.keep(layer.intermediate_size) >= layer.intermediate_size:
                raise RecipeError(
                    f"{self.name}: {self.share:g} of {layer.intermediate_size} units is less than one multiple of "
                    f"{self.multiple}. Give a larger share or a smaller multiple."
                )
        layers = tuple(
            replace(layer, intermediate_size=self.keep(layer.intermediate_size)) for layer in shape.config.layers
        )
        return replace(shape, config=replace(shape.config, layers=layers))

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.pruning import prune_width

        return prune_width(variant, work, self)


@dataclass(frozen=True, slots=True)
class PruneHeads:
    """Leave out key-value heads with all query heads that read them: in each layer those that add least."""

    name: ClassVar[str] = "prune_heads"

    share: float = 0.5
    """Of the key-value heads of each layer, rounded to whole ones; one at least is left out, and one stays."""
    refit: bool = True
    """As in prune_width, of the attention's output matrix."""

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)

    @property
    def needs_data(self) -> bool:
        return True

    def keep(self, kv_heads: int) -> int:
        return kv_heads - min(kv_heads - 1, max(1, round(self.share * kv_heads)))

    def check(self, shape: Shape) -> Shape:
        _check_structure(self.name, shape)
        config = shape.config
        if config.kv_heads < 2:
            raise RecipeError(f"{self.name}: the model has one key-value head, and one must stay. Leave the step out.")
        kept = self.keep(config.kv_heads)
        return replace(shape, config=replace(config, kv_heads=kept, heads=config.heads // config.kv_heads * kept))

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.pruning import prune_heads

        return prune_heads(variant, work, self)


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Set the smallest weights of every linear to zero."""

    name: ClassVar[str] = "magnitude"

    share: float = 0.5

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)

    @property
    def needs_data(self) -> bool:
        return False

    def check(self, shape: Shape) -> Shape:
        shape.require_floats(self.name)
        return shape

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.pruning import mask_magnitude

        return mask_magnitude(variant, work, self.share)


@dataclass(frozen=True, slots=True)
class Wanda:
    """Set weights to zero whose size times that of their inputs is smallest, output by output (Sun et al., 2023)."""

    name: ClassVar[str] = "wanda"

    share: float = 0.5

    def __post_init__(self) -> None:
        check_share(self.name, "share", self.share)

    @property
    def needs_data(self) -> bool:
        return True

    def check(self, shape: Shape) -> Shape:
        shape.require_floats(self.name)
        return shape

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.pruning import mask_wanda

        return mask_wanda(variant, work, self.share)


def _check_structure(step: str, shape: Shape) -> None:
    shape.require_floats(step)
    config: ModelConfig = shape.config
    if config.family in FUSED or not config.gated:
        raise RecipeError(
            f"{step} knows no {config.family} models, whose matrices are kept otherwise. Supported are Llama, Mistral, "
            "Qwen2, Qwen3, SmolLM and Gemma 3; drop_layers works on Phi-3 too."
        )
    if shape.factored:
        raise RecipeError(f"{step} cannot cut matrices that are factored already. Put low_rank after it.")
