"""What a search is asked for, checked where it is made. Knows no stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivace.errors import ConfigError
from vivace.fit.objective import LOSS, Objective
from vivace.fit.search import TRIALS
from vivace.fit.workload import WorkloadSpec
from vivace.models.model import open_model


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """What is asked. Raises `ConfigError` for values that cannot be."""

    models: tuple[str, ...]
    out: Path
    objective: Objective
    workload: WorkloadSpec
    lines: Path | None = None
    """The workload's own file."""
    data: Path | None = None
    """Text to calibrate on and to judge by; without, the models write some."""
    time_only: bool = False
    """Do not measure loss."""
    limit_s: float = 1800.0
    trials: int = TRIALS
    distil_minutes: float = 0.0
    """Of training for each finalist, outside of the time; 0: none."""
    method: str = "gptq"
    """Of rounding to int4."""
    seed: int = 0
    threads: int = 0
    """PyTorch's; 0: what is fastest."""
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) < len(self.models):
            raise ConfigError("Name one model or several different ones.")
        if self.limit_s < 10:
            raise ConfigError(f"The search has {self.limit_s:g} s; give it 10 s at least, and 15 minutes if you can.")
        if len(self.models) > 1 and self.data is None and not self.time_only:
            raise ConfigError("Several models are compared on text; give some with --data, or choose by --time-only.")
        if self.time_only and self.objective.limit(LOSS) < float("inf"):
            raise ConfigError("Loss is limited, and --time-only does not measure it. Leave out one of the two.")
        if self.time_only and (self.data is not None or self.distil_minutes):
            raise ConfigError("--time-only looks at no text, so that --data and --distil have no use. Leave them out.")

    def plan(self) -> dict[str, Any]:
        """What a resumed run must ask again."""
        from vivace.compress.manifest import hash_files

        return {
            "models": list(self.models),
            "sha256": [hash_files(open_model(name).directory) for name in self.models],
            "budget": str(self.objective),
            "prefer": self.objective.prefer,
            "workload": asdict_struct(self.workload),
            "data": None if self.data is None else str(self.data.resolve()),
            "time_only": self.time_only,
            "distil_minutes": self.distil_minutes,
            "method": self.method,
            "seed": self.seed,
        }


def asdict_struct(workload: WorkloadSpec) -> dict[str, Any]:
    """Plain values, as JSON has them."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(workload)
    return found
