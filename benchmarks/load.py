"""Time and peak memory of loading a model and answering, as one line of JSON. One process a measurement, so that peaks
are its own.

    python benchmarks/load.py /tmp/qwen0.5b --quantize int8 --concurrent 64

`peak_mb` is the most resident memory while loading; pages of the checkpoint's file that are mapped count, though the
system may take them back at any time. `own_mb` is the most that is not of a file, and `answering_mb` the same while
`--concurrent` sequences of 128 tokens in and 128 out are answered, whose KV cache is `kv_mb`.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

from vivace.engine.benchmark import measure_speed
from vivace.llm import load_runner
from vivace.models.model import open_model
from vivace.runners.native import QUANTIZE, NativeConfig


def read_status(field: str) -> float:
    """A field of this process's status, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(f"{field}:"))


class PeakWatch(threading.Thread):
    """Looks at anonymous memory every few milliseconds: the system keeps a peak only of all memory together."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.005):
            self.peak_mb = max(self.peak_mb, read_status("RssAnon"))

    def stop(self) -> None:
        self._done.set()
        self.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quantize", choices=QUANTIZE, default="int8")
    parser.add_argument("--concurrent", type=int, default=1)
    arguments = parser.parse_args()
    watch = PeakWatch()
    watch.start()
    start = time.perf_counter()
    runner = load_runner(open_model(arguments.model), NativeConfig(quantize=arguments.quantize))
    load_s = time.perf_counter() - start
    figures = {"load_s": load_s, "peak_mb": read_status("VmHWM"), "own_mb": watch.peak_mb}
    measure_speed(runner, concurrent=arguments.concurrent, prompt=128, new_tokens=128, runs=1)
    watch.stop()
    figures |= {"answering_mb": watch.peak_mb, "weights_mb": runner.weight_bytes / 1e6}
    print(json.dumps(figures | {"kv_mb": arguments.concurrent * 256 * runner.kv_bytes_per_token / 1e6}))


if __name__ == "__main__":
    main()
