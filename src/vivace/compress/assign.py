"""The step `assign`: the format of each part of each layer, as it is told; what is not named stays as floats.

Parts are the matrices that read or make one tensor together, by the names that the engine has for them, behind the
number of the layer, as the steps before have left layers: `assign(int4=["0.mlp_in", "0.mlp_out"], int8=["1.mlp_in"])`.
How to choose is `mixed`'s business, and that of `vivace fit`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vivace.compress.quantize import CALIBRATED, Activations, Correction, Int4, Int8, Method
from vivace.compress.step import Report, Shape, Work
from vivace.errors import RecipeError

if TYPE_CHECKING:
    from vivace.compress.variant import Variant

PARTS = {
    "query_key_value": r"self_attn\.(?:[qkv]_proj|qkv_proj)",
    "attention_output": r"self_attn\.o_proj",
    "mlp_in": r"mlp\.(?:gate_proj|up_proj|gate_up_proj)",
    "mlp_out": r"mlp\.down_proj",
}
"""What the linears of each part are called in a layer, as a pattern."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Named parts of layers in int8 or int4."""

    name: ClassVar[str] = "assign"

    int8: tuple[str, ...] = ()
    """Such as 3.mlp_in."""
    int4: tuple[str, ...] = ()
    group_size: Literal[32, 64, 128] = 32
    method: Method = "mse"
    """Of those in int4, as for `int4`."""
    correct: Correction = "none"
    activations: Activations = "int8"

    def __post_init__(self) -> None:
        named = [*self.int8, *self.int4]
        for part in named:
            if not re.fullmatch(rf"\d{{1,4}}\.({'|'.join(PARTS)})", part):
                raise RecipeError(
                    f"assign: {part[:40]!r} is no part. Write a layer's number and one of {', '.join(PARTS)}, such as "
                    "0.mlp_in."
                )
        if len(set(named)) < len(named):
            raise RecipeError("assign: a part is named twice; name it once.")
        if not named:
            raise RecipeError("assign: no part is named. Name some under int8 or int4.")

    @property
    def needs_data(self) -> bool:
        return (self.method in CALIBRATED and bool(self.int4)) or self.correct != "none"

    def check(self, shape: Shape) -> Shape:
        last = max(int(part.partition(".")[0]) for part in (*self.int8, *self.int4))
        if last >= len(shape.config.layers):
            raise RecipeError(f"assign: there is no layer {last}; the model has {len(shape.config.layers)} here.")
        return (Int4(group_size=self.group_size) if self.int4 else Int8()).check(shape)

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.layerwise import Quantization, name_linears, quantize_layers
        from vivace.compress.rounding import Format

        linears = name_linears(variant)
        formats = dict.fromkeys(find_linears_of(self.int8, linears), Format(8, 0, variant.dtype))
        formats |= dict.fromkeys(find_linears_of(self.int4, linears), Format(4, self.group_size, variant.dtype))
        return quantize_layers(variant, work, Quantization(self.method, self.correct, self.activations), formats)


def find_linears_of(parts: Iterable[str], linears: Iterable[str]) -> list[str]:
    """The linears that make up some parts, out of all by their names in the model. Raises `RecipeError` for a part
    that has none."""
    names = list(linears)
    found: list[str] = []
    for part in parts:
        layer, _, kind = part.partition(".")
        ours = [name for name in names if re.search(rf"\.layers\.{layer}\.{PARTS[kind]}$", name)]
        if not ours:
            raise RecipeError(
                f"assign: {part} has no linears here: they are factored, or the model keeps them otherwise."
            )
        found += ours
    return found
