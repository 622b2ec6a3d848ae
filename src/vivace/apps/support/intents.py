"""What a customer wants, learned from the operator's own examples: TF-IDF of characters, words and the
trade's synonyms, logistic regression over them.

"Unknown" is an answer. It does not know what is done about an intent.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from vivace.apps.support.synonyms import SHOP
from vivace.apps.support.words import fold, split_words
from vivace.errors import DataError

Floats = npt.NDArray[np.float64]

WORDING = slice(0, 2)
"""The vectorizers of characters and of words, which likeness is measured in; the third sees concepts."""

ANCHOR = "order"
"""Has a word and a concept, so that no vocabulary is empty."""

FEW_EXAMPLES = 2_000
"""Up to here every example is held out once, in turns; above, one turn says enough."""

MAX_CHARACTERS = 2_000
"""Of a message that are read; what a customer wants stands in them."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a customer wrote, and what was meant; None: none of the operator's intents."""

    text: str
    label: str | None


@dataclass(frozen=True, slots=True)
class IntentSettings:
    """How intents are learned. Raises `DataError` when a value is out of its range."""

    held_out: float = 0.2
    """Share of each intent's examples, and of the intents, set aside to choose threshold and margin on."""
    known_weight: float = 0.6
    """What a known question put right is worth, beside an unknown one told as such: from 0 to 1."""
    inverse_penalty: float = 10.0
    """C of the logistic regression."""
    max_features: int = 60_000
    """Of characters, and of words."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out <= 0.5:
            raise DataError(f"held_out is a share above 0 and at most 0.5, not {self.held_out}")
        if not 0 < self.known_weight < 1:
            raise DataError(f"known_weight lies between 0 and 1, not at {self.known_weight}")
        if self.inverse_penalty <= 0 or self.max_features < 1:
            raise DataError("inverse_penalty and max_features are above 0")


@dataclass(frozen=True, slots=True)
class Intent:
    """`label` is None where the question is unlike every intent. `score`, from 0 to 1, is the geometric mean of the
    likeliest intent's probability and of the likeness to its nearest example; `margin` is the distance of the two best
    probabilities."""

    label: str | None
    score: float
    margin: float


class IntentModel:
    """Reads texts; holds no text but the examples' features. Safe to share between threads, as nothing changes."""

    def __init__(self, classifier: _Classifier, threshold: float, margin: float) -> None:
        self.labels: tuple[str, ...] = classifier.labels
        self.threshold = threshold
        self.margin = margin
        self._classifier = classifier

    def classify(self, text: str) -> Intent:
        """The intent of one message, or unknown. An empty message is unknown."""
        return self.classify_all([text])[0]

    def classify_all(self, texts: Sequence[str]) -> list[Intent]:
        """As `classify`, many at once."""
        if not texts:
            return []
        best, scores, margins = self._classifier.judge(texts)
        return [
            Intent(
                self.labels[at] if score >= self.threshold and margin >= self.margin else None,
                float(score),
                float(margin),
            )
            for at, score, margin in zip(best, scores, margins, strict=True)
        ]

    def best_labels(self, texts: Sequence[str]) -> list[str]:
        """The likeliest intent of each text, however unlikely."""
        return [self.labels[at] for at in self._classifier.judge(texts)[0]] if texts else []


def train_intents(examples: Sequence[Example], settings: IntentSettings | None = None) -> IntentModel:
    """A model of the examples' intents.

    Threshold and margin are chosen on questions that a first model has not seen: some of each intent's own, and as
    unknown ones those of intents that it was not taught, beside the examples whose label is None. The model that
    answers is then taught all of them. Raises `DataError` for fewer than two intents or an intent of one example.
    """
    settings = settings or IntentSettings()
    known = list(dict.fromkeys(example for example in examples if example.label is not None and example.text.strip()))
    unknown = list(dict.fromkeys(example for example in examples if example.label is None and example.text.strip()))
    _check_examples(known)
    threshold, margin = _choose_rejection(known, unknown, settings)
    return IntentModel(_Classifier(known, settings), threshold, margin)


def _check_examples(known: Sequence[Example]) -> None:
    counts: dict[str, int] = defaultdict(int)
    for example in known:
        counts[str(example.label)] += 1
    if len(counts) < 2:
        raise DataError(f"{len(counts)} intent with examples: give two or more, or there is nothing to tell apart")
    lonely = [label for label, count in counts.items() if count < 2]
    if lonely:
        raise DataError(f"the intent {lonely[0]!r} has one example: give at least two, better twelve")


class _Classifier:
    """Features and a logistic regression over them."""

    def __init__(self, examples: Sequence[Example], settings: IntentSettings) -> None:
        self._vectorizers = [
            TfidfVectorizer(
                preprocessor=_prepare, analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True,
                max_features=settings.max_features, dtype=np.float32,
            ),
            TfidfVectorizer(
                analyzer=_words_and_pairs, sublinear_tf=True, max_features=settings.max_features, dtype=np.float32
            ),
            TfidfVectorizer(analyzer=_concepts, dtype=np.float32),
        ]  # fmt: skip
        texts = [example.text for example in examples]
        for vectorizer in self._vectorizers:
            vectorizer.fit([*texts, ANCHOR])
        self._regression = LogisticRegression(C=settings.inverse_penalty, max_iter=1000, tol=1e-3)
        self._regression.fit(self._transform(texts), [example.label for example in examples])
        self.labels = tuple(str(label) for label in self._regression.classes_)
        places = {label: at for at, label in enumerate(self.labels)}
        wording = self._transform(texts, WORDING)
        of_label: list[list[int]] = [[] for _ in self.labels]
        for at, example in enumerate(examples):
            of_label[places[str(example.label)]].append(at)
        self._wording = [wording[rows] for rows in of_label]

    def _transform(self, texts: Sequence[str], which: slice = slice(None)) -> Any:
        """[texts, features]"""
        return sparse.hstack([vectorizer.transform(texts) for vectorizer in self._vectorizers[which]]).tocsr()

    def judge(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
        """Of each text: the best label's place, its score and its margin."""
        features = self._transform(texts)
        probabilities = self._regression.predict_proba(features)
        second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
        best = probabilities.argmax(axis=1)
        likeness = self._liken(features[:, : self._wording[0].shape[1]], best)
        return best, np.sqrt(first * likeness.clip(0, 1)), first - second

    def _liken(self, wording: Any, best: npt.NDArray[np.int64]) -> Floats:
        """The cosine of each text with the nearest example of its best label, over characters and words."""
        nearest = np.zeros(len(best))
        for label in np.unique(best):
            own = np.flatnonzero(best == label)
            nearest[own] = (self._wording[label] @ wording[own].T).max(axis=0).toarray().ravel() / 2
        return nearest


def _prepare(text: str) -> str:
    return fold(text[:MAX_CHARACTERS])


def _words_and_pairs(text: str) -> list[str]:
    words = split_words(text[:MAX_CHARACTERS])
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _concepts(text: str) -> list[str]:
    return SHOP.concepts(text[:MAX_CHARACTERS])


def _choose_rejection(known: list[Example], unknown: list[Example], settings: IntentSettings) -> tuple[float, float]:
    """Threshold and margin for which most held-out known questions are put right and most unknown ones rejected."""
    parts = round(1 / settings.held_out)
    rounds = parts if len(known) <= FEW_EXAMPLES else 1
    judged = [_judge_held_out(known, unknown, settings, parts, turn) for turn in range(rounds)]
    truth, best, scores, margins = (np.concatenate(columns) for columns in zip(*judged, strict=True))
    return _best_bounds(truth, best, scores, margins, settings.known_weight)


def _judge_held_out(
    known: Sequence[Example], unknown: Sequence[Example], settings: IntentSettings, parts: int, turn: int
) -> tuple[Any, Any, Floats, Floats]:
    """What a model says of every `parts`th example, and of every `parts`th intent that it was not taught: the right
    label's place or -1, the best label's, scores and margins."""
    chance = random.Random(settings.seed)
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(known, key=lambda example: (str(example.label), example.text)):
        by_label[str(example.label)].append(example)
    labels = sorted(by_label)
    chance.shuffle(labels)
    left_out = set(labels[turn::parts]) if len(labels) - len(labels[turn::parts]) >= 2 else set()
    taught: list[Example] = []
    asked = list(unknown)
    for label in labels:
        own = by_label[label]
        chance.shuffle(own)
        aside = own[turn::parts] if len(own) > parts else own[:1]
        asked += [Example(example.text, None if label in left_out else label) for example in aside]
        taught += [example for example in own if label not in left_out and example not in aside]
    classifier = _Classifier(taught, settings)
    best, scores, margins = classifier.judge([example.text for example in asked])
    places = {label: at for at, label in enumerate(classifier.labels)}
    truth = [places[example.label] if example.label is not None else -1 for example in asked]
    return np.array(truth), best, scores, margins


def _best_bounds(truth: Any, best: Any, scores: Floats, margins: Floats, known_weight: float) -> tuple[float, float]:
    """The pair of bounds with the most weight of right decisions, over a grid of the scores that occur."""
    is_known, is_right = truth >= 0, truth == best
    weights = np.where(is_known, known_weight / max(1, is_known.sum()), (1 - known_weight) / max(1, (~is_known).sum()))
    found = (-1.0, 0.0, 0.0)
    for threshold in np.unique(np.quantile(scores, np.linspace(0, 1, 101))):
        for margin in (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
            accepted = (scores >= threshold) & (margins >= margin)
            value = float(weights[np.where(is_known, accepted & is_right, ~accepted)].sum())
            if value > found[0] + 1e-12:
                found = (value, float(threshold), margin)
    return found[1], found[2]
