"""The search itself: candidates by Optuna, each put together by the knapsack and judged by the predictor.

A trial chooses tables, depth, width, rank, how much of the time between the fastest and the least lossy formats may be
spent, and how to serve; the knapsack then gives each part its format. Two things are minimised: the largest of the
limits' ratios, loss left out, and the loss. Trials are kept in SQLite, so that a search that was killed goes on where
it was; what was tried is known by the candidate, not by its number.

Knows predictors, not how they know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vivace.errors import ConfigError
from vivace.fit.allocate import Choice, allocate, list_choices, span, spread
from vivace.fit.measure import StepShape
from vivace.fit.objective import LOSS, Objective
from vivace.fit.predict import Demand, Predictor, find_streams, share_of_width
from vivace.fit.settings import EngineSettings
from vivace.fit.space import MLP_PARTS, PARTS, Candidate, Format, Space, Structure, allowed_formats
from vivace.runners.native import count_kv_bytes

if TYPE_CHECKING:
    import optuna

LADDER = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Shares of time at which the knapsack is tried before chance comes in."""
MARGINS = {"p50": 0.95, "p95": 0.9, "p99": 0.85}
"""Of each limit on a time: a prediction that is nearer to it than this is not trusted to keep it. Tails vary most from
one measurement to the next."""
MARGIN = 0.97
"""Of the others."""
TRIALS = 400


@dataclass(frozen=True, slots=True)
class Predicted:
    """A candidate and what is expected of it, uncorrected."""

    candidate: Candidate
    values: Mapping[str, float]


def make_candidate(
    space: Space,
    predictor: Predictor,
    *,
    tables: Format,
    dropped: int,
    width: float,
    rank: float,
    mlp: Format,
    time_share: float,
    settings: EngineSettings,
) -> Candidate:
    """The formats that the knapsack finds within a share of the time between the fastest and the least lossy.

    `mlp` is the format of factored MLPs. Raises `ConfigError` where nothing fits together."""
    structure = Structure(tuple(sorted(predictor.losses.drops[:dropped])), width, rank)
    choices = find_choices(space, predictor, structure, tables)
    low, high = span(choices)
    chosen = allocate(choices, low + time_share * (high - low))
    assert chosen is not None, "the limit is no less than the fastest takes"
    formats = spread(chosen, structure, space.layers, mlp)
    return Candidate(space.model, structure, formats, tables, settings)


def find_choices(space: Space, predictor: Predictor, structure: Structure, tables: Format) -> list[Choice]:
    """The knapsack's places, their times weighed by the workload."""
    weights = weigh_shapes(predictor.composition.shapes, predictor.demand)
    formats = allowed_formats(tables)
    part_ms = {
        (part, format): float(predictor.composition.part_ms(part, format) @ weights)
        for part in PARTS
        for format in formats
    }
    width = share_of_width(space.config, structure.width)
    return list_choices(structure, space.layers, formats, part_ms, predictor.losses, width)


def weigh_shapes(shapes: Sequence[StepShape], demand: Demand) -> Any:
    """How many steps of each shape a request is worth, [shapes]: a prompt, and its part of the steps that its answer
    shares with others."""
    weights = np.zeros(len(shapes))
    prompts = [index for index, shape in enumerate(shapes) if not shape.context]
    decodes = [index for index, shape in enumerate(shapes[:-1]) if shape.context]
    nearest = min(prompts, key=lambda index: abs(math.log(shapes[index].tokens / demand.mean_prompt)))
    weights[nearest] += demand.mean_prompt / shapes[nearest].tokens
    streams = find_streams(demand, 1.0)
    usual = min(decodes, key=lambda index: abs(shapes[index].sequences - streams))
    weights[usual] += demand.mean_answer / shapes[usual].sequences
    return weights


@dataclass(slots=True)
class Search:
    """One study over all models, kept in a file."""

    objective: Objective
    spaces: Mapping[str, Space]
    predictors: Mapping[str, Predictor]
    place: Path
    """The SQLite file."""
    seed: int = 0
    known: dict[Candidate, Mapping[str, float]] | None = None
    """What was predicted already."""

    def run(
        self,
        trials: int,
        has_time: Callable[[], bool],
        correct: Callable[[str, Mapping[str, float]], Mapping[str, float]],
        tell: Callable[[Sequence[Predicted]], None] = lambda found: None,
    ) -> list[Predicted]:
        """Go on until so many trials were made in all, or time is over; everything tried, each once.

        `correct` makes of a model's raw prediction what is expected. Raises `ConfigError` without optuna.
        """
        study = open_study(self.place, self.seed)
        done = {trial.number for trial in study.trials if trial.state.is_finished()}
        found = self._load(study)
        self.known = {one.candidate: one.values for one in found}
        if not study.trials:
            for start in self._starts():
                study.enqueue_trial(start, skip_if_exists=True)
        made = len(done)
        while made < trials and has_time():
            trial = study.ask()
            try:
                one = self._try(trial)
            except ConfigError as error:
                trial.set_user_attr("why", str(error)[:200])
                study.tell(trial, state=_pruned())
                continue
            finally:
                made += 1
            expected = correct(one.candidate.model, one.values)
            excess = self.objective.find_excess({**expected, LOSS: 0.0})
            study.tell(trial, (excess if math.isfinite(excess) else 1e9, min(expected[LOSS], 1e9)))
            found.append(one)
            if made % 10 == 0:
                tell(found)
        return list({one.candidate: one for one in found}.values())

    def _try(self, trial: Any) -> Predicted:
        model = trial.suggest_categorical("model", sorted(self.spaces))
        space, predictor = self.spaces[model], self.predictors[model]
        losses = predictor.losses
        widths = [width for width in space.widths if width in losses.width]
        ranks = [rank for rank in space.ranks if rank in losses.rank]
        candidate = make_candidate(
            space,
            predictor,
            tables=trial.suggest_categorical("tables", list(space.tables)),
            dropped=trial.suggest_int(f"dropped of {model}", 0, len(losses.depth) - 1) if len(losses.depth) > 1 else 0,
            width=trial.suggest_categorical(f"width of {model}", widths) if len(widths) > 1 else 1.0,
            rank=trial.suggest_categorical(f"rank of {model}", ranks) if len(ranks) > 1 else 0.0,
            mlp="int8",
            time_share=trial.suggest_float("time share", 0.0, 1.0),
            settings=EngineSettings(
                threads=trial.suggest_categorical("threads", list(space.threads)),
                max_sequences=(batch := trial.suggest_categorical("batch", list(space.batches))),
                kv_memory_bytes=find_cache_bytes(predictor, batch),
                max_batch_tokens=trial.suggest_categorical("chunk", list(space.chunks)),
                speculate=trial.suggest_categorical("speculate", list(space.speculations)),
            ),
        )
        candidate = _settle(candidate)
        known = self.known if self.known is not None else {}
        if candidate not in known:
            known[candidate] = predictor.predict(candidate)
        one = Predicted(candidate, known[candidate])
        trial.set_user_attr("candidate", candidate.as_dict())
        trial.set_user_attr("values", dict(one.values))
        return one

    def _load(self, study: optuna.Study) -> list[Predicted]:
        from vivace.fit.space import read_candidate

        return [
            Predicted(read_candidate(trial.user_attrs["candidate"]), trial.user_attrs["values"])
            for trial in study.trials
            if trial.state.is_finished() and "values" in trial.user_attrs
        ]

    def _starts(self) -> Iterator[dict[str, Any]]:
        """The knapsack's own answers: the whole model and each depth and width alone, at several shares of time."""
        for model, space in sorted(self.spaces.items()):
            losses = self.predictors[model].losses
            usual = {
                "model": model,
                "threads": space.threads[-1],
                "batch": space.batches[min(1, len(space.batches) - 1)],
                "chunk": space.chunks[-1],
                "speculate": "off",
                f"dropped of {model}": 0,
                f"width of {model}": 1.0,
                f"rank of {model}": 0.0,
            }
            for tables in space.tables:
                for share in LADDER:
                    yield usual | {"tables": tables, "time share": share}
            for dropped in range(1, len(losses.depth)):
                yield usual | {"tables": space.tables[-1], "time share": 0.0, f"dropped of {model}": dropped}
            for width in losses.width:
                yield usual | {"tables": space.tables[-1], "time share": 0.0, f"width of {model}": width}


def _settle(candidate: Candidate) -> Candidate:
    """The same with factored MLPs in the format that floats beside these tables have."""
    if not candidate.structure.rank:
        return candidate
    mlp = candidate.tables
    rows = tuple((*row[:2], *(mlp for _ in MLP_PARTS)) for row in candidate.formats)
    return replace(candidate, formats=rows)


def _pruned() -> Any:
    import optuna

    return optuna.trial.TrialState.PRUNED


def open_study(place: Path, seed: int) -> optuna.Study:
    """The study in a file, new or begun before. Raises `ConfigError` without optuna."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(f"vivace fit needs optuna ({error}). Run pip install 'vivace[fit]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{place}", engine_kwargs={"connect_args": {"timeout": 60}})
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=24)
    return optuna.create_study(
        study_name="fit", storage=storage, sampler=sampler, directions=["minimize", "minimize"], load_if_exists=True
    )


def find_cache_bytes(predictor: Predictor, sequences: int) -> int:
    """Room for twice what so many of the longest requests need, in whole MiB: the rest of a cache holds prefixes that
    nobody may ask for again."""
    each = count_kv_bytes(predictor.config, "none")
    needed = 2 * sequences * predictor.demand.most_tokens * each
    return max(1, -(-needed // 2**20)) * 2**20


def find_front(found: Iterable[tuple[Any, float, float]]) -> list[Any]:
    """Of (thing, time, loss) those that none beats in both, fastest first."""
    front: list[Any] = []
    least = math.inf
    for thing, _, loss in sorted(found, key=lambda one: (one[1], one[2])):
        if loss < least:
            front.append(thing)
            least = loss
    return front


def choose_next(
    objective: Objective,
    found: Sequence[Predicted],
    correct: Callable[[str, Mapping[str, float]], Mapping[str, float]],
    realised: Iterable[Candidate],
) -> Predicted | None:
    """The one to realise next: the best by what is expected now, of those that nothing alike was realised of; None if
    there is none. Limits are tightened a little, since predictions err."""
    strict = tighten(objective)
    seen = {_essence(candidate) for candidate in realised}
    left = [one for one in found if _essence(one.candidate) not in seen]
    return min(left, key=lambda one: strict.rank(correct(one.candidate.model, one.values)), default=None)


def tighten(objective: Objective) -> Objective:
    """The same with margins."""
    margins = {one.name: MARGINS.get(one.name.rpartition("_")[2], MARGIN) for one in objective.constraints}
    limits = tuple(replace(one, limit=one.limit * margins[one.name]) for one in objective.constraints)
    return Objective(limits, objective.prefer)


def _essence(candidate: Candidate) -> tuple[Any, ...]:
    """What makes a variant another one to measure: all but how its batches are cut."""
    settings = candidate.settings
    counts = tuple(candidate.count(format) for format in ("f32", "bf16", "int8", "int4"))
    return candidate.model, candidate.structure, counts, candidate.tables, settings.threads, settings.speculate
