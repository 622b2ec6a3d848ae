"""An answer without a model: the sentences of the best passage that fit the question best, word for word."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from vivace.apps.support.index import Hit
from vivace.apps.support.synonyms import SHOP, Term, Thesaurus
from vivace.apps.support.words import split_sentences, split_words

MIN_SCORE = 0.45
"""A best hit that covers less of the question is no answer to it."""

MAX_CHARACTERS = 400


def answer_from(hits: Sequence[Hit], question: str, thesaurus: Thesaurus = SHOP) -> str:
    """The sentence of the first hit that holds most of what is asked, and what follows it while there is room, as they
    stand in the passage; "" where the first hit covers too little of the question to be an answer.
    """
    terms = thesaurus.expand(question)
    if not terms or not hits or hits[0].score < MIN_SCORE:
        return ""
    spans = _find_sentences(hits[0].text)
    words = [set(split_words(hits[0].text[start:end])) for start, end in spans]
    weights = _rarities(terms, words)
    values = [
        sum(weight for term, weight in zip(terms, weights, strict=True) if _stands_in(term, own)) for own in words
    ]
    first = max(range(len(spans)), key=lambda at: (values[at], -at))
    start, end = spans[first]
    for _, later in spans[first + 1 :]:
        if later - start > MAX_CHARACTERS:
            break
        end = later
    return hits[0].text[start:end]


def _find_sentences(text: str) -> list[tuple[int, int]]:
    spans, at = [], 0
    for sentence in split_sentences(text):
        start = text.index(sentence, at)
        at = start + len(sentence)
        spans.append((start, at))
    return spans


def _rarities(terms: Sequence[Term], sentences: Sequence[set[str]]) -> list[float]:
    counts = Counter(term for sentence in sentences for term in terms if _stands_in(term, sentence))
    return [math.log(1 + len(sentences) / (1 + counts[term])) for term in terms]


def _stands_in(term: Term, words: set[str]) -> bool:
    return term.word in words or not words.isdisjoint(term.others)
