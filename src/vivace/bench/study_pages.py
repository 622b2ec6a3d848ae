"""The pages of what takes several runs: a sweep, a search for the highest rate, a comparison."""

from __future__ import annotations

from html import escape

from vivace.bench.page import LEVELS, THIN, Document, digits, section, show_limits, show_table, show_verdict
from vivace.bench.plots import Axis, Plot, linear_axis, log_axis


def sweep_page(document: Document) -> str:
    runs = document["runs"]
    best = max(runs, key=lambda run: run["throughput"]["output_tokens_per_s"] or run["throughput"]["requests_per_s"])
    rate, unit = _rate(best)
    top = show_verdict("", f"Up to {digits(rate)}{THIN}{unit}", f"At {escape(best['load']['describe'])}.")
    head = ["load", unit, "first token p50", "p99", "last token p50", "p99", "client"]
    rows = [
        [
            escape(_offer(run)),
            digits(_rate(run)[0]),
            *(digits((run[key] or {}).get(q)) for key in ("ttft_ms", "e2e_ms") for q in ("p50", "p99")),
            "valid" if run["client"]["valid"] else "INVALID",
        ]
        for run in runs
    ]
    return top + _curve(runs, unit) + section("All runs", "Times in milliseconds.", show_table(head, rows))


def _rate(run: Document) -> tuple[float, str]:
    tokens = run["throughput"]["output_tokens_per_s"]
    return (run["throughput"]["requests_per_s"], "requests/s") if tokens is None else (tokens, "tokens/s")


def _offer(run: Document) -> str:
    load = run["load"]
    return f"{load['rate']:g}/s" if load["rate"] else f"{load['concurrency']} at once"


def _curve(runs: list[Document], unit: str) -> str:
    """Latency against throughput, a point for each run in their order."""
    drawn = [
        (key, kind, name)
        for key, kind, name in (("ttft_ms", "", "first token"), ("e2e_ms", "second", "last token"))
        if all(run[key] for run in runs)
    ]
    intervals = {
        key: [(_rate(run)[0], *(run[key]["interval_95"].get("p50") or (run[key]["mean"],) * 2)) for run in runs]
        for key, _, _ in drawn
    }
    values = [y for rows in intervals.values() for row in rows for y in row[1:]]
    budget = runs[0].get("budget", {})
    values += [budget[key] for key, _ in LEVELS if key in budget]
    plot = Plot(
        linear_axis([_rate(run)[0] for run in runs], unit), log_axis(values, "ms, median"), "Latency by throughput"
    )
    for key, name in LEVELS:
        if key in budget:
            plot.level(budget[key], f"budget, {name}")
    for key, kind, name in drawn:
        points = [(_rate(run)[0], run[key]["p50"] or run[key]["mean"]) for run in runs]
        plot.curve(points, kind, name)
        for x, low, high in intervals[key]:
            plot.interval(x, low, high)
        for run, (x, y) in zip(runs, points, strict=True):
            plot.point(x, y, _offer(run) if key == drawn[-1][0] and run is not runs[-1] else "")
    return section("Throughput and latency", "Medians with their 95% intervals.", plot.render())


def find_max_page(document: Document) -> str:
    low, high, budget = document["max_rate"]["low"], document["max_rate"]["high"], document["budget"]
    trials = sorted(document["trials"], key=lambda trial: float(trial["rate"]))
    if low and high:
        title = f"Between {digits(low)} and {digits(high)}{THIN}requests/s"
    else:
        title = f"At least {digits(low)}{THIN}requests/s" if low else "No rate keeps the budget"
    asked = f"The highest rate at which {budget['needed']:.0%} of requests keep {show_limits(budget)}."
    top = show_verdict("kept" if low else "missed", title, asked, escape(document["stopped"]))
    shares = [(trial["rate"], 100 * trial["hits"] / max(1, trial["offered"])) for trial in trials]
    x = log_axis([rate for rate, _ in shares], "requests/s offered")
    plot = Plot(x, linear_axis([0.0, 100.0], "% that kept the budget"), "Share that kept the budget, by rate")
    plot.level(100 * budget["needed"], f"{budget['needed']:.0%} are to", "limit").curve(shares, "third")
    for trial, (rate, share) in zip(trials, shares, strict=True):
        plot.point(rate, share, "", "kept" if trial["kept"] else "missed")
    rows = [
        [
            digits(trial["rate"]),
            f"{trial['hits']:,} of {trial['offered']:,}",
            digits(trial["ttft_ms_p50"]),
            digits(trial["e2e_ms_p50"]),
            ("kept" if trial["kept"] else "missed") + ("" if trial["decided"] else ", not sure"),
        ]
        for trial in trials
    ]
    head = ["requests/s", "kept it", "first token p50, ms", "last token p50, ms", "verdict"]
    return top + section(
        "Rates that were tried", "A sequential test decides each.", plot.render(), show_table(head, rows)
    )


def compare_page(document: Document) -> str:
    found, (a, b) = document["comparison"], document["sides"]
    titles = {
        "worse": ("missed", "B is worse than A"),
        "better": ("kept", "B is better than A"),
        "mixed": ("risk", "Mixed: some better, some worse"),
        "no evidence": ("", "No evidence of a difference"),
    }
    kind, title = titles[found["verdict"]]
    how = "in turn, block by block" if document["measured"] == "in turn" else "at different times"
    names = f"A is {escape(a['url'])}, B is {escape(b['url'])}; they were measured {how}."
    smallest = f"A difference below {found['smallest']:.1%} is not looked for."
    metrics = list(found["metrics"].values())
    rows = [
        [
            escape(metric["name"]),
            digits(metric["a"]["mean"]),
            digits(metric["b"]["mean"]),
            f"{metric['ratio']:.4f}",
            f"{metric['low']:.4f} to {metric['high']:.4f}",
            f"{metric['effect_size']:.2f}",
            metric["verdict"],
        ]
        for metric in metrics
    ]
    head = ["", "A, mean ms", "B, mean ms", "B / A", "99% interval", "effect size", "verdict"]
    return show_verdict(kind, title, names, smallest) + section(
        "Ratios, B to A",
        "Of paired requests; above 1, B is slower.",
        _ratios(metrics, found["smallest"]),
        show_table(head, rows),
    )


def _ratios(metrics: list[Document], smallest: float) -> str:
    ends = [value for metric in metrics for value in (metric["low"], metric["high"])]
    y = linear_axis([*ends, 1 - 2 * smallest, 1 + 2 * smallest], "B / A", zero=False, ticks=4)
    marks = tuple((float(i), metric["name"]) for i, metric in enumerate(metrics))
    x = Axis(-0.5, len(marks) - 0.5, marks, "")
    plot = Plot(x, y, "Ratio of B to A by metric", height=220).level(1.0, "equal", "limit")
    for i, metric in enumerate(metrics):
        kind = {"worse": "missed", "better": "kept"}.get(metric["verdict"], "")
        plot.interval(float(i), metric["low"], metric["high"]).point(float(i), metric["ratio"], "", kind)
    return plot.render()
