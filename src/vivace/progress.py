"""A progress bar on a terminal for what takes long; elsewhere, and for what is quick, nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

import click

PATIENCE_S = 0.5
"""What takes less has no bar."""

_MARKS = 1000
"""Of a whole bar."""


@contextmanager
def show_progress(
    label: str, output: TextIO, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[float], None]]:
    """Yields a function that takes the share done, from 0 to 1, and draws it if `output` is a terminal.

    `clock` gives monotonic seconds.
    """
    with ExitStack() as stack:
        bar: Any = None
        begin = clock() + PATIENCE_S

        def tell(share: float) -> None:
            nonlocal bar
            if bar is None and clock() >= begin and output.isatty():
                bar = stack.enter_context(click.progressbar(length=_MARKS, label=label, file=output))
            if bar is not None:
                bar.update(round(share * _MARKS) - bar.pos)

        yield tell
