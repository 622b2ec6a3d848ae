from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from vivace.budget import Timeline

milliseconds = st.floats(0, 1e7, allow_nan=False)


@given(milliseconds, milliseconds, milliseconds, milliseconds, milliseconds)
def test_the_total_is_the_sum_of_the_parts(
    preprocess: float, queue: float, prefill: float, decode: float, flush: float
) -> None:
    assert Timeline(preprocess, queue, prefill, decode, flush).total_ms == preprocess + queue + prefill + decode + flush


def test_a_timeline_begins_empty() -> None:
    assert Timeline().total_ms == 0.0


def test_as_dict_names_every_part_and_the_total_to_a_microsecond() -> None:
    timeline = Timeline(preprocess_ms=1.00049, queue_ms=2.0, prefill_ms=3.0, decode_ms=4.0, flush_ms=0.5)
    assert json.loads(json.dumps(timeline.as_dict())) == {
        "preprocess_ms": 1.0,
        "queue_ms": 2.0,
        "prefill_ms": 3.0,
        "decode_ms": 4.0,
        "flush_ms": 0.5,
        "total_ms": 10.5,
    }
