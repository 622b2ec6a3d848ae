"""Runs a recipe: checks all of it, then does step after step, so that a run that was killed can go on.

    OUT/                the result: config, weights, tokenizer, recipe.json
    OUT/.state/         while under way: state.json, model/ as the last whole step left it, scratch/ of the step at work

Nothing lies in OUT itself until the last step is done, so a directory that loads is a finished one. Knows no step.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivace.compress.calibrate import Calibration, CalibrationConfig, read_calibration
from vivace.compress.manifest import LIBRARIES, MANIFEST, hash_files, read_json, write_json
from vivace.compress.recipe import describe_recipe, parse_recipe
from vivace.compress.step import OnProgress, Step, Work, check_steps
from vivace.errors import ConfigError, DataError, UnsupportedModelError
from vivace.machine import find_versions
from vivace.models.model import Model, open_model

if TYPE_CHECKING:
    from vivace.compress.variant import Variant

ShowProgress = Callable[[str], AbstractContextManager[OnProgress]]
"""A label to a context that yields a function of the share done."""

STATE = ".state"
_NEEDED = {"torch": "torch", "transformers": "transformers", "safetensors": "safetensors"}


def compress(
    model: str | os.PathLike[str],
    steps: str | Sequence[Step],
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    calibration: CalibrationConfig | None = None,
    seed: int = 0,
    threads: int = 0,
    resume: bool = False,
    progress: ShowProgress | None = None,
) -> dict[str, Any]:
    """Make a smaller model of `model` and write it to the directory `out`; what recipe.json says of it.

    `steps` is a recipe as text, or steps. `data` is a file of conversations or text to calibrate on. `threads` are
    PyTorch's, 0 its own choice. With `resume`, go on
    where a run with the same arguments was killed. Everything that can be refused is, before any work: raises
    `RecipeError`, `DataError`, `ConfigError` or a `ModelError` that says what to change.
    """
    recipe = parse_recipe(steps) if isinstance(steps, str) else tuple(steps)
    opened = open_model(os.fspath(model))
    if opened.tensors is not None:
        raise UnsupportedModelError(
            f"{model} is a GGUF file, quantised already. Give the Hugging Face checkpoint that it was made of."
        )
    check_steps(recipe, opened.config)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed is {seed}; it must be 0 to 2**32 - 1.")
    text = _calibrate(opened, recipe, None if data is None else Path(data), calibration or CalibrationConfig(), seed)
    require_libraries()
    if threads:
        import torch

        torch.set_num_threads(threads)
    plan = {
        "model": opened.name,
        "model_sha256": hash_files(opened.directory),
        "recipe": describe_recipe(recipe),
        "seed": seed,
        "calibration": None if text is None else {"sha256": text.digest} | asdict(calibration or CalibrationConfig()),
    }
    run = _Run(opened, recipe, Path(out), plan, None if data is None else Path(data), text, seed)
    return run.go(
        _open_state(Path(out), plan, resume=resume), progress or (lambda label: nullcontext(lambda share: None))
    )


def require_libraries() -> None:
    """Raise `ConfigError` unless what compression needs is installed."""
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(f"Compression needs {', '.join(missing)}. Run pip install 'vivace[compress]'.")


def _calibrate(
    opened: Model, recipe: Sequence[Step], data: Path | None, config: CalibrationConfig, seed: int
) -> Calibration | None:
    if data is not None:
        return read_calibration(data, opened.tokenizer, opened.config, config, seed)
    needing = [step.name for step in recipe if step.needs_data]
    if needing:
        raise DataError(
            f"{', '.join(needing)} looks at text as it works. Give a file of conversations (JSON lines of messages) or "
            "of text with --data, such as the model will see in use."
        )
    return None


def _open_state(out: Path, plan: dict[str, Any], *, resume: bool) -> Path:
    """The directory of the run's state, with state.json in it. Raises `ConfigError` when OUT is taken."""
    state = out / STATE
    if not (state / "state.json").is_file():
        if out.exists() and (not out.is_dir() or any(path.name != STATE for path in out.iterdir())):
            raise ConfigError(f"{out} exists and is not empty. Give a new directory, or remove it.")
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        write_json(state / "state.json", {"plan": plan, "reports": []})
        return state
    if not resume:
        raise ConfigError(f"{out} holds a run that was cut off. Add --resume to go on with it, or remove {out}.")
    before = read_json(state / "state.json").get("plan")
    if before != plan:
        known = before if isinstance(before, dict) else {}
        changed = [name for name in plan if known.get(name) != plan[name]]
        raise ConfigError(
            f"{out} holds a run with another {', '.join(changed) or 'plan'}. Give what it was begun with, or "
            f"remove {out}."
        )
    return state


@dataclass(frozen=True, slots=True)
class _Run:
    opened: Model
    recipe: tuple[Step, ...]
    out: Path
    plan: dict[str, Any]
    data: Path | None
    text: Calibration | None
    seed: int

    def go(self, state: Path, show: ShowProgress) -> dict[str, Any]:
        from vivace.compress.variant import open_variant

        saved = read_json(state / "state.json")
        reports: list[dict[str, Any]] = saved["reports"]
        with show(f"Opening {self.opened.name}") as tell:
            stored = open_variant(self.opened.directory)
            before: dict[str, Any] = saved.get("before") or self._measure(stored)
            before.setdefault("weight_bytes", _count_file_bytes(self.opened.directory))
            write_json(state / "state.json", saved | {"before": before})
            variant = stored if not reports else open_variant(state / "model", stored.dtype)
            tell(1.0)
        for index in range(len(reports), len(self.recipe)):
            reports.append(self._apply(index, variant, state, show))
            if index + 1 < len(self.recipe):
                _save_state(variant, state, {"plan": self.plan, "before": before, "reports": reports})
        return self._finish(variant, state, before, reports)

    def _apply(self, index: int, variant: Variant, state: Path, show: ShowProgress) -> dict[str, Any]:
        step, scratch = self.recipe[index], state / f"scratch-{index}"
        scratch.mkdir(exist_ok=True)
        begun = time.monotonic()
        with show(f"{step.name} ({index + 1} of {len(self.recipe)})") as tell:
            work = Work(self.seed + index, scratch, self.text, self.data, self.opened.directory, tell)
            report = step.apply(variant, work)
        return {"step": step.name, "seconds": round(time.monotonic() - begun, 3)} | report

    def _finish(
        self, variant: Variant, state: Path, before: dict[str, Any], reports: list[dict[str, Any]]
    ) -> dict[str, Any]:
        from vivace.compress.variant import write_variant

        made = state / "made"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        write_variant(variant, made)
        after = self._measure(variant) | {"weight_bytes": _count_file_bytes(made)}
        manifest = self.plan | {
            "versions": find_versions(LIBRARIES),
            "before": before,
            "after": after,
            "compression_ratio": {
                "parameters": before["parameters"] / after["parameters"],
                "bytes": before["weight_bytes"] / after["weight_bytes"],
            },
            "steps": reports,
        }
        write_json(made / MANIFEST, manifest)
        for path in sorted(made.iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, self.out / path.name)
        shutil.rmtree(state)
        return manifest

    def _measure(self, variant: Variant) -> dict[str, Any]:
        from vivace.compress.loss import measure_loss

        loss = None if self.text is None else measure_loss(variant.model, self.text.held_out)
        perplexity = None if loss is None else math.exp(min(loss, 700.0))
        return {"parameters": variant.count_parameters(), "held_out_loss_nats": loss, "held_out_perplexity": perplexity}


def _save_state(variant: Variant, state: Path, saved: dict[str, Any]) -> None:
    """The model in float32, so that going on from it ends with the same one as never stopping."""
    from vivace.compress.variant import write_variant

    made = state / "model.new"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    write_variant(variant, made, whole=True)
    shutil.rmtree(state / "model", ignore_errors=True)
    made.rename(state / "model")
    write_json(state / "state.json", saved)
    shutil.rmtree(state / f"scratch-{len(saved['reports']) - 1}", ignore_errors=True)


def _count_file_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
