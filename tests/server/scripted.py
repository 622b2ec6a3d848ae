"""A runner that answers every prompt with the same script, as fast as it is let."""

from __future__ import annotations

import threading

from vivace.batch import Batch, Handle, Logprobs, Row, RunnerLimits, Sampling, StepResult, Want

END_OF_TURN = 258


class ScriptedRunner:
    """Samples the script's bytes one after the other, then the end of the turn, over and over.

    Each has a log-probability of -0.5, and the first ids of the vocabulary have -1, -2 and so on.

    With `hold_after(n)`, every step past the n-th sampled token waits for `let` or `open_gate`.
    """

    def __init__(self, script: str | bytes, context_length: int, vocab_size: int, slots: int) -> None:
        self.limits = RunnerLimits(slots, 4096, 64, context_length, vocab_size)
        self.script = (*(script.encode() if isinstance(script, str) else script), END_OF_TURN)
        self.failing = False
        self.interrupts = 0
        """One for each message to the engine."""
        self.batches: list[Batch] = []
        self._said: dict[int, int] = {}
        self._samplings: dict[int, Sampling] = {}
        self._gate: threading.Semaphore | None = None

    def hold_after(self, tokens: int) -> None:
        """Let only so many steps through that sample, until `let` or `open_gate`."""
        self._gate = threading.Semaphore(tokens)

    def let(self, tokens: int) -> None:
        assert self._gate is not None
        self._gate.release(tokens)

    def open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release(1_000_000)

    def launch(self, batch: Batch) -> StepResult:
        self.batches.append(batch)
        if self.failing:
            raise RuntimeError("the runner broke")
        gate = self._gate
        if gate is not None and any(row.want is Want.SAMPLE for row in batch.rows):
            gate.acquire()
        tokens = [self._compute(row) for row in batch.rows]
        logprobs = {i: self._report(row) for i, row in enumerate(batch.rows) if self._samplings[row.slot].logprobs >= 0}
        return StepResult(tokens, logprobs=logprobs)

    def collect(self, handle: Handle) -> StepResult:
        assert isinstance(handle, StepResult)
        return handle

    def interrupt(self) -> None:
        self.interrupts += 1

    def close(self) -> None:
        pass

    def _compute(self, row: Row) -> list[int]:
        if row.opens is not None:
            self._said[row.slot] = 0
            self._samplings[row.slot] = row.opens
        if row.want is not Want.SAMPLE:
            return []
        said = self._said[row.slot]
        self._said[row.slot] = said + 1
        return [self.script[said % len(self.script)]]

    def _report(self, row: Row) -> list[Logprobs]:
        if row.want is not Want.SAMPLE:
            return []
        return [Logprobs(-0.5, [(id, -1.0 - id) for id in range(self._samplings[row.slot].logprobs)])]
