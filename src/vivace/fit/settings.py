"""How a variant is served: what `vivace serve` is told besides the model. A leaf: knows options, and no search."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from vivace.runners.native import NativeConfig, Quantize

Speculate = Literal["off", "lookup"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Resolved once. Raises nothing: `as_native` does, for values that cannot be."""

    quantize: Quantize = "int8"
    """Of tables, and of linears that the checkpoint stores as floats."""
    group_size: int = 32
    quantize_tables: bool = False
    threads: int = 0
    """0: all cores that the process may use."""
    max_sequences: int = 1024
    """The batch limit: sequences under way at once."""
    max_batch_tokens: int = 1024
    """The prompt chunk: tokens of one step over all sequences."""
    kv_memory_bytes: int = 1 << 30
    speculate: Speculate = "off"

    def as_native(self) -> NativeConfig:
        """For the CPU runner. Raises `ConfigError` for values that cannot be."""
        return NativeConfig(
            quantize=self.quantize,
            group_size=self.group_size,
            quantize_tables=self.quantize_tables,
            threads=self.threads,
            max_sequences=self.max_sequences,
            max_batch_tokens=self.max_batch_tokens,
            kv_memory_bytes=self.kv_memory_bytes,
        )

    def as_arguments(self) -> list[str]:
        """Options of `vivace serve` that say the same."""
        arguments = ["--quantize", self.quantize, "--group-size", str(self.group_size)]
        arguments += ["--quantize-tables"] if self.quantize_tables else []
        arguments += ["--threads", str(self.threads), "--max-batch", str(self.max_sequences)]
        arguments += ["--prompt-chunk", str(self.max_batch_tokens), "--speculate", self.speculate]
        return [*arguments, "--kv-memory", repr(self.kv_memory_bytes / 2**30)]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
