from __future__ import annotations

from pathlib import Path

import pytest
from hdrh.log import HistogramLogReader

from tests.bench.test_summary import measure, observe
from vivace.bench.histogram import write_log
from vivace.errors import ConfigError


def test_the_log_is_read_back_by_the_reference_reader(tmp_path: Path) -> None:
    write_log(measure(*(observe(i, first=0.1 + i / 1000, tokens=3) for i in range(100))), tmp_path / "t.hlog")
    from hdrh.histogram import HdrHistogram

    reader = HistogramLogReader(str(tmp_path / "t.hlog"), HdrHistogram(1, 3_600_000_000, 3))
    found = {}
    while (histogram := reader.get_next_interval_histogram()) is not None:
        found[histogram.get_tag()] = histogram
    reader.close()
    assert set(found) == {"ttft", "e2e", "service_ttft", "service_e2e", "tpot"}
    assert found["ttft"].get_total_count() == 100
    assert found["ttft"].get_value_at_percentile(50) == pytest.approx(149_000, rel=0.002)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Give another"):
        write_log(measure(observe()), tmp_path / "none" / "x")
