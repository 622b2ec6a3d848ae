"""The engine for Python callers: text or messages in, text out, in the calling thread.

It knows no HTTP and starts no thread of its own: whoever waits for a token drives the engine until it comes.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vivace.budget import Timeline
from vivace.engine.engine import Engine
from vivace.engine.request import FinishReason, Request, Update
from vivace.errors import ConfigError, EngineStoppedError, StepFailedError
from vivace.models.checkpoint import Checkpoint
from vivace.models.model import Model, open_model
from vivace.models.weights import read_weights
from vivace.runners.native import NativeConfig, NativeRunner, load_native_runner
from vivace.sampling import SamplingParams, build_request
from vivace.tokenizer import TextStream

Prompt = str | Sequence[Mapping[str, Any]]
"""A string is completed as it stands; a list of messages goes through the model's chat template."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One finished answer."""

    text: str
    token_ids: list[int]
    """As sampled, a stop token included; where a stop string ended the text, up to the token that completed it."""
    finish_reason: str
    """`stop` or `length`."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, found in the prefix cache."""
    timing: Timeline


class LLM:
    """A loaded model. Any number of threads may generate at once; their requests share steps."""

    def __init__(self, model: Model, runner: NativeRunner) -> None:
        self.model = model
        self.runner = runner
        self._engine = Engine(runner)
        self._lock = threading.Lock()
        self._inboxes: dict[str, list[Update]] = {}
        self._names = itertools.count()
        self._closed = False

    def generate(self, prompt: Prompt, params: SamplingParams | None = None, /, **options: Any) -> Generation:
        """Continue one prompt to its end. `options` are fields of `SamplingParams`.

        Raises `RequestError` for a prompt or option that cannot be, `StepFailedError` if computing it failed.
        """
        return self.generate_many([prompt], params, **options)[0]

    def generate_many(
        self, prompts: Sequence[Prompt], params: SamplingParams | None = None, /, **options: Any
    ) -> list[Generation]:
        """Continue all prompts together, in one batch as far as it holds; answers in the order of the prompts."""
        params = _resolve(params, options)
        answers = [self._begin(prompt, params) for prompt in prompts]
        self._run(answers)
        return [answer.generation() for answer in answers]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, /, **options: Any) -> Iterator[str]:
        """Yield the answer's text as it comes. Leaving the loop early frees the request."""
        params = _resolve(params, options)
        answer = self._begin(prompt, params)
        self._open([answer])
        try:
            while not answer.done:
                piece = answer.take(self._wait(answer.request.id))
                if answer.stopped_early:
                    self._abort(answer.request.id)
                if piece:
                    yield piece
        finally:
            self._forget([answer])

    def close(self) -> None:
        """Free the model's memory and threads. Answers under way end with `EngineStoppedError`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self.runner.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self, prompt: Prompt, params: SamplingParams) -> _Answer:
        return _Answer(self._prepare(prompt, params), self.model.tokenizer.stream(params.stop))

    def _prepare(self, prompt: Prompt, params: SamplingParams) -> Request:
        arrived = time.monotonic()
        tokenizer = self.model.tokenizer
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else tokenizer.encode_chat(prompt)
        return build_request(
            f"local-{next(self._names)}",
            tuple(ids),
            params,
            self.model.generation,
            self.model.config.context_length,
            self.model.config.vocab_size,
            arrived=arrived,
            preprocess_ms=(time.monotonic() - arrived) * 1e3,
        )

    def _run(self, answers: Sequence[_Answer]) -> None:
        self._open(answers)
        try:
            for answer in answers:
                while not answer.done:
                    answer.take(self._wait(answer.request.id))
                    if answer.stopped_early:
                        self._abort(answer.request.id)
        finally:
            self._forget(answers)

    def _open(self, answers: Sequence[_Answer]) -> None:
        with self._lock:
            self._check_open()
            try:
                for answer in answers:
                    self._engine.add(answer.request)
                    self._inboxes[answer.request.id] = []
            except BaseException:
                for answer in answers:
                    self._drop(answer)
                raise

    def _wait(self, id: str) -> list[Update]:
        """Drive the engine until there is news of a request, and take it."""
        with self._lock:
            while not self._inboxes[id]:
                self._check_open()
                for update in self._engine.step():
                    if update.id in self._inboxes:
                        self._inboxes[update.id].append(update)
            news, self._inboxes[id] = self._inboxes[id], []
            return news

    def _abort(self, id: str) -> None:
        with self._lock:
            self._engine.abort(id)

    def _forget(self, answers: Sequence[_Answer]) -> None:
        with self._lock:
            for answer in answers:
                self._drop(answer)

    def _drop(self, answer: _Answer) -> None:
        if self._inboxes.pop(answer.request.id, None) is not None and not answer.done:
            self._engine.abort(answer.request.id)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineStoppedError("This LLM was closed; load the model again.")


class _Answer:
    """An answer in the making: updates in, text out."""

    def __init__(self, request: Request, text: TextStream) -> None:
        self.request = request
        self._text_stream = text
        self._pieces: list[str] = []
        self._tokens: list[int] = []
        self._finish_reason = ""
        self._cached_tokens = 0
        self._timing = Timeline()

    @property
    def done(self) -> bool:
        return bool(self._finish_reason)

    @property
    def stopped_early(self) -> bool:
        """A stop string came while the engine was still at it."""
        return self._text_stream.stopped and not self.done

    def take(self, updates: Sequence[Update]) -> str:
        """The new text in these updates. Raises `StepFailedError` when the request's step failed."""
        pieces: list[str] = []
        for update in updates:
            if not self._text_stream.stopped:
                self._tokens += update.tokens
                pieces.append(self._text_stream.push(update.tokens))
            if update.finish_reason == FinishReason.ERROR:
                raise StepFailedError(update.error)
            if update.finish_reason is not None:
                received = time.monotonic()
                pieces.append(self._text_stream.finish())
                self._finish_reason = update.finish_reason.value
                self._cached_tokens = update.cached_tokens
                self._timing = self._add_flush(update.timeline or Timeline(), received)
        self._pieces += pieces
        return "".join(pieces)

    def _add_flush(self, timeline: Timeline, received: float) -> Timeline:
        """Everything after the last token is flush, so the parts add up to the time the caller waited."""
        waited_ms = (received - self.request.arrived) * 1e3
        return replace(timeline, flush_ms=max(0.0, waited_ms - timeline.total_ms))

    def generation(self) -> Generation:
        assert self.done, "asked for before it was done"
        stopped = self._text_stream.stopped
        return Generation(
            text="".join(self._pieces),
            token_ids=self._tokens[: self._text_stream.token_count] if stopped else self._tokens,
            finish_reason="stop" if stopped else self._finish_reason,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self._cached_tokens,
            timing=self._timing,
        )


def _resolve(params: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    if params is not None and options:
        return replace(params, **options)
    return params or SamplingParams(**options)


def load(name: str = "mini", /, *, progress: Callable[[float], None] | None = None, **options: Any) -> LLM:
    """Load a model: `mini`, which is embedded here, a Hugging Face directory, or a hub id.

    `options` are fields of `NativeConfig`: quantize, threads, max_sequences, max_batch_tokens, kv_memory_bytes.
    Raises a `ModelError` that names the file and the remedy, or `ConfigError`.
    """
    try:
        config = NativeConfig(**options)
    except TypeError as error:
        known = ", ".join(NativeConfig.__slots__)
        raise ConfigError(f"Unknown option in {', '.join(options)}; load takes {known}.") from error
    model = open_model(name)
    return LLM(model, load_runner(model, config, progress))


def load_runner(model: Model, config: NativeConfig, progress: Callable[[float], None] | None = None) -> NativeRunner:
    """The CPU runner of an opened model."""
    weights = read_weights(model.config, Checkpoint.open(model.directory))
    return load_native_runner(model.config, weights, config, progress)
