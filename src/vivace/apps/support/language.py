"""The language of one message: English, Chinese, or something else.

It knows scripts and the commonest words, and no model.
"""

from __future__ import annotations

import re
from typing import Literal

from vivace.apps.support.words import HAN

Language = Literal["en", "zh", "other"]

_HAN = re.compile(rf"[{HAN}]")
_KANA_OR_HANGUL = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9d\u1100-\u11ff\uac00-\ud7af]")
_LATIN_WORD = re.compile(r"[a-z\u00c0-\u024f]+(?:['’][a-z\u00c0-\u024f]+)*", re.IGNORECASE)

_ENGLISH_TEXT = """
    the and is are was were i you he she it we they my your our their this that these those of to in on for with
    from at by an be been have has had do does did can could will would should not don't can't didn't isn't how
    what when where why which who please thanks thank hello hi yes order refund return shipping delivery help
    need want but if there here about any out up still yet just im i'm i've it's
"""
ENGLISH = frozenset(_ENGLISH_TEXT.split())
OTHERS = {
    "es": "el la los las de que y en un una es por con para mi su no se lo como donde cuando pedido gracias hola quiero"
    " puedo está esta mis del al pero cuándo dónde cómo qué",
    "fr": "le la les de des et un une est que qui je vous nous mon ma ma mes pas ne pour dans avec sur où quand comment"
    " bonjour merci commande puis-je du au ce cette ai suis",
    "de": "der die das und ist ich sie wir nicht ein eine mein meine mit für auf zu wie wo wann kann hallo danke"
    " bestellung den dem es von bitte habe noch",
    "pt": "o os as de que e em um uma é por com para meu minha não se como onde quando pedido obrigado olá quero posso"
    " do da no na está",
    "it": "il lo gli di che e un una è per con mio mia non come dove quando ordine grazie ciao voglio posso del della"
    " sono ho questo",
    "nl": "de het een en is ik je wij niet mijn met voor op hoe waar wanneer kan hallo bedankt bestelling van dat zijn",
}
_OTHER_WORDS = {language: frozenset(words.split()) for language, words in OTHERS.items()}

LETTERS_A_WORD = 1.5
"""Chinese characters that say as much as one English word: Chinese words are one or two characters long."""


def detect_language(text: str) -> Language:
    """`zh` where Chinese outweighs Latin words, `en` for Latin words unless another language's commonest words
    outnumber the English ones, `other` for the rest: other scripts, Japanese, and messages without a letter.
    """
    if _KANA_OR_HANGUL.search(text):
        return "other"
    han = len(_HAN.findall(text))
    words = [word.lower().replace("’", "'") for word in _LATIN_WORD.findall(text)]
    letters = sum(character.isalpha() for character in text)
    if letters == 0 or 2 * (han + sum(map(len, words))) < letters:
        return "other"
    if han and han / LETTERS_A_WORD >= len(words):
        return "zh"
    return "en" if _is_english(words) else "other"


def _is_english(words: list[str]) -> bool:
    english = sum(word in ENGLISH for word in words)
    foreign = max(sum(word in common for word in words) for common in _OTHER_WORDS.values())
    accented = sum(not word.isascii() for word in words)
    return english >= foreign + (accented if foreign else 0)
