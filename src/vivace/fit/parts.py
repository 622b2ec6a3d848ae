"""What does a search's work: the real machine's parts, and the face that tests give others. Knows no order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vivace.compress.step import Step
from vivace.fit.allocate import Losses
from vivace.fit.config import FitConfig
from vivace.fit.data import Texts
from vivace.fit.measure import Measurer, NativeMeasurer, StepShape
from vivace.fit.realise import HttpRealiser, Realiser, count_requests
from vivace.fit.space import Space
from vivace.fit.state import State
from vivace.fit.view import View
from vivace.models.model import open_model


@dataclass(slots=True)
class Parts:
    """What does the work, so that tests can put others in."""

    measurers: Callable[[str], Measurer]
    losses: Callable[[str, Space, Path, float, Callable[[float], None]], Losses]
    """Of a model: its space, calibration text, and the time there is."""
    realiser: Callable[[Sequence[StepShape], Mapping[str, Texts] | None, State], Realiser]


def find_parts(config: FitConfig, view: View) -> Parts:
    def find_losses(
        name: str, space: Space, calibration: Path, limit_s: float, progress: Callable[[float], None]
    ) -> Losses:
        from vivace.compress.calibrate import CalibrationConfig, read_calibration
        from vivace.compress.layerwise import Quantization
        from vivace.compress.variant import open_variant
        from vivace.fit.sensitivity import measure_losses

        model = open_model(name)
        text = read_calibration(
            calibration,
            model.tokenizer,
            model.config,
            CalibrationConfig(tokens=8192, length=128, held_out=0),
            config.seed,
        )
        how = Quantization(config.method, "none", "int8")  # type: ignore[arg-type]
        variant = open_variant(model.directory)
        return measure_losses(variant, text, space, how, limit_s, config.out / ".fit", progress)

    def make_realiser(shapes: Sequence[StepShape], texts: Mapping[str, Texts] | None, state: State) -> Realiser:
        return HttpRealiser(
            models={name: name for name in config.models},
            texts=texts,
            workload=config.workload if config.lines is None else config.workload.with_lines(),
            directory=state.directory,
            shapes=shapes,
            method="rtn" if config.time_only else config.method,
            distil=_plan_distilling(config.distil_minutes),
            requests=min(config.workload.requests, count_requests(config.objective)),
            threads=config.threads or _find_threads(),
            say=view.say,
        )

    return Parts(lambda name: NativeMeasurer(open_model(name)), find_losses, make_realiser)


def _plan_distilling(minutes: float) -> Sequence[Step]:
    from vivace.compress.distill import Distill

    return (Distill(minutes=minutes, steps=100_000, length=128, every=10, patience=6),) if minutes else ()


def _find_threads() -> int:
    from vivace.fit.sensitivity import choose_threads

    return choose_threads()
