"""Times as HdrHistogram logs, for the tools that read them. Values are microseconds.

Needs the `hdrhistogram` package: `pip install 'vivace[bench]'`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from vivace.bench.observation import Observation
from vivace.bench.processes import Measured
from vivace.errors import ConfigError

HIGHEST_US = 3_600_000_000
DIGITS = 3
SERIES: dict[str, Callable[[Observation], float | None]] = {
    "ttft": lambda seen: seen.ttft_ms,
    "e2e": lambda seen: seen.e2e_ms,
    "service_ttft": lambda seen: seen.service_ttft_ms,
    "service_e2e": lambda seen: seen.service_e2e_ms,
    "tpot": lambda seen: seen.tpot_ms,
}


def write_log(measured: Measured, path: Path) -> None:
    """One interval histogram for each series, told apart by its tag.

    Raises `ConfigError` without the package, or when the file cannot be written.
    """
    try:
        from hdrh.histogram import HdrHistogram
        from hdrh.log import HistogramLogWriter
    except ImportError as error:
        raise ConfigError("--hdr needs the hdrhistogram package. Run pip install 'vivace[bench]'.") from error
    ok = [seen for seen in measured.observations if seen.ok]
    try:
        with path.open("w", encoding="utf-8") as file:
            log = HistogramLogWriter(file)
            log.output_comment("vivace bench; values are microseconds")
            log.output_log_format_version()
            log.output_legend()
            for tag, get in SERIES.items():
                histogram = HdrHistogram(1, HIGHEST_US, DIGITS)
                _record(histogram.record_value, (get(seen) for seen in ok))
                histogram.set_start_time_stamp(0)
                histogram.set_end_time_stamp(1e3 * (measured.ended - measured.started))
                file.write(f"Tag={tag},")  # this writer does not
                log.output_interval_histogram(histogram, max_value_unit_ratio=1e3)
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error}. Give another place.") from error


def _record(record: Callable[[int], object], values_ms: Iterable[float | None]) -> None:
    for value in values_ms:
        if value is not None:
            record(min(HIGHEST_US, max(1, round(1e3 * value))))
