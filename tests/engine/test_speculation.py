"""The controller: it speculates where that is faster, and what it loses elsewhere is bounded."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from vivace.engine.proposer import Ask, Proposal
from vivace.engine.speculation import (
    MAX_DRAFTED,
    MAX_PROPOSED,
    Speculation,
    Speculator,
    StepTimes,
    find_max_proposed,
    size_class,
)
from vivace.errors import ConfigError


class Scripted:
    """Proposes zeros for everyone, and counts how often it is asked."""

    def __init__(self, strength: int = 5, *, computes: bool = False) -> None:
        self.strength = strength
        self.computes = computes
        self.asked = 0
        self.forgotten: list[str] = []

    def propose(self, asks: Sequence[Ask]) -> list[Proposal | None]:
        self.asked += len(asks)
        return [Proposal([0] * ask.limit, self.strength) for ask in asks]

    def forget(self, id: str) -> None:
        self.forgotten.append(id)


class Machine:
    """Steps that take `base_ms` and `token_ms` a token, over sequences whose proposals are right at some rate.

    What is measured of them is off by up to `noise` / 2; what they took is counted without."""

    def __init__(self, base_ms: float, token_ms: float, sequences: int, right: float, noise: float = 0.0) -> None:
        self.base_ms, self.token_ms, self.noise = base_ms, token_ms, noise
        self.sequences = sequences
        self.right = right
        self.proposer = Scripted()
        self.speculator = Speculator(self.proposer, MAX_PROPOSED["lookup"])
        self.rng = random.Random(1)
        self.ms = 0.0
        self.tokens = self.proposed = 0

    def step_ms(self, tokens: int) -> float:
        return self.base_ms + self.token_ms * tokens

    def step(self) -> Speculation:
        asks = {place: Ask(f"{place}", [1], 11) for place in self.speculator.choose(self.sequences)}
        made = self.speculator.plan(self.sequences, asks, 0, 1000)
        tokens = [[0] for _ in range(self.sequences)]
        for place, (_, proposal) in made.proposals.items():
            for _ in proposal.tokens:
                if self.rng.random() >= self.right:
                    break
                tokens[place].append(0)
        ms = self.step_ms(self.sequences + made.proposed)
        self.speculator.observe(made, tokens, 1, ms * (1 + self.noise * (self.rng.random() - 0.5)))
        self.ms += ms
        self.tokens += sum(map(len, tokens))
        self.proposed += made.proposed
        return made

    def speed_up(self, steps: int) -> float:
        """Tokens a millisecond, over what they are without proposals."""
        for _ in range(steps):
            self.step()
        return self.tokens / self.ms * self.step_ms(self.sequences) / self.sequences


@pytest.mark.parametrize(("sequences", "least"), [(1, 3.5), (4, 2.0)])
def test_where_tokens_are_cheap_and_proposals_right_it_is_faster(sequences: int, least: float) -> None:
    assert Machine(8.0, 0.7, sequences, right=0.97).speed_up(1000) > least


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("right", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("base_ms", "token_ms"), [(0.12, 0.11), (8.0, 0.7), (0.0, 1.0)])
@pytest.mark.parametrize("sequences", [1, 4, 64])
def test_it_never_loses_more_than_three_hundredths(
    sequences: int, base_ms: float, token_ms: float, right: float, noise: float
) -> None:
    assert Machine(base_ms, token_ms, sequences, right, noise).speed_up(1000) > 0.97


def test_where_nothing_could_pay_the_proposer_is_rarely_asked() -> None:
    machine = Machine(0.0, 1.0, sequences=64, right=1.0)
    machine.speed_up(1600)
    assert machine.proposer.asked <= 4 * 100 + 64 * 40


def test_it_comes_back_when_proposals_turn_right() -> None:
    machine = Machine(8.0, 0.7, sequences=1, right=0.0)
    machine.speed_up(500)
    machine.right, machine.ms, machine.tokens = 0.98, 0.0, 0
    assert machine.speed_up(300) > 2


def test_it_stops_soon_when_proposals_turn_wrong() -> None:
    machine = Machine(8.0, 0.7, sequences=1, right=0.98)
    machine.speed_up(300)
    machine.right, machine.ms, machine.tokens = 0.0, 0.0, 0
    assert machine.speed_up(400) > 0.95


def test_the_time_without_proposals_is_measured_again_now_and_then() -> None:
    machine = Machine(8.0, 0.7, sequences=1, right=1.0)
    machine.speed_up(100)
    assert any(not machine.step().proposals for _ in range(70))


def test_the_sequences_whose_proposals_were_right_get_them() -> None:
    speculator = Speculator(Scripted(), 4)
    for _ in range(200):
        speculator.observe(Speculation(2), [[0], [0]], 1, 10.0)
    for _ in range(20):
        made = Speculation(2, 0, {0: ("good", Proposal([0, 0], 5)), 1: ("bad", Proposal([0, 0], 5))})
        speculator.observe(made, [[0, 0, 0], [0]], 1, 11.0)
    speculator.observe(Speculation(2), [[0], [0]], 1, 10.0)
    asks = {0: Ask("good", [1], 4), 1: Ask("bad", [1], 4)}
    made = speculator.plan(2, asks, 0, 3)
    assert {id: len(proposal.tokens) for id, proposal in made.proposals.values()} == {"good": 3}
    assert speculator.plan(2, asks, 0, 0).proposals == {}


def test_beside_prompts_a_token_must_be_worth_what_it_costs_to_compute() -> None:
    speculator = Speculator(Scripted(), 4)
    for _ in range(200):
        speculator.observe(Speculation(1), [[0]], 1, 10.0)
    asks = {0: Ask("a", [1], 4)}
    for _ in range(20):
        speculator.observe(Speculation(1, 99), [[0], []], 1, 200.0)
    assert speculator.plan(1, asks, 99, 100).proposed > 0
    for _ in range(80):
        speculator.observe(Speculation(1, 99), [[0], []], 1, 1000.0)
    assert speculator.plan(1, asks, 99, 100).proposed == 0


def test_a_sequence_that_ended_is_forgotten_by_the_proposer_too() -> None:
    proposer = Scripted()
    Speculator(proposer, 4).forget("a")
    assert proposer.forgotten == ["a"]


def test_what_took_no_time_teaches_nothing() -> None:
    speculator = Speculator(Scripted(), 4)
    speculator.observe(Speculation(1), [[0]], 1, 0.0)
    assert list(speculator.choose(1)) == []
    assert speculator.plan(1, {0: Ask("a", [1], 4)}, 0, 10).proposals == {}


def test_times_between_measured_ones_are_interpolated() -> None:
    times = StepTimes()
    times.add_plain(1, 8.0)
    times.add_verifying(4, 11.0)
    times.add_verifying(8, 15.0)
    assert times.plain(1) == 8.0
    assert times.plain(2) is None
    assert [times.verifying(1, 8.0, tokens) for tokens in (2, 4, 6, 8)] == [9.0, 11.0, 13.0, 15.0]
    assert times.verifying(1, 8.0, 9) == pytest.approx(16.0)


def test_one_odd_time_moves_a_mean_little() -> None:
    times = StepTimes()
    for _ in range(20):
        times.add_plain(1, 1.0)
    times.add_plain(1, 500.0)
    assert (times.plain(1) or 0) < 1.1


def test_size_classes_grow_with_sizes() -> None:
    assert [size_class(size) for size in (1, 7, 8, 9, 10, 15, 16, 21, 64, 79, 80)] == [
        *(1, 7, 8, 8, 10, 14, 16, 20, 64, 64, 80)
    ]


def test_the_proposer_is_not_asked_at_every_short_step_in_vain() -> None:
    machine = Machine(0.12, 0.11, sequences=1, right=0.0)
    machine.speed_up(1000)
    assert machine.proposer.asked < 100


class DraftMachine(Machine):
    """Where each token asked for takes `draft_ms` too."""

    def __init__(self, base_ms: float, token_ms: float, sequences: int, right: float, draft_ms: float) -> None:
        super().__init__(base_ms, token_ms, sequences, right)
        self.draft_ms = draft_ms
        self.proposer = Scripted(0, computes=True)
        self.speculator = Speculator(self.proposer, MAX_DRAFTED)
        self.depths: list[int] = []

    def step(self) -> Speculation:
        places = self.speculator.choose(self.sequences)
        depth = self.speculator.find_depth(self.sequences) if places else 0
        asks = {place: Ask(f"{place}", [1], depth) for place in places if depth}
        made = self.speculator.plan(self.sequences, asks, 0, 1000)
        tokens = [[0] for _ in range(self.sequences)]
        for place, (_, proposal) in made.proposals.items():
            for _ in proposal.tokens:
                if self.rng.random() >= self.right:
                    break
                tokens[place].append(0)
        ms = self.step_ms(self.sequences + made.proposed) + depth * self.draft_ms
        self.speculator.observe(made, tokens, 1, ms)
        self.depths.append(depth)
        self.ms += ms
        self.tokens += sum(map(len, tokens))
        return made


@pytest.mark.parametrize(("right", "draft_ms", "least"), [(0.95, 0.8, 2.5), (0.7, 0.8, 1.5), (0.6, 2.0, 1.05)])
def test_a_draft_that_pays_is_asked_for_as_much_as_pays(right: float, draft_ms: float, least: float) -> None:
    machine = DraftMachine(8.0, 0.5, 1, right, draft_ms)
    assert machine.speed_up(2000) > least
    assert (sorted(machine.depths[1000:])[500] >= 5) == (right > 0.9)


@pytest.mark.parametrize("right", [0.0, 0.3, 0.6])
def test_a_draft_that_costs_more_than_it_brings_loses_little(right: float) -> None:
    assert DraftMachine(0.1, 0.1, 1, right, 0.15).speed_up(6000) > 0.96


def test_a_machine_that_is_slow_to_begin_with_does_not_make_a_bad_draft_look_good() -> None:
    machine = DraftMachine(0.2, 0.05, 1, right=1.0, draft_ms=0.3)
    for _ in range(2):
        machine.speculator.observe(Speculation(1), [[0]], 1, 4.0)
    assert machine.speed_up(4000) > 0.93


def test_a_draft_is_not_asked_beside_prompts_nor_beyond_the_time_that_streams_have() -> None:
    machine = DraftMachine(8.0, 0.5, 1, 0.9, 0.8)
    machine.speed_up(200)
    assert list(machine.speculator.choose(1, chunk_tokens=64)) == []
    assert machine.speculator.find_depth(1, spare_ms=0.1) == 0
    assert 0 < machine.speculator.find_depth(1, spare_ms=3.0) < machine.speculator.find_depth(1)


def test_a_step_that_only_read_teaches_neither_time() -> None:
    speculator = Speculator(Scripted(0, computes=True), 4)
    speculator.observe(Speculation(1), [[0]], 1, 8.0)
    speculator.observe(Speculation(1, computed=True), [[0]], 1, 80.0)
    assert speculator.times.plain(1) == 8.0


def test_a_draft_beside_another_way_to_speculate_is_refused() -> None:
    assert (find_max_proposed("off", draft=True), find_max_proposed("off", draft=False)) == (MAX_DRAFTED, 0)
    with pytest.raises(ConfigError, match="Leave speculate=lookup out"):
        find_max_proposed("lookup", draft=True)
    with pytest.raises(ConfigError, match="must be one of"):
        find_max_proposed("always", draft=False)
