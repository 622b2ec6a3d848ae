"""One answer in the making: the engine's tokens become text, calls and log-probabilities, and what they took.

Knows no route, no template and no API's way of writing an answer down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from vivace.budget import OnDeadline, Timeline
from vivace.engine.bridge import EngineThread
from vivace.engine.request import FinishReason, Request, Update
from vivace.errors import DeadlineError, EngineStoppedError, StepFailedError
from vivace.server.replies import Piece, ScoredToken, Usage, Whole, make_usage
from vivace.server.tools import ToolReader, ToolUse
from vivace.tokenizer import Tokenizer

TOKENS_AT_A_TIME = 32
"""Read, in under 50 µs, before the event loop may do something else; more may come at once when a reader was slow."""


class Answer:
    """The text of one request as it is generated, then how it ended.

    Close it, whatever happens: that frees the request in the engine.
    """

    def __init__(
        self,
        bridge: EngineThread,
        request: Request,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        tools: ToolUse | None = None,
    ) -> None:
        self.finish_reason: str | None = None
        """As the API has it; set with the last piece."""
        self.request = request
        self._bridge = bridge
        self._text = tokenizer.stream(stop)
        self._tools = ToolReader(tools) if tools is not None else None
        self._scorer = _Scorer(tokenizer) if request.sampling.logprobs >= 0 else None
        self._updates = bridge.submit(request)
        self._tokens = 0
        self._last: Update | None = None

    async def read(self) -> Piece:
        """What the engine's next update brings, which may be nothing. The one that sets `finish_reason` is the last.

        Tokens of its log-probabilities go up to one that completes a stop string; their text may be still to come.
        Raises `QueueFullError`, or `RequestError` for a grammar that cannot be held to, on the first read, and
        `DeadlineError`, `StepFailedError` or `EngineStoppedError` on any.
        """
        update = await self._next_update()
        self._tokens += len(update.tokens)
        tokens, before = self._without_stop_token(update), self._text.token_count
        text = await self._spell(tokens)
        if self._scorer is not None:
            self._scorer.add(tokens[: self._text.token_count - before], update)
        if update.finish_reason is not None:
            text += self._text.finish()
        elif self._text.stopped:
            self._bridge.abort(self.request.id)
        ended = self._text.stopped or update.finish_reason is not None
        piece = self._make_piece(text, ended)
        if ended:
            self.finish_reason = self._find_reason(update)
        return piece

    async def read_all(self) -> Whole:
        """All of it. Raises as `read` does."""
        whole = Whole(tokens=None if self._scorer is None else [])
        while self.finish_reason is None:
            whole.add(await self.read())
        whole.finish_reason = self.finish_reason
        return whole

    @property
    def over(self) -> bool:
        """The engine has let go of the request."""
        return self._last is not None

    @property
    def truncated(self) -> bool:
        """Its deadline ended it, as was asked for."""
        last = self._last
        return last is not None and last.finish_reason is FinishReason.DEADLINE and not self._text.stopped

    async def settle(self) -> tuple[int, int, Timeline]:
        """Tokens generated, tokens of the prompt found in the cache, and the times up to the last token."""
        while self._last is None:  # a stop string ended the text, and the engine has not let go yet
            await self._next_update(aborted=True)
        tokens = self._text.token_count if self._text.stopped else self._tokens
        return tokens, self._last.cached_tokens, replace(self._last.timeline or Timeline(), flush_ms=0.0)

    async def _spell(self, tokens: Sequence[int]) -> str:
        if len(tokens) <= TOKENS_AT_A_TIME:
            return self._text.push(tokens)
        texts = []
        for start in range(0, len(tokens), TOKENS_AT_A_TIME):
            texts.append(self._text.push(tokens[start : start + TOKENS_AT_A_TIME]))
            await asyncio.sleep(0)
        return "".join(texts)

    def _make_piece(self, text: str, ended: bool) -> Piece:
        scored = None if self._scorer is None else self._scorer.take()
        if self._tools is None:
            return Piece(text, (), scored)
        text, calls = self._tools.push(text)
        if ended:
            more, ending = self._tools.finish()
            text, calls = text + more, calls + ending
        return Piece(text, calls, scored)

    def _find_reason(self, update: Update) -> str:
        reason = FinishReason.STOP if self._text.stopped else update.finish_reason
        assert reason is not None
        if reason is FinishReason.DEADLINE:
            return FinishReason.LENGTH.value
        called = self._tools is not None and self._tools.called
        return "tool_calls" if called and reason is FinishReason.STOP else reason.value

    async def aclose(self) -> None:
        """Free the request, if it still runs."""
        await self._updates.aclose()
        self._bridge.release(self.request.id)

    async def _next_update(self, *, aborted: bool = False) -> Update:
        try:
            update = await anext(self._updates)
        except StopAsyncIteration:
            raise EngineStoppedError("The engine let go of the request. Send it again.") from None
        if update.finish_reason is FinishReason.ERROR:
            raise StepFailedError(f"{update.error or 'The engine failed.'} Send the request again.")
        if update.finish_reason is FinishReason.DEADLINE and not (aborted or self._may_truncate(update)):
            raise DeadlineError(
                f"The deadline came before the answer was whole ({self.request.budget}). Allow more time, ask for "
                "fewer tokens, or send on_deadline: truncate to get what there is."
            )
        if update.finish_reason is FinishReason.ABORT and not aborted:
            raise EngineStoppedError("The server ended the request before its answer was whole. Send it again.")
        if update.finish_reason is not None:
            self._last = update
        return update

    def _may_truncate(self, update: Update) -> bool:
        return self.request.on_deadline is OnDeadline.TRUNCATE and self._tokens + len(update.tokens) > 0

    def _without_stop_token(self, update: Update) -> list[int]:
        """A token that ends the answer is counted, and is not part of its text."""
        tokens = update.tokens
        stops = update.finish_reason is FinishReason.STOP and tokens
        return tokens[:-1] if stops and tokens[-1] in self.request.sampling.stop_token_ids else tokens


class _Scorer:
    """Tokens with their log-probabilities in, the same as text out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._spell = tokenizer.spell
        self._text = tokenizer.stream()
        self._length = 0
        self._scored: list[ScoredToken] = []

    def add(self, tokens: Sequence[int], update: Update) -> None:
        """`tokens` are the first of the update's."""
        for token, told in zip(tokens, update.logprobs or (), strict=False):
            likeliest = [(self._spell(other), value) for other, value in told.likeliest]
            self._scored.append(ScoredToken(self._spell(token), told.chosen, likeliest, self._length))
            self._length += len(self._text.push([token]))

    def take(self) -> list[ScoredToken]:
        scored, self._scored = self._scored, []
        return scored


class Answers:
    """The answers to one request: as many as it asked for, to each of its prompts.

    Close them, whatever happens.
    """

    def __init__(self, answers: Sequence[Answer], per_prompt: int = 1) -> None:
        """`answers` has `per_prompt` for the first prompt, then as many for the next one."""
        self._answers = answers
        self._per_prompt = per_prompt
        self._reading: dict[asyncio.Task[Piece], int] = {}
        self._unfinished = set(range(len(answers)))

    @property
    def finished(self) -> bool:
        return not self._unfinished

    @property
    def over(self) -> bool:
        """The engine has let go of all requests."""
        return all(answer.over for answer in self._answers)

    async def read(self) -> list[tuple[int, Piece, str | None]]:
        """What is new of some answers: which, what, and why it finished, if it did. Raises as an answer does."""
        if len(self._answers) == 1:
            return [self._note(0, await self._answers[0].read())]
        for index in self._unfinished.difference(self._reading.values()):
            self._reading[asyncio.ensure_future(self._answers[index].read())] = index
        done, _ = await asyncio.wait(self._reading, return_when=asyncio.FIRST_COMPLETED)
        return [self._note(self._reading.pop(task), task.result()) for task in done]

    async def read_all(self) -> list[Whole]:
        """All of them, in order. Raises as an answer does."""
        if len(self._answers) == 1:
            wholes = [await self._answers[0].read_all()]
        else:
            wholes = [Whole() for _ in self._answers]
            while self._unfinished:
                for index, piece, reason in await self.read():
                    wholes[index].add(piece)
                    wholes[index].finish_reason = reason or ""
        self._unfinished.clear()
        return wholes

    def _note(self, index: int, piece: Piece) -> tuple[int, Piece, str | None]:
        reason = self._answers[index].finish_reason
        if reason is not None:
            self._unfinished.discard(index)
        return index, piece, reason

    async def usage(self) -> Usage:
        """Tokens and times, once all is told. A prompt counts once. The times are those of the answer that took
        longest; what is left of the time is the flush."""
        settled = [await answer.settle() for answer in self._answers]
        firsts = range(0, len(settled), self._per_prompt)
        timeline = max((timeline for _, _, timeline in settled), key=lambda timeline: timeline.total_ms)
        elapsed_ms = 1000 * (time.monotonic() - self._answers[0].request.arrived)
        return make_usage(
            sum(len(self._answers[index].request.prompt) for index in firsts),
            sum(tokens for tokens, _, _ in settled),
            sum(settled[index][1] for index in firsts),
            replace(timeline, flush_ms=max(0.0, elapsed_ms - timeline.total_ms)),
            self._answers[0].request.budget,
            truncated=any(answer.truncated for answer in self._answers),
        )

    async def aclose(self) -> None:
        """Free the requests that still run."""
        for task in self._reading:
            task.cancel()
        if self._reading:
            await asyncio.gather(*self._reading, return_exceptions=True)
        for answer in self._answers:
            await answer.aclose()
