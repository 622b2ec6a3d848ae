"""How a message sounds: words of praise and complaint, turned by negation, raised by emphasis. English and Chinese.

It does not know sarcasm, and judges one message without the ones before it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from vivace.apps.support.language import Language
from vivace.apps.support.words import fold

Label = Literal["negative", "neutral", "positive"]


@dataclass(frozen=True, slots=True)
class Sentiment:
    """`score` from -1 (furious) to 1 (delighted); within 0.25 of nought is neutral."""

    label: Label
    score: float


NEUTRAL_WITHIN = 0.25

ENGLISH = {
    -3: "scam fraud thief thieves disgusting furious outrageous horrible atrocious appalling pathetic worst hate hated "
    "unacceptable disgrace disgraceful garbage rubbish crap lied liars lying robbed idiots",
    -2: "terrible awful ridiculous angry useless incompetent rude lousy joke frustrated frustrating disappointed "
    "disappointing disappointment ignored ignoring unhappy annoyed annoying upset fail failed failing poor bad worse "
    "horrid nonsense complaint complain complaining waste wasted sick unprofessional shocking nightmare mess stupid nobody",
    -1: "broken damaged wrong missing late delayed delay problem issue slow faulty defective cracked scratched torn lost "
    "never nothing confusing confused unfortunately difficult stuck waiting dirty stained leaking unable sadly sorry "
    "dead smashed incomplete expensive overcharged stolen again",
    1: "good nice fine happy pleased glad helpful quick fast easy works working solved sorted thanks thank thankyou ok "
    "okay cheers appreciate appreciated useful friendly resolved clear smooth kind like",
    2: "great lovely love loved perfect perfectly brilliant beautiful impressed excellent delighted superb best pleasure grateful "
    "thrilled wow recommend",
    3: "amazing awesome fantastic wonderful outstanding flawless incredible",
}
ENGLISH_PHRASES = {
    "still waiting": -2, "no reply": -2, "no response": -2, "no answer": -1.5, "no one answers": -2, "nobody answers": -2,
    "fed up": -3, "had enough": -3, "let down": -2, "rip off": -3, "ripped off": -3, "third time": -2, "second time": -1,
    "over and over": -2, "how many times": -2, "waste of time": -2, "waste of money": -2, "never again": -3, "not again": -2,
    "money back": -1.5, "doesn't work": -1.5, "does not work": -1.5, "not working": -1.5, "stopped working": -1.5, "fell apart": -1.5,
    "get it together": -2, "are you kidding": -2.5, "come on": -1, "what a joke": -3, "speak to a manager": -1.5,
    "report you": -2.5, "chargeback": -1.5, "trading standards": -2, "better business bureau": -2, "small claims": -2,
    "no thanks": 0, "no problem": 0.5, "no worries": 0.5, "no issue": 0.5, "no rush": 0.5, "not bad": 1, "can't complain": 1, "cannot complain": 1,
    "well done": 2, "good job": 2, "great job": 2, "thank you so much": 2, "thanks a lot": 1.5, "that helps": 1.5, "that helped": 1.5,
    "made my day": 3, "as good as new": 2, "works like a charm": 2, "sorted out": 1.5, "would like": 0, "i'd like": 0, "looks like": 0,
    "feel like": 0, "something like": 0, "best way": 0, "best regards": 0, "kind regards": 0, "kind of": 0, "what kind": 0,
    "good morning": 0, "good afternoon": 0, "good evening": 0, "wrong size": -0.5, "order again": 1, "buy again": 1.5,
}  # fmt: skip
CHINESE = {
    "骗子": -3, "诈骗": -3, "欺诈": -3, "坑人": -3, "垃圾": -3, "恶心": -3, "气死": -3, "愤怒": -3, "投诉": -2, "差评": -3, "受够": -3,
    "太差": -3, "很差": -2.5, "最差": -3, "差劲": -3, "糟糕": -2, "糟透": -3, "失望": -2, "生气": -2, "气愤": -2.5, "离谱": -2.5, "过分": -2,
    "忽悠": -2.5, "敷衍": -2, "没人理": -2.5, "没人回": -2, "不理我": -2, "不负责": -2.5, "浪费": -2, "再也不": -3, "第三次": -1.5, "无语": -2,
    "烦": -1.5, "讨厌": -2, "什么破": -3, "还没到": -1, "还没收到": -1.5, "一直没": -1.5, "等了": -1, "太慢": -2, "好慢": -2, "坏了": -1, "破损": -1,
    "碎了": -1, "裂": -1, "丢了": -1, "丢失": -1, "少发": -1, "发错": -1, "错了": -1, "不能用": -1.5, "用不了": -1.5, "没反应": -1, "问题": -0.3,
    "麻烦死": -2, "不好用": -2, "不满意": -2, "不满": -2, "不喜欢": -1.5, "不行": -1, "不好": -1.5, "难用": -2, "态度差": -3, "退钱": -1.5,
    "还我钱": -2.5, "到底": -1, "凭什么": -2, "怎么回事": -1, "假货": -3, "质量差": -2.5, "慢": -0.5,
    "谢谢": 1, "感谢": 1.5, "多谢": 1.5, "满意": 2, "喜欢": 2, "很好": 2, "真好": 2, "不错": 1.5, "挺好": 1.5, "太好了": 2.5, "太棒": 3, "很棒": 2.5,
    "完美": 2.5, "给力": 2, "好评": 2.5, "赞": 2, "开心": 2, "高兴": 2, "贴心": 2, "耐心": 1.5, "漂亮": 2, "好看": 1.5, "很快": 1.5, "解决了": 1.5,
    "推荐": 1.5, "惊喜": 2, "辛苦了": 1.5, "没问题": 0.5, "没关系": 0.5, "好用": 1.5, "麻烦你": 0, "麻烦您": 0, "有问题": -0.7,
    "一个问题": 0, "个问题": 0, "请问": 0, "不客气": 0.5,
}  # fmt: skip
_NEGATIONS_TEXT = """
    not no never isn't wasn't aren't don't doesn't didn't can't cannot couldn't won't wouldn't hardly without
    nor ain't
"""
NEGATIONS = frozenset(_NEGATIONS_TEXT.split())
CHINESE_NEGATION = re.compile("(?:不|没|没有|并不|不太|不怎么|不是很|不够)$")
RAISED = {
    "very": 1.4,
    "really": 1.3,
    "so": 1.2,
    "extremely": 1.6,
    "absolutely": 1.6,
    "completely": 1.5,
    "totally": 1.5,
    "too": 1.2,
}
RAISED |= {
    "utterly": 1.6,
    "such": 1.3,
    "incredibly": 1.6,
    "most": 1.3,
    "bit": 0.6,
    "slightly": 0.6,
    "little": 0.7,
    "quite": 1.1,
}
CHINESE_RAISED = re.compile("(?:非常|特别|十分|极其|太|超级|超|真的|真是|实在|完全|很)$")

_WORDS = {word: float(value) for value, words in ENGLISH.items() for word in words.split()}
_PHRASES = sorted(
    ((tuple(phrase.split()), value) for phrase, value in ENGLISH_PHRASES.items()), key=lambda pair: -len(pair[0])
)
_CHINESE = re.compile("|".join(sorted(CHINESE, key=len, reverse=True)))
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|[.!?,;]")
GRINS = {":)": 1, ":-)": 1, ":d": 1.5, "😊": 1.5, "😀": 1.5, "👍": 1.5, "❤": 2, "🙏": 1, "🎉": 2, ":(": -1, ":-(": -1, "😡": -3, "😠": -2.5, "😤": -2, "👎": -2, "😞": -1.5}  # fmt: skip


def judge_sentiment(text: str, language: Language) -> Sentiment:
    """Praise and complaint weighed against each other. A language without a list of words is neutral."""
    if language == "other":
        return Sentiment("neutral", 0.0)
    folded = fold(text).replace("’", "'")
    sum_of_weights = _weigh_chinese(folded) if language == "zh" else _weigh_english(folded)
    sum_of_weights += sum(weight * folded.count(grin) for grin, weight in GRINS.items())
    sum_of_weights *= _emphasis(text)
    score = sum_of_weights / math.sqrt(sum_of_weights**2 + 4)
    if abs(score) <= NEUTRAL_WITHIN:
        return Sentiment("neutral", score)
    return Sentiment("negative" if score < 0 else "positive", score)


def _emphasis(text: str) -> float:
    """Exclamation marks and shouting make either feeling stronger."""
    words = re.findall(r"[A-Za-z]{3,}", text)
    shouting = len(words) >= 3 and sum(word.isupper() for word in words) > len(words) / 2
    return 1 + 0.2 * min(3, text.count("!") + text.count("！")) + (0.4 if shouting else 0)


def _weigh_english(text: str) -> float:
    tokens = _TOKEN.findall(text)
    total, at = 0.0, 0
    while at < len(tokens):
        phrase = next((pair for pair in _PHRASES if tuple(tokens[at : at + len(pair[0])]) == pair[0]), None)
        weight = phrase[1] if phrase else _WORDS.get(tokens[at], 0.0)
        if weight:
            total += weight * _turn(tokens[max(0, at - 3) : at])
        at += len(phrase[0]) if phrase else 1
    return total


def _turn(before: list[str]) -> float:
    """What the words before one do to it: "not very good" is the opposite of good, and less than "bad"."""
    clause = before[max((at + 1 for at, token in enumerate(before) if token in ".!?,;"), default=0) :]
    factor = math.prod(RAISED.get(token, 1.0) for token in clause)
    return factor * (-0.7 if any(token in NEGATIONS for token in clause) else 1.0)


def _weigh_chinese(text: str) -> float:
    total = 0.0
    for match in _CHINESE.finditer(text):
        before, weight = text[max(0, match.start() - 3) : match.start()], CHINESE[match.group()]
        if CHINESE_NEGATION.search(before):
            weight *= -0.7
        total += weight * (1.4 if CHINESE_RAISED.search(before) else 1.0)
    return total
