"""What every step of `vivace compress` brings and costs: each alone, and five combinations, on one model.

    python -m benchmarks.compression mini --train talks.jsonl --text talks.test.jsonl.gz --questions qa.test.jsonl.gz \
        --out compression [--only drop width ...] [--minutes 1] [--records 40] [--speed-rounds 5]

Written are OUT/table.json and OUT/plot.html: size, compression ratio by parameters and bytes, change of perplexity
and of the log-probability of right answers against the original, with paired 95% intervals, and in our engine the
time of a first token (128 tokens in) and of each after. Quality and speed are those of the format served: `none` for
the original, int8 for variants of floats, int4 where the recipe says so. Variants are timed in turn, round after
round, and medians count. Training is bounded by `--minutes` for each step that trains, so its figures are of so much
training on this machine and no more. Variants and figures of quality that are there already are not made again: a run
that was cut off goes on, and a second one measures times alone. Let that one have the machine to itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivace.bench.plots import Plot, linear_axis
from vivace.compress import CalibrationConfig, compress
from vivace.engine.benchmark import measure_speed
from vivace.evaluation.evaluate import EvaluationConfig, evaluate
from vivace.info import describe_model
from vivace.llm import load_runner
from vivace.models.model import open_model
from vivace.runners.native import NativeConfig, NativeRunner

TRAINED = "minutes={minutes}, steps=10000, batch=8, length=128, every=10, patience=6"
RECIPES: Mapping[str, str] = {
    "int8": "int8",
    "int4 rtn": "int4(method=rtn)",
    "int4 mse": "int4",
    "int4 importance": "int4(method=importance)",
    "int4 awq": "int4(method=awq)",
    "int4 gptq": "int4(method=gptq)",
    "int4 gptq, int8 tables": "int4(method=gptq, tables=int8)",
    "drop layers": "drop_layers(0.25, by=similarity)",
    "drop layers by loss": "drop_layers(0.25, by=loss)",
    "width": "prune_width(0.25)",
    "width per layer": "prune_width(0.25, per_layer=true)",
    "width, no refit": "prune_width(0.25, refit=false)",
    "heads": "prune_heads(0.5)",
    "magnitude": "magnitude(0.5)",
    "wanda": "wanda(0.5)",
    "low rank": "low_rank(0.5)",
    "low rank, plain SVD": "low_rank(0.5, method=svd)",
    "finetune": f"finetune({TRAINED})",
    "qat, int4 rtn": f"qat({TRAINED}), int4(method=rtn)",
    "distilled without two layers": f"drop_layers(0.25, by=loss), distill({TRAINED})",
    "width, int4": "prune_width(0.25), int4",
    "width, distilled, int8": f"prune_width(0.25), distill({TRAINED}), int8",
    "one layer less, width, int8": "drop_layers(0.125, by=loss), prune_width(0.25), int8",
    "70% fewer bytes": "prune_width(0.1875, multiple=32), int4(method=gptq, tables=int8)",
    "70% fewer bytes, large groups": "prune_width(0.125, multiple=128), int4(group_size=128, method=gptq, tables=int8)",
    "70% fewer bytes, distilled": f"prune_width(0.1875), distill({TRAINED}), int4(method=gptq, tables=int8)",
    "one layer less, distilled, int4": f"drop_layers(0.125, by=loss), distill({TRAINED}), int4",
}
"""The first nineteen are steps alone, the last eight combinations."""

PLOT_STYLE = (
    "body{font:16px/1.5 system-ui;max-width:860px;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fdfdfc}"
    "svg text{font-size:13px;fill:currentColor}.grid{stroke:currentColor;opacity:.15}.curve{fill:none;stroke:#0a6c74;"
    "stroke-width:1.5}.interval{stroke:currentColor;opacity:.5}.point{fill:#0a6c74}.narrow{display:none}"
    "@media(max-width:800px){.plot{display:none}.narrow{display:block}}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}}"
)


def find_format(recipe: str) -> str:
    return "int4" if "int4" in recipe else "int8" if recipe else "none"


def name_place(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def make(options: argparse.Namespace, name: str, recipe: str) -> Path:
    place: Path = options.out / name_place(name)
    if not (place / "recipe.json").is_file():
        compress(
            options.model,
            recipe.format(minutes=options.minutes),
            place,
            data=options.train,
            calibration=CalibrationConfig(tokens=options.calibration_tokens),
            resume=(place / ".state").is_dir(),
        )
    return place


def measure_quality(options: argparse.Namespace, name: str, model: str, quantize: str) -> dict[str, Any]:
    kept = options.out / f"{name_place(name)}.quality.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    config = EvaluationConfig(quantize=quantize, length=256, limit=options.records, max_tokens=32, divergence=False)
    found = {}
    for file, wanted in (
        (options.text, ("perplexity", "ended")),
        (options.questions, ("answer_log_probability", "f1")),
    ):
        [figures] = evaluate(model, file, options.model, config)["through"].values()
        found |= {figure: figures[figure] for figure in wanted}
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def time_in_turn(models: Mapping[str, tuple[str, str]], rounds: int) -> dict[str, dict[str, float]]:
    """Medians, by name, of (model, format)."""
    runners: dict[str, NativeRunner] = {
        name: load_runner(open_model(model), NativeConfig(quantize=quantize, max_sequences=8))  # type: ignore[arg-type]
        for name, (model, quantize) in models.items()
    }
    times: dict[str, list[Any]] = {name: [] for name in runners}
    for _ in range(rounds + 1):
        for name, runner in runners.items():
            times[name] += measure_speed(runner, concurrent=1, prompt=128, new_tokens=32, runs=2)[1:]
    return {
        name: {
            "ttft_ms": statistics.median(speed.ttft_ms for speed in found[1:]),
            "per_token_ms": statistics.median(speed.per_token_ms_p50 for speed in found[1:]),
        }
        for name, found in times.items()
    }


def find_front(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that none beats in both time and perplexity, fastest first."""
    front: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["per_token_ms"], row["perplexity"]["value"])):
        if not front or row["perplexity"]["value"] < front[-1]["perplexity"]["value"]:
            front.append(row)
    return front


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """Quality against latency; the line is the Pareto front. Variants far off are at the edge."""
    times, values = [row["per_token_ms"] for row in rows], [row["perplexity"]["value"] for row in rows]
    most = 3 * min(values)
    y = linear_axis([min(value, most) for value in values], "perplexity", zero=False)
    plot = Plot(linear_axis(times, "ms a token"), y, "perplexity against time of a token", height=520)
    front = find_front(rows)
    plot.curve([(row["per_token_ms"], min(most, row["perplexity"]["value"])) for row in front])
    for row in rows:
        shown = min(most, row["perplexity"]["value"])
        if row["perplexity"]["interval"] and shown < most:
            plot.interval(row["per_token_ms"], *(min(most, end) for end in row["perplexity"]["interval"]))
        plot.point(row["per_token_ms"], shown, row["name"] if row in front else "")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Compression</title><style>{PLOT_STYLE}</style>"
        f"<h1>Quality against latency</h1>{plot.render()}<p>The line joins variants that no other beats in both.</p>"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    for name in ("train", "text", "questions", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), metavar="NAME", help="of: " + "; ".join(RECIPES))
    parser.add_argument("--minutes", type=float, default=1.0, help="of training, for each step that trains")
    parser.add_argument("--records", type=int, default=40)
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--speed-rounds", type=int, default=5, help="0: quality alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    recipes = {"original": ""} | {name: RECIPES[name] for name in options.only or RECIPES}
    rows: list[dict[str, Any]] = []
    models = {}
    for name, recipe in recipes.items():
        model, quantize = str(make(options, name, recipe)) if recipe else options.model, find_format(recipe)
        models[name] = (model, quantize)
        ratio = describe_model(open_model(model), open_model(options.model)).compression
        assert ratio is not None
        row = {
            "name": name,
            "recipe": recipe.format(minutes=options.minutes),
            "format": quantize,
            "file_mb": ratio.stored_bytes / 1e6,
            "cr_parameters": ratio.parameter_ratio,
            "cr_bytes": ratio.byte_ratio,
        }
        rows.append(row | measure_quality(options, name, model, quantize))
        print(name, json.dumps(rows[-1]), flush=True)
    if not options.speed_rounds:
        return
    speeds = time_in_turn(models, options.speed_rounds)
    rows = [row | speeds[row["name"]] for row in rows]
    (options.out / "table.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (options.out / "plot.html").write_text(draw(rows), encoding="utf-8")
    for row in rows:
        rise = row["perplexity"]
        print(
            f"{row['name']:34} CR {row['cr_parameters']:.2f} {row['cr_bytes']:.2f}  perplexity {rise['value']:7.3f} "
            f"{100 * rise['change']:+8.2f}% {[round(100 * end, 2) for end in rise['change_interval'] or ()]}  "
            f"answers {row['answer_log_probability']['change']:+.3f}  "
            f"{row['ttft_ms']:.2f} ms, {row['per_token_ms']:.3f} ms a token"
        )


if __name__ == "__main__":
    main()
