"""The engine for Python callers: text or messages in, text out, in the calling thread.

It knows no HTTP and starts no thread of its own: whoever waits for a token drives the engine until it comes.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from vivace.batch import BLOCK_SIZE, Logprobs, RunnerLimits
from vivace.budget import Timeline
from vivace.engine.draft import DraftProposer
from vivace.engine.engine import Engine
from vivace.engine.request import FinishReason, Request, Update
from vivace.engine.scheduler import SchedulerConfig
from vivace.engine.speculation import find_max_proposed
from vivace.errors import ConfigError, EngineStoppedError, RequestError, StepFailedError
from vivace.models.model import Model, open_model
from vivace.models.weights import read_weights
from vivace.runners.native import NativeConfig, NativeRunner, count_kv_bytes, load_native_runner
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
    logprobs: list[Logprobs] | None = None
    """Where `logprobs` was asked for: one for each of `token_ids`."""
    prompt_logprobs: list[float] | None = None
    """Where asked for: the log-probability of each token of the prompt but the first."""


class LLM:
    """A loaded model. Any number of threads may generate at once; their requests share steps."""

    def __init__(
        self, model: Model, runner: NativeRunner, speculate: str = "off", draft: NativeRunner | None = None
    ) -> None:
        """`speculate` is `lookup` or `off`; a `draft` speculates too, and is closed with this. Answers stay the same.

        Raises `ConfigError` as `find_max_proposed` does.
        """
        most = find_max_proposed(speculate, draft=draft is not None)
        self.model = model
        self.runner = runner
        self.draft = draft
        # What waits here are the caller's own prompts, in the caller's own memory: nobody gains if they are refused.
        policy = SchedulerConfig(max_waiting=sys.maxsize, max_proposed=most)
        self._engine = Engine(runner, policy, proposer=None if draft is None else DraftProposer(draft))
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        """Held while waiting for the other, so that one who comes back for it lets another go first."""
        self._inboxes: dict[str, list[Update]] = {}
        self._left: deque[str] = deque()
        """Requests that nobody waits for any more, to be freed by whoever has the lock."""
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
        if isinstance(prompts, str):
            raise RequestError("The prompts are one string; generate_many takes a list of prompts.")
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
                piece = self._advance([answer])[0]
                if piece:
                    yield piece
        finally:
            self._forget([answer])

    def close(self) -> None:
        """Free the model's memory and threads. Answers under way end with `EngineStoppedError`."""
        with self._hold_engine():
            if not self._closed:
                self._closed = True
                self.runner.close()
                if self.draft is not None:
                    self.draft.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self, prompt: Prompt, params: SamplingParams) -> _Answer:
        arrived = time.monotonic()
        tokenizer = self.model.tokenizer
        if isinstance(prompt, str):
            ids = tokenizer.encode(prompt)
        else:
            _check_messages(prompt)
            ids = tokenizer.encode_chat(prompt)
        request = build_request(
            f"local-{next(self._names)}",
            tuple(ids),
            params,
            self.model.generation,
            self.model.config.context_length,
            self.model.config.vocab_size,
            arrived=arrived,
            preprocess_ms=(time.monotonic() - arrived) * 1e3,
        )
        return _Answer(request, tokenizer.stream(params.stop))

    def _run(self, answers: Sequence[_Answer]) -> None:
        self._open(answers)
        try:
            going = answers
            while going:
                self._advance(going)
                going = [answer for answer in going if not answer.done]
        finally:
            self._forget(answers)

    def _open(self, answers: Sequence[_Answer]) -> None:
        with self._hold_engine():
            self._check_open()
            try:
                for answer in answers:
                    self._engine.add(answer.request)
                    self._inboxes[answer.request.id] = []
            except BaseException:
                for answer in answers:
                    self._drop(answer.request.id)
                raise

    def _advance(self, answers: Sequence[_Answer]) -> list[str]:
        """Wait until there is news of any of these answers; the new text of each."""
        pieces = []
        for answer, news in zip(answers, self._wait([answer.request.id for answer in answers]), strict=True):
            pieces.append(answer.take(news))
            if answer.stopped_early:
                with self._hold_engine():
                    self._engine.abort(answer.request.id)
        return pieces

    def _wait(self, ids: Sequence[str]) -> list[list[Update]]:
        """Drive the engine until there is news of any of these requests, and take the news of each."""
        with self._hold_engine():
            while not any(self._inboxes[id] for id in ids):
                self._check_open()
                self._step()
            news = [self._inboxes[id] for id in ids]
            self._inboxes.update((id, []) for id in ids)
            return news

    def _step(self) -> None:
        try:
            event = self._engine.step()
        except BaseException:  # from the keyboard, it may be: nobody knows how far the step came
            self._engine.abort_all()
            raise
        for update in event:
            if update.id in self._inboxes:
                self._inboxes[update.id].append(update)

    def _forget(self, answers: Sequence[_Answer]) -> None:
        """Free these answers' requests. A stream that was left is collected at any moment, even by a thread that is
        in the middle of a step, so this never waits for the lock."""
        self._left.extend(answer.request.id for answer in answers)
        self._drop_left()

    @contextmanager
    def _hold_engine(self) -> Iterator[None]:
        with self._turn:
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()
            self._drop_left()

    def _drop_left(self) -> None:
        """If another has the lock, it comes here once it has not."""
        while self._left and self._lock.acquire(blocking=False):
            try:
                while self._left:
                    self._drop(self._left.popleft())
            finally:
                self._lock.release()

    def _drop(self, id: str) -> None:
        if self._inboxes.pop(id, None) is not None:
            self._engine.abort(id)

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
        self._logprobs: list[Logprobs] = []
        self._prompt_logprobs: list[float] | None = None
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
        """The new text in these updates.

        Raises `StepFailedError` when the request's step failed, `EngineStoppedError` when others gave it up.
        """
        pieces: list[str] = []
        for update in updates:
            if update.finish_reason is FinishReason.ERROR:
                raise StepFailedError(update.error)
            if update.finish_reason is FinishReason.ABORT and not self._text_stream.stopped:
                raise EngineStoppedError("A step was broken off, and this request with it. Send it again.")
            if not self._text_stream.stopped:
                self._tokens += update.tokens
                self._logprobs += update.logprobs or ()
                if update.prompt_scores is not None:
                    self._prompt_logprobs = update.prompt_scores
                pieces.append(self._text_stream.push(self._without_stop_token(update)))
            if update.finish_reason is not None:
                received = time.monotonic()
                pieces.append(self._text_stream.finish())
                self._finish_reason = update.finish_reason.value
                self._cached_tokens = update.cached_tokens
                self._timing = self._add_flush(update.timeline or Timeline(), received)
        self._pieces += pieces
        return "".join(pieces)

    def _without_stop_token(self, update: Update) -> list[int]:
        """A token that ends the answer is reported, and is not part of its text."""
        tokens = update.tokens
        stops = update.finish_reason is FinishReason.STOP and tokens[-1] in self.request.sampling.stop_token_ids
        return tokens[:-1] if stops else tokens

    def _add_flush(self, timeline: Timeline, received: float) -> Timeline:
        """Everything after the last token is flush, so the parts add up to the time the caller waited."""
        waited_ms = (received - self.request.arrived) * 1e3
        return replace(timeline, flush_ms=max(0.0, waited_ms - timeline.total_ms))

    def generation(self) -> Generation:
        assert self.done, "asked for before it was done"
        stopped = self._text_stream.stopped
        count = self._text_stream.token_count if stopped else len(self._tokens)
        return Generation(
            text="".join(self._pieces),
            token_ids=self._tokens[:count],
            finish_reason="stop" if stopped else self._finish_reason,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self._cached_tokens,
            timing=self._timing,
            logprobs=self._logprobs[:count] if self.request.sampling.logprobs >= 0 else None,
            prompt_logprobs=self._prompt_logprobs,
        )


def _check_messages(messages: object) -> None:
    """Raises `RequestError` for what a template would turn into nonsense."""
    if not isinstance(messages, Sequence):
        raise RequestError(f"The prompt is of type {type(messages).__name__}; give a string or a list of messages.")
    if not messages:
        raise RequestError("The list of messages is empty; give at least one.")
    for index, message in enumerate(messages):
        known = isinstance(message, Mapping)
        if not known or not all(isinstance(message.get(name), str) for name in ("role", "content")):
            raise RequestError(f"messages[{index}] is no message; give a dict of two strings, role and content.")


def _resolve(params: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    """Raises `RequestError` for an option that nobody knows, or a value that it cannot have."""
    if unknown := _describe_unknown(options, SamplingParams.__slots__):
        raise RequestError(unknown)
    values = asdict(params or SamplingParams()) | dict(options)
    if isinstance(values["stop"], str):
        values["stop"] = (values["stop"],)
    try:
        return msgspec.convert(values, SamplingParams)
    except msgspec.ValidationError as error:
        raise RequestError(f"An option has a value of the wrong type: {error}. See SamplingParams.") from error


def _describe_unknown(options: Mapping[str, Any], known: Collection[str]) -> str:
    """What is wrong with the options' names; nothing if all are known."""
    names = [name for name in options if name not in known]
    return f"There is no option {' or '.join(names)}; there are {', '.join(known)}." if names else ""


def load(
    name: str | os.PathLike[str] = "mini",
    /,
    *,
    progress: Callable[[float], None] | None = None,
    speculate: str = "off",
    draft: str | os.PathLike[str] | None = None,
    **options: Any,
) -> LLM:
    """Load a model: `mini`, which is embedded here, a Hugging Face directory, or a hub id.

    `options` are fields of `NativeConfig`: quantize, threads, max_sequences, max_batch_tokens, kv_memory_bytes.
    With `speculate="lookup"`, tokens that followed before are proposed and verified together where that is faster;
    `"off"`, the default, gives the same answers one token at a time. With `draft`, a smaller model of the same
    tokenizer proposes them. Raises a `ModelError` that names the file and the remedy, or `ConfigError`.
    """
    if unknown := _describe_unknown(options, NativeConfig.__slots__):
        raise ConfigError(unknown)
    try:
        config = NativeConfig(**options)
    except TypeError as error:
        raise ConfigError(f"An option is of the wrong type ({error}); see NativeConfig.") from error
    find_max_proposed(speculate, draft=draft is not None)
    model = open_model(os.fspath(name))
    small = None if draft is None else open_draft(os.fspath(draft), model)
    runner = load_runner(model, config, progress)
    return LLM(model, runner, speculate, None if small is None else load_draft(small, config, runner.limits))


def load_runner(model: Model, config: NativeConfig, progress: Callable[[float], None] | None = None) -> NativeRunner:
    """The CPU runner of an opened model."""
    weights = read_weights(model.config, model.open_checkpoint())
    return load_native_runner(model.config, weights, config, progress)


def open_draft(name: str, model: Model) -> Model:
    """A model whose tokens may be proposed to another. Raises a `ModelError`, or `ConfigError` if they are others."""
    draft = open_model(name)
    if not draft.tokenizer.has_same_vocabulary(model.tokenizer) or draft.config.vocab_size != model.config.vocab_size:
        raise ConfigError(
            f"The draft {draft.name} has another vocabulary than {model.name}, so its tokens would be other words. "
            f"Give a model with the tokenizer.json of {model.name}, such as one that vivace compress makes of it with "
            '--recipe "draft(layers=2), distill".'
        )
    return draft


def load_draft(draft: Model, config: NativeConfig, target: RunnerLimits) -> NativeRunner:
    """A draft's runner, with as much room as that of the model it speaks for. Its weights are int8 whatever the model's
    are: that costs proposals, never an answer."""
    kv_bytes = target.blocks * BLOCK_SIZE * count_kv_bytes(draft.config, "int8")
    return load_runner(draft, replace(config, quantize="int8", quantize_tables=False, kv_memory_bytes=kv_bytes))
