"""From what a search found to a certificate: the best is measured once more, as `verify` will, and all that is known
of it is written down. Knows records, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vivace.fit.certificate import Candidate as CandidateRecord
from vivace.fit.certificate import Prediction, QualityRecord, Rejection
from vivace.fit.certify import Findings, certify
from vivace.fit.objective import LATENCIES, LOSS, MEMORY, Objective, format_value
from vivace.fit.settings import EngineSettings

if TYPE_CHECKING:
    from vivace.fit.pipeline import FitConfig, Fitted
    from vivace.fit.realise import Realised

MOST_PARETO = 24


def issue_certificate(fitted: Fitted, config: FitConfig, settings: EngineSettings, say: Callable[[str], None]) -> str:
    """Measure OUT and write its certificate; what it says, in a line. Raises as `certify` does."""
    certificate = certify(
        str(config.out),
        config.out,
        settings,
        config.workload,
        config.objective,
        gather_findings(fitted, config),
        lines=config.lines,
        say=say,
    )
    values = certificate.measured.values() | ({LOSS: certificate.quality.loss} if certificate.quality else {})
    missed = config.objective.find_missed(values)
    shown = " ".join(
        f"{one.name}={format_value(one.name, values.get(one.name, float('nan')))}"
        for one in config.objective.constraints
    )
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
        Rejection(name=one.candidate.describe(), reason=_explain(one, config.objective))
        for one in fitted.realised
        if one is not best
    ]
    others = fitted.report["tried"] - len(fitted.realised)
    if others > 0:
        reason = "expected to miss the budget, or to be no better than what was measured"
        found.append(Rejection(name="candidates that were not realised", reason=reason, count=others))
    return found


def _explain(one: Realised, objective: Objective) -> str:
    missed = objective.find_missed(one.values)
    if not missed:
        return f"keeps the budget with more {'loss' if objective.prefer == 'loss' else 'time'} than the chosen one"
    return "; ".join(
        f"{limit.name} is {format_value(limit.name, one.values.get(limit.name, float('nan')))}, limited to "
        f"{format_value(limit.name, limit.limit)}"
        for limit in missed
    )
