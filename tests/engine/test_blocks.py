from __future__ import annotations

import random

import pytest

from vivace.batch import BLOCK_SIZE
from vivace.engine.blocks import BlockPool, Parent


def take(pool: BlockPool, blocks: int) -> list[int]:
    taken = pool.allocate(blocks)
    assert taken is not None
    return taken


def fill(pool: BlockPool, tokens: list[int], salt: str = "") -> list[int]:
    """Compute `tokens` as a sequence would, and publish every full block; returns the block table, still held."""
    shared, parent = pool.match(tokens, salt)
    table = shared + take(pool, -(-len(tokens) // BLOCK_SIZE) - len(shared))
    next_parent: Parent | None = parent
    for index in range(len(shared), len(tokens) // BLOCK_SIZE):
        if next_parent is not None:
            chunk = tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
            next_parent = pool.publish(table[index], next_parent, chunk)
    return table


def test_a_prompt_shares_the_published_blocks_it_begins_with() -> None:
    pool = BlockPool(8)
    first = fill(pool, list(range(40)))
    hit = pool.match([*range(32), 99, 98], "")
    assert hit.blocks == first[:2]
    pool.check_integrity([first, hit.blocks])


def test_a_hit_never_covers_the_last_token() -> None:
    pool = BlockPool(8)
    fill(pool, list(range(32)))
    assert len(pool.match(list(range(32)), "").blocks) == 1
    assert len(pool.match(list(range(33)), "").blocks) == 2
    assert pool.match(list(range(16)), "").blocks == []
    assert pool.match([], "").blocks == []


def test_equal_tokens_after_another_prefix_are_not_shared() -> None:
    pool = BlockPool(8)
    fill(pool, [1] * 16 + [2] * 16)
    assert pool.match([3] * 16 + [2] * 16 + [0], "").blocks == []
    assert pool.match([2] * 17, "").blocks == []


def test_prefixes_of_another_salt_are_not_shared() -> None:
    pool = BlockPool(8)
    fill(pool, list(range(40)), salt="a")
    assert pool.match(list(range(40)), "b").blocks == []
    assert len(pool.match(list(range(40)), "a").blocks) == 2


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(4)
    held = take(pool, 3)
    assert pool.allocate(2) is None
    assert pool.available == 1
    pool.check_integrity([held])


def test_released_blocks_are_available_and_published_ones_stay_cached() -> None:
    pool = BlockPool(4)
    pool.release(fill(pool, list(range(40))))
    assert (pool.free, pool.cached, pool.used, pool.available) == (2, 2, 0, 4)
    assert len(pool.match(list(range(40)), "").blocks) == 2
    assert (pool.free, pool.cached, pool.used, pool.available) == (2, 0, 2, 2)


def test_the_least_recently_used_prefix_is_evicted_first_and_its_tail_before_its_head() -> None:
    pool = BlockPool(6)
    old, new = [1] * 48, [2] * 48
    pool.release(fill(pool, old))
    pool.release(fill(pool, new))
    held = take(pool, 1)
    assert [len(pool.match([*prompt, 0], "").blocks) for prompt in (old, new)] == [2, 3]
    pool.check_integrity()
    assert len(held) == 1


def test_a_prefix_that_was_matched_again_outlives_one_that_was_not() -> None:
    pool = BlockPool(4)
    old, new = [1] * 32, [2] * 32
    pool.release(fill(pool, old))
    pool.release(fill(pool, new))
    pool.release(pool.match([*old, 0], "").blocks)
    take(pool, 2)
    assert [len(pool.match([*prompt, 0], "").blocks) for prompt in (old, new)] == [2, 0]


def test_of_two_equal_blocks_one_is_published_and_the_other_stays_private() -> None:
    pool = BlockPool(8)
    first, second = take(pool, 1), take(pool, 1)
    tokens = list(range(16))
    serial = pool.publish(first[0], "", tokens)
    assert pool.publish(second[0], "", tokens) == serial
    pool.release(second)
    assert (pool.free, pool.cached) == (7, 0)
    pool.release(first)
    assert (pool.free, pool.cached) == (7, 1)
    pool.check_integrity([])


def test_what_continues_an_evicted_block_is_not_found_and_not_published() -> None:
    pool = BlockPool(3)
    head, tail = list(range(16)), list(range(16, 32))
    owner, twin = take(pool, 1), take(pool, 2)
    serial = pool.publish(owner[0], "", head)
    assert serial is not None
    assert pool.publish(twin[0], "", head) == serial
    child = pool.publish(twin[1], serial, tail)
    assert child is not None
    pool.release(owner)
    take(pool, 1)  # evicts the head, whose tail the twin still holds
    pool.check_integrity()
    assert pool.match([*head, *tail, 0], "").blocks == []
    pool.release(twin)
    assert (pool.free, pool.cached) == (2, 0)
    assert pool.publish(take(pool, 1)[0], child, tail) is None


def test_a_cached_continuation_of_an_evicted_block_becomes_free() -> None:
    pool = BlockPool(4)
    head, tail = list(range(16)), list(range(16, 32))
    owner, twin = take(pool, 1), take(pool, 2)
    serial = pool.publish(owner[0], "", head)
    assert serial is not None
    pool.publish(twin[0], "", head)
    pool.publish(twin[1], serial, tail)
    pool.release(owner)
    pool.release(twin)
    assert (pool.free, pool.cached) == (2, 2)
    take(pool, 3)
    assert (pool.free, pool.cached) == (1, 0)
    pool.check_integrity()


def test_check_integrity_notices_a_leaked_and_a_doubly_held_block() -> None:
    pool = BlockPool(4)
    held = take(pool, 2)
    pool.check_integrity([held])
    with pytest.raises(AssertionError, match="references"):
        pool.check_integrity([held[:1]])
    with pytest.raises(AssertionError, match="references"):
        pool.check_integrity([held, held])
    pool._free.append(held[0])
    with pytest.raises(AssertionError, match="total"):
        pool.check_integrity()


def test_releasing_a_block_twice_is_noticed() -> None:
    pool = BlockPool(2)
    held = take(pool, 1)
    pool.release(held)
    with pytest.raises(AssertionError, match="more often"):
        pool.release(held)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_and_goes_blocks_add_up_and_hits_hold_the_right_tokens(seed: int) -> None:
    rng = random.Random(seed)
    pool = BlockPool(12)
    content: dict[int, tuple[int, ...]] = {}
    tables: list[list[int]] = []
    for _ in range(1000):
        if tables and (rng.random() < 0.5 or pool.available < 4):
            pool.release(tables.pop(rng.randrange(len(tables))))
        else:
            length = rng.randrange(1, 4 * BLOCK_SIZE)
            tokens = [token for token in rng.choices((0, 1), k=4) for _ in range(BLOCK_SIZE)][:length]
            hit = pool.match(tokens, "")
            for index in range(len(hit.blocks)):
                assert content[hit.blocks[index]] == tuple(tokens[: (index + 1) * BLOCK_SIZE])
            pool.release(hit.blocks)
            if pool.available >= 4:
                table = fill(pool, tokens)
                for index, block in enumerate(table):
                    content[block] = tuple(tokens[: (index + 1) * BLOCK_SIZE])
                tables.append(table)
        pool.check_integrity(tables)
