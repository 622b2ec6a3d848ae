"""Repeating what stands above: the skill under reading, in its densest form."""

from __future__ import annotations

from training.conversation import Conversation, converse
from training.generate.facts import ABOUT_PRODUCTS, GENERAL, state
from training.generate.words import Draw

REQUESTS = ("Repeat: {text}", "Say {text}", "Repeat after me: {text}", "Write this again: {text}", "Copy this: {text}",
            "Please repeat the following.\n{text}", "Echo: {text}")  # fmt: skip


def write_copy(draw: Draw) -> Conversation:
    """Repeat a text, look up a key in a list, or quote a line of the system message."""
    return draw.random.choice([_repeat, _look_up, _look_up, _quote, _remember])(draw)


def _sentence(draw: Draw) -> str:
    return state(draw.random.choice((*GENERAL, *ABOUT_PRODUCTS)), draw, draw.name()).statement


def _value(draw: Draw) -> str:
    makers = [draw.name, draw.price, draw.hour, draw.phone, draw.code, draw.date, draw.span, draw.product, draw.email]
    return draw.random.choice(makers)()


def _repeat(draw: Draw) -> Conversation:
    turns = []
    for _ in range(draw.random.randint(1, 3)):
        if draw.chance(0.4):
            text = _sentence(draw)
        else:
            text = draw.choice([" ", ", "]).join(_value(draw) for _ in range(draw.random.randint(1, 6)))
        turns.append((draw.phrasing(REQUESTS).format(text=text), text))
    return converse("copying", turns)


def _look_up(draw: Draw) -> Conversation:
    """Keys and values in the system message; some questions give the key alone."""
    key = draw.random.choice([draw.name, draw.code, draw.product])
    make = draw.random.choice([draw.name, draw.price, draw.hour, draw.phone, draw.code, draw.date, draw.span])
    pairs = {key(): make() for _ in range(draw.random.randint(2, 7))}
    joint = draw.choice([": ", " = ", " - ", " is "])
    lines = [f"{name}{joint}{value}" for name, value in pairs.items()]
    asked = draw.random.sample(list(pairs), min(len(pairs), draw.random.randint(1, 5)))
    question = draw.choice(["{key}?", "What is {key}?", "{key}", "What about {key}?", "Tell me {key}."])
    full = draw.chance(0.4)
    turns = [(question.format(key=name), f"{name}{joint}{pairs[name]}" if full else pairs[name]) for name in asked]
    # Whether the whole line or the value is wanted is said above, as both are right.
    header = "Answer with the whole line.\n" if full else "Answer with the value.\n"
    return converse("copying", turns, header + draw.choice(["\n", ", "]).join(lines))


def _quote(draw: Draw) -> Conversation:
    """The first words of a sentence of the passage, to be gone on with."""
    sentences = [_sentence(draw) for _ in range(draw.random.randint(1, 4))]
    turns = []
    for sentence in draw.random.sample(sentences, min(len(sentences), 2)):
        words = sentence.split()
        beginning = " ".join(words[: max(2, len(words) // 3)])
        turns.append(
            (
                draw.choice(["Which sentence begins with: {0}", "Quote the sentence: {0}", "{0} ..."]).format(
                    beginning
                ),
                sentence,
            )
        )
    return converse("copying", turns, " ".join(sentences))


def _remember(draw: Draw) -> Conversation:
    """What the user said of himself two turns ago."""
    what, make = draw.random.choice([
        ("name", draw.name), ("order number", draw.code), ("phone number", draw.phone), ("email address", draw.email), ("town", draw.name), ("favourite colour", lambda: draw.choice(["red", "blue", "green", "black", "white", "grey", "yellow", "orange", "purple", "brown", "pink"])),
    ])  # fmt: skip
    value = make()
    told = draw.choice(
        [
            "My {what} is {value}.",
            "my {what} is {value}",
            "Please note: my {what} is {value}.",
            "Hi, my {what} is {value}.",
        ]
    )
    noted = "Thank you. Your {what} is {value}."
    asked = draw.choice(
        ["What is my {what}?", "Do you remember my {what}?", "what was my {what}", "Tell me my {what}."]
    )
    return converse("copying", [
        (told.format(what=what, value=value), noted.format(what=what, value=value)),
        (asked.format(what=what), f"Your {what} is {value}."),
    ])  # fmt: skip
