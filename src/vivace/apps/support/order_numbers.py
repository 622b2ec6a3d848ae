"""Orders that a question names by their numbers, and what is said of them: by rule, as a status must not be guessed.

Pure functions; an order that is not among the asker's own is never said to exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vivace.apps.support.personal import OrderFact, Personal
from vivace.apps.support.settings import LocalText

MAX_NUMBERS = 3

_LETTERED = r"[A-Za-z]{1,6}(?:-\d{3,12}|\d{4,12})"
_BEFORE = r"(?:\border|\bpurchase|订单|单号)(?:[\s:：#]|\b(?:number|no|nr|id|is|was)\b\.?|号码?|是|为)*"
_AFTER_ORDER = re.compile(rf"{_BEFORE}({_LETTERED}|\d{{5,12}})(?![\w-])", re.IGNORECASE | re.ASCII)
_MARKED = re.compile(r"#\s?(\d{4,12})(?![\w-])", re.ASCII)
_ANYWHERE = re.compile(rf"(?<![\w$€£¥.,-])({_LETTERED}|\d{{5,12}})(?![\w%-]|[.,]\d)", re.ASCII)

NOT_SEEN: Mapping[str, LocalText] = {
    "open": LocalText(
        "I cannot see an order {number} in your account. Please check the number, or ask for a person who looks it up.",
        "在您的账户里找不到订单 {number}。请核对订单号，或转人工客服查询。",
    ),
    "guest": LocalText(
        "I cannot see an order {number}, as you are not signed in. Sign in with the account that it was placed with, or"
        " ask for a person who looks it up.",
        "您还没有登录，我看不到订单 {number}。请用下单的账户登录，或转人工客服查询。",
    ),
    "customer": LocalText(
        "I may not look up order {number}: replies about your orders are switched off in your account. Switch them on"
        " in the menu, or ask for a person who looks it up.",
        "我不能查询订单 {number}：您的账户没有开启个性化回复。请在菜单中开启，或转人工客服查询。",
    ),
    "shop": LocalText(
        "I cannot look up order {number} in this chat. Ask for a person who can.",
        "我无法在这里查询订单 {number}，请转人工客服查询。",
    ),
}
"""By why an order is not seen (`Personal.access`)."""


def find_order_numbers(text: str, *, about_orders: bool) -> list[str]:
    """The numbers of orders in a text, as they are written, at most `MAX_NUMBERS`. In a question known to be
    `about_orders` any long number is one, else what follows "order" or "#"."""
    patterns = [_AFTER_ORDER, _MARKED, *([_ANYWHERE] if about_orders else [])]
    found = sorted((match.start(1), match.group(1)) for pattern in patterns for match in pattern.finditer(text))
    return list(dict.fromkeys(number for _, number in found))[:MAX_NUMBERS]


def match_order(personal: Personal, number: str) -> OrderFact | None:
    """The asker's own order of that number; its letters may be left out."""
    asked = _plain(number)
    for order in personal.orders:
        known = _plain(order.number)
        if asked == known or (asked.isdigit() and asked == "".join(filter(str.isdigit, known))):
            return order
    return None


def say_not_seen(personal: Personal, number: str, language: str) -> str:
    return NOT_SEEN[personal.access].choose(language).format(number=number)


def _plain(number: str) -> str:
    return "".join(filter(str.isalnum, number)).upper()
