from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.fakes import LIMITS, make_request
from vivace.batch import Batch, Row, RunnerLimits, Sampling, Want
from vivace.engine.scheduler import Plan, Scheduler, SchedulerConfig, blocks_for
from vivace.engine.sequence import Phase, Sequence
from vivace.errors import ConfigError

SEEDED = Sampling(seed=7)
NO_BURSTS = SchedulerConfig(max_burst_steps=1)


class Bench:
    """A scheduler whose plans are carried out by hand: every sampling row gets token 9."""

    def __init__(self, limits: RunnerLimits = LIMITS, config: SchedulerConfig = NO_BURSTS) -> None:
        self.limits = limits
        self.scheduler = Scheduler(limits, config)
        self.arrivals = 0

    def add(
        self,
        id: str,
        length: int,
        max_tokens: int = 50,
        first: int = 0,
        salt: str = "",
        score_prompt: bool = False,
        sampling: Sampling = SEEDED,
    ) -> Sequence:
        prompt = range(first, first + length)
        request = make_request(id, prompt, max_tokens, sampling, cache_salt=salt, score_prompt=score_prompt)
        sequence = Sequence(request, self.arrivals, self.limits.context_length)
        self.arrivals += 1
        self.scheduler.add(sequence, 0.0)
        return sequence

    def plan(self) -> Plan:
        plan = self.scheduler.schedule(0.0)
        assert plan is not None
        return plan

    def carry_out(self, plan: Plan) -> None:
        for sequence, row in zip(plan.sequences, plan.batch.rows, strict=True):
            if row.want is Want.SAMPLE:
                sequence.tokens += [9] * row.limit
                sequence.computed = len(sequence.tokens) - 1
                sequence.pending = True
            else:
                sequence.computed += len(row.tokens)
            self.scheduler.publish(sequence)
            if len(sequence.tokens) >= sequence.end:
                self.scheduler.remove(sequence)
        self.scheduler.check_integrity()

    def step(self) -> Batch:
        plan = self.plan()
        self.carry_out(plan)
        return plan.batch

    def step_ids(self) -> list[str]:
        plan = self.plan()
        self.carry_out(plan)
        return [sequence.id for sequence in plan.sequences]


def limits(**changes: int) -> RunnerLimits:
    return replace(LIMITS, **changes)


def only(batch: Batch) -> Row:
    (row,) = batch.rows
    return row


def test_nothing_is_planned_for_nobody() -> None:
    assert Bench().scheduler.schedule(0.0) is None


def test_a_prompt_is_cut_into_chunks_of_the_token_budget() -> None:
    bench = Bench(limits(max_batch_tokens=16))
    bench.add("a", 40)
    rows = [only(bench.step()) for _ in range(4)]
    assert [(row.position, len(row.tokens), row.want) for row in rows] == [
        (0, 16, Want.NOTHING),
        (16, 16, Want.NOTHING),
        (32, 8, Want.SAMPLE),
        (40, 0, Want.SAMPLE),
    ]


def test_a_slot_opens_once_and_each_block_is_sent_once() -> None:
    bench = Bench(limits(max_batch_tokens=16))
    sequence = bench.add("a", 30)
    rows = [only(bench.step()) for _ in range(5)]
    assert [row.opens for row in rows] == [Sampling(seed=7, prompt_length=30), None, None, None, None]
    assert [len(row.blocks) for row in rows] == [2, 0, 0, 0, 1]
    assert [block for row in rows for block in row.blocks] == sequence.blocks


def test_running_streams_come_before_prompts_and_half_way_prompts_before_new_ones() -> None:
    bench = Bench(limits(max_batch_tokens=20))
    bench.add("a", 4)
    assert bench.step_ids() == ["a"]
    bench.add("b", 30)
    bench.add("c", 10)
    assert bench.step_ids() == ["a", "b"]
    assert bench.step_ids() == ["a", "b", "c"]
    assert bench.step_ids() == ["a", "b", "c"]


def test_prompts_share_the_budget_in_the_order_of_their_arrival() -> None:
    bench = Bench(limits(max_batch_tokens=32))
    for id in "abc":
        bench.add(id, 14)
    assert [len(row.tokens) for row in bench.step().rows] == [14, 14, 4]


def test_no_more_sequences_run_than_there_are_slots() -> None:
    bench = Bench(limits(slots=2))
    for id in "abc":
        bench.add(id, 4, max_tokens=3)
    assert [bench.step_ids() for _ in range(4)] == [["a", "b"]] * 3 + [["c"]]


def test_a_half_way_prompt_advances_though_streams_nearly_fill_the_batch() -> None:
    bench = Bench(limits(slots=8, max_batch_tokens=4))
    for id in "abc":
        bench.add(id, 1)
    bench.step()
    late = bench.add("d", 3)
    bench.add("e", 1)
    for computed in (1, 2, 3):
        assert bench.step_ids() == ["a", "b", "c", "d"]
        assert late.computed == computed


def test_a_prompt_begins_after_the_blocks_it_shares() -> None:
    bench = Bench()
    first = bench.add("a", 40)
    bench.step()
    second = bench.add("b", 36)
    row = bench.step().rows[1]
    assert (row.position, len(row.tokens)) == (32, 4)
    assert second.blocks[:2] == first.blocks[:2]
    assert list(row.blocks) == second.blocks
    assert second.cached_tokens == 32


def test_prompts_of_another_salt_share_nothing() -> None:
    bench = Bench()
    bench.add("a", 40)
    bench.step()
    assert bench.add("b", 36, salt="x").cached_tokens == 0
    assert bench.step().rows[1].position == 0


@pytest.mark.parametrize(
    ("sampling", "history"),
    [
        (Sampling(repetition_penalty=1.1), range(32)),
        (Sampling(presence_penalty=0.5), range(32)),
        (Sampling(frequency_penalty=-0.5), range(32)),
        (Sampling(logit_bias=((1, 2.0),), min_tokens=3, logprobs=2, min_p=0.1), ()),
    ],
)
def test_who_reads_history_is_told_what_it_shares(sampling: Sampling, history: Iterable[int]) -> None:
    bench = Bench()
    bench.add("a", 40)
    bench.step()
    bench.add("b", 36, sampling=sampling)
    rows = [bench.step().rows[1] for _ in range(2)]
    assert [list(row.history) for row in rows] == [list(history), []]


def test_history_comes_once_however_many_chunks_a_prompt_has() -> None:
    bench = Bench(limits(max_batch_tokens=16))
    bench.add("a", 40, sampling=Sampling(repetition_penalty=2.0))
    assert [list(only(bench.step()).history) for _ in range(4)] == [[]] * 4


def test_a_preempted_sequence_tells_its_own_tokens_as_history() -> None:
    bench = Bench(limits(blocks=4))
    bench.add("a", 30, max_tokens=20)
    young = bench.add("b", 29, max_tokens=20, first=50, sampling=Sampling(presence_penalty=1.0))
    while young.preemptions == 0:
        bench.step()
    bench.scheduler.remove(bench.scheduler.running["a"])
    row = only(bench.plan().batch)
    assert row.position > 0
    assert list(row.history) == young.tokens[: row.position]
    assert row.opens is not None
    assert row.opens.prompt_length == 29


def test_a_mask_goes_with_the_rows_that_sample() -> None:
    bench = Bench(limits(max_batch_tokens=16))
    bench.add("a", 20).mask = b"\x01"
    assert [only(bench.step()).mask for _ in range(3)] == [None, b"\x01", b"\x01"]


def test_nobody_bursts_beside_a_mask() -> None:
    bench = Bench(config=SchedulerConfig(max_burst_steps=8))
    bench.add("a", 4)
    masked = bench.add("b", 4, max_tokens=4)
    masked.mask = b"\x01"
    batches = [bench.step() for _ in range(4)]
    assert [(batch.max_steps, [row.limit for row in batch.rows]) for batch in batches] == [(1, [1, 1])] * 4
    assert bench.step().max_steps == 8


def test_a_block_is_shared_only_after_the_step_that_computed_it() -> None:
    bench = Bench()
    bench.add("a", 20)
    bench.add("b", 20)
    assert [row.position for row in bench.step().rows] == [0, 0]
    bench.add("c", 20)
    assert bench.step().rows[2].position == 16


def test_generated_text_is_shared_too() -> None:
    bench = Bench()
    bench.add("a", 10, max_tokens=10)
    while bench.scheduler.running or bench.scheduler.waiting:
        bench.step()
    sequence = bench.add("b", 10)
    sequence.tokens += [9] * 10
    assert bench.plan().batch.rows[0].position == 16


def test_the_youngest_gives_way_when_blocks_run_out() -> None:
    bench = Bench(limits(blocks=4))
    old, young = bench.add("a", 30, max_tokens=20), bench.add("b", 30, max_tokens=20, first=50)
    for _ in range(3):
        assert bench.step_ids() == ["a", "b"]
    assert bench.step_ids() == ["a"]
    assert (young.slot, young.blocks, young.computed, young.preemptions) == (-1, [], 0, 1)
    assert young.phase is Phase.QUEUE
    assert len(young.tokens) == 33
    assert old.preemptions == 0


def test_a_preempted_sequence_comes_back_before_those_that_wait_and_computes_all_its_tokens_again() -> None:
    bench = Bench(limits(blocks=5))
    bench.add("a", 30, max_tokens=20)
    young = bench.add("b", 30, max_tokens=20, first=50)
    while young.preemptions == 0:
        bench.step()
    bench.add("c", 4)
    plan = bench.plan()
    while young.slot == -1:
        bench.carry_out(plan)
        plan = bench.plan()
    assert plan.sequences[0] is young
    row = plan.batch.rows[0]
    assert row.opens == Sampling(seed=7, prompt_length=30)
    assert (row.position, len(row.tokens)) == (16, 17)  # the head of what it had computed was still cached
    assert row.want is Want.SAMPLE
    assert young.phase is Phase.DECODE
    assert young.cached_tokens == 0


def test_the_youngest_gives_way_even_if_it_is_the_one_in_need() -> None:
    bench = Bench(limits(blocks=4))
    bench.add("a", 20, max_tokens=12)
    young = bench.add("b", 31, max_tokens=30, first=50)
    bench.step()
    bench.step()
    assert bench.step_ids() == ["a"]
    assert young.preemptions == 1


@pytest.mark.parametrize("blocks", [4, 5, 7])
def test_with_room_for_one_full_sequence_everyone_finishes_and_the_oldest_is_never_preempted(blocks: int) -> None:
    bench = Bench(limits(blocks=blocks, max_batch_tokens=8))
    sequences = [bench.add(str(i), 20 + i, max_tokens=40 - i, first=i) for i in range(12)]
    bound = sum(blocks_for(s.end) * 16 + s.end for s in sequences) * 2
    steps = 0
    while bench.scheduler.running or bench.scheduler.waiting:
        oldest = min([*bench.scheduler.running.values(), *bench.scheduler.waiting], key=lambda s: s.arrival)
        before = oldest.computed
        bench.step()
        assert oldest.computed > before or len(oldest.tokens) >= oldest.end
        steps += 1
        assert steps <= bound
    assert all(len(s.tokens) == s.end for s in sequences)


def test_a_stream_of_young_ones_never_starves_an_old_one() -> None:
    bench = Bench(limits(slots=4, blocks=8, max_batch_tokens=16))
    for i in range(3):
        bench.add(f"first {i}", 16, max_tokens=4, first=i)
    big = bench.add("big", 90, max_tokens=30, first=3)
    steps = 0
    while len(big.tokens) < big.end:
        bench.add(f"young {steps}", 4, max_tokens=4, first=steps % 50)
        bench.step()
        steps += 1
        assert steps < 200


def test_a_newcomer_waits_until_the_running_ones_have_room_to_grow() -> None:
    bench = Bench(limits(blocks=8))
    for i, id in enumerate("abcd"):
        bench.add(id, 10, first=20 * i)
    bench.step()
    bench.add("e", 50)
    assert bench.step_ids() == ["a", "b", "c", "d"]
    bench.scheduler.remove(bench.scheduler.running["d"])
    bench.scheduler.remove(bench.scheduler.running["c"])
    assert bench.step_ids() == ["a", "b", "e"]


def test_streams_alone_burst() -> None:
    bench = Bench(config=SchedulerConfig(max_burst_steps=8, burst_ms=2.5))
    bench.add("a", 4)
    bench.add("b", 4)
    first = bench.step()
    assert (first.max_steps, first.burst_ms) == (1, 0.0)
    burst = bench.step()
    assert (burst.max_steps, burst.burst_ms) == (8, 2.5)
    assert [row.limit for row in burst.rows] == [8, 8]


def test_a_burst_has_its_blocks_in_advance() -> None:
    bench = Bench(config=SchedulerConfig(max_burst_steps=32))
    sequence = bench.add("a", 10)
    bench.step()
    row = only(bench.plan().batch)
    assert row.limit == 32
    assert len(row.blocks) == blocks_for(10 + 32) - 1
    assert len(sequence.blocks) * 16 >= row.position + row.limit


def test_a_burst_ends_with_max_tokens_and_with_the_context() -> None:
    bench = Bench(limits(context_length=20), SchedulerConfig(max_burst_steps=32))
    bench.add("a", 4, max_tokens=6)
    bench.add("b", 10, max_tokens=100)
    bench.step()
    batch = bench.step()
    assert [row.limit for row in batch.rows] == [5, 9]
    assert batch.max_steps == 9


def test_nobody_bursts_while_somebody_waits_or_is_half_way() -> None:
    bench = Bench(limits(slots=2, max_batch_tokens=16), SchedulerConfig(max_burst_steps=8))
    bench.add("a", 4)
    bench.step()
    bench.add("b", 40)
    bench.add("c", 4)
    for _ in range(6):
        batch = bench.step()
        assert batch.max_steps == 1
        assert all(row.limit == 1 for row in batch.rows)


def test_a_burst_shrinks_rather_than_preempt_or_take_what_others_need_next() -> None:
    bench = Bench(limits(blocks=6), SchedulerConfig(max_burst_steps=32))
    bench.add("a", 30, max_tokens=20)
    bench.add("b", 20, max_tokens=20, first=50)
    bench.step()
    batch = bench.step()
    assert [row.limit for row in batch.rows] == [2, 12]
    assert batch.max_steps == 12
    while bench.scheduler.running or bench.scheduler.waiting:
        bench.step()
    assert bench.scheduler.preemptions == 0


def test_a_scored_prompt_asks_for_every_token_but_the_first_and_uses_no_shared_blocks() -> None:
    bench = Bench(limits(max_batch_tokens=16))
    bench.add("a", 40)
    while len(bench.scheduler.running) == 0 or not bench.scheduler.running["a"].pending:
        bench.step()
    scored = bench.add("b", 40, score_prompt=True)
    rows = []
    while not scored.pending:
        rows.append(bench.step().rows[-1])
    assert [(row.position, len(row.tokens), row.want) for row in rows] == [
        (0, 15, Want.SCORE),
        (15, 15, Want.SCORE),
        (30, 9, Want.SCORE),
        (39, 1, Want.SAMPLE),
    ]
    assert [target for row in rows for target in row.targets] == list(range(1, 40))
    assert scored.cached_tokens == 0


def test_the_last_tokens_of_scored_prompts_come_in_the_order_of_arrival() -> None:
    bench = Bench(limits(max_batch_tokens=8))
    bench.add("a", 4, score_prompt=True)
    bench.add("b", 4, score_prompt=True)
    assert [bench.step_ids() for _ in range(2)] == [["a", "b"], ["a", "b"]]


def test_a_scored_prompt_of_one_token_has_nothing_to_score() -> None:
    bench = Bench()
    bench.add("a", 1, score_prompt=True)
    assert only(bench.step()).want is Want.SAMPLE


@pytest.mark.parametrize(
    "build",
    [
        lambda: SchedulerConfig(max_waiting=0),
        lambda: SchedulerConfig(max_burst_steps=0),
        lambda: SchedulerConfig(max_proposed=-1),
        lambda: SchedulerConfig(burst_ms=-1.0),
        lambda: SchedulerConfig(burst_ms=float("nan")),
    ],
)
def test_a_config_out_of_range_is_refused(build: object) -> None:
    assert callable(build)
    with pytest.raises(ConfigError, match="must be"):
        build()
