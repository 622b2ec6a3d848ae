"""Results on their way out: files, text, and the status a process ends with.

A document is a run's or a comparison's results as plain values. Knows nothing of how they came about.
"""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from vivace.bench.compare import Columns, columns_of, compare
from vivace.bench.experiment import FORMAT, Experiment, describe
from vivace.bench.processes import Measured
from vivace.bench.search import Highest
from vivace.errors import ConfigError

MISSED_STATUS = 99
INVALID_STATUS = 3
FAILED_STATUS = 1
WORSE_STATUS = 4

Document = dict[str, Any]


def write_document(document: Document, json_file: Path | None, html_file: Path | None) -> None:
    """Raises `ConfigError` when a file cannot be written; the JSON comes first."""
    if json_file is not None:
        data = msgspec.json.encode(document)
        if str(json_file) == "-":
            sys.stdout.write(data.decode() + "\n")
        else:
            _write(json_file, data)
    if html_file is not None:
        from vivace.bench.report import render

        _write(html_file, render(document).encode())


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error}. Give another place.") from error


def read_document(path: Path) -> Document:
    """Raises `ConfigError` for what is no JSON that `vivace bench` wrote."""
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}. Give a file that vivace bench http --json wrote.") from error
    if not isinstance(document, dict) or not isinstance(document.get("raw"), dict):
        raise ConfigError(f"{path} is no result of one run. Give a file that vivace bench http --json wrote.")
    if document.get("format") != FORMAT:
        raise ConfigError(
            f"{path} is of format {document.get('format')!r}; this version reads {FORMAT}. Measure again."
        )
    return document


def exit_status(document: Document) -> int:
    """Of a run: nothing answered, then the budget, then failures.

    A client can only add to times: a budget that is kept is kept whatever the client did.
    """
    requests = document["requests"]
    if not requests["answered"] or document["stopped_early"]:
        return FAILED_STATUS
    budget = document.get("budget")
    if budget is not None and budget["verdict"] == "missed":
        return MISSED_STATUS if document["client"]["valid"] else INVALID_STATUS
    return FAILED_STATUS if requests["failed"] else 0


def print_run(document: Document) -> str:
    """A run as text."""
    requests, throughput = document["requests"], document["throughput"]
    lines = [
        f"{document['model']} at {document['url']}: {document['load']['describe']}",
        "",
        f"requests     {requests['offered']:,} offered, {requests['answered']:,} answered, {requests['refused']:,} "
        f"refused, {requests['failed']:,} failed, in {document['window_s']:.1f} s",
        f"throughput   {throughput['requests_per_s']:,.1f} requests/s, {_number(throughput['output_tokens_per_s'])} "
        f"tokens/s, {throughput['characters_per_s']:,.0f} characters/s",
        "",
        "ms                        p50       p90       p99      mean       max",
    ]
    for key, name in (
        ("ttft_ms", "first token"),
        ("service_ttft_ms", "  from really sent"),
        ("naive_ttft_ms", "  a waiting client"),
        ("e2e_ms", "last token"),
        ("service_e2e_ms", "  from really sent"),
        ("naive_e2e_ms", "  a waiting client"),
        ("tpot_ms", "per token (TPOT)"),
        ("inter_chunk_ms", "between chunks"),
        ("send_lag_ms", "sent late by"),
    ):
        if document[key] is not None:
            lines.append(_row(name, document[key]))
    lines += ["", *_remarks(document)]
    return "\n".join(lines)


def _row(name: str, found: Document) -> str:
    cells = "".join(f"{_number(found[key]):>10}" for key in ("p50", "p90", "p99", "mean", "max"))
    return f"{name:19}{cells}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _remarks(document: Document) -> list[str]:
    """What a reader must know, and the verdict last."""
    lines = []
    found = document["ttft_ms"] or document["e2e_ms"]
    if found and found["p99"] is None:
        lines.append(f"No p99 from {found['n']:,} requests: it takes {found['needs']['p99']:,} for 99% confidence.")
    if not document["load"]["rate"] and document["load"]["concurrency"]:
        lines.append("A closed loop waits with the server: for tails that users would see, measure with --rate.")
    for error in document["requests"]["errors"]:
        lines.append(f"{error['count']:,} x {error['kind']}: {error['first']}")
    if document["stopped_early"]:
        lines.append(f"Stopped early. {document['stopped_early']}")
    client = document["client"]
    calibrated = "" if client["calibration"] else ", not calibrated"
    lines.append(
        f"client: {client['share_of_tail']:.1%} of the times from {client['tail_from']} on, busy {client['busy']:.0%} "
        f"in {client['processes']} process{'es' if client['processes'] > 1 else ''}{calibrated}"
    )
    lines += [f"INVALID: {reason}." for reason in client["reasons"]]
    if document.get("quality"):
        quality = document["quality"]
        lines.append(f"exact answers: {quality['exact']:,} of {quality['scored']:,} ({quality['share']:.1%})")
    if document.get("resources"):
        used = document["resources"]
        rate = f", {_number(used['tokens_per_cpu_s'])} tokens per CPU-second" if used["tokens_per_cpu_s"] else ""
        lines.append(f"server: {used['cores_used']:.2f} cores, {(used['rss_bytes_max'] or 0) / 1e6:,.0f} MB{rate}")
    if document.get("budget"):
        lines.append(describe_budget(document["budget"]))
    return lines


def describe_budget(budget: Document) -> str:
    limits = ", ".join(
        f"{name[:-3]} {budget[name]:g} ms" for name in ("ttft_ms", "tpot_ms", "total_ms") if name in budget
    )
    low, high = budget["interval_95"]
    return (
        f"budget {limits}: {budget['verdict'].upper()}, kept by {budget['attainment']:.2%} of all offered "
        f"({low:.2%} to {high:.2%}) where {budget['needed']:.2%} are to; goodput {budget['goodput_per_s']:,.1f}/s"
    )


# A sweep


def sweep_document(documents: list[Document]) -> Document:
    """Runs side by side, without their raw numbers."""
    first = documents[0]
    shared = {name: first[name] for name in ("format", "tool", "began", "url", "model", "seed", "workload")}
    runs = [{name: value for name, value in document.items() if name != "raw"} for document in documents]
    return shared | {"kind": "sweep", "environment": first["environment"], "runs": runs}


def print_sweep(document: Document) -> str:
    lines = ["            load  tokens/s  requests/s  first token p50       p99  last token p50       p99  client"]
    for run in document["runs"]:
        load, throughput = run["load"], run["throughput"]
        offered = f"{load['rate']:g}/s" if load["rate"] else f"{load['concurrency']} at once"
        ttft, e2e = run["ttft_ms"] or {}, run["e2e_ms"] or {}
        lines.append(
            f"{offered:>16}{_number(throughput['output_tokens_per_s']):>10}{throughput['requests_per_s']:>12.1f}"
            f"{_number(ttft.get('p50')):>17}{_number(ttft.get('p99')):>10}{_number(e2e.get('p50')):>16}"
            f"{_number(e2e.get('p99')):>10}  {'valid' if run['client']['valid'] else 'INVALID'}"
        )
    return "\n".join(lines)


# The highest rate


def find_max_document(experiment: Experiment, found: Highest) -> Document:
    described = describe(experiment, datetime.now(UTC))
    return described | {
        "kind": "find-max",
        "budget": experiment.limits.as_dict() | {"needed": experiment.needed},
        "max_rate": {"low": found.low, "high": found.high if found.high < math.inf else None},
        "stopped": found.stopped,
        "trials": [trial.as_dict() for trial in found.trials],
    }


def find_max_status(document: Document) -> int:
    if document["max_rate"]["low"]:
        return 0
    return MISSED_STATUS if all(trial["valid"] for trial in document["trials"]) else FAILED_STATUS


def print_find_max(document: Document) -> str:
    low, high = document["max_rate"]["low"], document["max_rate"]["high"]
    budget = ", ".join(f"{k[:-3]} {v:g} ms" for k, v in document["budget"].items() if k.endswith("_ms"))
    between = f"between {low:.3g} and {high:.3g}" if low and high else f"at least {low:.3g}" if low else "none"
    unsure = sum(not trial["decided"] for trial in document["trials"])
    text = f"highest rate at which {document['budget']['needed']:.0%} keep {budget}: {between} requests/s"
    if unsure:
        text += f"\n{unsure} of {len(document['trials'])} rates were not decided within their time: give more --most"
    return text + (f"\n{document['stopped']}" if document["stopped"] else "")


# A comparison


def comparison_document(experiment: Experiment, other_url: str, measured: Measured, smallest: float) -> Document:
    """Of two servers that were measured in turn."""
    seen = measured.observations
    a, b = (columns_of([one for one in seen if one.target == target]) for target in (0, 1))
    described = describe(experiment, datetime.now(UTC))
    found = compare(a, b, smallest, experiment.seed, blocks=True)
    return described | _comparison("in turn", (experiment.url, other_url), a, b, found)


def compare_files(a: Document, b: Document, smallest: float) -> Document:
    """Raises `ConfigError` when the two did not ask the same."""
    for name in ("seed", "workload"):
        if a[name] != b[name]:
            raise ConfigError(f"The two results have not the same {name}, so their requests are not the same ones.")
    found = compare(a["raw"], b["raw"], smallest, a["seed"])
    keys = ("format", "tool", "began", "url", "model", "seed", "load", "workload", "environment")
    return {key: a[key] for key in keys} | _comparison("files", (a["url"], b["url"]), a["raw"], b["raw"], found)


def _comparison(how: str, urls: tuple[str, str], a: Columns, b: Columns, found: Document) -> Document:
    sides = [
        {"url": url, "offered": len(columns["error"]), "answered": sum(not error for error in columns["error"])}
        for url, columns in zip(urls, (a, b), strict=True)
    ]
    raw = [{name: columns[name] for name in ("index", "ttft_ms", "e2e_ms", "error")} for columns in (a, b)]
    return {"kind": "compare", "measured": how, "sides": sides, "comparison": found, "raw_sides": raw}


def compare_status(document: Document) -> int:
    return WORSE_STATUS if document["comparison"]["verdict"] in ("worse", "mixed") else 0


def print_comparison(document: Document) -> str:
    found = document["comparison"]
    a, b = document["sides"]
    lines = [f"A {a['url']}: {a['answered']:,} of {a['offered']:,} answered"]
    lines += [f"B {b['url']}: {b['answered']:,} of {b['offered']:,} answered", ""]
    lines.append("              A, mean ms  B, mean ms    B / A    99% interval      effect  verdict")
    for metric in found["metrics"].values():
        lines.append(
            f"{metric['name']:12}{_number(metric['a']['mean']):>12}{_number(metric['b']['mean']):>12}"
            f"{metric['ratio']:>9.4f}  {metric['low']:.4f} to {metric['high']:.4f}{metric['effect_size']:>9.2f}  "
            f"{metric['verdict']}"
        )
    lines.append(
        f"answered    {found['answered']['a']:>12.1%}{found['answered']['b']:>12.1%}{'':39}  "
        f"{found['answered']['verdict']}"
    )
    verdict = {"no evidence": "NO EVIDENCE of a difference", "mixed": "MIXED: some better, some worse"}
    lines += [
        "",
        f"B is {found['verdict'].upper()} than A"
        if found["verdict"] in ("worse", "better")
        else verdict[found["verdict"]],
    ]
    if document["measured"] == "files":
        lines.append("The two were measured at different times: compare URL --vs URL2 measures them in turn.")
    return "\n".join(lines)
