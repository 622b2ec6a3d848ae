"""Log lines on standard error, as text or JSON, written by a thread of their own. None holds a message, a name or
an address."""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, TextIO

from vivace.log_writer import writing_to

_LOGGERS = ("vivace.support", "uvicorn.error")


def logging_to(stream: TextIO | None, format: str, level: str) -> AbstractContextManager[None]:
    """While this is open, the application's loggers write to the stream; standard error if None."""
    return writing_to(stream, LineFormatter(as_json=format == "json"), level, _LOGGERS)


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
