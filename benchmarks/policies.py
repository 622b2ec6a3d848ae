"""Goodput by policy from half to four times the capacity, with and without admission: simulated, and live.

    python -m benchmarks.policies --json policies.json --html policies.html
    python -m benchmarks.policies --live MODEL --json policies.json --html policies.html

Half of the requests have a tight budget and half a loose one. The capacity is the highest rate at which, simulated,
earliest deadline first keeps 99% of all requests without admission. With a model, the cost of its steps is measured
first, and simulated with; then `vivace serve` is asked at the same rates for the very requests of the simulation,
each on a connection of its own. Kept is what a client had whole within its total.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import Any

import vivace.bench
from benchmarks.overload import serving
from vivace.bench.page import section, show_facts, show_table
from vivace.bench.plots import Plot, linear_axis
from vivace.budget import Budget
from vivace.engine.admission import AdmissionConfig
from vivace.engine.cost import StepCost, calibrate
from vivace.engine.scheduler import SchedulerConfig
from vivace.simulation.machine import Machine
from vivace.simulation.simulate import Scenario, find_capacity, simulate
from vivace.simulation.traffic import Arrival, Kind, Tokens, Traffic

LOADS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
VARIANTS = {
    "edf with admission": ("edf", True),
    "fifo with admission": ("fifo", True),
    "shortest with admission": ("shortest", True),
    "edf": ("edf", False),
    "fifo": ("fifo", False),
    "shortest": ("shortest", False),
}
LIVE = ("edf with admission", "edf", "fifo")
DRAWN = {"edf with admission": "", "edf": "second", "fifo": "third"}
PORT = 21930


def make_scenario(cost: StepCost, budgets: Sequence[float], lengths: tuple[int, int]) -> Scenario:
    kinds = tuple(Kind(Tokens(lengths[0]), Tokens(lengths[1]), Budget(total_ms=total_ms)) for total_ms in budgets)
    return Scenario(Machine(cost, noise=0.05), Traffic(kinds, 1.0, 1))


def configure(scenario: Scenario, variant: str) -> Scenario:
    policy, admits = VARIANTS[variant]
    rules = AdmissionConfig(by_forecast=admits)
    return replace(scenario, scheduler=SchedulerConfig(policy=policy), admission=rules)


def run_simulated(scenario: Scenario, capacity: float, seconds: float) -> list[dict[str, Any]]:
    found = []
    for load in LOADS:
        for variant in VARIANTS:
            rate = load * capacity
            result = simulate(configure(scenario, variant).at_rate(rate, round(rate * seconds)))
            row = {"load": load, "variant": variant, "goodput_per_s": result.goodput}
            row |= {"kept_of_accepted": result.attainment, "utilisation": result.utilisation}
            row |= {"kept_share_by_budget": [result.of_kind(kind).kept_share for kind in (0, 1)]}
            found.append(row | {str(ending): count for ending, count in result.counts.items()})
    return found


def measure_cost(model: str) -> StepCost:
    from vivace.llm import load_runner
    from vivace.models.model import open_model
    from vivace.runners.native import NativeConfig

    runner = load_runner(open_model(model), NativeConfig())
    try:
        return calibrate(runner, time.monotonic).cost
    finally:
        runner.close()


def run_live(
    model: str, loads: Sequence[float], scenario: Scenario, capacity: float, seconds: float
) -> list[dict[str, Any]]:
    found = []
    for variant in LIVE:
        policy, admits = VARIANTS[variant]
        command = [sys.executable, "-m", "vivace", "serve", model, "--port", str(PORT), "--policy", policy]
        command += [] if admits else ["--no-admission"]
        with serving(command, PORT) as name:
            for load in loads:
                found.append({"load": load, "variant": variant} | ask(name, scenario, load * capacity, seconds))
    return found


def ask(model: str, scenario: Scenario, rate: float, seconds: float) -> dict[str, Any]:
    """The very requests of the simulation, each at its moment on a thread of its own."""
    traffic = scenario.at_rate(rate, round(rate * seconds)).traffic
    arrivals = list(traffic.arrivals())
    began = time.monotonic() + 0.5
    with ThreadPoolExecutor(len(arrivals)) as pool:
        answers = list(pool.map(lambda arrival: ask_one(model, arrival, traffic.kinds[arrival.kind], began), arrivals))
    kept = [0] * len(traffic.kinds)
    for (status, took_ms), arrival in zip(answers, arrivals, strict=True):
        kept[arrival.kind] += status == 200 and took_ms <= traffic.kinds[arrival.kind].budget.total_ms
    accepted = sum(status != 429 for status, _ in answers)
    return {
        "goodput_per_s": sum(kept) / (time.monotonic() - began),
        "kept_of_accepted": sum(kept) / max(1, accepted),
        "offered": len(answers),
        "accepted": accepted,
        "kept_by_budget": kept,
    }


def ask_one(model: str, arrival: Arrival, kind: Kind, began: float) -> tuple[int, float]:
    """The status, and the time from the moment the request was due to its answer's last byte."""
    generator = random.Random(arrival.at)
    prompt = [generator.randrange(1000, 8000) for _ in range(arrival.prompt)]
    body = {"model": model, "prompt": prompt, "max_tokens": arrival.answer, "temperature": 1, "ignore_eos": True}
    headers = {"Content-Type": "application/json", "X-Budget": f"total={kind.budget.total_ms:g}ms"}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(body).encode(), headers)
    due = began + arrival.at
    time.sleep(max(0.0, due - time.monotonic()))
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            reply.read()
            status = reply.status
    except urllib.error.HTTPError as error:
        status = error.code
    return status, 1000 * (time.monotonic() - due)


def draw(document: dict[str, Any]) -> str:
    """The page: one plot for each of simulated and live, and the figures."""
    parts = []
    names = {"simulated": "Simulated", "live": "Live"}
    for key, title in names.items():
        rows = document[key]
        if not rows:
            continue
        y = linear_axis([row["goodput_per_s"] for row in rows], "requests/s kept")
        plot = Plot(linear_axis([row["load"] for row in rows], "times the capacity"), y, f"Goodput by load, {title}")
        lines = {v: [(r["load"], r["goodput_per_s"]) for r in rows if r["variant"] == v] for v in DRAWN}
        ends = sorted(lines, key=lambda variant: lines[variant][-1][1])
        for variant, kind in DRAWN.items():
            plot.curve(lines[variant], kind, variant, below=variant == ends[0])
            for x, good in lines[variant]:
                plot.point(x, good)
        table = [
            [
                escape(row["variant"]),
                f"{row['load']:g}",
                f"{row['goodput_per_s']:.2f}",
                f"{row['kept_of_accepted']:.1%}",
            ]
            for row in sorted(rows, key=lambda row: (list(VARIANTS).index(row["variant"]), row["load"]))
        ]
        head = ["policy", "times the capacity", "requests/s kept", "kept of the accepted"]
        parts.append(section(title, "Requests kept a second.", plot.render(), show_table(head, table)))
    cost = ", ".join(f"{name} {value:.4g}" for name, value in document["cost"].items())
    facts = [("Budgets", ", ".join(f"total {total:g} ms" for total in document["budgets_ms"])), ("Step", cost)]
    facts += [
        ("Tokens", "{} in, {} out".format(*document["lengths"])),
        ("Capacity", f"{document['capacity_per_s']:.3g} requests/s"),
    ]
    css = (Path(vivace.bench.__file__).parent / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Policies under load</title><style>{css}</style><header><b>vivace</b></header><main>"
        f"<h1>Policies under load</h1>{''.join(parts)}{section('What was asked', '', show_facts(facts))}</main></html>"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", metavar="MODEL", help="measure this one too")
    parser.add_argument("--cost", type=float, nargs=4, default=(7.0, 1.3, 0.6, 0.0003), help="of a step, in ms")
    parser.add_argument("--budgets", type=float, nargs=2, default=(1000.0, 4000.0), help="totals, in ms")
    parser.add_argument("--lengths", type=int, nargs=2, default=(64, 32), help="tokens in and out")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each simulated run")
    parser.add_argument("--live-seconds", type=float, default=15.0)
    parser.add_argument("--live-loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    arguments = parser.parse_args()
    lengths = (arguments.lengths[0], arguments.lengths[1])
    cost = measure_cost(arguments.live) if arguments.live else StepCost(*arguments.cost)
    scenario = make_scenario(cost, arguments.budgets, lengths)
    capacity = find_capacity(configure(scenario, "edf"), requests=600, steps=5)
    document: dict[str, Any] = {"cost": asdict(cost), "capacity_per_s": capacity, "budgets_ms": arguments.budgets}
    document |= {"lengths": lengths, "simulated": run_simulated(scenario, capacity, arguments.seconds), "live": []}
    if arguments.live:
        asked = (scenario, capacity, arguments.live_seconds)
        document["live"] = run_live(arguments.live, arguments.live_loads, *asked)
    text = json.dumps(document, indent=1)
    if arguments.json:
        arguments.json.write_text(text)
    if arguments.html:
        arguments.html.write_text(draw(document), encoding="utf-8")
    for row in document["simulated"] + document["live"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
