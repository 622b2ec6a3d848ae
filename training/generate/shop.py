"""A shop's passage in the system message, one to four facts or many, and questions about it."""

from __future__ import annotations

from collections.abc import Sequence

from training.conversation import Conversation, converse
from training.generate.facts import ABOUT_PRODUCTS, GENERAL, Fact, FactKind, state
from training.generate.small_talk import exchange
from training.generate.words import Draw

UNKNOWN = "I don't know; I was not given that information."
"""The one form in which the model admits ignorance of facts."""

INTRODUCTIONS = (
    "",
    "",
    "Answer from this text.\n",
    "Answer the customer's question from the text below.\n\n",
    "You are the assistant of {shop}. Use only this information:\n",
    "You are a helpful support agent. Answer from these passages, and say so if they do not hold the answer.\n\n",
    "Context:\n",
    "You work for {shop}. What you know:\n",
)
FILLERS = (
    "Welcome to {shop}.",
    "{shop} is a family business.",
    "We love what we do.",
    "Thank you for shopping with us.",
    "Our team is happy to help you.",
    "{shop} sells things for home and garden.",
    "Please read this page carefully.",
    "Everything is packed by hand.",
    "Terms may change at any time.",
    "We try to answer every message on the same day.",
    "Many customers come back to {shop}.",
    "Quality matters to us.",
)


def write_shop(draw: Draw, facts: int = 0) -> Conversation:
    """A passage of so many facts (0: one to six) with one to four questions, some of them not answered there."""
    count = facts or draw.random.choice([1, 1, 2, 2, 3, 3, 4, 4, 5, 6])
    shop = draw.name()
    stated = _choose(draw, shop, count)
    system = _introduce(draw, shop, _lay_out(draw, shop, stated))
    return converse("shop", _ask(draw, stated, min(4, max(1, count))), system)


def write_short_shop(draw: Draw) -> Conversation:
    """A passage of one to three facts, almost all of them asked for: much to copy in few tokens."""
    return write_shop(draw, draw.random.choice([1, 1, 2, 2, 3]))


def write_long_shop(draw: Draw) -> Conversation:
    """A passage of many facts, as long as retrieval would feed."""
    return write_shop(draw, draw.random.choice([4, 6, 8, 12, 18, 26]))


def write_single(draw: Draw) -> Conversation:
    """One passage, one question: what held-out exact match is taken on. Three facts; never unanswerable."""
    shop = draw.name()
    stated = _choose(draw, shop, 3)
    fact = stated[draw.random.randrange(3)]
    system = _introduce(draw, shop, _lay_out(draw, shop, stated))
    return converse("shop", [(fact.question(draw), fact.statement)], system)


def write_unanswerable(draw: Draw) -> Conversation:
    """One passage, one question about something else: what held-out refusal is taken on."""
    shop = draw.name()
    stated = _choose(draw, shop, 3)
    system = _introduce(draw, shop, _lay_out(draw, shop, stated))
    return converse("shop", [(_question_about_another(draw, stated, shop), UNKNOWN)], system)


def _choose(draw: Draw, shop: str, count: int) -> list[Fact]:
    """Facts that do not contradict each other, in random order."""
    general = draw.random.sample(GENERAL, min(len(GENERAL), count))
    products = [draw.random.choice(ABOUT_PRODUCTS) for _ in range(count)]
    kinds = [product if draw.chance(0.35) else kind for kind, product in zip(general, products, strict=False)]
    facts = [state(kind, draw, shop) for kind in kinds]
    if count > 1 and draw.chance(0.25):  # the same kind about two products: the name alone decides
        kind = draw.random.choice(ABOUT_PRODUCTS)
        facts[:2] = [state(kind, draw, shop), state(kind, draw, shop)]
    draw.random.shuffle(facts)
    return facts


def _lay_out(draw: Draw, shop: str, facts: Sequence[Fact]) -> str:
    sentences = [fact.statement for fact in facts]
    for _ in range(draw.random.choice([0, 0, 0, 1, 1, 2])):
        sentences.insert(draw.random.randrange(len(sentences) + 1), draw.choice(FILLERS).format(shop=shop))
    shape = draw.random.random()
    if shape < 0.5:
        return " ".join(sentences)
    if shape < 0.65:
        return "\n".join(sentences)
    if shape < 0.75:
        return "\n".join(f"- {sentence}" for sentence in sentences)
    cuts = sorted(draw.random.randrange(1, len(sentences)) for _ in range(2)) if len(sentences) > 1 else []
    parts = [sentences[i:j] for i, j in zip([0, *cuts], [*cuts, len(sentences)], strict=True)]
    passages = [" ".join(part) for part in parts if part]
    if shape < 0.9:
        return "\n\n".join(f"[{number}] {passage}" for number, passage in enumerate(passages, 1))
    return "\n\n".join(passages)


def _introduce(draw: Draw, shop: str, passage: str) -> str:
    title = f"{shop}\n" if draw.chance(0.15) else ""
    return draw.choice(INTRODUCTIONS).format(shop=shop) + title + passage


def _ask(draw: Draw, facts: Sequence[Fact], count: int) -> list[tuple[str, str]]:
    turns: list[tuple[str, str]] = []
    if draw.chance(0.08):
        turns.append(exchange(draw, "greeting"))
    for fact in draw.random.sample(list(facts), min(count, len(facts))):
        if draw.chance(0.1):
            turns.append((_question_about_another(draw, facts, fact.slots["shop"]), UNKNOWN))
        follows = bool(turns) and bool(fact.kind.follow_up) and draw.chance(0.3)
        question = fact.kind.follow_up.format(**fact.slots) if follows else fact.question(draw)
        turns.append((question, fact.statement))
    if draw.chance(0.1):
        turns.append(exchange(draw, "thanks"))
    return turns


def _question_about_another(draw: Draw, facts: Sequence[Fact], shop: str) -> str:
    """A question of a kind the passage says nothing about, or about a product it does not name."""
    present = {fact.kind.topic for fact in facts}
    kinds: list[FactKind] = [kind for kind in (*GENERAL, *ABOUT_PRODUCTS) if kind.topic not in present]
    products = [fact.kind for fact in facts if fact.kind in ABOUT_PRODUCTS]
    kind = draw.random.choice(products if products and draw.chance(0.4) else kinds)
    return state(kind, draw, shop).question(draw)
