"""Whether an answer says what its passages say: checked by words, numbers and negations, without a model.

It does not understand: a paraphrase in other words may fail, and a false sentence in the passages' own words may pass.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from vivace.apps.support.index import Hit
from vivace.apps.support.language import Language, detect_language
from vivace.apps.support.words import HAN, content_words, fold, split_sentences, split_words

MIN_OVERLAP = 0.6
"""Share of a sentence's content words that must stand in the passages."""

MIN_TOGETHER, NEAR_WORDS = 0.5, 4
"""Share of a sentence's neighbouring content words that must stand near each other in one place of the passages, and
how far apart at most, in content words."""

RUN_WORDS, RUN_CHARACTERS, RUN_TIMES = 4, 8, 3
"""A run of so many words, or Chinese characters, so many times, is a loop."""

SAME_SUBJECT = 0.6
"""Share of a sentence's words that one sentence of a passage must hold to be about the same thing."""

_WORD = re.compile(rf"[^\W_{HAN}]+")
COURTESY = re.compile(
    r"thanks?|thank you|sorry|apolog|hello|hi\b|welcome|happy to help|glad to help|let me know|anything else|of course"
    r"|have a (?:nice|great|good)|i understand|certainly|sure\b|feel free|please note|hope (?:this|that) helps"
    r"|[您你]好|谢谢|感谢|抱歉|不客气|请随时|还有什么|希望.{0,6}帮助|当然|好的",
    re.IGNORECASE,
)


DECLINES = re.compile(
    r"\b(?:i|we) (?:do not|don['’]t|cannot|can['’]t) (?:know|say|tell|find|answer|help)"
    r"|\b(?:i am|i['’]m|we are) (?:not sure|unable)|\bno information\b"
    r"|不知道|不清楚|无法(?:回答|确定|提供)|不能回答|没有(?:相关|这方面的)?信息",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons` are empty where the answer is supported, else some of: `empty`, `declines` (it says that it cannot
    answer), `says_nothing`, `unfinished`, `repeats`, `language`, `beyond_passages`, `scattered` (its words stand in the
    passages, but not together), `number`, `contradiction`. `overlap` is the share of the answer's content words that
    stand in the passages."""

    supported: bool
    reasons: tuple[str, ...]
    overlap: float


@dataclass(frozen=True, slots=True)
class Citation:
    """One sentence of an answer, `answer[start:end]`, and the passage it rests on."""

    start: int
    end: int
    passage_id: int
    article_id: str
    version: int
    title: str
    heading: str
    overlap: float


def check_answer(answer: str, passages: Sequence[str], language: Language, finished: bool) -> Verdict:
    """Check an answer against the texts it was to be drawn from.

    `language` is the question's; `finished` says that the model ended by itself rather than at a limit.
    """
    text = _without_marks(answer)
    if not text.strip():
        return Verdict(False, ("empty",), 0.0)
    known = {word for passage in passages for word in split_words(passage)}
    statements = [sentence for sentence in split_sentences(text) if not _is_courtesy(sentence)]
    said = content_words(" ".join(statements))
    overlap = _share(said, known)
    places = _find_places(passages)
    checks = {
        "declines": DECLINES.search(text) is not None,
        "says_nothing": bool(statements) and len(said) < 2,
        "unfinished": not finished or not ends_whole(text),
        "repeats": repeats(text, passages),
        "language": not _is_in(text, language),
        "beyond_passages": any(_share(content_words(sentence), known) < MIN_OVERLAP for sentence in statements),
        "scattered": any(_is_scattered(sentence, places) for sentence in statements),
        "number": bool(numbers(" ".join(statements)) - {number for passage in passages for number in numbers(passage)}),
        "contradiction": any(_contradicts(sentence, passages) for sentence in statements),
    }
    reasons = tuple(reason for reason, failed in checks.items() if failed)
    return Verdict(not reasons, reasons, overlap)


def _find_places(passages: Sequence[str]) -> list[dict[str, list[int]]]:
    """Every two neighbouring sentences of the passages: where each content word stands in them."""
    places = []
    for passage in passages:
        sentences = split_sentences(passage)
        for first, second in zip_longest(sentences, sentences[1:], fillvalue=""):
            at: dict[str, list[int]] = {}
            for number, word in enumerate(content_words(_digits(f"{first} {second}"))):
                at.setdefault(word, []).append(number)
            places.append(at)
    return places


def _is_scattered(sentence: str, places: Sequence[dict[str, list[int]]]) -> bool:
    """Whether no one place of the passages has most of the sentence's words, and most of its neighbouring words near
    each other, of two numbers both: a sentence can be put together from words that say something else where they
    stand."""
    words = content_words(_digits(sentence))
    pairs = list(pairwise(words))
    return bool(pairs) and not any(
        _share(words, place.keys()) >= MIN_OVERLAP
        and sum(_are_near(place, *pair) for pair in pairs) >= MIN_TOGETHER * len(pairs)
        and all(_are_near(place, *pair) for pair in pairs if all(word[0].isdigit() for word in pair))
        for place in places
    )


def _are_near(place: dict[str, list[int]], first: str, second: str) -> bool:
    return any(abs(a - b) <= NEAR_WORDS for a in place.get(first, ()) for b in place.get(second, ()))


def cite(answer: str, hits: Sequence[Hit]) -> tuple[Citation, ...]:
    """For each sentence of an answer the passage that holds most of its words, if that is enough of them."""
    words = [set(split_words(f"{hit.title}\n{hit.heading}\n{hit.text}")) for hit in hits]
    citations = []
    at = 0
    for sentence in split_sentences(answer):
        start = answer.index(sentence, at)
        at = start + len(sentence)
        content = content_words(_without_marks(sentence))
        if not content or not hits or _is_courtesy(sentence):
            continue
        overlap, place = max((_share(content, known), -place) for place, known in enumerate(words))
        if overlap >= MIN_OVERLAP:
            hit = hits[-place]
            citations.append(
                Citation(start, at, hit.passage_id, hit.article_id, hit.version, hit.title, hit.heading, overlap)
            )
    return tuple(citations)


def _without_marks(answer: str) -> str:
    """Without citation marks such as [1] and the numbers of a list."""
    return re.sub(r"(?m)^\s*\d{1,2}[.)]\s+", "", re.sub(r"\[\d{1,2}\]", "", answer))


def _is_courtesy(sentence: str) -> bool:
    return COURTESY.search(sentence) is not None and len(content_words(sentence)) <= 6


def _share(words: Sequence[str], known: AbstractSet[str]) -> float:
    return sum(word in known for word in words) / len(words) if words else 1.0


def _is_in(text: str, language: Language) -> bool:
    """Whether an answer is in the question's language; of an unknown one nothing can be said."""
    return language == "other" or detect_language(text) in (language, "other")


def ends_whole(text: str) -> bool:
    """Whether the last sentence ends: with its mark, or as an item of a list."""
    last = text.rstrip().rstrip("\"'”’」』)]）*_")
    if last.endswith((".", "!", "?", "…", "。", "！", "？")):
        return True
    line = text.rstrip().rsplit("\n", 1)[-1]
    return (
        re.match(r"\s*(?:[-*•]|\d+[.)])\s+\S", line) is not None
        or re.search(r"(?:https?://|www\.)\S+$", line) is not None
    )


def repeats(text: str, passages: Sequence[str] = ()) -> bool:
    """Whether a sentence of more than three words comes twice, or a run of words `RUN_TIMES` times and more often than
    in any of the passages."""
    known = [_count_runs(passage) for passage in passages]
    sentences = Counter(" ".join(split_words(sentence)) for sentence in split_sentences(text))
    if any(count > 1 and len(sentence.split()) > 3 for sentence, count in sentences.items()):
        return True
    return any(
        count >= RUN_TIMES and count > max((runs[run] for runs in known), default=0)
        for run, count in _count_runs(text).items()
    )


def _count_runs(text: str) -> Counter[tuple[str, ...]]:
    words = _WORD.findall(fold(text))
    runs = [tuple(words[at : at + RUN_WORDS]) for at in range(len(words) - RUN_WORDS + 1)]
    characters = re.findall(rf"[{HAN}]", text)
    runs += [tuple(characters[at : at + RUN_CHARACTERS]) for at in range(len(characters) - RUN_CHARACTERS + 1)]
    return Counter(runs)


NUMBER_WORDS = {
    "zero": 0, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90, "hundred": 100, "thousand": 1000,
}  # fmt: skip
CHINESE_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"两": 2}
_DECIMAL = re.compile(r"\d+(?:\.\d+)?")
_NUMBER_WORD = re.compile(rf"\b({'|'.join(NUMBER_WORDS)})(?:[- ](one|{'|'.join(list(NUMBER_WORDS)[1:9])}))?\b")
_CHINESE_NUMBER = re.compile("[一二两三四五六七八九十百]+(?=[天日月年周个小时分钟元块折次件号岁公斤%])")


def numbers(text: str) -> set[str]:
    """Every number of a text in digits, whether written so, in English words or in Chinese ones."""
    text = fold(text)
    found = {_plain(float(number)) for number in _DECIMAL.findall(text)}
    for tens, ones in _NUMBER_WORD.findall(text):
        whole = NUMBER_WORDS[tens] + (NUMBER_WORDS.get(ones, 1) if ones and 20 <= NUMBER_WORDS[tens] <= 90 else 0)
        found.add(_plain(whole))
    return found | {_plain(_chinese_number(number)) for number in _CHINESE_NUMBER.findall(text)}


def _plain(number: float) -> str:
    return f"{number:.4f}".rstrip("0").rstrip(".")


def _chinese_number(text: str) -> int:
    total, digit = 0, 0
    for character in text:
        if character in "十百":
            total += (digit or 1) * (10 if character == "十" else 100)
            digit = 0
        else:
            digit = CHINESE_DIGITS[character]
    return total + digit


_NEGATION = re.compile(
    r"\b(?:not|no|never|none|cannot|without|neither|nor|unable|nothing|except)\b|n['’]t\b"
    r"|不|没|無|无法|未|勿|非(?!常)|禁止",
    re.IGNORECASE,
)
_NO_NEGATION = re.compile(r"不仅|不但|不错|不过|没问题|不久|无论|不论|not only|no matter|^\s*no[,.!]\s", re.IGNORECASE)


def _is_negative(sentence: str) -> bool:
    """Whether negations are odd in number: two cancel each other out."""
    return len(_NEGATION.findall(_NO_NEGATION.sub("", sentence))) % 2 == 1


def _contradicts(sentence: str, passages: Sequence[str]) -> bool:
    """Whether the passages' nearest sentence says the opposite, or has another number for the same thing."""
    words = {word for word in content_words(sentence) if not word[0].isdigit()} - NEGATIONS
    if len(words) < 2:
        return False
    compared = [
        (len(words & set(split_words(other))) / len(words), -len(split_words(other)), other)
        for passage in passages
        for other in split_sentences(passage)
    ]
    if not compared:
        return False
    share, _, nearest = max(compared)
    if share < SAME_SUBJECT:
        return False
    if _is_negative(sentence) != _is_negative(nearest):
        return not any(
            other_share >= share and _is_negative(other) == _is_negative(sentence) for other_share, _, other in compared
        )
    ours, theirs = _quantities(sentence), _quantities(nearest)
    return any(unit in theirs and not values & theirs[unit] for unit, values in ours.items())


NEGATIONS = frozenset(split_words("not no never none cannot can't don't doesn't won't isn't aren't without"))


def _quantities(sentence: str) -> dict[str, set[str]]:
    """Numbers by what they count: "within 30 days" is {"day": {"30"}}."""
    found: dict[str, set[str]] = {}
    for match in re.finditer(r"(\d+(?:\.\d+)?)\s*[-%]?\s*([a-z]+|[天日月年周元折次件])", fold(_digits(sentence))):
        found.setdefault("".join(split_words(match.group(2))), set()).add(_plain(float(match.group(1))))
    return found


def _digits(text: str) -> str:
    text = _NUMBER_WORD.sub(lambda match: next(iter(numbers(match.group()))), fold(text))
    return _CHINESE_NUMBER.sub(lambda match: _plain(_chinese_number(match.group())), text)
