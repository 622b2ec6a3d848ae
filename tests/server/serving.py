"""A server around a model that says what it is told to say: real engine, real tokenizer, no weights."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
from starlette.applications import Starlette

from tests.server.scripted import ScriptedRunner
from vivace.engine.admission import Admission, AdmissionConfig
from vivace.engine.bridge import EngineThread
from vivace.engine.cost import CostModel, StepCost
from vivace.engine.engine import Engine
from vivace.engine.forecast import StepLimits
from vivace.engine.scheduler import SchedulerConfig
from vivace.grammar import GrammarCompiler
from vivace.models.config import read_config, read_generation_defaults
from vivace.models.model import Model
from vivace.server.app import ServerConfig, build_app
from vivace.tokenizer import Tokenizer


@dataclass(frozen=True)
class Running:
    """A served app, and what is behind it."""

    app: Starlette
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI
    bridge: EngineThread
    runner: ScriptedRunner


def make_model(directory: Path, name: str = "tiny") -> Model:
    return Model(
        name, directory, read_config(directory), read_generation_defaults(directory), Tokenizer.open(directory)
    )


def make_compiler(model: Model) -> GrammarCompiler:
    return GrammarCompiler(model.tokenizer, model.config.vocab_size, model.generation.stop_token_ids)


class KnownCost(CostModel):
    """Believes what it was told, whatever steps take."""

    def observe(self, tokens: int, sequences: int, context: int, measured_ms: float) -> None:
        pass


@asynccontextmanager
async def serving(
    model: Model,
    script: str | bytes = "Hello there.",
    *,
    max_waiting: int = 64,
    slots: int = 4,
    tracer: Any = None,
    cost: StepCost | None = None,
    **config: Any,
) -> AsyncIterator[Running]:
    """The app with its engine running, and clients of it in the same process.

    With `cost`, requests are admitted by what it predicts.
    """
    runner = ScriptedRunner(script, model.config.context_length, model.config.vocab_size, slots)
    engine = Engine(runner, SchedulerConfig(max_waiting=max_waiting), cost=None if cost is None else KnownCost(cost))
    admission = None if cost is None else Admission(AdmissionConfig(), StepLimits(50.0, 64))
    bridge = EngineThread(engine, make_compiler(model), admission=admission)
    app = build_app(model, bridge, ServerConfig(**config), tracer)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://server") as http,
    ):
        inside: Any = http  # the official client's own HTTP library differs from version to version
        client = openai.AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=inside, max_retries=0)
        try:
            yield Running(app, http, client, bridge, runner)
        finally:
            runner.open_gate()


async def wait_until(holds: Callable[[], bool]) -> None:
    """Return once `holds` does. Raises TimeoutError after a while."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.002)


@contextmanager
def serve_process(model: Model, script: str, drain_ms: float = 1000) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own that answers with the script, and its address."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *sys.path])
    command = [sys.executable, "-m", "tests.server.scripted_process", str(model.directory), str(drain_ms), script]
    with subprocess.Popen(
        command, cwd=root, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()
