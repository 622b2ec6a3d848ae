"""Log lines on standard error, as text or as JSON, written by a thread of their own.

Whoever logs only puts a record in a queue: the event loop never waits for the terminal or the disk.
"""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from vivace.log_writer import writing_to

LogFormat = Literal["text", "json"]
LogLevel = Literal["info", "warning", "error"]

_LOGGERS = ("vivace", "uvicorn")


def logging_to(stream: TextIO | None, format: LogFormat, level: LogLevel) -> AbstractContextManager[None]:
    """While this is open, our loggers and the HTTP server's write to the stream; standard error if None."""
    return writing_to(stream, JsonFormatter() if format == "json" else TextFormatter(), level, _LOGGERS)


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
