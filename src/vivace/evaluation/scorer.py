"""What an evaluation asks of a model, however it is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from vivace.evaluation.measures import Floats, Prediction
from vivace.evaluation.tasks import Choices, Prompt


class Scores(NamedTuple):
    """Of one sequence of n + 1 tokens."""

    log_probabilities: Floats
    """[n]: of each token but the first, given those before; natural logarithms."""
    prediction: Prediction | None
    """[n] distributions over the tokens after each but the last, where asked for."""


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    tokens: tuple[int, ...]
    """The token that ends the reply, if any, left out."""
    ended: bool
    """By itself."""


class Scorer(Protocol):
    def score(self, sequences: Sequence[Sequence[int]], *, predict: bool) -> Iterator[Scores]:
        """In the order of the sequences, each of two tokens or more."""
        ...

    def choose(self, choices: Choices) -> Iterator[Floats]:
        """For each prompt, the log-probability of every label's tokens after it: [labels]."""
        ...

    def reply(self, prompts: Sequence[Prompt], max_tokens: int, stop: tuple[str, ...] = ()) -> list[Reply]:
        """Greedy answers, in the order of the prompts."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...
