"""The steps that teach a smaller model what the original knows: `distill`, and `draft`, which begins a smaller one.

Settings and what is checked before any work; how it is done stands in `teaching.py`, which needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vivace.compress.step import Report, Shape, Work
from vivace.compress.training import Schedule, check_schedule, resolve_schedule
from vivace.errors import RecipeError

if TYPE_CHECKING:
    from vivace.compress.variant import Variant


@dataclass(frozen=True, slots=True)
class Distill:
    """Train the model, as the steps so far left it, towards the original."""

    name: ClassVar[str] = "distill"

    on: Literal["logits", "hidden", "sequences"] = "logits"
    """`logits`: KL from the original's distributions. `hidden`: also the squared error of the last layer's output,
    for models of the original's width. `sequences`: likelihood of what the original answers, greedily, to the data's
    prompts."""
    steps: int = 200
    minutes: float | None = None
    """Stop after so long, whatever `steps` says."""
    rate: float = 3e-4
    batch: int = 8
    length: int = 256
    temperature: float = 1.0
    every: int = 25
    """Steps between looks at the held-out loss."""
    patience: int = 4
    """Looks without a lower loss before it stops."""

    def __post_init__(self) -> None:
        check_schedule(self.name, self.schedule)
        if not 0.1 <= self.temperature <= 100:
            raise RecipeError(f"{self.name}: temperature is {self.temperature}; it must be 0.1 to 100.")

    @property
    def schedule(self) -> Schedule:
        return resolve_schedule(self, self.rate)

    @property
    def needs_data(self) -> bool:
        return True

    def check(self, shape: Shape) -> Shape:
        shape.require_floats(self.name)
        return shape

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.teaching import distill

        return distill(variant, work, self)


@dataclass(frozen=True, slots=True)
class Draft:
    """Begin a smaller model of the same family, vocabulary and tokenizer, with weights of chance. `distill` comes
    next."""

    name: ClassVar[str] = "draft"

    layers: int = 2
    hidden_size: int = 128
    heads: int = 2
    kv_heads: int = 1
    intermediate_size: int = 384

    def __post_init__(self) -> None:
        for setting in ("layers", "hidden_size", "heads", "kv_heads", "intermediate_size"):
            if not 1 <= getattr(self, setting) <= 1 << 20:
                raise RecipeError(f"{self.name}: {setting} is {getattr(self, setting)}; it must be 1 to {1 << 20}.")
        if self.heads % self.kv_heads:
            raise RecipeError(
                f"{self.name}: heads is {self.heads}; it must be a multiple of kv_heads, {self.kv_heads}."
            )
        if self.hidden_size % (2 * self.heads):
            raise RecipeError(
                f"{self.name}: hidden_size is {self.hidden_size}; a multiple of twice the heads is needed."
            )

    @property
    def needs_data(self) -> bool:
        return False

    def check(self, shape: Shape) -> Shape:
        shape.require_floats(self.name)
        if shape.config.family not in ("llama", "mistral", "qwen2", "qwen3"):
            raise RecipeError(
                f"{self.name} makes no {shape.config.family} models; it knows Llama, Mistral, Qwen2, Qwen3."
            )
        if self.layers > len(shape.config.layers):
            raise RecipeError(
                f"{self.name}: {self.layers} layers are more than the model's {len(shape.config.layers)}. Give fewer."
            )
        layers = tuple(replace(layer, intermediate_size=self.intermediate_size) for layer in shape.config.layers)
        return Shape(
            replace(
                shape.config,
                hidden_size=self.hidden_size,
                heads=self.heads,
                kv_heads=self.kv_heads,
                head_dim=self.hidden_size // self.heads,
                layers=layers[: self.layers],
            )
        )

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.teaching import begin_draft

        return begin_draft(variant, work, self)
