"""What commands print on standard output."""

from __future__ import annotations

import sys


def write(text: str) -> None:
    """To standard output at once, with a question mark for what it cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def write_table(rows: dict[str, str]) -> None:
    for name, value in rows.items():
        write(f"{name:19} {value}\n")
