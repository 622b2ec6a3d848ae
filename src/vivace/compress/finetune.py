"""The step that trains on conversations: `finetune`, to recover what other steps cost, or to learn a task.

Settings and what is checked before any work; how it is done stands in `tuning.py`, which needs torch, and for LoRA
peft.
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
class Finetune:
    """Train for the likelihood of the assistant's turns; of text, of every token."""

    name: ClassVar[str] = "finetune"

    method: Literal["lora", "full"] = "lora"
    """`lora`: low-rank changes of the decoder's linears (Hu et al., 2021), merged when done. `full`: every weight."""
    rank: int = 16
    """lora: of the changes."""
    steps: int = 200
    minutes: float | None = None
    """Stop after so long, whatever `steps` says."""
    rate: float | None = None
    """Default: 1e-3 for lora, 1e-4 for full."""
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
        if self.method == "lora" and shape.factored:
            raise RecipeError(f"{self.name}: lora does not change factored linears. Use method=full.")
        return shape

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.tuning import finetune

        return finetune(variant, work, self)
