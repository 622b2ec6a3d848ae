"""`python -m vivace`: the command line."""

from __future__ import annotations

from vivace.cli import main

if __name__ == "__main__":
    main()
