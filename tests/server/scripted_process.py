"""Serves a scripted model on a free port until a signal ends it: `scripted_process.py DIRECTORY DRAIN_MS SCRIPT`.

Prints the address once it can be reached, and `stopped` when `serve` has returned.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from tests.server.scripted import ScriptedRunner
from tests.server.serving import make_model
from vivace.batch import Batch, StepResult
from vivace.engine.bridge import EngineThread
from vivace.engine.engine import Engine
from vivace.server.app import ServerConfig, serve


class SteadyRunner(ScriptedRunner):
    """Takes its time over every step."""

    def launch(self, batch: Batch) -> StepResult:
        time.sleep(0.005)
        return super().launch(batch)


def main(directory: Path, drain_ms: float, script: str) -> None:
    model = make_model(directory)
    runner = SteadyRunner(script, model.config.context_length, model.config.vocab_size, slots=4)
    config = ServerConfig(port=0, drain_ms=drain_ms)
    serve(model, EngineThread(Engine(runner)), config, lambda url: print(url, flush=True))
    alive = [thread.name for thread in threading.enumerate() if thread.name == "vivace-engine"]
    print("stopped", *alive, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
