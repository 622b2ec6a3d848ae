"""Documents into batches of equal sequences. A batch depends on seed and step alone, so a run can go on anywhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

from training.config import Phase
from training.generate.words import Draw
from training.model import Layout
from training.sources import Source
from training.tokenizer import Document, encode

LEAST_ROOM = 24
"""Tokens at a sequence's end not worth another document."""
MOST_WAITING = 12
"""Documents drawn to find one that fits; then the sequence stays shorter."""


@dataclass(frozen=True)
class Batch:
    tokens: Tensor
    """[tokens]"""
    targets: Tensor
    """The token that follows each, [tokens]."""
    weights: Tensor
    """Of predicting each target, [tokens]; 0 at a document's end."""
    layout: Layout

    def to(self, device: torch.device) -> Batch:
        layout = self.layout
        mask = None if layout.mask is None else layout.mask.to(device)
        moved = Layout(layout.positions.to(device), layout.bounds, mask)
        return Batch(self.tokens.to(device), self.targets.to(device), self.weights.to(device), moved)


class Sampler:
    """Draws documents in the shares of tokens that a phase asks for."""

    def __init__(self, sources: Mapping[str, Source], tokenizer: Tokenizer, phase: Phase, seed: int) -> None:
        self.sources, self.tokenizer, self.phase, self.seed = sources, tokenizer, phase, seed
        self.names = [name for name in phase.mix if name in sources]
        self.chances = [phase.mix[name] / self._mean_length(name) for name in self.names]

    def documents(self, step: int) -> Callable[[], Document]:
        draw = Draw(f"{self.seed} {step} {self.phase.length}")
        return lambda: self._document(draw.random.choices(self.names, self.chances)[0], draw)

    def _document(self, name: str, draw: Draw) -> Document:
        document = encode(self.tokenizer, self.sources[name](draw), self.phase.role_weights)
        return Document(document.tokens[: self.phase.length], document.weights[: self.phase.length])

    def _mean_length(self, name: str) -> float:
        draw = Draw(f"{self.seed} {name}")
        return sum(len(self._document(name, draw).tokens) for _ in range(40)) / 40


class Steps(Dataset[tuple[int, list[list[Document]]]]):
    """What a step computes, by its number and that of its phase, so that other processes can draw it ahead."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self.samplers = samplers

    def __getitem__(self, where: tuple[int, int]) -> tuple[int, list[list[Document]]]:
        step, index = where
        phase = self.samplers[index].phase
        return index, pack(self.samplers[index].documents(step), phase.sequences, phase.length)


def pack(next_document: Callable[[], Document], sequences: int, length: int) -> list[list[Document]]:
    """Fill `sequences` of at most `length` tokens with whole documents. What does not fit waits for the next one."""
    waiting: deque[Document] = deque()
    return [_fill(next_document, waiting, length) for _ in range(sequences)]


def _fill(next_document: Callable[[], Document], waiting: deque[Document], length: int) -> list[Document]:
    sequence: list[Document] = []
    room = length
    while room >= LEAST_ROOM:
        fits = next((document for document in waiting if len(document.tokens) <= room), None)
        if fits is not None:
            waiting.remove(fits)
            sequence.append(fits)
            room -= len(fits.tokens)
        elif len(waiting) < MOST_WAITING:
            waiting.append(next_document())
        else:
            break
    return sequence


def join(sequences: Sequence[Sequence[Document]], padded_length: int | None = None) -> Batch:
    """One row of tokens. With a `padded_length`, every sequence is padded to it and there is a mask."""
    tokens: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    positions: list[int] = []
    bounds: list[tuple[int, int]] = []
    for row, sequence in enumerate(sequences):
        for document in sequence:
            bounds.append((len(tokens), len(tokens) + len(document.tokens)))
            tokens += document.tokens
            targets += [*document.tokens[1:], 0]
            weights += [*document.weights[1:], 0.0]
            positions += range(len(document.tokens))
        if padded_length is not None and (missing := (row + 1) * padded_length - len(tokens)):
            bounds.append((len(tokens), len(tokens) + missing))
            tokens += [0] * missing
            targets += [0] * missing
            weights += [0.0] * missing
            positions += range(missing)
    mask = None if padded_length is None else _mask(bounds, len(sequences), padded_length)
    layout = Layout(torch.tensor(positions), bounds, mask)
    return Batch(torch.tensor(tokens), torch.tensor(targets), torch.tensor(weights), layout)


def _mask(bounds: list[tuple[int, int]], rows: int, length: int) -> Tensor:
    """[rows, 1, length, length]: the same document, and not later."""
    document = torch.repeat_interleave(torch.tensor([end - start for start, end in bounds])).view(rows, length)
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
