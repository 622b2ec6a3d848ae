"""Run commands in turn, A B A B ..., each printing a line of JSON last, and compare their figures.

    python benchmarks/in_turn.py --rounds 5 'vivace bench engine /tmp/15m --json' 'peer/bin/python peer.py /tmp/15m'

Prints each command's median for every number in its JSON, and the ratio of each other command's figure to the first
one's, as the median over rounds with its least and greatest: machines are shared, so only ratios taken in one sitting
mean much. `wall_s`, the time of the whole process, is measured here.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import time


def run(command: str) -> dict[str, float]:
    start = time.perf_counter()
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{command}\nended with status {done.returncode}:\n{done.stderr[-2000:]}")
    lines = done.stdout.strip().splitlines()
    figures = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return {key: value for key, value in figures.items() if isinstance(value, int | float)} | {"wall_s": wall_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("commands", nargs="+")
    arguments = parser.parse_args()
    rounds = [[run(command) for command in arguments.commands] for _ in range(arguments.rounds)]
    for index, command in enumerate(arguments.commands):
        print(command)
        for key in rounds[0][index]:
            values = [figures[index][key] for figures in rounds]
            line = f"  {key:16} {statistics.median(values):10.4g}  ({min(values):.4g} to {max(values):.4g})"
            if index and key in rounds[0][0]:
                ratios = [figures[index][key] / figures[0][key] for figures in rounds]
                line += f"   x{statistics.median(ratios):.2f} of the first ({min(ratios):.2f} to {max(ratios):.2f})"
            print(line)


if __name__ == "__main__":
    main()
