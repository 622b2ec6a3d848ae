from __future__ import annotations

import io
import json
import logging

from vivace.server.log import logging_to


def test_an_error_is_one_line_of_json_with_its_trace() -> None:
    written = io.StringIO()
    with logging_to(written, "json", "warning"):
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError:
            logging.getLogger("uvicorn.error").exception("it broke")
        logging.getLogger("vivace.requests").info("too little to tell")
    (line,) = written.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["event"]) == ("error", "uvicorn.error", "it broke")
    assert "ZeroDivisionError: by zero" in entry["exception"]


def test_fields_that_are_no_ascii_stay_readable() -> None:
    written = io.StringIO()
    with logging_to(written, "json", "info"):
        logging.getLogger("vivace").info("开始", extra={"fields": {"名": 1}})
    assert "开始" in written.getvalue()
    assert json.loads(written.getvalue())["名"] == 1


def test_afterwards_the_loggers_are_as_they_were() -> None:
    logger = logging.getLogger("vivace")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with logging_to(io.StringIO(), "text", "error"):
        assert logger.level == logging.ERROR
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
