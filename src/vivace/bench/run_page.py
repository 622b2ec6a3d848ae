"""The page of one run. Knows its document, and computes nothing that is not in it."""

from __future__ import annotations

from html import escape
from typing import Any

from vivace.bench.page import (
    LEVELS,
    THIN,
    Document,
    digits,
    ms,
    section,
    show_facts,
    show_figures,
    show_limits,
    show_table,
    show_verdict,
)
from vivace.bench.plots import Plot, linear_axis, log_axis, nines, quantile_axis
from vivace.bench.stats import QUANTILES


def run_page(document: Document) -> str:
    return "".join(
        (
            _run_verdict(document),
            _key_figures(document),
            _time_bar(document),
            _problems(document),
            _distribution(document),
            _over_time(document),
            _all_times(document),
            _resources(document),
            _client(document),
        )
    )


def _run_verdict(document: Document) -> str:
    requests, budget, client = document["requests"], document.get("budget"), document["client"]
    load = f"{escape(document['load']['describe'][:1].upper() + document['load']['describe'][1:])}."
    answered = f"{requests['answered']:,} of {requests['offered']:,} requests were answered."
    if not client["valid"]:
        reasons = "; ".join(client["reasons"])
        why = f"{escape(reasons[:1].upper() + reasons[1:])}."
        return show_verdict("risk", "Invalid: the client was too slow", why, load)
    if document["stopped_early"]:
        return show_verdict("missed", "Stopped early", escape(document["stopped_early"]), answered, load)
    if budget:
        kind = {"kept": "kept", "missed": "missed", "at risk": "risk"}[budget["verdict"]]
        low, high = budget["interval_95"]
        title = {"kept": "Budget kept", "missed": "Budget missed", "risk": "Budget kept, but not shown to be"}[kind]
        return show_verdict(
            kind,
            title,
            f"{budget['attainment']:.2%} of all requests offered kept {show_limits(budget)} (95% interval {low:.2%} to "
            f"{high:.2%}); {budget['needed']:.2%} are to.",
            load,
        )
    if requests["failed"] or not requests["answered"]:
        return show_verdict("missed", f"{requests['failed']:,} requests failed", answered, load)
    found = document["ttft_ms"] or document["e2e_ms"]
    what = "First token" if document["ttft_ms"] else "Answer"
    return show_verdict("", f"{what} in {digits(found['p50'] or found['mean'])}{THIN}ms", answered, load)


def _key_figures(document: Document) -> str:
    throughput, figures = document["throughput"], []
    for key, name in (("ttft_ms", "First token"), ("e2e_ms", "Last token"), ("tpot_ms", "Per token")):
        found = document[key]
        if found:
            p99 = (
                f"p99 {digits(found['p99'])}{THIN}ms"
                if found["p99"]
                else f"a p99 takes {found['needs']['p99']:,} requests"
            )
            figures.append((f"{name}, median", ms(found["p50"]), p99))
    rate = throughput["output_tokens_per_s"]
    figures.append(
        (
            "Throughput",
            f"{digits(rate)}<span class=unit>{THIN}tokens/s</span>",
            f"{digits(throughput['requests_per_s'])} requests/s",
        )
    )
    return show_figures(*figures)


def _time_bar(document: Document) -> str:
    """Where the mean response's time went: by the server's word, or else what is seen from outside."""
    timeline = document["timeline"]
    if timeline:
        order = ("client", "network", "preprocess", "queue", "prefill", "decode", "flush")
        parts = {name: timeline["mean_ms"][f"{name}_ms"] for name in order}
        remark = f"The mean of {timeline['requests']:,} responses, by the server's own account"
    elif document["ttft_ms"] and document["e2e_ms"]:
        first, last = document["ttft_ms"]["mean"], document["e2e_ms"]["mean"]
        parts = {"prefill": first, "decode": last - first}
        remark = "The mean response as seen from outside: to the first token, and from there to the last"
    else:
        return ""
    total = sum(parts.values())
    names = {} if timeline else {"prefill": "to the first token", "decode": "to the last"}
    spans = "".join(f'<span class="{k}" style="flex:{max(0.0, v):.4f}" title="{k}"></span>' for k, v in parts.items())
    items = "".join(f'<li class="{k}">{names.get(k, k)} <b>{ms(v)}</b></li>' for k, v in parts.items())
    return (
        f'<div class="bar" role="img" aria-label="{escape(remark)}">{spans}</div><ul class="parts">{items}</ul>'
        f"<p class=quiet>{remark}: {ms(total)}.</p>"
    )


def _problems(document: Document) -> str:
    notes = [
        f"{error['count']:,} times {escape(error['kind'])}: {escape(error['first'])}"
        for error in document["requests"]["errors"]
    ]
    if document["stopped_early"]:
        notes.append(escape(document["stopped_early"]))
    if document["load"]["concurrency"]:
        notes.append("A closed loop waits with the server: for the tails that users would see, measure with --rate.")
    quality = document.get("quality")
    if quality:
        notes.append(f"{quality['exact']:,} of {quality['scored']:,} answers were the expected ones.")
    items = "".join(f"<li>{note}</li>" for note in notes)
    return f'<section><h2>Remarks</h2><ul class="notes">{items}</ul></section>' if notes else ""


def _distribution(document: Document) -> str:
    raw = document["raw"]
    curves = [
        (name, kind, _supported(_column(raw, key)))
        for key, name, kind in (
            ("ttft_ms", "first token", ""),
            ("e2e_ms", "last token", "second"),
        )
    ]
    shown = [(name, kind, points) for name, kind, points in curves if points]
    if not shown:
        return ""
    naive = _percentile_points(document["naive_ttft_ms"] or document["naive_e2e_ms"])
    values = [y for _, _, points in shown for _, y in points]
    budget = document.get("budget", {})
    levels = [(budget[key], name) for key, name in LEVELS if key in budget]
    highest = max(1 - 10 ** -points[-1][0] for _, _, points in shown)
    plot = Plot(quantile_axis(highest), log_axis(values + [y for y, _ in levels], "ms"), "Latency by percentile")
    for level, name in levels:
        plot.level(level, f"budget, {name}")
    if naive and document["load"]["rate"]:
        plot.curve(naive[::-1], "third", "a client that waits", below=True)
    for name, kind, points in shown:
        plot.curve(points, kind, name)
    for key in ("ttft_ms", "e2e_ms"):
        for q, (low, high) in ((document[key] or {}).get("interval_95") or {}).items():
            plot.interval(nines(QUANTILES[q]), low, high)
    return section(
        "Latency",
        "From the moment each request was to be sent. Bars are 95% intervals; a curve ends where the sample no longer "
        "bears it. The dotted line is what a client would have seen that waits for an answer before it sends again.",
        plot.render(),
    )


def _column(raw: Document, name: str) -> list[float]:
    return sorted(value for value, error in zip(raw[name], raw["error"], strict=True) if value and not error)


def _supported(ordered: list[float]) -> list[tuple[float, float]]:
    """The curve of sorted values by -log10(1 - q), down to the two largest, which bear no percentile."""
    n = len(ordered)
    if n < 11:
        return []
    last = n - 7  # the percentile with 99% confidence has at least about 6.6 values beyond it
    steps = sorted({round(i * (last - 1) / 200) for i in range(201)} | set(range(max(0, last - 60), last)))
    return [(nines(i / n), ordered[i]) for i in steps]


def _percentile_points(found: Document | None) -> list[tuple[float, float]]:
    return [(nines(q), found[name]) for name, q in QUANTILES.items() if found and found.get(name)]


def _over_time(document: Document) -> str:
    raw = document["raw"]
    key = "ttft_ms" if document["ttft_ms"] else "e2e_ms"
    rows = list(zip(raw["scheduled_s"], raw[key], raw["error"], strict=True))
    good = [(moment, value) for moment, value, error in rows if value and not error]
    bad = [moment for moment, _, error in rows if error]
    if not good:
        return ""
    y = log_axis([value for _, value in good], "ms")
    plot = Plot(
        linear_axis([row[0] for row in rows], "seconds from the start", tight=True), y, "Every request over time"
    )
    plot.dots(good).dots([(moment, y.high) for moment in bad], "failed")
    budget = document.get("budget", {})
    if key in budget:
        plot.level(budget[key], "budget")
    what = "first token" if key == "ttft_ms" else "answer"
    failed = " Failed requests stand at the upper edge." if bad else ""
    return section("Requests over time", f"Time to the {what}, at the moment it was to be sent.{failed}", plot.render())


_ROWS = (
    ("ttft_ms", "First token"),
    ("service_ttft_ms", "\N{EM SPACE}from when really sent"),
    ("naive_ttft_ms", "\N{EM SPACE}a client that waits"),
    ("e2e_ms", "Last token"),
    ("service_e2e_ms", "\N{EM SPACE}from when really sent"),
    ("naive_e2e_ms", "\N{EM SPACE}a client that waits"),
    ("tpot_ms", "Per token (TPOT)"),
    ("inter_token_ms", "Between tokens"),
    ("inter_chunk_ms", "Between chunks"),
    ("send_lag_ms", "Sent late by"),
    ("loop_lag_ms", "Client's loop late by"),
)


def _all_times(document: Document) -> str:
    columns = ("p50", "p90", "p95", "p99", "p99.9", "mean", "max")
    rows = [
        [escape(name), *(digits(document[key][column]) for column in columns), f"{document[key]['n']:,}"]
        for key, name in _ROWS
        if document[key]
    ]
    return section(
        "All times, in milliseconds",
        "A percentile is left out where the sample is too small to bear it with 99% confidence.",
        show_table(["", *columns, "n"], rows),
    )


def _resources(document: Document) -> str:
    used = document.get("resources")
    if not used:
        return ""
    memory = used["rss_bytes_max"]
    figures = [("Processor", f"{used['cores_used']:.2f}<span class=unit>{THIN}cores</span>", f"{used['cpu_s']:.1f} s")]
    if memory:
        figures.append(("Memory, most", f"{memory / 1e6:,.0f}<span class=unit>{THIN}MB</span>", "resident"))
    if used["tokens_per_cpu_s"]:
        figures.append(("Tokens", digits(used["tokens_per_cpu_s"]), "per processor second"))
    if used.get("gpu_percent") is not None:
        gpu_bytes = used["gpu_bytes_max"]
        figures.append(
            ("GPU", f"{used['gpu_percent']:.0f}<span class=unit>{THIN}%</span>", f"{gpu_bytes / 1e6:,.0f} MB")
        )
    plots = ""
    samples = used.get("samples")
    if samples and len(samples["s"]) > 2:
        points = list(zip(samples["s"], samples["cores"], strict=True))
        x = linear_axis(samples["s"], "seconds from the start", tight=True)
        plot = Plot(x, linear_axis(samples["cores"], "cores", ticks=3), "Processor use over time", height=180)
        plots = plot.curve(points).render()
    return section("What the server used", f"From {escape(used['from'])}.", show_figures(*figures), plots)


def _client(document: Document) -> str:
    client, lag = document["client"], document["send_lag_ms"]
    calibration = client["calibration"]
    rows: list[tuple[str, Any]] = [
        (
            "Share of the tail",
            f"{client['share_of_tail']:.1%} of the times from {client['tail_from']} on; valid up to 10%",
        ),
        ("Busy", f"{client['busy']:.0%} of the time, in {client['processes']} process(es)"),
        ("Connections", f"{client['connections']:,}"),
        ("Sent late", f"by {lag['mean']:.3f} ms in the mean, {lag['max']:.3f} ms at most" if lag else ""),
    ]
    if calibration:
        rows += [
            (
                "Floor",
                f"a server that computes nothing: {calibration['floor_ttft_ms_p50']:.3f} ms in the median to its first "
                f"token, {calibration['floor_ttft_ms_p99']:.3f} ms at p99",
            ),
            ("Cost of an event", f"{calibration['event_cost_us']:.1f} µs of processor time"),
        ]
    else:
        rows.append(("Floor", "not measured"))
    return section(
        "How far the client is to blame", "Measured on this machine before the run, and during it.", show_facts(rows)
    )
