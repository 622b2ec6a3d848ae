"""The step that makes two thin matrices of one: `low_rank`. Settings and what is checked before any work.

How it is done stands in `factoring.py`, which needs torch. The result runs factored in this engine, which reads
`name.up.weight` [out, rank] and `name.down.weight` [rank, in]; transformers knows no such layers and cannot load it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vivace.compress.prune import FUSED
from vivace.compress.step import Report, Shape, Work, check_share
from vivace.errors import RecipeError
from vivace.models.config import ModelConfig

if TYPE_CHECKING:
    from vivace.compress.variant import Variant

Part = Literal["all", "attention", "mlp"]


@dataclass(frozen=True, slots=True)
class LowRank:
    """Factor the decoder's linears; one of `rank`, `energy` and `share` says how far."""

    name: ClassVar[str] = "low_rank"

    share: float | None = None
    """Of a linear's parameters that its factors have together."""
    rank: int | None = None
    energy: float | None = None
    """Share of the squared singular values that is kept, of the outputs with `activation`."""
    method: Literal["svd", "activation"] = "activation"
    """`svd`: closest to the weights. `activation`: closest to the outputs on the data: the SVD of W S with E[x xᵀ] =
    S Sᵀ (Wang et al., 2024)."""
    part: Part = "all"
    """Which linears: all, or those of attention or MLP."""

    def __post_init__(self) -> None:
        given = [setting for setting in ("share", "rank", "energy") if getattr(self, setting) is not None]
        if len(given) != 1:
            raise RecipeError(f"{self.name} takes one of share, rank and energy; {len(given)} are given.")
        for setting, value in (("share", self.share), ("energy", self.energy)):
            if value is not None:
                check_share(self.name, setting, value)
        if self.rank is not None and self.rank < 1:
            raise RecipeError(f"{self.name}: rank is {self.rank}; it must be at least 1.")

    @property
    def needs_data(self) -> bool:
        return self.method == "activation"

    def check(self, shape: Shape) -> Shape:
        shape.require_floats(self.name)
        config = shape.config
        if config.family in FUSED:
            raise RecipeError(f"{self.name} knows no {config.family} models, whose matrices are kept otherwise.")
        most = _find_least_side(config, self.part)
        if self.rank is not None and self.rank > most:
            raise RecipeError(
                f"{self.name}: rank is {self.rank}, above the {most} of the smallest linear it would factor. Give a "
                "lower rank, or a share."
            )
        return replace(shape, factored=True)

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.factoring import factor_layers

        return factor_layers(variant, work, self)


def _find_least_side(config: ModelConfig, part: Part) -> int:
    attention = [config.hidden_size, config.heads * config.head_dim, config.kv_heads * config.head_dim]
    mlp = [config.hidden_size, *(layer.intermediate_size for layer in config.layers)]
    return min({"all": attention + mlp, "attention": attention, "mlp": mlp}[part])
