from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.bench.plots import Plot, linear_axis, log_axis, nines, quantile_axis, show

NUMBERS = st.lists(st.floats(0, 1e9), min_size=1, max_size=30)


@given(NUMBERS, st.booleans())
def test_an_axis_holds_its_values_and_has_ticks_within(values: list[float], tight: bool) -> None:
    axis = linear_axis(values, "ms", tight=tight)
    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert all(axis.low <= mark <= axis.high for mark, _ in axis.ticks)
    assert 1 <= len(axis.ticks) <= 12


@given(st.lists(st.floats(1e-4, 1e8), min_size=1, max_size=30))
def test_a_log_axis_keeps_order(values: list[float]) -> None:
    axis = log_axis(values, "ms")
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert len(axis.ticks) >= 2


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 1e5)), max_size=20), st.text(max_size=20))
def test_a_plot_is_sound_markup_whatever_its_names(points: list[tuple[float, float]], name: str) -> None:
    name = re.sub(r"[^\x20-\ud7ff]", "", name)
    plot = Plot(linear_axis([x for x, _ in points], name), log_axis([y for _, y in points], "ms"), name)
    plot.curve(points, "", name).dots(points).level(1.0, name).interval(1, 2, 3).point(1, 2, name)
    root = ElementTree.fromstring(f"<div>{plot.render()}</div>")
    assert len(root) == 2
    for path in root.iter("path"):
        assert "nan" not in path.attrib["d"]


def test_percentiles_are_spread_by_their_nines() -> None:
    axis = quantile_axis(0.99)
    assert [text for _, text in axis.ticks] == ["p0", "p50", "p90", "p99"]
    assert nines(0.99) == pytest.approx(2)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1500, "1,500"), (0.25, "0.25"), (20, "20"), (2e6, "2e+06")])
def test_numbers_are_shown_in_few_digits(value: float, text: str) -> None:
    assert show(value) == text
