"""A certificate as one HTML page that needs no network: the claim first, then what bears it out.

Knows certificates and markup; computes nothing but what is drawn.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from vivace.bench.page import (
    NONE,
    SIGNS,
    THIN,
    digits,
    ms,
    section,
    show_facts,
    show_figures,
    show_table,
    show_verdict,
)
from vivace.bench.plots import Axis, Plot, linear_axis, log_axis
from vivace.bench.report import lay_out
from vivace.errors import CertificateError
from vivace.fit.certificate import PAGE, QUANTILES, Certificate, Estimate, Times
from vivace.fit.objective import LATENCIES, LOSS, MEMORY, Constraint, format_value

_METRICS = (("ttft", "First token"), ("tpot", "Per token"), ("total", "Whole answer"))
_PARTS = ("client", "network", "preprocess", "queue", "prefill", "decode", "flush")


def write_page(certificate: Certificate, directory: Path) -> Path:
    """As `certificate.html`. Raises `CertificateError` when it cannot be written."""
    path = directory / PAGE
    try:
        path.write_text(render_certificate(certificate), encoding="utf-8")
    except OSError as error:
        raise CertificateError(f"Cannot write {path}: {error.strerror}. Give a directory to write to.") from error
    return path


def render_certificate(certificate: Certificate) -> str:
    body = "".join(
        (
            _verdict(certificate),
            _figures(certificate),
            _time_bar(certificate),
            _limits(certificate),
            _times(certificate),
            _quality(certificate),
            _floor(certificate),
            _predictions(certificate),
            _pareto(certificate),
            _rejected(certificate),
            _variant(certificate),
            _machine(certificate),
            _files(certificate),
        )
    )
    name = certificate.variant.name
    return lay_out(
        f"{name}: certificate",
        "vivace certificate",
        f"{name} · {certificate.objective}",
        body,
        f"vivace {certificate.versions.get('vivace', '')}, {certificate.issued}. Check it with: vivace verify OUT",
    )


# The claim


def _verdict(certificate: Certificate) -> str:
    values = certificate.measured.values() | _loss(certificate)
    missed = certificate.objective.find_missed(values)
    measured = certificate.measured
    asked = f"Asked for: {escape(str(certificate.objective))}." if certificate.objective.constraints else ""
    answered = f"{measured.answered:,} of {measured.offered:,} requests were answered; {escape(_load(certificate))}."
    if not certificate.objective.constraints:
        return show_verdict("", "Measured, with no budget", answered)
    if missed:
        unknown = [limit for limit in missed if limit.name not in values]
        names = "; ".join(f"{limit.name} is {_value(limit, values)}" for limit in missed)
        kind = "risk" if len(unknown) == len(missed) else "missed"
        title = "Not all of the budget was measured" if kind == "risk" else "The budget is not kept"
        return show_verdict(kind, title, f"{escape(names)}.", asked, answered)
    if not all(_is_sure(limit, certificate) for limit in certificate.objective.constraints):
        why = "Every figure is within its limit, but not every interval."
        return show_verdict("risk", "The budget is kept, if barely", why, asked, answered)
    return show_verdict("kept", "The budget is kept", asked, answered)


def _value(limit: Constraint, values: dict[str, float]) -> str:
    return format_value(limit.name, values[limit.name]) if limit.name in values else "not measured"


def _loss(certificate: Certificate) -> dict[str, float]:
    return {LOSS: certificate.quality.loss} if certificate.quality is not None else {}


def _is_sure(limit: Constraint, certificate: Certificate) -> bool:
    """Whether the whole interval keeps the limit."""
    if limit.name in LATENCIES:
        found = certificate.measured.find(limit.name)
        return found is not None and found.high is not None and found.high <= limit.limit
    if limit.name == LOSS:
        return certificate.quality is not None and certificate.quality.loss_high <= limit.limit
    return True


def _load(certificate: Certificate) -> str:
    workload = certificate.workload
    how = f"{workload.rate:g} requests/s" if workload.rate else f"{workload.concurrency} at once"
    return f"offered {how}, seed {workload.seed}"


def _figures(certificate: Certificate) -> str:
    measured, figures = certificate.measured, []
    for metric, name in _METRICS:
        times = measured.times()[metric].percentiles
        middle, tail = times.get("p50"), times.get("p99")
        remark = f"p99 {digits(tail.value)}{THIN}ms" if tail is not None else "no p99 from so few requests"
        figures.append((f"{name}, median", ms(middle.value if middle else None), remark))
    loss = certificate.quality
    if loss is not None:
        percent = f"{100 * loss.loss:.2f}<span class=unit>{THIN}%</span>"
        figures.append(("Quality lost", percent, f"{loss.measure}, {loss.documents:,} documents"))
    else:
        memory = f"{measured.server_bytes / 1e6:,.0f}<span class=unit>{THIN}MB</span>"
        figures.append(("Memory", memory, "resident, at most"))
    return show_figures(*figures)


def _time_bar(certificate: Certificate) -> str:
    parts = {name: certificate.measured.timeline_ms.get(name, 0.0) for name in _PARTS}
    total = sum(parts.values())
    if not total:
        return ""
    spans = "".join(f'<span class="{k}" style="flex:{v:.4f}" title="{k}"></span>' for k, v in parts.items())
    items = "".join(f'<li class="{k}">{k} <b>{ms(v)}</b></li>' for k, v in parts.items())
    remark = "Where the mean answer's time went, by the server's own account"
    return (
        f'<div class="bar" role="img" aria-label="{remark}">{spans}</div><ul class="parts">{items}</ul>'
        f"<p class=quiet>{remark}: {ms(total)}.</p>"
    )


def _limits(certificate: Certificate) -> str:
    """Each limit as 1: where its figure and its interval lie."""
    rows: list[list[str]] = []
    marks: list[tuple[str, float, float, float, bool]] = []
    values = certificate.measured.values() | _loss(certificate)
    for limit in certificate.objective.constraints:
        low, value, high = _bounds(limit, certificate)
        kept = limit.name in values and limit.find_ratio(values[limit.name]) <= 1
        rows.append(
            [
                f"<code>{escape(limit.name)}</code>",
                escape(format_value(limit.name, limit.limit)),
                escape(_value(limit, values)),
                NONE if low is None else f"{escape(_show(limit, low))} to {escape(_show(limit, high))}",
                _show_kept(kept) if limit.name in values else "",
            ]
        )
        if value is not None and limit.limit:
            least, most = value if low is None else low, value if high is None else high
            marks.append((limit.name, least / limit.limit, value / limit.limit, most / limit.limit, kept))
    if not rows:
        return ""
    table = show_table(["", "limit", "measured", "95% interval", ""], rows)
    plot = _limits_plot(marks) if marks else ""
    return section("Limits", "Over all requests offered: one without an answer counts as the slowest.", plot, table)


def _show_kept(kept: bool) -> str:
    kind = "kept" if kept else "missed"
    return f'<span class="{kind}">{SIGNS[kind]} {kind}</span>'


def _show(limit: Constraint, value: float | None) -> str:
    return "no answer" if value is None else format_value(limit.name, value)


def _bounds(limit: Constraint, certificate: Certificate) -> tuple[float | None, float | None, float | None]:
    if limit.name == LOSS:
        quality = certificate.quality
        return (quality.loss_low, quality.loss, quality.loss_high) if quality is not None else (None, None, None)
    if limit.name == MEMORY:
        used = float(certificate.measured.server_bytes) or None
        return (None, used, None)
    found = certificate.measured.find(limit.name)
    return (found.low, found.value, found.high) if found is not None else (None, None, None)


def _limits_plot(marks: list[tuple[str, float, float, float, bool]]) -> str:
    shares = [max(share, 1e-3) for _, low, value, high, _ in marks for share in (low, value, high)]
    y = log_axis([*shares, 0.5, 1.5], "share of the limit")
    ticks = tuple((float(index), mark[0]) for index, mark in enumerate(marks))
    plot = Plot(Axis(-0.5, len(marks) - 0.5, ticks, ""), y, "Each figure as a share of its limit", height=220)
    plot.level(1.0, "the limit", "limit")
    for index, (_, low, value, high, kept) in enumerate(marks):
        plot.interval(float(index), max(low, y.low), max(high, y.low))
        plot.point(float(index), max(value, y.low), f"{value:.0%}", "kept" if kept else "missed")
    return plot.render()


# What bears it out


def _times(certificate: Certificate) -> str:
    head = ["", *(f"{name}, ms" for name in QUANTILES), "n"]
    rows = []
    for metric, name in _METRICS:
        times: Times = certificate.measured.times()[metric]
        rows.append([name, *(_estimate(times.percentiles.get(p)) for p in QUANTILES), f"{times.n:,}"])
    measured = certificate.measured
    lost = measured.refused + measured.late + measured.failed
    rates = (
        f"{digits(measured.requests_per_s)} requests/s and {digits(measured.output_tokens_per_s)} tokens/s were "
        f"answered; {measured.refused:,} refused, {measured.late:,} ended by their deadline, {measured.failed:,} "
        "failed."
    )
    client = f"The measuring client explains {measured.client_share:.1%} of the tail."
    return section(
        "Times, through HTTP",
        f"With 95% intervals. {rates if lost else rates.partition(';')[0] + '.'} {client}",
        show_table(head, rows),
    )


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return NONE
    low, high = (digits(value) if value is not None else "∞" for value in (found.low, found.high))
    value = digits(found.value) if found.value is not None else "∞"
    return f"{value} <small>{low} to {high}</small>"


def _quality(certificate: Certificate) -> str:
    quality = certificate.quality
    if quality is None:
        return section("Quality", "Not measured: nothing was done to the model, or no data was given.")
    rows: list[tuple[str, Any]] = [
        ("Measure", quality.measure),
        ("Base", f"{quality.base:.5g}"),
        ("Variant", f"{quality.variant:.5g}"),
        ("Lost", f"{quality.loss:.3%}, 95% interval {quality.loss_low:.3%} to {quality.loss_high:.3%}"),
        ("Data", f"{quality.data}, {quality.documents:,} documents, {quality.tokens:,} tokens"),
        ("Data's digest", quality.data_sha256),
    ]
    return section("Quality", "On data set aside; the interval is by bootstrap over documents.", show_facts(rows))


def _floor(certificate: Certificate) -> str:
    floor, machine = certificate.floor, certificate.machine
    figures = [
        (
            "A token, at best",
            ms(floor.token_ms),
            f"{floor.token_share:.0%} of the median: {floor.step_bytes / 1e6:,.1f} MB at "
            f"{machine.read_gb_per_s:.0f} GB/s",
        )
    ]
    if floor.prompt_ms:
        figures.append(
            (
                f"A prompt of {floor.prompt_tokens:,}, at best",
                ms(floor.prompt_ms),
                f"{floor.prompt_share:.0%} of the median: {floor.prompt_operations / 1e9:,.2f} G operations at "
                f"{machine.multiply_gops_per_s:,.0f} G/s",
            )
        )
    return section(
        "Share of the floor", "What reading every weight, and multiplying, takes at least.", show_figures(*figures)
    )


def _predictions(certificate: Certificate) -> str:
    if not certificate.predictions:
        return ""
    rows = [
        [escape(one.stage), escape(one.figure), digits(one.predicted), digits(one.measured), f"{one.error:+.1%}"]
        for one in certificate.predictions
    ]
    head = ["stage", "figure", "predicted", "measured", "error"]
    return section("What the search foretold", "By stage, and what came of it.", show_table(head, rows))


def _pareto(certificate: Certificate) -> str:
    found = certificate.pareto
    if not found:
        return ""
    rows = [
        [
            f"{escape(one.name)}{' <b>(chosen)</b>' if one.chosen else ''}",
            f"{one.loss:.2%}",
            digits(one.ttft_ms),
            digits(one.tpot_ms),
            digits(one.total_ms),
            f"{one.weight_bytes / 1e6:,.1f}",
            "measured" if one.measured else "predicted",
        ]
        for one in found
    ]
    head = ["", "loss", "first token, ms", "per token, ms", "whole, ms", "MB", ""]
    plot = ""
    if len(found) > 1:
        x = linear_axis([100 * one.loss for one in found], "quality lost, %", zero=False)
        y = log_axis([one.total_ms for one in found], "whole answer, ms")
        drawn = Plot(x, y, "Time by quality lost")
        drawn.curve(sorted((100 * one.loss, one.total_ms) for one in found), "third")
        for one in found:
            drawn.point(100 * one.loss, one.total_ms, "chosen" if one.chosen else "", "kept" if one.chosen else "")
        plot = drawn.render()
    return section("Pareto set", "What nothing else beats in everything.", plot, show_table(head, rows))


def _rejected(certificate: Certificate) -> str:
    if not certificate.rejected:
        return ""
    items = "".join(
        f"<li>{escape(one.name)}{f' ({one.count:,} of them)' if one.count > 1 else ''}: {escape(one.reason)}</li>"
        for one in certificate.rejected
    )
    return section("What was not taken, and why", "", f'<ul class="notes">{items}</ul>')


# What and where


def _variant(certificate: Certificate) -> str:
    variant, settings, cost = certificate.variant, certificate.settings, certificate.cost
    rows: list[tuple[str, Any]] = [
        ("Made of", f"{variant.base.name}, SHA-256 {variant.base.sha256}"),
        ("Recipe", variant.recipe or "nothing was done to it"),
        ("Served with", " ".join(settings.as_arguments())),
        ("Workload", str(certificate.workload)),
        (
            "Lengths",
            f"prompts of {certificate.measured.prompt_tokens.median:g} tokens in the median, answers of "
            f"{certificate.measured.answer_tokens.median:g}",
        ),
        (
            "A pass costs",
            f"{cost.base_ms:.4g} ms, and {cost.token_ms:.3g} a token, {cost.sequence_ms:.3g} a sequence, "
            f"{cost.context_ms:.3g} a position attended to; the model misses {cost.error:.1%} in the mean",
        ),
    ]
    return section("The variant", "And how it is served.", show_facts(rows))


def _machine(certificate: Certificate) -> str:
    machine = certificate.machine
    rows: list[tuple[str, Any]] = [
        ("CPU", f"{machine.cpu}, {machine.cores} cores, {machine.isa}"),
        (
            "Reads",
            f"{machine.read_gb_per_s:.1f} GB/s from {machine.read_bytes / 1e6:,.1f} MB "
            f"({machine.read_gb_per_s_low:.1f} at worst)",
        ),
        ("Multiplies", f"{machine.multiply_gops_per_s:,.0f} G operations/s" if machine.multiply_gops_per_s else ""),
        ("Memory", f"{machine.memory_bytes / 2**30:.1f} GiB"),
        ("System", machine.system),
        ("Versions", ", ".join(f"{name} {version}" for name, version in certificate.versions.items())),
    ]
    return section("The machine", "The client ran on it too.", show_facts(rows))


def _files(certificate: Certificate) -> str:
    rows = [(name, f"{one.bytes:,} bytes, SHA-256 {one.sha256}") for name, one in certificate.variant.files.items()]
    return section("Files", "A changed file ends the certificate.", show_facts(list(rows)))
