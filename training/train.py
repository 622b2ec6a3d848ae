"""The loop: AdamW, warm-up and cosine, phases, checkpoints, and an early stop on the held-out loss."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader

from training import held_out
from training.config import Phase, RunConfig
from training.model import Decoder
from training.packing import Batch, Sampler, Steps, join
from training.sources import Source
from training.tokenizer import Document


@dataclass
class Progress:
    """How far a run is. All of it is in the checkpoint."""

    step: int = 0
    tokens: int = 0
    minutes: float = 0.0
    best_loss: float = math.inf
    since_best: int = 0


class Run:
    """One run in a directory: `checkpoint.pt` to go on from, `best.pt` to export, `run.jsonl` to read."""

    def __init__(
        self,
        config: RunConfig,
        model: Decoder,
        tokenizer: Tokenizer,
        sources: Mapping[str, Source],
        watched: Mapping[str, Sequence[Document]],
        directory: Path,
        *,
        seed: int = 0,
        minutes: float | None = None,
    ) -> None:
        """`minutes` ends the run, its schedule included, by the clock, if that comes before its last token."""
        self.config, self.model, self.directory, self.minutes = config, model, directory, minutes
        self.device = model.embed_tokens.weight.device
        self.steps = Steps([Sampler(sources, tokenizer, phase, seed) for phase in config.phases])
        self.watched = watched
        self.optimizer = make_optimizer(model, config)
        self.progress = Progress()
        self._began = time.monotonic()

    def train(self) -> None:
        """Go on from wherever the run is to its end."""
        self._began = time.monotonic() - 60 * self.progress.minutes
        if not self.progress.step:
            self._evaluate()
        drawn = iter(self._draw())
        while (share := self.share()) < 1 and self.progress.since_best < self.config.patience:
            index, sequences = next(drawn)
            self._step(index, sequences, share)
            if self.progress.step % self.config.evaluate_every == 0:
                self._evaluate()
            if self.progress.step % self.config.checkpoint_every == 0:
                self.save("checkpoint.pt")
        self._evaluate()
        self.save("checkpoint.pt")

    def share(self) -> float:
        """Of the run that is done, by tokens or by the clock, whichever is further."""
        self.progress.minutes = (time.monotonic() - self._began) / 60
        by_clock = 0.0 if self.minutes is None else self.progress.minutes / self.minutes
        return max(self.progress.tokens / self.config.tokens, by_clock)

    def _draw(self) -> DataLoader[tuple[int, list[list[Document]]]]:
        """The steps from here on, each with the index of its phase; workers are a few steps ahead."""
        workers = self.config.workers
        context = "fork" if workers else None
        return DataLoader(
            self.steps,
            batch_size=None,
            sampler=self._plan(),
            num_workers=workers,
            multiprocessing_context=context,
            collate_fn=tuple,  # as it is: the default makes tensors of numbers
        )

    def _plan(self) -> Iterator[tuple[int, int]]:
        for step in itertools.count(self.progress.step):
            yield step, find_phase(self.config.phases, self.share())

    def _step(self, index: int, sequences: Sequence[Sequence[Document]], share: float) -> None:
        rate = self.config.rate * find_rate(share, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batches = list(self._batches(sequences, self.config.phases[index].length))
        total = sum(float(batch.weights.sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            part = self._loss(batch) / total
            part.backward()
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += sum(len(batch.tokens) for batch in batches)
        if self.progress.step % 10 == 0:
            self._log(phase=index, loss=round(loss, 4), rate=round(rate, 7))

    def _batches(self, sequences: Sequence[Sequence[Document]], length: int) -> Iterator[Batch]:
        padded = None if self.device.type == "cpu" else length
        at_once = self.config.micro_tokens // length or len(sequences)
        for first in range(0, len(sequences), at_once):
            yield join(sequences[first : first + at_once], padded).to(self.device)

    def _loss(self, batch: Batch) -> Tensor:
        """Weighted sum over the tokens that carry loss; only they are projected to the vocabulary."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=multiplies_bfloat16(self.device)):
            chosen = batch.weights > 0
            logits = self.model.logits(self.model(batch.tokens, batch.layout)[chosen])
        losses = F.cross_entropy(logits.float(), batch.targets[chosen], reduction="none")
        return (losses * batch.weights[chosen]).sum()

    def _evaluate(self) -> None:
        scores = held_out.score(self.model, self.watched)
        loss = sum(score.loss for score in scores.values()) / len(scores)
        self.progress.since_best += 1
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.since_best = loss, 0
            torch.save(self.model.state_dict(), self.directory / "best.pt")
        parts = {name: [round(score.loss, 3), round(score.exact, 3)] for name, score in scores.items()}
        self._log(held_out=round(loss, 4), sets=parts)

    def save(self, name: str) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        partial = self.directory / f"{name}.partial"
        torch.save({**state, "progress": asdict(self.progress)}, partial)
        partial.replace(self.directory / name)

    def resume(self) -> None:
        state = torch.load(self.directory / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def _log(self, **values: Any) -> None:
        where = {"step": self.progress.step, "tokens": self.progress.tokens, "minutes": round(self.progress.minutes, 2)}
        line = json.dumps(where | values)
        print(line, flush=True)
        with (self.directory / "run.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: on a GPU, and on a CPU with instructions for it (2.4 times)."""
    return device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())


def make_optimizer(model: Decoder, config: RunConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019); norms do not decay."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() == 2]
    norms = [p for p in model.parameters() if p.requires_grad and p.dim() != 2]
    groups = [{"params": matrices}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, config.rate, config.betas, weight_decay=config.weight_decay, fused=True)


def find_phase(phases: Sequence[Phase], share: float) -> int:
    end = 0.0
    for index, phase in enumerate(phases):
        end += phase.share
        if share < end:
            return index
    return len(phases) - 1


def find_rate(share: float, config: RunConfig) -> float:
    """Of the peak: a straight rise, then a cosine to `final_rate`."""
    if share < config.warm_up:
        return (share + 1e-3) / (config.warm_up + 1e-3)
    cosine = (1 + math.cos(math.pi * min(1.0, (share - config.warm_up) / (1 - config.warm_up)))) / 2
    return config.final_rate + (1 - config.final_rate) * cosine
