"""Log lines on standard error, as text or as JSON, written by a thread of their own.

Whoever logs only puts a record in a queue: the event loop never waits for the terminal or the disk.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]
LogLevel = Literal["info", "warning", "error"]

_LOGGERS = ("vivace", "uvicorn")


@contextmanager
def logging_to(stream: TextIO | None, format: LogFormat, level: LogLevel) -> Iterator[None]:
    """While this is open, our loggers and the HTTP server's write to the stream; standard error if None."""
    records: SimpleQueue[Any] = SimpleQueue()
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    listener = logging.handlers.QueueListener(records, handler)
    put = _Unprepared(records)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
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


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_describe(record) | getattr(record, "fields", {}), ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, event, and the record's `fields` as NAME=VALUE."""

    def format(self, record: logging.LogRecord) -> str:
        about = _describe(record)
        trace = about.pop("exception", "")
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{about['time']} {about['level']} {about['event']} {fields}".rstrip()
        return f"{line}\n{trace}" if trace else line


def _describe(record: logging.LogRecord) -> dict[str, Any]:
    about: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
    }
    if record.exc_info:
        about["exception"] = logging.Formatter().formatException(record.exc_info)
    return about
