from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.fit.allocate import BINS, Choice, Losses, allocate, keep_layers, read_losses, span
from vivace.fit.space import PARTS, Candidate, Format, Structure

FORMATS: tuple[Format, ...] = ("int8", "int4")

costs = st.tuples(st.floats(0, 10), st.floats(0, 10))
choices = st.lists(st.builds(lambda ms, loss: Choice(FORMATS, ms, loss), costs, costs), min_size=1, max_size=6)


def cost(chosen: tuple[Format, ...], places: list[Choice]) -> tuple[float, float]:
    rows = [
        (one.ms[one.formats.index(f)], one.losses[one.formats.index(f)]) for f, one in zip(chosen, places, strict=True)
    ]
    return sum(ms for ms, _ in rows), sum(loss for _, loss in rows)


@given(choices, st.floats(0, 1))
def test_no_choice_that_fits_loses_less(places: list[Choice], share: float) -> None:
    low, high = span(places)
    limit = low + share * max(0.0, high - low)
    chosen = allocate(places, limit)
    assert chosen is not None
    ms, loss = cost(chosen, places)
    assert ms <= limit + 1e-6
    # Times are rounded up to bins, so that what fits with a bin to spare for each place is within reach.
    widest = sum(max(one.ms) for one in places) - low
    room = len(places) * min(max(limit - low, 0.0), widest) / BINS
    every = [cost(one, places) for one in itertools.product(FORMATS, repeat=len(places))]
    assert loss <= min((found for taken, found in every if taken <= limit - room - 1e-6), default=loss) + 1e-6


def test_what_even_the_fastest_miss_has_no_answer() -> None:
    assert allocate([Choice(FORMATS, (2.0, 1.0), (0.0, 1.0))], 0.9) is None


def test_the_most_sensitive_parts_keep_their_bits() -> None:
    places = [Choice(FORMATS, (2.0, 1.0), (0.0, loss)) for loss in (5.0, 1.0, 9.0)]
    assert allocate(places, 5.0) == ("int8", "int4", "int8")


def test_losses_add_up_and_come_back_from_json() -> None:
    parts: dict[str, dict[Format, float]] = {f"{layer}.{part}": {} for layer in (0, 1) for part in PARTS}
    parts["0.mlp_in"] = {"int4": 0.1}
    parts["1.mlp_in"] = {"int4": 9.0}
    losses = Losses(
        parts,
        {"int8": 0.01},
        (1,),
        (0.0, 0.2),
        {1.0: 0.0, 0.5: 0.3},
        {0.0: 0.0},
    )
    row: tuple[Format, ...] = ("int8", "int8", "int4", "int8")
    candidate = Candidate("m", Structure((1,), 0.5), (row,), "int8")
    assert losses.sum(candidate) == pytest.approx(0.1 + 0.01 + 0.2 + 0.3)
    again = read_losses(json.loads(json.dumps(losses.as_dict())))
    assert again.predict(candidate) == pytest.approx(losses.predict(candidate))


def test_a_structure_that_was_not_measured_is_out_of_the_question() -> None:
    losses = Losses({}, {})
    assert losses.structure(Structure(width=0.5)) == float("inf")


def test_layers_that_stay_keep_their_numbers() -> None:
    assert keep_layers(4, (0, 2)) == [1, 3]
