"""Runs a search from a budget to a variant, stage by stage, each kept when it is done.

1. The baseline through HTTP: what a server does that is told nothing. It gives the workload's lengths in tokens, and
   the first measured values to hold predictions to.
2. Each model's builds timed, and a composition made of them; machine limits in the same run.
3. What each choice costs in loss, unless only time is asked for.
4. Candidates by knapsack and Optuna, judged by the predictor as the baseline corrects it.
5. The best made and measured; what came of it corrects the predictor, and the next is chosen anew, until none is
   expected to be better than the best measured, or time is over.
6. The best is measured once more by itself, with the budget that it will be served with, as a certificate has it; if
   it then misses a limit, the search for the best goes on. It becomes OUT.

Knows the stages' order and what is handed on; how each is done, they know.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from vivace.errors import ConfigError
from vivace.fit.allocate import Losses, read_losses
from vivace.fit.builds import BuildTimes, draw_requests, read_build_times, time_builds
from vivace.fit.config import FitConfig, asdict_struct
from vivace.fit.data import Texts, split_data, write_own_text
from vivace.fit.floor import Floor, Infeasible, explain, find_floor
from vivace.fit.measure import Limits, StepShape, plan_shapes
from vivace.fit.objective import LATENCIES, LOSS, MEMORY, Objective
from vivace.fit.parts import Parts, find_parts
from vivace.fit.predict import Correction, Demand, Predictor, check_composition, compose, find_errors, find_streams
from vivace.fit.realise import Measured, Realised, Realiser, read_realised
from vivace.fit.search import Predicted, Search, choose_next, find_front
from vivace.fit.space import Candidate, Space, Structure, open_space
from vivace.fit.state import State, open_state
from vivace.fit.view import Line, View
from vivace.fit.workload import LINES
from vivace.models.model import Model, open_model

MEASURE_SHARE, LOSS_SHARE, SEARCH_SHARE = 0.25, 0.45, 0.65
"""Of the time given, by which each stage should be over."""
AGAIN_SHARE = 0.06
"""Builds that take less of the time than this are timed twice."""
MOST_REALISED = 5
MOST_CONFIRMED = 3
ROOM_AFTER_MISS = 0.7
"""Of the limits on times, the next best may take this share after one that missed when it was confirmed."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What came of it."""

    best: Realised | None
    """None: nothing was realised before it was stopped."""
    infeasible: Infeasible | None
    """None: the best keeps every limit."""
    realised: tuple[Realised, ...]
    front: tuple[Predicted, ...]
    """Expected, and not beaten in both time and loss."""
    floor: Floor | None
    stopped: bool
    document: Mapping[str, Any] | None = None
    """The bench's, of the best as it was confirmed; None where nothing keeps the limits, or there was no time."""
    report: Mapping[str, Any] = field(default_factory=dict)


def fit(config: FitConfig, parts: Parts | None = None, output: TextIO = sys.stderr) -> Fitted:
    """Search, and write the best into OUT. Everything that can be refused is, before any work.

    Raises a `ModelError`, `ConfigError`, `DataError`, or `VivaceError` when a server does not start.
    """
    opened = {name: open_model(name) for name in config.models}
    concurrency = config.workload.concurrency
    spaces = {name: open_space(name, model.config, concurrency or 8) for name, model in opened.items()}
    _require(config)
    state = open_state(config.out, config.plan(), config.limit_s, resume=config.resume)
    if config.lines is not None:
        shutil.copyfile(config.lines, state.directory / LINES)
    view = View(config.objective, output, lambda: state.left_s)
    with view.open():
        run = _Run(config, parts or find_parts(config, view), opened, spaces, state, view)
        return run.go()


def _require(config: FitConfig) -> None:
    from vivace.compress.pipeline import require_libraries

    require_libraries()
    try:
        import optuna  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ConfigError(f"vivace fit needs optuna ({error}). Run pip install 'vivace[fit]'.") from error


class _Run:
    def __init__(
        self,
        config: FitConfig,
        parts: Parts,
        opened: Mapping[str, Model],
        spaces: Mapping[str, Space],
        state: State,
        view: View,
    ) -> None:
        self._config, self._parts, self._opened = config, parts, opened
        self._spaces, self._state, self._view = dict(spaces), state, view
        self._corrections = {name: Correction() for name in config.models}
        self._predictors: dict[str, Predictor] = {}
        self._limits: dict[str, Limits] = {}
        self._errors: dict[str, Any] = {}
        self._realised: list[Realised] = []
        self._room = 1.0
        """The share of the limits on times that the best may take; less after one that missed when confirmed."""
        self._confirmed: dict[str, Any] = {}
        self._baseline: Mapping[str, float] = {}
        self._document: Mapping[str, Any] | None = None
        self._longest_s = 0.0
        self._stopped = False

    def go(self) -> Fitted:
        texts = self._prepare_texts()
        chunks = next(iter(self._spaces.values())).chunks
        concurrency = self._config.workload.concurrency or 8
        shapes = plan_shapes(concurrency, self._guess_prompt(), chunks)
        realiser = self._parts.realiser(shapes, texts, self._state)
        found: list[Predicted] = []
        try:
            baseline = self._measure_baseline(realiser)
            demand = self._find_demand(baseline)
            for name in self._config.models:
                self._open_predictor(name, shapes, texts, demand, realiser)
            self._learn_baseline(baseline)
            found = self._search()
            self._realise(realiser, found)
        except KeyboardInterrupt:
            self._stopped = True
        return self._finish(found, realiser)

    # Stages

    def _prepare_texts(self) -> dict[str, Texts] | None:
        """The same for all models, where the user gave it; else each model's own, and the first's to judge by."""
        config, directory = self._config, self._state.directory / "texts"
        if config.time_only:
            return None
        saved = self._state.load("texts")
        if saved is None:
            found: dict[str, Texts] = {}
            for index, (name, model) in enumerate(self._opened.items()):
                if config.data is not None:
                    found[name] = split_data(config.data, directory, config.seed)
                    continue
                self._view.say(f"No --data is given: {name} writes text to be judged by")
                found[name] = write_own_text(model, name, directory / str(index), config.seed)
            saved = {name: {key: str(value) for key, value in asdict(texts).items()} for name, texts in found.items()}
            self._state.save("texts", saved)
        return {
            name: Texts(one["name"], one["digest"], Path(one["calibration"]), Path(one["held_out"]))
            for name, one in saved.items()
        }

    def _guess_prompt(self) -> int:
        from vivace.fit.workload import median_of

        return max(16, round(median_of(self._config.workload.input_tokens)))

    def _measure_baseline(self, realiser: Realiser) -> Measured:
        saved = self._state.load("baseline")
        if saved is None:
            saved = asdict(realiser.measure_baseline())
            self._state.save("baseline", saved)
        intervals = {name: (low, high) for name, (low, high) in saved["intervals"].items()}
        lengths = tuple((prompt, answer) for prompt, answer in saved["lengths"])
        return Measured(saved["values"], intervals, saved["requests"], lengths)

    def _find_demand(self, baseline: Measured) -> Demand:
        workload = self._config.workload
        return Demand(baseline.lengths, workload.concurrency, workload.rate, pause_ms=0.3)

    def _open_predictor(
        self,
        name: str,
        shapes: Sequence[StepShape],
        texts: Mapping[str, Texts] | None,
        demand: Demand,
        realiser: Realiser,
    ) -> None:
        space = self._spaces[name]
        index = self._config.models.index(name)
        saved = self._state.load(f"builds-{index}")
        if saved is None:
            saved = self._time_builds(name, shapes, demand).as_dict()
            self._state.save(f"builds-{index}", saved)
        timed = read_build_times(saved)
        space = self._spaces[name] = replace(space, tables=timed.tables)
        composition = compose(space.config, shapes, timed.builds, timed.threads)
        self._limits[name] = timed.limits
        self._errors.setdefault("composition", {})[name] = check_composition(composition, space.config, timed.checks)
        losses = self._find_losses(name, index, space, texts, realiser)
        self._spaces[name] = replace(space, max_dropped=min(space.max_dropped, len(losses.depth) - 1))
        self._predictors[name] = Predictor(
            space.config, composition, losses, demand, space.threads[-1], timed.lookup_gain
        )

    def _time_builds(self, name: str, shapes: Sequence[StepShape], demand: Demand) -> BuildTimes:
        self._view.say(f"Timing steps of {name} in all formats")
        limit_s = self._config.limit_s
        return time_builds(
            self._parts.measurers(name),
            self._spaces[name],
            shapes,
            draw_requests(self._opened[name], demand),
            find_streams(demand, 1.0),
            room_s=(MEASURE_SHARE * limit_s - self._state.spent_s) / len(self._config.models),
            again_s=AGAIN_SHARE * limit_s,
            clock=lambda: self._state.spent_s,
            tell=self._view.tell,
        )

    def _find_losses(
        self, name: str, index: int, space: Space, texts: Mapping[str, Texts] | None, realiser: Realiser
    ) -> Losses:
        if texts is None:
            from vivace.fit.sensitivity import assume_losses

            return assume_losses(space)
        saved = self._state.load(f"losses-{index}")
        if saved is None:
            self._view.say(f"Measuring what each choice costs {name} in loss")
            left = LOSS_SHARE * self._config.limit_s - self._state.spent_s
            limit_s = max(10.0, left / (len(self._config.models) - index))
            losses = self._parts.losses(name, space, texts[name].calibration, limit_s, self._view.tell)
            if index:
                losses = replace(losses, offset=realiser.find_offset(name))
            saved = losses.as_dict()
            self._state.save(f"losses-{index}", saved)
        return read_losses(saved)

    def _learn_baseline(self, baseline: Measured) -> None:
        """Of the first model as it is served untold: predicted, measured, and what both say of the rest."""
        name = self._config.models[0]
        space, predictor = self._spaces[name], self._predictors[name]
        self._baseline = baseline.values
        candidate = space.uniform("int8")
        bare = predictor.predict(candidate)
        process = max(0, int(baseline.values.get(MEMORY, bare[MEMORY]) - bare[MEMORY]))
        for other in self._config.models:
            self._predictors[other] = replace(self._predictors[other], process_bytes=process)
        raw = self._predictors[name].predict(candidate)
        self._errors["simulated baseline"] = find_errors(raw, baseline.values)
        times = {key: value for key, value in baseline.values.items() if key not in (MEMORY, LOSS)}
        for correction in self._corrections.values():
            correction.learn(raw, times)

    def _search(self) -> list[Predicted]:
        self._view.say("Searching")
        state, config = self._state, self._config
        search = Search(config.objective, self._spaces, self._predictors, state.directory / "trials.db", config.seed)
        begun = state.spent_s
        until = max(SEARCH_SHARE * config.limit_s, begun + 0.1 * config.limit_s)

        def tell(found: Sequence[Predicted]) -> None:
            self._view.tell(min(1.0, len(found) / config.trials))
            self._show(found)
            state.save("searched", {"trials": len(found)})

        return search.run(config.trials, lambda: state.spent_s < until, self._correct, tell)

    def _realise(self, realiser: Realiser, found: Sequence[Predicted]) -> None:
        """Realise while something better is expected, then confirm the best; if that misses, go on.

        To confirm takes seconds, and is not left out when the time is over: without, there is no certificate."""
        saved = self._state.load("realised") or {"variants": []}
        for values in saved["variants"]:
            self._take(read_realised(values))
        for _ in range(MOST_CONFIRMED):
            while self._realise_next(realiser, found):
                pass
            if self._confirm(realiser):
                return

    def _realise_next(self, realiser: Realiser, found: Sequence[Predicted]) -> bool:
        """Whether there was one that promised to be better than what is there, and time for it."""
        if len(self._realised) >= MOST_REALISED or (self._realised and self._state.left_s < self._longest_s):
            return False
        realised = [one.candidate for one in self._realised]
        chosen = choose_next(self._objective, found, self._correct, realised)
        if chosen is None or (self._realised and not self._promises(chosen)):
            return False
        begun = self._state.spent_s
        candidate = self._distil(chosen.candidate)
        self._view.say(f"Realising {candidate.describe()}")
        expected = self._correct(candidate.model, chosen.values)
        self._take(realiser.realise(candidate, chosen.values, expected))
        self._state.save("realised", {"variants": [each.as_dict() for each in self._realised]})
        self._longest_s = max(self._longest_s, 1.1 * (self._state.spent_s - begun))
        self._show(found)
        return True

    def _confirm(self, realiser: Realiser) -> bool:
        """Whether the search is over: the best was confirmed, or nothing was measured to keep the limits. One that
        misses is from then on what it was when it missed."""
        objective, best = self._config.objective, self._find_best()
        if best is None or objective.find_missed(self._judged(best)):
            return True
        self._view.say(f"Confirming {best.candidate.describe()}")
        try:
            values, document = realiser.confirm(best, objective.budget)
        except KeyboardInterrupt:
            self._stopped = True
            return True
        values = {name: value for name, value in best.values.items() if name == LOSS} | values
        missed = [str(limit) for limit in objective.find_missed(values)]
        self._confirmed[best.candidate.describe()] = {"values": values, "missed": missed}
        if not missed:
            self._document = document
            return True
        worse = replace(best, values=dict(best.values) | values, baseline=dict(self._baseline))
        self._realised[self._realised.index(best)] = worse
        self._room *= ROOM_AFTER_MISS
        return False

    @property
    def _objective(self) -> Objective:
        """What was asked, with the room that was found to be needed: a server that keeps a budget refuses some, and
        computes prompts in more steps."""
        return self._config.objective.leave_room(self._room)

    def _find_best(self) -> Realised | None:
        return min(self._realised, key=lambda one: self._objective.rank(self._judged(one)), default=None)

    # What they share

    def _distil(self, candidate: Candidate) -> Candidate:
        """To be trained, if that was asked for and something was left out; its time is outside of the search's."""
        minutes = self._config.distil_minutes
        if not minutes or candidate.structure == Structure():
            return candidate
        self._state.extend(60 * minutes)
        return replace(candidate, distilled=True)

    def _correct(self, model: str, values: Mapping[str, float]) -> dict[str, float]:
        return self._corrections[model].apply(values)

    def _take(self, one: Realised) -> None:
        self._realised.append(one)
        measured = self._steady(one)
        if LOSS in measured:  # a rise that is lost in noise says that it is small, not that it is none
            measured[LOSS] = max(measured[LOSS], 0.1 * one.raw[LOSS])
        self._corrections[one.candidate.model].learn(one.raw, measured)

    def _steady(self, one: Realised) -> dict[str, float]:
        """What would have been measured had the machine been as it was for the baseline alone: the baseline was
        measured in turn with it, and whatever else ran met both."""
        drift = {
            name: self._baseline[name] / value
            for name, value in one.baseline.items()
            if name in LATENCIES and value > 0 and self._baseline.get(name, 0) > 0
        }
        return {name: value * drift.get(name, 1.0) for name, value in one.values.items()}

    def _promises(self, chosen: Predicted) -> bool:
        """Whether it is expected to be better than the best that was measured."""
        objective = self._objective
        expected = self._correct(chosen.candidate.model, chosen.values)
        return objective.rank(expected) < min(objective.rank(self._judged(one)) for one in self._realised)

    def _judged(self, one: Realised) -> dict[str, float]:
        """What was measured, on the machine as it was for the baseline alone: a variant is confirmed as the machine is
        then before it is taken. Where loss was not measured, what is assumed of it decides between equals."""
        return {LOSS: one.raw.get(LOSS, 0.0)} | self._steady(one)

    def _front(self, found: Sequence[Predicted]) -> list[Predicted]:
        objective = self._config.objective
        rows = []
        for one in found:
            values = self._correct(one.candidate.model, one.values)
            rows.append((one, objective.find_time(values), values[LOSS]))
        return find_front(rows)

    def _show(self, found: Sequence[Predicted]) -> None:
        lines = [Line(one.candidate.describe(), one.values, True) for one in self._realised]
        for one in self._front(found):
            lines.append(Line(one.candidate.describe(), self._correct(one.candidate.model, one.values), False))
        self._view.show(lines)

    def _finish(self, found: Sequence[Predicted], realiser: Realiser) -> Fitted:
        objective = self._config.objective
        if self._stopped and self._document is None:
            self._confirm(realiser)
        best = self._find_best()
        front = tuple(self._front(found)) if found else ()
        floor = self._find_floor(best.candidate) if best is not None else None
        infeasible = None
        if best is not None:
            smallest, least_bytes = self._find_smallest(found)
            infeasible = explain(objective, self._judged(best), smallest, least_bytes)
        report = self._report(found)
        return Fitted(best, infeasible, tuple(self._realised), front, floor, self._stopped, self._document, report)

    def _describe_data(self) -> dict[str, Any] | None:
        saved = self._state.load("texts")
        first = saved[self._config.models[0]] if saved else None
        return {"name": first["name"], "digest": first["digest"]} if first else None

    def _find_floor(self, candidate: Candidate) -> Floor:
        from vivace.fit.predict import share_of_width

        predictor, limits = self._predictors[candidate.model], self._limits[candidate.model]
        settings = candidate.settings
        streams = min(
            find_streams(predictor.demand, predictor.passes(candidate).step_ms(1, 1, 0)), settings.max_sequences
        )
        formats = [row[2] for row in candidate.formats]
        return find_floor(
            predictor.config,
            len(candidate.formats),
            share_of_width(predictor.config, candidate.structure.width),
            predictor.bytes(candidate)[1],
            predictor.kv_token_bytes(candidate),
            predictor.demand,
            streams,
            limits,
            max(set(formats), key=formats.count),
        )

    def _find_smallest(self, found: Sequence[Predicted]) -> tuple[Floor, int]:
        """The floor of the candidate that reads least, and the fewest bytes that any holds."""
        candidates = [one.candidate for one in found] or [one.candidate for one in self._realised]
        smallest = min(candidates, key=lambda one: self._predictors[one.model].bytes(one)[1])
        least = min(self._predictors[one.model].bytes(one)[0] for one in candidates)
        return self._find_floor(smallest), least + self._predictors[smallest.model].process_bytes

    def _report(self, found: Sequence[Predicted]) -> dict[str, Any]:
        steps = {}
        for one in self._realised:
            if one.step_ms:
                predicted = self._predictors[one.candidate.model].passes(one.candidate).ms
                steps[one.candidate.describe()] = [
                    ours / theirs - 1 for ours, theirs in zip(predicted, one.step_ms, strict=True)
                ]
        return {
            "objective": str(self._config.objective),
            "prefer": self._config.objective.prefer,
            "workload": asdict_struct(self._config.workload),
            "models": list(self._config.models),
            "data": self._describe_data(),
            "seconds": self._state.spent_s,
            "stopped": self._stopped,
            "tried": len(found),
            "limits": {name: asdict(limits) for name, limits in self._limits.items()},
            "lookup_gain": {name: one.lookup_gain for name, one in self._predictors.items()},
            "errors": self._errors
            | {"steps of variants": steps}
            | {
                "simulated": {one.candidate.describe(): find_errors(one.raw, one.values) for one in self._realised},
                "corrected": {
                    one.candidate.describe(): find_errors(one.expected, one.values) for one in self._realised
                },
                "corrected, in turn": {
                    one.candidate.describe(): find_errors(one.expected, self._steady(one)) for one in self._realised
                },
            },
            "confirmed": self._confirmed,
            "front": [
                {"variant": one.candidate.describe(), "candidate": one.candidate.as_dict()}
                | {"expected": self._correct(one.candidate.model, one.values)}
                | {"weight_bytes": self._predictors[one.candidate.model].bytes(one.candidate)[0]}
                for one in self._front(found)
            ],
            "realised": [one.as_dict() | {"variant": one.candidate.describe()} for one in self._realised],
        }
