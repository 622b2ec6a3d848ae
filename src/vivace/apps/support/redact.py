"""Personal data taken out of a text before it is stored, logged or sent anywhere.

Covered: payment cards, IBANs, telephone numbers, e-mail addresses, addresses of machines. It does not know names,
street addresses, passwords or national identity numbers, which have no form that a rule could tell from other words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import phonenumbers

from vivace.apps.support.words import has_chinese

MIN_CARD_DIGITS, MAX_CARD_DIGITS = 13, 19
"""Of a primary account number (ISO/IEC 7812-1); shorter ones are store cards that take no payments."""

CARD_FIRST_DIGITS = "23456"
"""Travel, banking and merchandising: where payment networks issue."""

_IBAN_LENGTHS_TEXT = """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20
    EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30
    KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24
    PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29
    VA22 VG24 XK20 YE30
"""
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBAN_LENGTHS_TEXT.split()}
"""Characters of an IBAN by country: SWIFT's IBAN registry."""

INTERNAL_SUFFIXES = ("local", "localdomain", "internal", "intranet", "lan", "corp", "home", "private", "arpa", "onion")


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without the personal data that was found, and the kinds of it, each once, in the order looked for."""

    text: str
    kinds: tuple[str, ...]


Span = tuple[int, int]


def redact(text: str, region: str = "US") -> Redacted:
    """Replace what is personal by `[email]`, `[iban]`, `[card]`, `[address]`, `[phone]`.

    `region` (ISO 3166, two letters) says how telephone numbers without a country code are read; in a message with
    Chinese characters mainland China's are found too. Full-width digits and letters, and any Unicode space or dash
    between digits, are seen through. A text that was redacted once stays as it is.
    """
    kinds: dict[str, None] = {}
    while True:
        found = False
        for kind, find in FINDERS.items():
            spans = list(find(text.translate(_PLAIN), region))
            if spans:
                found = True
                kinds[kind] = None
                text = _replace(text, spans, f"[{kind}]")
        if not found:
            return Redacted(text, tuple(kinds))


def _replace(text: str, spans: list[Span], by: str) -> str:
    pieces, end = [], 0
    for start, stop in spans:
        pieces += [text[end:start], by]
        end = stop
    return "".join([*pieces, text[end:]])


def _plain_characters() -> dict[int, str]:
    """One character for one, so that places in the plain text are places in the original."""
    plain = {0xFF01 + at: chr(0x21 + at) for at in range(94)}
    plain |= {
        ord(space): " " for space in "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    }
    plain |= {ord(space): " " for space in "\u200b\u200c\u200d\u2060\u00ad\u202f\u205f\u3000\ufeff\t"}
    plain |= {ord(dash): "-" for dash in "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\u2043"}
    return plain | {0x3002: ".", 0xFF61: "."}


_PLAIN = _plain_characters()

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9\u00c0-\u024f][A-Za-z0-9\u00c0-\u024f._%+'-]{0,63}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}"
)


def _find_emails(text: str, region: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text):
        yield match.span()


_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[ -]?[0-9][ -]?[0-9]")
_LETTER_VALUES = {chr(ord("A") + at): str(10 + at) for at in range(26)}


def _find_ibans(text: str, region: str) -> Iterator[Span]:
    end = 0
    for match in _IBAN_START.finditer(text):
        length = IBAN_LENGTHS.get(match.group()[:2].upper())
        if length is None or match.start() < end:
            continue
        stop, characters = _take_alphanumerics(text, match.start(), length)
        if len(characters) == length and is_iban(characters):
            end = stop
            yield match.start(), stop


def _take_alphanumerics(text: str, start: int, count: int) -> tuple[int, str]:
    """The next `count` letters and digits, over at most one space or dash between two of them, and where they end."""
    taken: list[str] = []
    at, gap = start, 0
    while at < len(text) and len(taken) < count:
        character = text[at]
        if character.isascii() and character.isalnum():
            taken.append(character)
            gap = 0
        elif character in " -" and gap < 2:
            gap += 1
        else:
            break
        at += 1
    return at, "".join(taken)


def is_iban(characters: str) -> bool:
    """Whether letters and digits without spaces leave 1 when divided by 97 (ISO 13616, ISO 7064 MOD 97-10)."""
    turned = (characters[4:] + characters[:4]).upper()
    return int("".join(_LETTER_VALUES.get(character, character) for character in turned)) % 97 == 1


_DIGITS_APART = re.compile(r"[0-9]+(?:[ .-]{1,2}[0-9]+)*")
_DIGITS = re.compile(r"[0-9]+")


def _find_cards(text: str, region: str) -> Iterator[Span]:
    for run in _DIGITS_APART.finditer(text):
        groups = [(run.start() + group.start(), run.start() + group.end()) for group in _DIGITS.finditer(run.group())]
        at = 0
        while at < len(groups):
            stop = _card_end(text, groups, at)
            if stop is None:
                at += 1
                continue
            yield groups[at][0], groups[stop - 1][1]
            at = stop


def _card_end(text: str, groups: list[Span], first: int) -> int | None:
    """One past the last group of the longest card number that begins with the group `first`."""
    digits, found = "", None
    for at in range(first, len(groups)):
        digits += text[slice(*groups[at])]
        if len(digits) > MAX_CARD_DIGITS:
            break
        if len(digits) >= MIN_CARD_DIGITS and digits[0] in CARD_FIRST_DIGITS and has_luhn_digit(digits):
            found = at + 1
    return found


def has_luhn_digit(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(int(digit) for digit in digits[-1::-2]) + sum(doubled)) % 10 == 0


_IPV4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]{1,5}|/[0-9]{1,2})?(?![\w]|\.[0-9])", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]{0,15}(?:%[0-9A-Za-z]{1,15})?(?![\w:])", re.ASCII)
_MAC = re.compile(r"(?<![\w:-])[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}(?![\w:-])", re.ASCII)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(
    rf"(?<![\w.@-])(?:(?:{_LABEL}\.){{1,8}}(?:{'|'.join(INTERNAL_SUFFIXES)})|localhost)(?::[0-9]{{1,5}})?(?![\w-]|\.[A-Za-z0-9])"
    rf"|(?<![\w.@-])(?:{_LABEL}\.){{1,8}}[A-Za-z]{{2,24}}:[0-9]{{1,5}}(?![\w])"
    rf"|(?<![\w.@-])(?:[A-Za-z]+[.-]?)?[0-9]{{1,3}}(?:[.-][0-9]{{1,3}}){{3}}[.-](?:{_LABEL}\.){{1,8}}[A-Za-z]{{2,24}}(?![\w-])",
    re.ASCII | re.IGNORECASE,
)


def _find_addresses(text: str, region: str) -> Iterator[Span]:
    found = [match.span() for match in _HOST.finditer(text)]
    found += [match.span() for match in _MAC.finditer(text)]
    found += [match.span() for match in _IPV4.finditer(text) if _is_ipv4(match.group())]
    found += [match.span() for match in _IPV6.finditer(text) if _is_ipv6(match.group())]
    end = 0
    for start, stop in sorted(found, key=lambda span: (span[0], -span[1])):
        if start >= end:
            end = stop
            yield start, stop


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(re.split("[:/]", text)[0])
    except AddressValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    try:
        address = IPv6Address(text.rstrip("."))
    except AddressValueError:
        return False
    return int(address) != 0


def _find_phones(text: str, region: str) -> Iterator[Span]:
    regions = dict.fromkeys([region, *(["CN"] if has_chinese(text) else [])])
    found = [
        (match.start, match.end)
        for each in regions
        for match in phonenumbers.PhoneNumberMatcher(text, each, max_tries=1000)
    ]
    end = 0
    for start, stop in sorted(found, key=lambda span: (span[0], -span[1])):
        if start >= end:
            end = stop
            yield start, stop


FINDERS: dict[str, Callable[[str, str], Iterator[Span]]] = {
    "email": _find_emails, "iban": _find_ibans, "card": _find_cards, "address": _find_addresses, "phone": _find_phones,
}  # fmt: skip
"""What is looked for, in this order: each reads a plain text and a region."""
