"""Log lines on standard error, as text or JSON, written by a thread of their own. None holds a message, a name or
an address."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, TextIO

_LOGGERS = ("vivace.support", "uvicorn.error")


@contextmanager
def logging_to(stream: TextIO | None, format: str, level: str) -> Iterator[None]:
    """While this is open, the application's loggers write to the stream; standard error if None."""
    records: SimpleQueue[Any] = SimpleQueue()
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(as_json=format == "json"))
    listener = logging.handlers.QueueListener(records, handler)
    put = _Unprepared(records)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.setLevel(level.upper())
        logger.propagate = False
        logger.addHandler(put)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        for logger in loggers:
            logger.removeHandler(put)
            logger.propagate = True


class _Unprepared(logging.handlers.QueueHandler):
    """Formats nothing on the thread that logs."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


class LineFormatter(logging.Formatter):
    """Time, level, event and the record's `fields`. Of an exception where it came from, but not what it says:
    messages of databases and parsers quote what they were given."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        about: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            about["exception"] = record.exc_info[0].__name__
            about["at"] = _find_places(record.exc_info[2])
        if self._as_json:
            return json.dumps(about, ensure_ascii=False, default=str)
        head = f"{about.pop('time')} {about.pop('level')} {about.pop('event')}"
        return " ".join([head, *(f"{name}={value}" for name, value in about.items() if name != "logger")])


def _find_places(trace: Any) -> str:
    """The innermost eight calls, as file:line."""
    places = []
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(places[-8:])
