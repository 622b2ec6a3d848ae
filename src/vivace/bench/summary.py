"""A run in numbers: from what was observed to what is reported. Pure functions; knows no files and no pages.

Latencies are of answered requests; attainment is of all that were offered. Headline times run from the scheduled
moment; `service_*` from when a request was really sent.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from vivace.bench.calibrate import Calibration
from vivace.bench.limits import attain
from vivace.bench.observation import REFUSED, Observation
from vivace.bench.processes import Measured
from vivace.bench.schedule import Load
from vivace.bench.stats import highest_supported, quantile, share_interval, summarize
from vivace.bench.worker import Outcome
from vivace.budget import Budget

CLIENT_SHARE = 0.10
"""A run of whose tail the client explains more than this is no measurement of the server."""
BUSY_SHARE = 0.90
"""Nor is one whose client had no time left."""
PARTS = ("preprocess_ms", "queue_ms", "prefill_ms", "decode_ms", "flush_ms")
MAX_GAPS = 2_000_000
"""Beyond so many, single gaps are left out of the file."""

Figures = dict[str, Any]


def summarize_run(
    measured: Measured, load: Load, limits: Budget, needed: float, calibration: Calibration | None, seed: int
) -> Figures:
    """Everything that is computed from one run's observations."""
    seen = measured.observations
    ok = [one for one in seen if one.ok]
    window_s = _window_s(measured, load)
    figures: Figures = {
        "requests": count_requests(seen),
        "stopped_early": measured.stopped,
        "window_s": window_s,
        "offered_rate": len(seen) / window_s if window_s else 0.0,
    }
    figures |= _latencies(ok, load, seed)
    figures["throughput"] = _throughput(ok, measured.started, window_s)
    figures["timeline"] = _timeline(ok)
    figures["send_lag_ms"] = _spread([one.send_lag_ms for one in seen], seed)
    figures["loop_lag_ms"] = _spread([lag for outcome in measured.outcomes for lag in outcome.lags_ms], seed)
    figures["client"] = check_client(measured, ok, calibration)
    figures["quality"] = _quality(seen)
    if limits:
        attained = attain(limits, seen, needed)
        figures["budget"] = limits.as_dict() | attained.as_dict()
        figures["budget"]["goodput_per_s"] = attained.kept / window_s if window_s else 0.0
    return figures


def count_requests(seen: Sequence[Observation]) -> Figures:
    kinds = Counter(one.error for one in seen if one.error)
    messages = {one.error: one.message for one in reversed(seen) if one.error}
    refused = kinds.get(REFUSED, 0)
    return {
        "offered": len(seen),
        "answered": sum(one.ok for one in seen),
        "refused": refused,
        "failed": sum(kinds.values()) - refused,
        "errors": [{"kind": kind, "count": n, "first": messages[kind]} for kind, n in kinds.most_common()],
    }


def _spread(values: Iterable[float | None], seed: int) -> Figures | None:
    array = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    found = summarize(array, seed)
    return None if found is None else found.as_dict()


def _latencies(ok: list[Observation], load: Load, seed: int) -> Figures:
    naive_first, naive_last = waiting_client(ok, load)
    itl = [gap for one in ok if one.one_token_a_chunk for gap in one.gaps_ms]
    speeds = [_characters_per_s(one) for one in ok]
    return {
        "ttft_ms": _spread((one.ttft_ms for one in ok), seed),
        "e2e_ms": _spread((one.e2e_ms for one in ok), seed),
        "tpot_ms": _spread((one.tpot_ms for one in ok), seed),
        "inter_chunk_ms": _spread((gap for one in ok for gap in one.gaps_ms), seed),
        "inter_token_ms": _spread(itl, seed),
        "characters_per_s": _spread(speeds, seed),
        "service_ttft_ms": _spread((one.service_ttft_ms for one in ok), seed),
        "service_e2e_ms": _spread((one.service_e2e_ms for one in ok), seed),
        "naive_ttft_ms": _spread(naive_first, seed),
        "naive_e2e_ms": _spread(naive_last, seed),
    }


def waiting_client(ok: Sequence[Observation], load: Load) -> tuple[list[float], list[float]]:
    """First and last fragment, ms, as a client would have timed them that waits for an answer before it sends again.

    It has as many connections as the load keeps busy in its median (Little's law). What falls due while all of them
    wait it sends later, and its clock starts only then: a stall is seen once for each connection, and not by everyone
    who met it (Tene's coordinated omission). Such a request is taken to have met what was left of its real time, and
    no less than the median. Of a closed loop, these are the service times.
    """
    timed = [one for one in ok if one.ended is not None and one.last is not None]
    if not load.open or len(timed) < 2:
        return [one.service_ttft_ms or math.nan for one in ok], [one.service_e2e_ms or math.nan for one in ok]
    span_s = max(1e-9, timed[-1].scheduled - timed[0].scheduled)
    usual_first = float(np.nanmedian([one.service_ttft_ms or math.nan for one in timed])) if timed[0].first else 0.0
    usual_last = float(np.median([one.service_e2e_ms or 0.0 for one in timed]))
    busy = math.ceil(len(timed) / span_s * usual_last / 1e3)
    free = [-math.inf] * min(max(1, busy), len(timed))
    firsts, lasts = [], []
    for one in timed:
        begun = max(one.sent, free[0])
        late_ms = 1e3 * (begun - one.sent)
        first, last = one.service_ttft_ms or math.nan, one.service_e2e_ms or 0.0
        firsts.append(max(first - late_ms, usual_first) if late_ms else first)
        lasts.append(max(last - late_ms, usual_last) if late_ms else last)
        heapq.heapreplace(free, begun + lasts[-1] / 1e3)
    return firsts, lasts


def _characters_per_s(one: Observation) -> float | None:
    """V = N / T, from the first fragment to the last."""
    if one.first is None or one.last is None or one.last <= one.first:
        return None
    return one.characters / (one.last - one.first)


def _window_s(measured: Measured, load: Load) -> float:
    """From the start to the planned end, or to the last answer where that was not planned."""
    if load.duration_s and not measured.stopped:
        return load.duration_s
    last = max((one.ended or one.dispatched for one in measured.observations), default=measured.ended)
    return max(1e-9, last - measured.started)


def _throughput(ok: list[Observation], started: float, window_s: float) -> Figures:
    """What came within the window. A request's tokens count by the share of its reads that did."""
    end = started + window_s
    requests = sum(1 for one in ok if one.ended is not None and one.ended <= end)
    tokens = sum((one.tokens or 0) * _share_before(one, end) for one in ok)
    known = all(one.tokens is not None for one in ok)
    characters = sum(one.characters * _share_before(one, end) for one in ok)
    return {
        "requests_per_s": requests / window_s,
        "output_tokens_per_s": tokens / window_s if known and ok else None,
        "prompt_tokens_per_s": _prompt_rate(ok, end, window_s),
        "characters_per_s": characters / window_s,
        "output_tokens": sum(one.tokens or 0 for one in ok) if known and ok else None,
        "tokens_from": "the server's usage or the tokenizer" if known else "unknown: no usage, and no --tokenizer",
    }


def _share_before(one: Observation, end: float) -> float:
    if not one.arrivals:
        return float(one.last is not None and one.last <= end)
    return sum(moment <= end for moment in one.arrivals) / len(one.arrivals)


def _prompt_rate(ok: list[Observation], end: float, window_s: float) -> float | None:
    counts = [one.prompt_tokens for one in ok if one.last is not None and one.last <= end]
    known = [count for count in counts if count is not None]
    return sum(known) / window_s if known and len(known) == len(counts) else None


def _timeline(ok: list[Observation]) -> Figures | None:
    """Means over the requests whose server says where the time went; they add up to the response's mean.

    T_response = T_preprocess + T_queue + T_compute + T_flush + network, with prefill and decode the compute; `client`
    is from the scheduled moment to the sending.
    """
    told = [one for one in ok if one.network_ms is not None]
    if not told:
        return None
    parts = {name: float(np.mean([one.server.get(name, 0.0) for one in told])) for name in PARTS}
    parts["network_ms"] = float(np.mean([one.network_ms or 0.0 for one in told]))
    parts["client_ms"] = float(np.mean([1e3 * (one.sent - one.scheduled) for one in told]))
    return {"requests": len(told), "mean_ms": parts, "response_ms": sum(parts.values())}


def _quality(seen: list[Observation]) -> Figures | None:
    scored = [one for one in seen if one.correct is not None]
    if not scored:
        return None
    right = sum(bool(one.correct) for one in scored)
    return {
        "scored": len(scored),
        "exact": right,
        "share": right / len(scored),
        "interval_95": list(share_interval(right, len(scored))),
    }


# How far the client itself is to blame


def check_client(measured: Measured, ok: list[Observation], calibration: Calibration | None) -> Figures:
    """What the client adds to the tail, and whether the run counts.

    Of every request in the tail: how late it was sent, how late the loop was when its answer began, and the floor of
    this client on this machine, over its time to the first fragment (without streaming: to the end).
    """
    wall_s = max(1e-9, measured.ended - measured.started)
    busy = max((outcome.cpu_s / wall_s for outcome in measured.outcomes), default=0.0)
    floor_ms = calibration.floor_ttft_ms_p50 if calibration else 0.0
    share, name = _client_share(measured.outcomes, floor_ms)
    reasons = []
    if share > CLIENT_SHARE:
        reasons.append(
            f"the client explains {share:.0%} of the times from {name} on, more than {CLIENT_SHARE:.0%}. Offer less, "
            "use more --processes, or move the client to another machine"
        )
    if busy > BUSY_SHARE:
        reasons.append(f"a client process was busy {busy:.0%} of the time. Use more --processes")
    return {
        "valid": not reasons,
        "reasons": reasons,
        "share_of_tail": share,
        "tail_from": name,
        "busy": busy,
        "processes": len(measured.outcomes),
        "connections": sum(outcome.connections for outcome in measured.outcomes),
        "cpu_s": sum(outcome.cpu_s for outcome in measured.outcomes),
        "calibration": calibration.as_dict() if calibration else None,
        "answered": len(ok),
    }


def _client_share(outcomes: Sequence[Outcome], floor_ms: float) -> tuple[float, str]:
    times: list[float] = []
    ours: list[float] = []
    for outcome in outcomes:
        ok = [one for one in outcome.observations if one.ok and one.e2e_ms is not None]
        lags = _lag_at(outcome, [one.first or one.last or 0.0 for one in ok])
        times += [one.ttft_ms or one.e2e_ms or 0.0 for one in ok]
        ours += [one.send_lag_ms + floor_ms + lag for one, lag in zip(ok, lags, strict=True)]
    if not times:
        return 0.0, "the first"
    name, q = highest_supported(len(times)) or ("the largest", 1.0)
    array, own = np.array(times), np.array(ours)
    tail = array >= quantile(np.sort(array), q)
    return float(own[tail].sum() / max(1e-9, array[tail].sum())), name


def _lag_at(outcome: Outcome, moments: list[float]) -> list[float]:
    """How late the loop was around those moments, ms: the worse of the looks before and after."""
    if not outcome.ticks:
        return [0.0] * len(moments)
    lags = np.array(outcome.lags_ms)
    after = np.searchsorted(np.array(outcome.ticks), np.array(moments))
    worst = np.maximum(lags[np.minimum(after, len(lags) - 1)], lags[np.maximum(after - 1, 0)])
    found: list[float] = np.maximum(worst, 0.0).tolist()
    return found


# The raw numbers


def raw_arrays(measured: Measured) -> Figures:
    """Every request's numbers by column, milliseconds and seconds from the start, in the order of the schedule."""
    seen = measured.observations
    start = measured.started

    def column(get: Callable[[Observation], float | None], digits: int = 4) -> list[float | None]:
        return [None if (value := get(one)) is None else round(value, digits) for one in seen]

    gaps = sum(len(one.arrivals) for one in seen)
    return {
        "index": [one.index for one in seen],
        "turn": [one.turn for one in seen],
        "target": [one.target for one in seen],
        "block": [one.block for one in seen],
        "scheduled_s": column(lambda one: one.scheduled - start, 6),
        "send_lag_ms": column(lambda one: one.send_lag_ms),
        "sent_s": column(lambda one: one.sent - start if one.sent else None, 6),
        "ended_s": column(lambda one: one.ended - start if one.ended else None, 6),
        "ttft_ms": column(lambda one: one.ttft_ms),
        "e2e_ms": column(lambda one: one.e2e_ms),
        "tpot_ms": column(lambda one: one.tpot_ms),
        "service_ttft_ms": column(lambda one: one.service_ttft_ms),
        "service_e2e_ms": column(lambda one: one.service_e2e_ms),
        "network_ms": column(lambda one: one.network_ms),
        "prompt_tokens": [one.prompt_tokens for one in seen],
        "cached_tokens": [one.cached_tokens for one in seen],
        "tokens": [one.tokens for one in seen],
        "chunks": [one.chunks for one in seen],
        "characters": [one.characters for one in seen],
        "status": [one.status for one in seen],
        "error": [one.error for one in seen],
        "correct": [one.correct for one in seen],
        "server_ms": [one.server or None for one in seen],
        "gaps_ms": [[round(gap, 3) for gap in one.gaps_ms] for one in seen] if gaps <= MAX_GAPS else None,
    }
