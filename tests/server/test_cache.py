"""The response cache keeps to its bound and its time, and gives up what was used longest ago."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeClock
from vivace.server.cache import ENTRY_BYTES, ResponseCache

TTL_S = 60.0


def make_cache(values: int = 3, clock: FakeClock | None = None) -> ResponseCache:
    """Room for that many values of ten bytes."""
    return ResponseCache(values * (ENTRY_BYTES + 10), TTL_S, clock or FakeClock())


def test_what_was_put_is_found() -> None:
    cache = make_cache()
    assert cache.put(b"a", b"1" * 10)
    assert cache.get(b"a") == b"1" * 10
    assert cache.get(b"b") is None


def test_the_least_recently_used_value_gives_way() -> None:
    cache = make_cache()
    for key in (b"a", b"b", b"c"):
        cache.put(key, b"x" * 10)
    cache.get(b"a")
    cache.put(b"d", b"x" * 10)
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.get(key)] == [b"a", b"c", b"d"]
    assert cache.stats().evicted == 1


def test_one_large_value_takes_the_place_of_several() -> None:
    cache = make_cache()
    for key in (b"a", b"b", b"c"):
        cache.put(key, b"x" * 10)
    cache.put(b"d", b"x" * (ENTRY_BYTES + 20))
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.get(key)] == [b"c", b"d"]


def test_a_value_larger_than_the_cache_is_not_kept_and_costs_nothing_else() -> None:
    cache = make_cache()
    cache.put(b"a", b"x")
    assert not cache.put(b"b", b"x" * 10_000)
    assert cache.get(b"b") is None
    assert cache.get(b"a") == b"x"


def test_a_value_that_is_replaced_by_one_too_large_is_not_told_again() -> None:
    cache = make_cache()
    cache.put(b"a", b"old")
    cache.put(b"a", b"x" * 10_000)
    assert cache.get(b"a") is None


def test_no_value_outlives_its_time_however_often_it_is_used() -> None:
    clock = FakeClock()
    cache = make_cache(clock=clock)
    cache.put(b"a", b"x")
    clock.advance(TTL_S - 1)
    assert cache.get(b"a") == b"x"
    clock.advance(1)
    assert cache.get(b"a") is None
    stats = cache.stats()
    assert (stats.entries, stats.held_bytes, stats.expired, stats.evicted) == (0, 0, 1, 0)


def test_what_is_over_its_time_leaves_memory_though_nobody_asks_for_it() -> None:
    clock = FakeClock()
    cache = make_cache(clock=clock)
    cache.put(b"a", b"x")
    clock.advance(TTL_S)
    cache.get(b"another")
    assert cache.stats().held_bytes == 0


def test_a_value_put_again_begins_its_time_again() -> None:
    clock = FakeClock()
    cache = make_cache(clock=clock)
    cache.put(b"a", b"1")
    clock.advance(TTL_S - 1)
    cache.put(b"a", b"2")
    clock.advance(TTL_S - 1)
    assert cache.get(b"a") == b"2"


def test_a_reader_may_ask_for_something_younger() -> None:
    clock = FakeClock()
    cache = make_cache(clock=clock)
    cache.put(b"a", b"x")
    clock.advance(10)
    assert cache.get(b"a", max_age_s=10) is None
    assert cache.get(b"a", max_age_s=11) == b"x"


Keys = st.binary(min_size=1, max_size=1)
Operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), Keys, st.integers(0, 3000)),
        st.tuples(st.just("get"), Keys, st.none()),
        st.tuples(st.just("wait"), st.none(), st.integers(1, 40)),
    ),
    max_size=60,
)


@given(st.integers(0, 6000), Operations)
def test_the_bound_holds_whatever_happens(
    capacity: int, operations: list[tuple[str, bytes | None, int | None]]
) -> None:
    clock = FakeClock()
    cache = ResponseCache(capacity, TTL_S, clock)
    known: dict[bytes, tuple[bytes, float]] = {}
    for number, (kind, key, amount) in enumerate(operations):
        if kind == "wait":
            clock.advance(amount or 0)
        elif kind == "put":
            assert key is not None
            value = bytes([number]) * (amount or 0)
            assert cache.put(key, value) == (len(value) + ENTRY_BYTES <= capacity)
            known[key] = value, clock()
        else:
            assert key is not None
            found = cache.get(key)
            if found is not None:  # never another value than the last one put, and never an old one
                assert found == known[key][0]
                assert clock() - known[key][1] < TTL_S
        assert cache.stats().held_bytes <= capacity
    held = [found for key in known if (found := cache.get(key)) is not None]
    stats = cache.stats()
    assert stats.entries == len(held)
    assert stats.held_bytes == sum(len(value) + ENTRY_BYTES for value in held)
