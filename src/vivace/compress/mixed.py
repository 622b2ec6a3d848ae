"""The step `mixed`: int4 where it costs little, int8 where it costs much, under a budget of bits.

What it costs is measured: see `sensitivity.py`, which needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vivace.compress.quantize import Activations, Correction, Int4, Method, Tables, check_tables
from vivace.compress.step import Report, Shape, Work
from vivace.errors import RecipeError

if TYPE_CHECKING:
    from vivace.compress.variant import Variant


@dataclass(frozen=True, slots=True)
class Mixed:
    """Linears of the decoder in int4 or int8, so that the mean bits of a weight, scales included, stay in a budget."""

    name: ClassVar[str] = "mixed"

    average_bits: float = 5.5
    group_size: Literal[32, 64, 128] = 32
    method: Method = "mse"
    """Of those in int4, as for `int4`."""
    measured_tokens: int = 1024
    """Of the calibration, over which what each linear costs is measured."""
    correct: Correction = "none"
    activations: Activations = "int8"
    tables: Tables = "float"
    """As for `int8`; they do not count in the average."""

    def __post_init__(self) -> None:
        least = 4 + 16 / self.group_size
        if not least <= self.average_bits <= 9:
            raise RecipeError(
                f"mixed: average_bits is {self.average_bits}; with groups of {self.group_size} it must be {least} to 9."
            )
        if not 1 <= self.measured_tokens <= 1 << 20:
            raise RecipeError(f"mixed: measured_tokens is {self.measured_tokens}; it must be 1 to {1 << 20}.")

    @property
    def needs_data(self) -> bool:
        return True

    def check(self, shape: Shape) -> Shape:
        check_tables(self.name, self.tables, shape)
        return Int4(group_size=self.group_size).check(shape)

    def apply(self, variant: Variant, work: Work) -> Report:
        from vivace.compress.layerwise import Quantization, name_linears, quantize_layers
        from vivace.compress.rounding import Format
        from vivace.compress.sensitivity import choose_formats, measure_sensitivity

        small, large = Format(4, self.group_size, variant.dtype), Format(8, 0, variant.dtype)
        units = measure_sensitivity(variant, work, small, self.measured_tokens)
        formats = choose_formats(variant, units, name_linears(variant), small, large, self.average_bits)
        how = Quantization(self.method, self.correct, self.activations, self.tables)
        costs = [{"linears": unit.linears, "kl_nats": unit.loss} for unit in units]
        return {"sensitivity": costs} | quantize_layers(variant, work, how, formats)
