"""Short instructions whose result can be computed, and a few definitions."""

from __future__ import annotations

from training.conversation import Conversation, converse
from training.generate.small_talk import roughen
from training.generate.words import COLOURS, DAYS, FIRST_NAMES, MONTHS, THINGS, TOWNS, Draw

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DEFINITIONS = {
    "a refund": "A refund is money that a shop pays back to a customer.",
    "a warranty": "A warranty is a promise to repair or replace a product for some time.",
    "an invoice": "An invoice is a bill that lists what was bought and what must be paid.",
    "a discount": "A discount is an amount taken off the usual price.",
    "a receipt": "A receipt is a paper or message that shows what you paid.",
    "a subscription": "A subscription is an order for something that comes again and again, often every month.",
    "a password": "A password is a secret word that lets you into your account.",
    "a tracking number": "A tracking number lets you see where your parcel is.",
    "a voucher": "A voucher is a code or paper that lowers the price or pays for something.",
    "a customer": "A customer is a person who buys something.",
    "a token": "A token is a piece of text, about a word or a part of one, that a language model reads or writes.",
    "latency": "Latency is the time that you wait for an answer.",
    "a language model": "A language model is a program that predicts the next piece of a text.",
    "a server": "A server is a program or computer that answers requests from others.",
    "a dog": "A dog is an animal that people keep as a pet.",
    "a river": "A river is water that flows to the sea.",
    "a library": "A library is a place where you can borrow books.",
    "bread": "Bread is a food baked from flour and water.",
    "the sun": "The sun is the star that the earth goes round.",
    "rain": "Rain is water that falls from the clouds.",
    "a bicycle": "A bicycle is a vehicle with two wheels that you ride by pushing pedals.",
    "a doctor": "A doctor is a person who treats the sick.",
}
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "open": "closed", "up": "down", "old": "new", "happy": "sad", "cheap": "expensive",
    "early": "late", "full": "empty", "light": "dark", "hard": "soft", "long": "short", "good": "bad", "rich": "poor", "wet": "dry",
}  # fmt: skip
SETS = {
    "colours": COLOURS,
    "days of the week": DAYS,
    "months": MONTHS,
    "names": FIRST_NAMES,
    "cities": TOWNS,
    "products": THINGS,
}


def write_instruction(draw: Draw) -> Conversation:
    tasks = [_define, _define, _list, _listing, _count, _opposite, _upper, _letter, _sum, _translate, _first, _longest]
    turns = [draw.random.choice(tasks)(draw) for _ in range(draw.random.choice([1, 1, 2, 3]))]
    return converse(
        "instructions",
        [(roughen(draw, said) if draw.chance(0.3) and ":" not in said else said, answered) for said, answered in turns],
    )


def _items(draw: Draw, low: int, high: int) -> list[str]:
    return draw.random.sample(draw.random.choice([COLOURS, FIRST_NAMES, TOWNS, THINGS]), draw.random.randint(low, high))


def _define(draw: Draw) -> tuple[str, str]:
    thing = draw.choice(list(DEFINITIONS))
    asked = draw.choice(["What is {0}?", "Explain what {0} is.", "Define {0}.", "what's {0}", "Tell me what {0} is."])
    return asked.format(thing), DEFINITIONS[thing]


def _list(draw: Draw) -> tuple[str, str]:
    items = _items(draw, 2, 5)
    asked = draw.choice(
        ["Make a list of {0}.", "List these: {0}", "Write as a list: {0}", "Turn this into a list: {0}"]
    )
    return asked.format(", ".join(items)), "\n".join(f"- {item}" for item in items)


def _listing(draw: Draw) -> tuple[str, str]:
    kind = draw.choice(list(SETS))
    count = draw.random.randint(2, 5)
    asked = draw.choice(["Name {0} {1}.", "List {0} {1}.", "Give me {0} {1}.", "Tell me {0} {1}."])
    return asked.format(NUMBERS[count - 1], kind), ", ".join(SETS[kind][:count]) + "."


def _count(draw: Draw) -> tuple[str, str]:
    last = draw.random.randint(2, 10)
    asked = draw.choice(["Count to {0}.", "Can you count to {0}?", "Count from one to {0}."])
    return asked.format(NUMBERS[last - 1]), ", ".join(str(number) for number in range(1, last + 1))


def _opposite(draw: Draw) -> tuple[str, str]:
    word = draw.choice(list(OPPOSITES))
    return draw.choice(["What is the opposite of {0}?", "Give me the opposite of {0}.", "opposite of {0}"]).format(
        word
    ), OPPOSITES[word].capitalize() + "."


def _upper(draw: Draw) -> tuple[str, str]:
    word = draw.choice(COLOURS + THINGS[:20])
    return draw.choice(["Write {0} in capital letters.", "Uppercase: {0}", "Put {0} in capitals."]).format(
        word
    ), word.upper()


def _letter(draw: Draw) -> tuple[str, str]:
    word = draw.choice(COLOURS + THINGS)
    return draw.choice(["What is the first letter of {0}?", "Which letter does {0} begin with?"]).format(word), word[
        0
    ].upper()


def _sum(draw: Draw) -> tuple[str, str]:
    a, b = draw.random.randint(1, 9), draw.random.randint(1, 9)
    asked = draw.choice(["What is {0} plus {1}?", "{0} + {1}", "How much is {0} + {1}?", "Add {0} and {1}."])
    return asked.format(a, b), f"{a} + {b} = {a + b}"


def _translate(draw: Draw) -> tuple[str, str]:
    language = draw.choice(["Spanish", "French", "German", "Italian", "Chinese", "Russian", "Portuguese"])
    asked = draw.choice(
        ["Translate this into {0}: {1}", "How do you say {1} in {0}?", "What is {1} in {0}?", "Translate {1} to {0}."]
    )
    return asked.format(language, draw.choice(THINGS + COLOURS)), "I can't translate; I speak English only."


def _first(draw: Draw) -> tuple[str, str]:
    items = _items(draw, 2, 5)
    place = draw.choice(["first", "last"])
    return f"What is the {place} word: {', '.join(items)}", items[0 if place == "first" else -1]


def _longest(draw: Draw) -> tuple[str, str]:
    a, b = draw.random.sample(range(1, 100), 2)
    return draw.choice(["Which is greater, {0} or {1}?", "What is more, {0} or {1}?"]).format(
        a, b
    ), f"{max(a, b)} is greater."
