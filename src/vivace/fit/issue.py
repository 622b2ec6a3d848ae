"""From what a search found to a directory that is served: the best variant is moved there, and all that is known of it
is written down in its certificate, as it was confirmed.

Knows records, and what stands in them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivace.compress.manifest import write_json
from vivace.compress.variant import COPIED
from vivace.errors import VivaceError
from vivace.fit.certificate import Candidate as CandidateRecord
from vivace.fit.certificate import Prediction, QualityRecord, Rejection
from vivace.fit.certify import Findings, certify_documents
from vivace.fit.objective import LATENCIES, LOSS, MEMORY, Objective, format_value
from vivace.fit.settings import EngineSettings
from vivace.fit.workload import LINES
from vivace.models.model import open_model

if TYPE_CHECKING:
    from vivace.fit.config import FitConfig
    from vivace.fit.pipeline import Fitted
    from vivace.fit.realise import Realised

MOST_PARETO = 24


def write_best(fitted: Fitted, config: FitConfig) -> EngineSettings:
    """Move the best variant into OUT, and remove the state; the settings to serve it with."""
    best = fitted.best
    if best is None:
        raise VivaceError(
            f"The search was stopped before anything was realised. What it has found is in {config.out}: go on with "
            "--resume."
        )
    place = Path(best.place)
    kept = place.resolve().is_relative_to((config.out / ".fit").resolve())
    if kept:
        for path in sorted(place.iterdir(), key=lambda path: path.name == "config.json"):
            shutil.move(path, config.out / path.name)
    else:  # the original serves as it is
        directory = open_model(best.place).directory
        patterns = ("*.safetensors", "*.safetensors.index.json", "config.json", *COPIED)
        for path in (path for pattern in patterns for path in directory.glob(pattern)):
            shutil.copyfile(path, config.out / path.name)
    write_json(config.out / "fit.json", dict(fitted.report))
    shutil.rmtree(config.out / ".fit")
    return best.candidate.resolved


def issue_certificate(
    fitted: Fitted, config: FitConfig, settings: EngineSettings, say: Callable[[str], None]
) -> tuple[str, bool]:
    """Write OUT's certificate; what it says, in a line, and whether every limit was kept again. Raises as `certify`
    does."""
    workload = config.workload
    if config.lines is not None:
        shutil.copyfile(config.lines, config.out / LINES)
        workload = workload.with_lines()
    assert fitted.document is not None, "what keeps its budget was confirmed"
    certificate = certify_documents(
        str(config.out),
        config.out,
        settings,
        workload,
        config.objective,
        [dict(fitted.document)],
        gather_findings(fitted, config),
        say=say,
    )
    values = certificate.measured.values() | ({LOSS: certificate.quality.loss} if certificate.quality else {})
    missed = config.objective.find_missed(values)
    names = [one.name for one in config.objective.constraints]
    shown = " ".join(f"{name}={format_value(name, values.get(name, float('nan')))}" for name in names)
    verdict = f"MISSES {', '.join(map(str, missed))}" if missed else "keeps its budget"
    return f"certified:  {verdict}, measured once more: {shown}", not missed


def gather_findings(fitted: Fitted, config: FitConfig) -> Findings:
    """What a certificate says beside what is measured for it."""
    best = fitted.best
    assert best is not None, "something was written"
    return Findings(
        base=best.candidate.model,
        recipe=best.recipe,
        quality=_find_quality(fitted, best),
        predictions=_list_predictions(best),
        pareto=_list_pareto(fitted, best),
        rejected=_list_rejected(fitted, config, best),
    )


def _find_quality(fitted: Fitted, best: Realised) -> QualityRecord | None:
    quality, texts = best.quality, fitted.report.get("data")
    if quality is None or texts is None:
        return None
    return QualityRecord(
        measure="perplexity",
        base=quality["base"],
        variant=quality["perplexity"],
        loss=quality["loss"],
        loss_low=quality["low"],
        loss_high=quality["high"],
        documents=quality["documents"],
        tokens=quality["tokens"],
        data=texts["name"],
        data_sha256=texts["digest"],
    )


def _list_predictions(best: Realised) -> list[Prediction]:
    """Simulated from what parts cost; then as what was realised before had corrected it."""
    return [
        Prediction(stage=stage, figure=name, predicted=predicted[name], measured=best.values[name])
        for stage, predicted in (("simulated", best.raw), ("corrected", best.expected))
        for name in (*LATENCIES, MEMORY, LOSS)
        if name in predicted and name in best.values and best.values[name] < float("inf")
    ]


def _list_pareto(fitted: Fitted, best: Realised) -> list[CandidateRecord]:
    measured = [
        CandidateRecord(
            name=one.candidate.describe(),
            loss=one.values.get(LOSS, 0.0),
            ttft_ms=one.values["ttft_p50"],
            tpot_ms=one.values["tpot_p50"],
            total_ms=one.values["total_p50"],
            weight_bytes=one.weight_bytes,
            measured=True,
            chosen=one is best,
        )
        for one in fitted.realised
        if max(one.values[name] for name in ("ttft_p50", "tpot_p50", "total_p50")) < float("inf")
    ]
    expected = [
        CandidateRecord(
            name=one["variant"],
            loss=one["expected"][LOSS],
            ttft_ms=one["expected"]["ttft_p50"],
            tpot_ms=one["expected"]["tpot_p50"],
            total_ms=one["expected"]["total_p50"],
            weight_bytes=int(one["weight_bytes"]),
            measured=False,
        )
        for one in fitted.report["front"]
    ]
    return (measured + expected)[:MOST_PARETO]


def _list_rejected(fitted: Fitted, config: FitConfig, best: Realised) -> list[Rejection]:
    found = [
        Rejection(name=one.candidate.describe(), reason=_explain(one, config.objective, fitted.report["confirmed"]))
        for one in fitted.realised
        if one is not best
    ]
    others = fitted.report["tried"] - len(fitted.realised)
    if others > 0:
        reason = "expected to miss the budget, or to be no better than what was measured"
        found.append(Rejection(name="candidates that were not realised", reason=reason, count=others))
    return found


def _explain(one: Realised, objective: Objective, confirmed: Mapping[str, Any]) -> str:
    missed = objective.find_missed(one.values)
    again = confirmed.get(one.candidate.describe())
    if not missed and again is not None:
        return f"missed {', '.join(again['missed'])} when it was measured again"
    if not missed:
        return f"keeps the budget with more {'loss' if objective.prefer == 'loss' else 'time'} than the chosen one"
    return "; ".join(
        f"{limit.name} is {format_value(limit.name, one.values.get(limit.name, float('nan')))}, limited to "
        f"{format_value(limit.name, limit.limit)}"
        for limit in missed
    )
