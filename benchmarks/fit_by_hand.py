"""What a search found beside what one would choose by hand: everything in int8, and everything in int4.

    python -m benchmarks.fit_by_hand mini FOUND --data talks.jsonl [--method gptq] [--json out.json]

FOUND is a directory that `vivace fit` wrote of the same model, data and seed: its settings and workload are read from
its certificate, or else from fit.json. Each variant is made as the search makes its own, judged on the same text set
aside, and measured over HTTP in turn with the untold server; times are given as measured, and over that server's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from vivace.fit.data import split_data
from vivace.fit.measure import plan_shapes
from vivace.fit.quality import compare_scores, score_documents
from vivace.fit.realise import HttpRealiser
from vivace.fit.settings import EngineSettings
from vivace.fit.space import Candidate, open_space, read_candidate
from vivace.fit.workload import WorkloadSpec
from vivace.models.model import open_model

NAMES = ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", "total_p50", "total_p99")


def read_found(found: Path) -> tuple[WorkloadSpec, Candidate]:
    """The workload, and the candidate that the search took."""
    report = json.loads((found / "fit.json").read_text(encoding="utf-8"))
    recipe = json.loads((found / "recipe.json").read_text(encoding="utf-8"))["recipe"]
    taken = next(one for one in report["realised"] if _is_made_by(one, recipe))
    return WorkloadSpec(**report["workload"]), read_candidate(taken["candidate"])


def _is_made_by(one: dict[str, Any], recipe: list[dict[str, Any]]) -> bool:
    from vivace.compress.recipe import describe_recipe, parse_recipe

    made = json.loads(json.dumps(describe_recipe(parse_recipe(one["recipe"])))) if one["recipe"] else None
    return bool(made == recipe)


def show(name: str, values: dict[str, float], base: dict[str, float], loss: tuple[float, float, float]) -> str:
    times = "  ".join(f"{one} {values[one]:.2f} ms ({values[one] / base[one]:.2f})" for one in NAMES)
    return f"{name:24} loss {100 * loss[0]:+.2f}% [{100 * loss[1]:+.2f}, {100 * loss[2]:+.2f}]  {times}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("found", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--requests", type=int, default=662)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    workload, taken = read_found(options.found)
    space = open_space(options.model, open_model(options.model).config, workload.concurrency or 8)
    settings = EngineSettings(max_sequences=taken.settings.max_sequences, kv_memory_bytes=1 << 28)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        texts = split_data(options.data, directory / "texts", workload.seed)
        realiser = HttpRealiser(
            models={options.model: options.model},
            texts={options.model: texts},
            workload=workload,
            directory=directory,
            shapes=plan_shapes(workload.concurrency or 8, 64, space.chunks),
            method=options.method,
            requests=options.requests,
            say=lambda text: print(text, flush=True),
        )
        by_hand = {
            "int8 everything": space.uniform("int8", settings=settings),
            "int4, tables int8": space.uniform("int4", "int8", settings),
            "int4 everything": space.uniform("int4", settings=settings),
        }
        for name, candidate in by_hand.items():
            one = realiser.realise(candidate, {}, {})
            assert one.quality is not None, "there is data"
            rows[name] = {"values": one.values, "baseline": one.baseline, "quality": one.quality}
        base, ours, _ = realiser.measure_in_turn(str(options.found), taken.resolved)
        quality = _judge(realiser, options.found, taken)
        rows["found"] = {"values": ours.values, "baseline": base.values, "quality": quality}
    for name, row in rows.items():
        found = row["quality"]
        print(show(name, row["values"], row["baseline"], (found["loss"], found["low"], found["high"])))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _judge(realiser: HttpRealiser, found: Path, taken: Candidate) -> dict[str, Any]:
    from vivace.fit.data import read_documents

    assert realiser.texts is not None, "there is data"
    [texts] = realiser.texts.values()
    documents = read_documents(texts.held_out)
    [model] = realiser.models.values()
    reference = score_documents(model, EngineSettings(quantize="none"), documents)
    scored = score_documents(str(found), replace(taken.resolved, max_sequences=64), documents)
    return compare_scores(scored, reference).as_dict()


if __name__ == "__main__":
    main()
