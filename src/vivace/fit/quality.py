"""How much worse a variant predicts text than the model it is compared with: through the engine, as it is served.

Perplexity is of all tokens but each document's first. Where tokenizers differ, a variant's log-probabilities of the
same documents are divided by the reference's number of tokens: perplexity in the reference's tokens. Intervals are
paired, by bootstrap over documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vivace.errors import DataError
from vivace.evaluation.measures import Tally, find_figure
from vivace.evaluation.through_engine import EngineScorer
from vivace.fit.data import Document, encode_document
from vivace.fit.settings import EngineSettings
from vivace.models.model import open_model

MOST_TOKENS = 512
"""Of a document."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's log-probabilities, by document."""

    nats: tuple[float, ...]
    """Sums over tokens."""
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """A variant beside the reference."""

    perplexity: float
    base: float
    """The reference's."""
    loss: float
    """The rise, as a share."""
    low: float
    high: float
    """The 95% interval of the loss."""
    documents: int
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_documents(name: str, settings: EngineSettings, documents: Sequence[Document]) -> Scored:
    """Score every document with a model, served so. Raises a `ModelError`; `DataError` where nothing can be scored."""
    model = open_model(name)
    most = min(MOST_TOKENS, model.config.context_length)
    encoded = [encode_document(document, model.tokenizer, most) for document in documents]
    kept = [index for index, tokens in enumerate(encoded) if len(tokens) > 1]
    if not kept:
        raise DataError("No document has two tokens or more, so there is nothing to predict. Give longer texts.")
    scorer = EngineScorer(
        name,
        settings.quantize,
        settings.threads,
        group_size=settings.group_size,
        quantize_tables=settings.quantize_tables,
    )
    nats, counts = [0.0] * len(documents), [0] * len(documents)
    try:
        scores = scorer.score([encoded[index] for index in kept], predict=False)
        for index, found in zip(kept, scores, strict=True):
            nats[index] = float(found.log_probabilities.sum())
            counts[index] = len(found.log_probabilities)
    finally:
        scorer.close()
    return Scored(tuple(nats), tuple(counts))


def compare_scores(ours: Scored, base: Scored) -> Quality:
    """The rise of perplexity over the same documents."""
    counts = np.array(base.tokens, np.float64)
    tallies = [Tally(np.array(one.nats, np.float64), counts) for one in (ours, base)]
    figure = find_figure("perplexity", *tallies)
    assert figure.base is not None, "two were compared"
    assert figure.change is not None, "two were compared"
    low, high = figure.change_interval or (figure.change, figure.change)
    return Quality(figure.value, figure.base, figure.change, low, high, figure.documents, int(counts.sum()))
