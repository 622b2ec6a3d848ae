"""Log lines written by a thread of their own: whoever logs only puts a record in a queue, so that no event loop waits
for the terminal or the disk. Knows neither loggers nor how a line looks."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TextIO


@contextmanager
def writing_to(stream: TextIO | None, formatter: logging.Formatter, level: str, names: Sequence[str]) -> Iterator[None]:
    """While this is open, the loggers of these names write to the stream; standard error if None."""
    records: SimpleQueue[Any] = SimpleQueue()
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    listener = logging.handlers.QueueListener(records, handler)
    put = _Unprepared(records)
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(level.upper())
        logger.propagate = False
        logger.addHandler(put)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        for logger, (old_level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(put)
            logger.setLevel(old_level)
            logger.propagate = propagate


class _Unprepared(logging.handlers.QueueHandler):
    """Formats nothing on the thread that logs."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record
