"""The step that trains weights which will be rounded: `qat`. Settings and what is checked before any work.

How it is done stands in `fake_quantizing.py`, which needs torch. The step leaves floats that lie well for rounding to
nearest; `int8` or `int4(method=rtn)` with the same group size must come next, and makes the integers that were
trained for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vivace.compress.step import Report, Shape, Work
from vivace.compress.training import RATES, Schedule, check_lora_rank, check_schedule, resolve_schedule
from vivace.errors import RecipeError

if TYPE_CHECKING:
    from vivace.compress.variant import Variant


@dataclass(frozen=True, slots=True)
class Qat:
    """Train with rounded weights, and gradients as if they were not rounded, towards the original's distributions."""

    name: ClassVar[str] = "qat"

    bits: Literal[4, 8] = 4
    group_size: Literal[32, 64, 128] = 32
    """Of int4."""
    method: Literal["full", "lora"] = "full"
    """`lora`: only low-rank changes of each linear are trained, and rounded with it."""
    rank: int = 16
    steps: int = 200
    minutes: float | None = None
    rate: float | None = None
    """Default: 1e-4 for full, 1e-3 for lora."""
    batch: int = 8
    length: int = 256
    every: int = 25
    patience: int = 4

    def __post_init__(self) -> None:
        check_schedule(self.name, self.schedule)
        check_lora_rank(self.name, self.rank)

    @property
    def schedule(self) -> Schedule:
        return resolve_schedule(self, RATES[self.method] if self.rate is None else self.rate)

    @property
    def needs_data(self) -> bool:
        return True

    def check(self, shape: Shape) -> Shape:
        shape.require_floats(self.name)
        if shape.factored:
            raise RecipeError(f"{self.name}: factored linears are not rounded by a recipe. Leave low_rank out.")
        config = shape.config
        widths = {
            config.hidden_size,
            config.heads * config.head_dim,
            *(layer.intermediate_size for layer in config.layers),
        }
        if self.bits == 4 and (odd := [width for width in sorted(widths) if width % self.group_size]):
            raise RecipeError(
                f"{self.name}: groups of {self.group_size} do not divide {odd[0]} inputs. Use a smaller group_size."
            )
        return shape

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.fake_quantizing import train_rounded

        return train_rounded(variant, work, self)
