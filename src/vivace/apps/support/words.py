"""Words as search, intents and checks see them: English in stems, Chinese in pairs of characters; and sentences.

It does not know what a text is for, and guesses nothing about its language: a text may mix both.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import snowballstemmer

_STOP_WORDS_TEXT = """
    a about all also am an and any are as at be because been before being but by can could did do does doing
    done for from get gets got had has have having he hello her here hers hey hi him his how i if in into is it
    its just know let like ll m may me might my of off ok on once or our out over please re s shall she should
    so some such t tell than thank thanks that the their them then there these they this those to too up us ve
    very want was we were what which whom why will with would yes you your yours
"""
STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())
"""Words that say little about what a text is about. Negations are not among them: they carry the answer."""

_WEAK_WORDS_TEXT = """
    accept actually after again allow already anyone anything ask available case check currently ever find give going
    happen help issue kind look make many mean much need new now number offer one possible problem provide put question
    really right say see show someone something sort still sure take thing today try type use visit way when where who
    wonder work yet
"""
WEAK_WORDS = frozenset(_WEAK_WORDS_TEXT.split())
"""Words that are in questions about anything: that a passage lacks one says little. (Not cut out, as they may be all
there is.)"""

_CHINESE_STOP_WORDS_TEXT = """
    怎么办 请问 你好 您好 谢谢 什么 怎么 怎样 如何 可以 能否 是否 我想 我要 我们 你们 他们 这个 那个 一下 多少 哪些 哪里
    为什么 的话 如果 因为 所以 还是 或者 以及 能不能 可不可以 是不是 有没有 知道 告诉 想要 需要 吗 呢 吧 啊 呀 嘛
    哦 的 了 着 过 是 在 和 与 及 也 都 就 还 又 很 把 被 给 对 从 到
    向 让 会 能 要 想 我 你 您 他 她 它 这 那 有 个 之 请 帮我 麻烦
"""
CHINESE_STOP_WORDS = tuple(_CHINESE_STOP_WORDS_TEXT.split())
"""Cut out of a Chinese question before it is split in pairs, the longest first."""

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
"""The ranges of Chinese characters, for use inside a character class."""

_TOKEN = re.compile(rf"[{HAN}]+|[^\W_{HAN}]+(?:['’][^\W_{HAN}]+)*")
_HAN_RUN = re.compile(rf"[{HAN}]+")
_CHINESE_STOP = re.compile("|".join(sorted(map(re.escape, set(CHINESE_STOP_WORDS)), key=len, reverse=True)))
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？；])[”’」』）]*\s*|\n+")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:e\.g|i\.e|a\.m|p\.m|etc|vs|no|mr|mrs|ms|dr|st|approx|incl|[a-z])\.$", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<=\d)[,，](?=\d{3}(?!\d))")

_STEMMER = snowballstemmer.stemmer("english")
LONGEST_WORD = 40


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of one lower-case word by Porter's second algorithm (Snowball); numbers and other scripts stay."""
    return str(_STEMMER.stemWord(word)) if word.isascii() and word.isalpha() else word


STOP_STEMS = frozenset(map(stem, STOP_WORDS)) | frozenset(CHINESE_STOP_WORDS)
"""Stop words as `split_words` gives them."""


def fold(text: str) -> str:
    """Compatibility forms made plain (full-width letters and digits), lower case, thousands without commas."""
    return _NUMBER.sub("", unicodedata.normalize("NFKC", text).lower())


def has_chinese(text: str) -> bool:
    return _HAN_RUN.search(text) is not None


def find_chinese(text: str) -> list[str]:
    """The runs of Chinese characters of a text."""
    return _HAN_RUN.findall(text)


def split_words(text: str) -> list[str]:
    """Every word of a text in order: stems, numbers, and Chinese characters with the overlapping pairs they make.
    Stop words are kept.
    """
    words: list[str] = []
    for token in _TOKEN.findall(fold(text)):
        if _HAN_RUN.match(token):
            words += pairs(token)
        else:
            words.append(stem(re.sub(r"['’](?:s|ll|re|ve|d|m)$", "", token)[:LONGEST_WORD]))
    return words


def pairs(run: str) -> list[str]:
    """Each character of a run of Chinese, and with the next: 退货单 is 退, 退货, 货, 货单, 单."""
    return [run[at : at + length] for at in range(len(run)) for length in (1, 2) if at + length <= len(run)]


def content_words(text: str) -> list[str]:
    """As `split_words`, without words that say little: what a question is about."""
    words: list[str] = []
    for token in _TOKEN.findall(fold(text)):
        if _HAN_RUN.match(token):
            words += [pair for run in _CHINESE_STOP.split(token) if run for pair in pairs(run)]
            continue
        base = re.sub(r"['’](?:s|ll|re|ve|d|m)$", "", token)[:LONGEST_WORD]
        if base not in STOP_WORDS:
            words.append(stem(base))
    return words


def split_sentences(text: str) -> list[str]:
    """Sentences, list items and lines, stripped; none is empty. "e.g.", "a.m." and single letters do not end one."""
    sentences: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if "\n" not in match.group() and _ABBREVIATION.search(text[max(start, match.start() - 8) : match.start()]):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]
