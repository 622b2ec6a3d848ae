"""Models put together for serving: one, or a ladder of variants that share the machine.

Loads, calibrates, and hands over what the server works with. Knows neither HTTP nor the command line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vivace.engine.admission import Admission, AdmissionConfig
from vivace.engine.bridge import EngineThread
from vivace.engine.cost import calibrate
from vivace.engine.draft import DraftProposer
from vivace.engine.engine import Engine
from vivace.engine.forecast import StepLimits
from vivace.engine.ladder import Ladder
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import ConfigError
from vivace.grammar import GrammarCompiler
from vivace.llm import load_draft, load_runner
from vivace.models.model import Model, open_model
from vivace.runners.native import NativeConfig, NativeRunner

MAX_RUNGS = 8


@dataclass(frozen=True, slots=True)
class Launched:
    """What is served. The runners are the caller's to close."""

    models: Mapping[str, Model]
    """By variant, the best first."""
    runners: Mapping[str, NativeRunner]
    bridge: EngineThread
    draft: NativeRunner | None = None

    @property
    def first(self) -> str:
        return next(iter(self.models))

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()
        if self.draft is not None:
            self.draft.close()


def parse_ladder(rungs: Sequence[str]) -> dict[str, str]:
    """`NAME=MODEL` for each rung, the best first. Raises `ConfigError`."""
    ladder: dict[str, str] = {}
    for rung in rungs:
        name, _, model = rung.partition("=")
        if not (name and model) or not name.isidentifier() or name in ladder:
            raise ConfigError(f"{rung!r} is no rung of a ladder. Write NAME=MODEL, each name a different word.")
        ladder[name] = model
    if len(ladder) > MAX_RUNGS:
        raise ConfigError(f"The ladder has {len(ladder)} rungs; it must have at most {MAX_RUNGS}.")
    return ladder


def open_ladder(ladder: Mapping[str, str]) -> dict[str, Model]:
    """Open all models by name. Raises a `ModelError`, or `ConfigError` for models that cannot stand in for another."""
    models = {name: open_model(model) for name, model in ladder.items()}
    first_name, first = next(iter(models.items()))
    for name, model in models.items():
        if not model.tokenizer.is_same(first.tokenizer) or model.config.vocab_size != first.config.vocab_size:
            raise ConfigError(
                f"{name} has another tokenizer than {first_name}. The rungs of a ladder are variants of one model: "
                "give models with equal tokenizer.json and chat template."
            )
        if model.config.context_length < first.config.context_length:
            raise ConfigError(
                f"{name} has a context of {model.config.context_length} tokens, {first_name} one of "
                f"{first.config.context_length}. What the first can answer, all must be able to."
            )
    return models


def launch(
    models: Mapping[str, Model],
    config: NativeConfig,
    policy: SchedulerConfig,
    rules: AdmissionConfig,
    progress: Callable[[float], None] | None = None,
    draft: Model | None = None,
) -> Launched:
    """Load the weights, measure what steps cost, and make the engine's thread, not started yet.

    `draft` proposes tokens, where the policy allows any. Raises `ConfigError` for one beside several models.
    """
    if draft is not None and len(models) > 1:
        raise ConfigError("A draft speaks for one model. Serve a ladder without it, or one model with it.")
    runners: dict[str, NativeRunner] = {}
    drafting: NativeRunner | None = None
    try:
        for name, model in models.items():
            runners[name] = load_runner(model, config, progress)
        if draft is not None:
            drafting = load_draft(draft, config, next(iter(runners.values())).limits)
        proposer = None if drafting is None else DraftProposer(drafting)
        engines = {
            name: Engine(runner, policy, cost=calibrate(runner, time.monotonic), proposer=proposer)
            for name, runner in runners.items()
        }
    except BaseException:
        for runner in (*runners.values(), *([drafting] if drafting else [])):
            runner.close()
        raise
    model = next(iter(models.values()))
    compiler = GrammarCompiler(model.tokenizer, model.config.vocab_size, model.generation.stop_token_ids)
    most = min(runner.limits.max_batch_tokens for runner in runners.values())
    admission = Admission(rules, StepLimits(policy.max_step_ms, most), tuple(models))
    engine = next(iter(engines.values())) if len(engines) == 1 else Ladder(engines)
    return Launched(models, runners, EngineThread(engine, compiler, admission=admission), drafting)
