"""Named settings of well-known benchmarks. They give defaults; what is said beside them counts.

Lengths are drawn from distributions with the published means, for the data sets themselves do not come with this
package: figures are comparable to each other, and are no MLPerf results.
"""

from __future__ import annotations

from dataclasses import dataclass

from vivace.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Preset:
    """`needed` is the share of requests that is to keep the budget."""

    budget: str
    input_tokens: str
    output_tokens: str
    source: str
    needed: float = 0.99
    arrivals: str = "poisson"


_MLPERF = "MLPerf Inference rules, server scenario: Poisson arrivals, 99% of requests within the limits"

PRESETS = {
    "mlperf-llama3.1-8b-interactive": Preset("ttft=500ms,tpot=30ms", "normal:778:250", "normal:73:20", _MLPERF),
    "mlperf-llama3.1-8b-server": Preset("ttft=2s,tpot=100ms", "normal:778:250", "normal:73:20", _MLPERF),
    "mlperf-llama2-70b-interactive": Preset("ttft=450ms,tpot=40ms", "normal:294:120", "normal:294:100", _MLPERF),
    "mlperf-llama2-70b-server": Preset("ttft=2s,tpot=200ms", "normal:294:120", "normal:294:100", _MLPERF),
    "chat": Preset(
        "ttft=200ms,tpot=50ms",
        "lognormal:64:0.6",
        "lognormal:48:0.5",
        "200 ms to the first word feel immediate; 20 tokens/s are read comfortably",
    ),
}


def find_preset(name: str) -> Preset:
    """Raises `ConfigError` for a name that is none."""
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}. Choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
