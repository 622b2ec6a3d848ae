"""One thread owns the engine; everyone else sends it messages and gets a stream of updates.

Requests and aborts go down through one queue. One message a step comes up for each asyncio loop that has streams
open, whatever their number, and is handed out to them there. The messages are plain values: they could as well
travel to another process. A request's grammar is compiled on a thread beside the engine's, which goes on meanwhile.

Knows neither text nor HTTP, and nothing of what the engine decides.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from vivace import errors
from vivace.budget import Budget
from vivace.engine.admission import Admission, AdmissionStats
from vivace.engine.constraint import Compile
from vivace.engine.engine import Engine, EngineStats
from vivace.engine.ladder import Ladder
from vivace.engine.request import Request, StepEvent, Update
from vivace.errors import EngineError, EngineStoppedError, QueueFullError, RequestError, StepFailedError, VivaceError

MAX_COMPILING = 1024
"""Requests whose grammars may wait to be compiled; more are refused."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the engine's thread does its work."""

    alive: bool
    stuck_ms: float
    """Since the step under way began; 0 when idle."""
    error: str = ""
    """Why it is not alive."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Down: the caller gave up."""

    id: str


@dataclass(frozen=True, slots=True)
class Close:
    """Down: finish what can be finished until the monotonic instant `until`, give up the rest, and end."""

    until: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Up: the engine would not take this request."""

    id: str
    kind: str
    """The name of a class in `vivace.errors` that is made of a message alone."""
    message: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Up: the thread has ended, and nothing follows."""

    cause: str


Down = Request | Abort | Close
Up = StepEvent | Refusal | Stopped


@dataclass(frozen=True, slots=True)
class _Compiled:
    """From the compiling thread to the engine's: `request` has its constraint, unless there is an error."""

    request: Request
    error: VivaceError | None = None


class EngineThread:
    """Runs `engine` on a thread of its own from `start` to `close`. The runner stays its owner's to close.

    `compile` makes constraints of requests' grammars; without it they are refused. `admission` refuses what would be
    late, before the engine hears of it. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine | Ladder,
        compile: Compile | None = None,
        clock: Callable[[], float] = time.monotonic,
        admission: Admission | None = None,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._compile = compile
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="vivace-grammar")
        self._compiling: set[str] = set()
        self._clock = clock
        self._inbox: SimpleQueue[Down | _Compiled] = SimpleQueue()
        self._loops: dict[asyncio.AbstractEventLoop, _Mailroom] = {}
        self._loops_lock = threading.Lock()
        self._stats = engine.stats()
        self._step_began: float | None = None
        self._refusing = "The engine was not started; call start() first."
        self._failure = ""
        self._thread = threading.Thread(target=self._main, name="vivace-engine", daemon=True)

    def start(self) -> None:
        """Begin to serve. Call it once."""
        self._refusing = ""
        self._thread.start()

    async def submit(self, request: Request) -> AsyncGenerator[Update, None]:
        """Send a request, on the first iteration, and yield its updates; a slow reader gets them merged.

        Closing or cancelling the iterator aborts the request. Raises `QueueFullError`, `RequestError` or
        `ContextLengthError` when the engine refuses the request, `EngineStoppedError` when it has ended or ends.
        """
        mailroom = self._mailroom()
        stream = mailroom.open(request.id)
        self._tell(request)
        if self._refusing:  # looked at after the request was sent: whoever sets it sees this stream, or is seen here
            mailroom.discard(request.id)
            self.release(request.id)
            self.abort(request.id)
            raise EngineStoppedError(self._refusing)
        try:
            while not stream.finished:
                yield await stream.take()
        finally:
            if not stream.finished:
                self.abort(request.id)

    def abort(self, id: str) -> None:
        """Give up a request; nothing happens if it has ended. Any thread may call this."""
        self._tell(Abort(id))

    def admit(self, request: Request) -> Request:
        """Accept a request that is to be submitted, and say how it will be answered.

        Whoever does not submit it, or gives it up, releases it. Raises `OverloadedError` or `UnreachableBudgetError`.
        """
        if self._admission is None:
            return request
        return self._admission.admit(request, self._stats.costs, self._clock())

    def release(self, id: str) -> None:
        """Count no longer on a request, if it was accepted and has not ended."""
        if self._admission is not None:
            self._admission.forget(id)

    def screen(self, size_bytes: int, budget: Budget, arrived: float) -> None:
        """Refuse a request that is not read yet, by its size and budget. Raises `OverloadedError`."""
        if self._admission is not None:
            self._admission.screen(size_bytes, budget, arrived, self._stats.costs, self._clock())

    def learn_size(self, tokens: int, size_bytes: int) -> None:
        """What a request of so many bytes held."""
        if self._admission is not None:
            self._admission.learn_size(tokens, size_bytes)

    def stats(self) -> EngineStats:
        """As of the last step."""
        return self._stats

    def admission_stats(self) -> AdmissionStats | None:
        """None if everything is admitted."""
        return None if self._admission is None else self._admission.stats(self._clock())

    def health(self) -> Health:
        began = self._step_began
        return Health(
            alive=self._thread.is_alive() and not self._failure,
            stuck_ms=0.0 if began is None else (self._clock() - began) * 1000,
            error=self._failure or self._refusing,
        )

    def close(self, drain_ms: float = 0.0, join_ms: float = 10_000.0) -> None:
        """Refuse new requests, let those under way finish for up to `drain_ms`, abort the rest, and end the thread.

        Blocks; on a server's loop call it through `asyncio.to_thread`. Raises `EngineError` if a step does not
        return within another `join_ms`.
        """
        self._refusing = self._refusing or "The engine is closed; it takes no more requests."
        if not self._thread.is_alive():
            return
        self._tell(Close(self._clock() + drain_ms / 1000))
        self._thread.join((drain_ms + join_ms) / 1000)
        if self._thread.is_alive():
            self._failure = f"A step has been running for {self.health().stuck_ms:.0f} ms; end the process."
            self._send(Stopped(self._failure))
            raise EngineError(f"The engine did not stop. {self._failure}")

    def _tell(self, message: Down | _Compiled) -> None:
        self._inbox.put(message)
        self._engine.interrupt()

    def _observe(self, update: Update) -> None:
        if self._admission is not None:
            self._admission.observe(update, self._clock())

    def _mailroom(self) -> _Mailroom:
        loop = asyncio.get_running_loop()
        mailroom = self._loops.get(loop)
        if mailroom is None:
            mailroom = _Mailroom(loop, self._observe, self.release)
            with self._loops_lock:
                self._loops[loop] = mailroom
        return mailroom

    # What follows runs on the engine's thread.

    def _main(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self._failure = f"The engine's thread died of {type(error).__name__}: {error}"
            self._refusing = self._failure
        self._step_began = None
        self._compiler.shutdown(wait=False, cancel_futures=True)
        self._send(Stopped(self._refusing))

    def _serve(self) -> None:
        close: Close | None = None
        while close is None or (self._has_work and self._clock() < close.until):
            patience = None if close is None else max(0.0, close.until - self._clock())
            for message in self._receive(wait=not self._engine.has_work, patience_s=patience):
                if isinstance(message, Close):
                    close = message
                else:
                    self._handle(message)
            self._step()
        self._engine.abort_all()
        self._step()

    @property
    def _has_work(self) -> bool:
        return self._engine.has_work or bool(self._compiling)

    def _receive(self, wait: bool, patience_s: float | None) -> list[Down | _Compiled]:
        """All messages that have come; with `wait`, at least one, if it comes within `patience_s`."""
        messages: list[Down | _Compiled] = []
        try:
            if wait:
                messages.append(self._inbox.get(timeout=patience_s))
            while True:
                messages.append(self._inbox.get_nowait())
        except Empty:
            return messages

    def _handle(self, message: Request | Abort | _Compiled) -> None:
        if isinstance(message, Abort):
            self._compiling.discard(message.id)
            self._engine.abort(message.id)
            return
        request = message.request if isinstance(message, _Compiled) else message
        try:
            if isinstance(message, _Compiled):
                self._add_compiled(message)
            elif message.grammar is not None and self._compile is not None:
                self._begin_compiling(message)
            else:
                self._engine.add(message)
        except VivaceError as error:
            self._send(Refusal(request.id, type(error).__name__, str(error)))

    def _begin_compiling(self, request: Request) -> None:
        if len(self._compiling) >= MAX_COMPILING:
            raise QueueFullError(f"{MAX_COMPILING} requests' grammars wait to be compiled already. Try again later.")
        self._compiling.add(request.id)
        self._compiler.submit(self._compile_request, request)

    def _add_compiled(self, message: _Compiled) -> None:
        if message.request.id not in self._compiling:
            return  # given up meanwhile
        self._compiling.discard(message.request.id)
        if message.error is not None:
            raise message.error
        self._engine.add(message.request)

    def _compile_request(self, request: Request) -> None:
        """Runs on the compiling thread."""
        assert self._compile is not None
        assert request.grammar is not None
        try:
            message = _Compiled(replace(request, constraint=self._compile(request.grammar)))
        except VivaceError as error:
            message = _Compiled(request, error)
        except Exception as error:
            message = _Compiled(request, StepFailedError(f"Compiling the grammar failed ({error!r})."))
        self._tell(message)

    def _step(self) -> None:
        event: StepEvent = []
        if self._engine.has_work:
            self._step_began = self._clock()
            event = self._engine.step()
            self._step_began = None
        self._stats = self._engine.stats()
        if event:
            self._send(event)

    def _send(self, message: Up) -> None:
        for loop, mailroom in tuple(self._loops.items()):
            if not mailroom.post(message):
                self._forget(loop, mailroom)

    def _forget(self, loop: asyncio.AbstractEventLoop, mailroom: _Mailroom) -> None:
        """A loop was closed with streams open: nobody will read them."""
        with self._loops_lock:
            self._loops.pop(loop, None)
        for id in mailroom.ids():
            self.release(id)
            self._inbox.put(Abort(id))


class _Mailroom:
    """The streams of one loop. `post` is for the engine's thread, everything else for the loop's."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, observe: Callable[[Update], None], forget: Callable[[str], None]
    ) -> None:
        """`observe` is told of every update as it arrives here, `forget` of requests that end without one."""
        self._loop = loop
        self._observe = observe
        self._forget = forget
        self._streams: dict[str, _Stream] = {}
        self._messages: deque[Up] = deque()
        self._scheduled = False

    def open(self, id: str) -> _Stream:
        if id in self._streams:
            raise RequestError(f"A request with the id {id!r} is under way already; give each its own id.")
        stream = self._streams[id] = _Stream()
        return stream

    def discard(self, id: str) -> None:
        self._streams.pop(id, None)

    def ids(self) -> tuple[str, ...]:
        return tuple(self._streams)

    def post(self, message: Up) -> bool:
        """Leave a message, and wake the loop unless it is being woken already; False if the loop is closed."""
        if not self._streams:
            return not self._loop.is_closed()
        self._messages.append(message)
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._distribute)
            except RuntimeError:
                return False
        return True

    def _distribute(self) -> None:
        self._scheduled = False
        while self._messages:
            message = self._messages.popleft()
            if isinstance(message, list):
                for update in message:
                    self._deliver(update)
            elif isinstance(message, Refusal):
                self._end(message.id, _rebuild(message))
            else:
                for id in self.ids():
                    self._end(id, EngineStoppedError(message.cause))

    def _deliver(self, update: Update) -> None:
        stream = self._streams.get(update.id)
        if stream is not None:  # None: another loop's
            self._observe(update)
            stream.put(update)
            if update.finish_reason is not None:
                del self._streams[update.id]

    def _end(self, id: str, error: Exception) -> None:
        stream = self._streams.pop(id, None)
        if stream is not None:
            self._forget(id)
            stream.end(error)


def _rebuild(refusal: Refusal) -> VivaceError:
    kind: type[VivaceError] = getattr(errors, refusal.kind, VivaceError)
    return kind(refusal.message)


class _Stream:
    """What has come for one request and is not read yet: at most one update, however slow the reader."""

    def __init__(self) -> None:
        self.finished = False
        """Everything was taken, or the end was raised."""
        self._update: Update | None = None
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def put(self, update: Update) -> None:
        held = self._update
        if held is not None:
            held.tokens.extend(update.tokens)
            scores = held.prompt_scores if held.prompt_scores is not None else update.prompt_scores
            logprobs = held.logprobs if held.logprobs is not None else update.logprobs
            if held.logprobs is not None and update.logprobs is not None:
                held.logprobs.extend(update.logprobs)
            update = update._replace(tokens=held.tokens, prompt_scores=scores, logprobs=logprobs)
        self._update = update
        self._news.set()

    def end(self, error: Exception) -> None:
        self._error = error
        self._news.set()

    async def take(self) -> Update:
        """Wait for the next update. Raises the error the stream ended with, once no update is left."""
        await self._news.wait()
        update, self._update = self._update, None
        if update is None:
            assert self._error is not None
            self.finished = True
            raise self._error
        self.finished = update.finish_reason is not None
        if self._error is None:
            self._news.clear()
        return update
