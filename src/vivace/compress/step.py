"""What a step of a recipe is, and what it is told. Imports no torch: recipes are checked before that is loaded.

A step is a frozen dataclass: its fields are its settings, its `name` what recipes call it. Three things happen to it:

1. `__post_init__` refuses values that no model could do with.
2. `check` refuses what cannot work on the model as the steps before leave it, and says what this step leaves.
3. `apply` does it, to a model in memory, and returns a report: plain values that JSON can hold.

Knows no step in particular; `recipe.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from vivace.errors import RecipeError
from vivace.models.config import ModelConfig

if TYPE_CHECKING:
    from vivace.compress.calibrate import Calibration
    from vivace.compress.variant import Variant

Report = dict[str, Any]
OnProgress = Callable[[float], None]
"""Takes the share done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A model at some place of a recipe, known before any work."""

    config: ModelConfig
    """Layers, widths and heads as the steps so far leave them."""
    factored: bool = False
    """Some linears are products of two."""
    quantized: bool = False
    """Linears are integers: nothing can change them any more."""

    def require_floats(self, step: str) -> None:
        """Raise `RecipeError` unless weights can still be changed."""
        if self.quantized or self.config.quantization is not None:
            raise RecipeError(
                f"{step} cannot work on weights that are integers already. Put the step that quantises last, and give "
                "the original model, not a quantised one."
            )


@dataclass(frozen=True, slots=True)
class Work:
    """What a step may use besides the model."""

    seed: int
    """Everything random follows from it."""
    scratch: Path
    """A directory of this step's own, empty at first. What lies in it survives a kill and is there again when the
    recipe is resumed; it is removed once the step is done."""
    calibration: Calibration | None = None
    """Always there for steps that need data."""
    data: Path | None = None
    """The file that the calibration was drawn from, for steps that train on all of it."""
    original: Path | None = None
    """The directory of the model before the recipe: a teacher."""
    progress: OnProgress = lambda share: None


class Step(Protocol):
    """One step of a recipe."""

    name: ClassVar[str]

    @property
    def needs_data(self) -> bool:
        """Whether it cannot do without `Work.calibration`."""

    def check(self, shape: Shape) -> Shape:
        """What this step makes of a model of that shape. Raises `RecipeError` if it cannot."""

    def apply(self, variant: Variant, work: Work) -> Report:
        """Change the model. Run again after a kill, it ends with the same model."""


def check_share(step: str, name: str, value: float) -> None:
    """Raise `RecipeError` unless 0 < value < 1."""
    if not 0 < value < 1:
        raise RecipeError(f"{step}: {name} is {value}; it must be a share above 0 and below 1.")


def check_steps(steps: tuple[Step, ...], config: ModelConfig) -> Shape:
    """The shape that a recipe ends with. Raises `RecipeError` for a step that cannot work where it stands."""
    if not steps:
        raise RecipeError("The recipe has no steps; give one such as int8, or int4(method=awq).")
    shape = Shape(config)
    for step in steps:
        shape = step.check(shape)
    return shape
