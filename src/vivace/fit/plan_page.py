"""A plan as text, and as one HTML page that needs no network. Computes nothing but what is drawn."""

from __future__ import annotations

from html import escape

from vivace.bench.page import NONE, THIN, digits, section, show_table, show_verdict
from vivace.bench.plots import Plot, linear_axis, log_axis
from vivace.bench.report import lay_out
from vivace.fit.plan import LoadPoint, Plan


def write_plan(plan: Plan) -> str:
    """For a terminal."""
    limits = " ".join(map(str, plan.limits))
    names = [limit.name for limit in plan.limits]
    lines = [
        f"{plan.model} on {plan.machine}",
        f"one replica keeps {limits} up to {digits(plan.capacity)} requests/s; "
        f"{plan.headroom:.0%} of that is left free",
        "",
        f"{'requests/s':>12}{'replicas':>10}{'each':>10}{'free':>7}{'busy':>7}"
        + "".join(f"{f'{name}, ms':>15}" for name in names),
    ]
    for sizing in plan.sizings:
        point = sizing.replica
        lines.append(
            f"{sizing.rate:>12,g}{sizing.replicas:>10,}{digits(point.rate):>10}{sizing.free_share:>7.0%}"
            f"{point.utilisation:>7.0%}" + "".join(f"{_time(point, name):>15}" for name in names)
        )
    head = f"{'one replica':>12}{'of all':>10}{'answered':>10}{'':>7}{'busy':>7}"
    lines += ["", head + "".join(f"{name:>15}" for name in names)]
    for point in plan.curve:
        lines.append(
            f"{digits(point.rate):>12}{point.rate / plan.capacity:>10.0%}{point.answered_share:>10.2%}{'':>7}"
            f"{point.utilisation:>7.0%}"
            + "".join(f"{_time(point, name):>15}" for name in names)
            + ("" if point.kept else "  missed")
        )
    lines += ["", *_write_agreement(plan)]
    return "\n".join(lines)


def _time(point: LoadPoint, name: str) -> str:
    value = point.times_ms[name]
    return "none" if value is None else digits(value)


def _write_agreement(plan: Plan) -> list[str]:
    shown = ", ".join(
        f"{one.name} {digits(one.simulated_ms)} for {digits(one.measured_ms)} ms ({digits(one.ratio)})"
        for one in plan.agreement
    )
    return [
        f"on the certificate's own workload the simulator says, of what was measured: {shown}",
        "each time above is corrected by that",
    ]


def render_plan(plan: Plan) -> str:
    limits = ", ".join(map(str, plan.limits))
    body = "".join((_verdict(plan, limits), _sizings(plan), _curve(plan), _agreement(plan)))
    footer = f"{plan.requests:,} simulated requests a rate, seed {plan.seed}"
    return lay_out(f"{plan.model}: plan", "vivace plan", f"{plan.model} · {limits}", body, footer)


def _verdict(plan: Plan, limits: str) -> str:
    free = f"{plan.headroom:.0%} of that is kept free: real machines have neighbours, real traffic no constant rate."
    where = f"On {plan.machine}. A replica's share of a Poisson stream that is dealt out at random is a Poisson stream."
    title = f"Up to {digits(plan.capacity)}{THIN}requests/s a replica"
    return show_verdict("", title, f"It keeps {escape(limits)}.", escape(free), escape(where))


def _sizings(plan: Plan) -> str:
    names = [limit.name for limit in plan.limits]
    rows = [
        [
            f"{sizing.rate:,g}",
            f"{sizing.replicas:,}",
            digits(sizing.replica.rate),
            f"{sizing.free_share:.0%}",
            f"{sizing.replica.utilisation:.0%}",
            *(_time(sizing.replica, name) for name in names),
        ]
        for sizing in plan.sizings
    ]
    head = ["requests/s", "replicas", "each takes", "free", "busy", *(f"{name}, ms" for name in names)]
    return section("Replicas", "By the rate of all of them together.", show_table(head, rows))


def _curve(plan: Plan) -> str:
    points = plan.curve
    values = [value for point in points for value in point.times_ms.values() if value] + [
        limit.limit for limit in plan.limits
    ]
    x = linear_axis([point.rate for point in points], "requests/s on one replica")
    plot = Plot(x, log_axis(values, "ms"), "Times of one replica by its load")
    for index, limit in enumerate(plan.limits):
        plot.level(limit.limit, f"budget, {limit.name}")
        drawn = [(point.rate, value) for point in points if (value := point.times_ms[limit.name])]
        plot.curve(drawn, "" if index == 0 else "second", limit.name, below=index > 0)
    rows = [
        [
            digits(point.rate),
            f"{point.rate / plan.capacity:.0%}",
            f"{point.answered_share:.2%}",
            f"{point.utilisation:.0%}",
            *(NONE if point.times_ms[limit.name] is None else _time(point, limit.name) for limit in plan.limits),
            "kept" if point.kept else "missed",
        ]
        for point in points
    ]
    head = ["requests/s", "of all", "answered", "busy", *(f"{limit.name}, ms" for limit in plan.limits), ""]
    remark = "A curve ends where too many requests get no answer."
    return section("One replica by its load", remark, plot.render(), show_table(head, rows))


def _agreement(plan: Plan) -> str:
    rows = [
        [escape(one.name), digits(one.simulated_ms), digits(one.measured_ms), digits(one.ratio)]
        for one in plan.agreement
    ]
    head = ["", "simulated, ms", "measured, ms", "simulated over measured"]
    return section(
        "How far to trust it",
        "The certificate's own workload, simulated and measured. All other times are corrected by the ratio.",
        show_table(head, rows),
    )
