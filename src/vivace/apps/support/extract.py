"""An answer without a model: the sentences of the best passage that fit the question best, word for word."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from vivace.apps.support.index import Hit
from vivace.apps.support.synonyms import SHOP, Term, Thesaurus
from vivace.apps.support.words import split_sentences, split_words

MIN_SCORE = 0.45
"""A best hit that covers less of the question is no answer to it."""

MAX_CHARACTERS = 400


def answer_from(hits: Sequence[Hit], question: str, thesaurus: Thesaurus = SHOP) -> str:
    """Of the first hit the neighbouring sentences, as many as there is room for, that hold most of what is asked, as
    they stand in the passage: the earliest of such, as what comes first explains what follows. "" where the first hit
    covers too little of the question to be an answer.
    """
    terms = thesaurus.expand(question)
    if not terms or not hits or hits[0].score < MIN_SCORE:
        return ""
    text = hits[0].text
    spans = _find_sentences(text)
    held = [_terms_in(terms, set(split_words(text[start:end]))) for start, end in spans]
    weights = _rarities(terms, held)
    start, end = max(_windows(spans, held), key=lambda window: (sum(weights[at] for at in window[2]), -window[0]))[:2]
    return text[start:end]


def _windows(
    spans: Sequence[tuple[int, int]], held: Sequence[frozenset[int]]
) -> Iterator[tuple[int, int, frozenset[int]]]:
    """From each sentence on as far as there is room: begin, end, and the terms in it."""
    for first, (start, _) in enumerate(spans):
        last = first
        while last + 1 < len(spans) and spans[last + 1][1] - start <= MAX_CHARACTERS:
            last += 1
        yield start, spans[last][1], frozenset().union(*held[first : last + 1])


def _find_sentences(text: str) -> list[tuple[int, int]]:
    spans, at = [], 0
    for sentence in split_sentences(text):
        start = text.index(sentence, at)
        at = start + len(sentence)
        spans.append((start, at))
    return spans


def _rarities(terms: Sequence[Term], sentences: Sequence[frozenset[int]]) -> list[float]:
    """What each term says: more, the fewer sentences have it."""
    counts = Counter(term for sentence in sentences for term in sentence)
    return [term.weight * math.log(1 + len(sentences) / (1 + counts[at])) for at, term in enumerate(terms)]


def _terms_in(terms: Sequence[Term], words: set[str]) -> frozenset[int]:
    return frozenset(at for at, term in enumerate(terms) if term.word in words or term.has_synonym_in(words))
