"""An answer without a model: the sentences of a passage that fit the question best, word for word."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from vivace.apps.support.index import Hit
from vivace.apps.support.words import content_words, split_sentences, split_words

MIN_SCORE = 0.35
"""A hit that covers less of the question is no answer to it."""

MAX_CHARACTERS = 400


def answer_from(hits: Sequence[Hit], question: str) -> str:
    """The best sentence of the passages that fit best, with what follows it while there is room; "" where no passage covers
    enough of the question to be an answer.
    """
    asked = set(content_words(question))
    able = [hit for hit in hits if hit.score >= MIN_SCORE]
    if not asked or not able:
        return ""
    hit = max(able, key=lambda hit: (round(hit.score, 2), -hit.rank))
    sentences = split_sentences(hit.text)
    weights = _rarities(
        asked, [set(split_words(sentence)) for other in hits for sentence in split_sentences(other.text)]
    )
    values = [sum(weights[word] for word in asked & set(split_words(sentence))) for sentence in sentences]
    first = max(range(len(sentences)), key=lambda at: (values[at], -at))
    if values[first] == 0:
        first = 0
    return _take(sentences, first)


def _rarities(words: set[str], sentences: Sequence[set[str]]) -> dict[str, float]:
    counts = Counter(word for sentence in sentences for word in sentence & words)
    return {word: math.log(1 + len(sentences) / (1 + counts[word])) for word in words}


def _take(sentences: Sequence[str], first: int) -> str:
    """A sentence, and the ones after it while all are no longer than the limit."""
    taken = [sentences[first]]
    for sentence in sentences[first + 1 :]:
        if sum(map(len, taken)) + len(sentence) > MAX_CHARACTERS:
            break
        taken.append(sentence)
    return "\n".join(taken) if any(sentence.startswith("- ") for sentence in taken) else " ".join(taken)
