"""Orders, refunds and accounts: the assistant asks for what it needs, and tells what the record above says, no more."""

from __future__ import annotations

from training.conversation import Conversation, converse
from training.generate.shop import UNKNOWN
from training.generate.small_talk import exchange, roughen
from training.generate.words import DAYS, Draw

STATUSES = ("was shipped", "is being packed", "is delayed", "was delivered", "is waiting for payment", "left our warehouse",
            "is with the carrier", "was cancelled")  # fmt: skip
OPENINGS = {
    "where": ("Where is my order?", "My order has not arrived.", "my parcel is late", "I'm still waiting for my package.", "track my order",
              "I want to know the status of my order.", "When will my order arrive?"),
    "refund": ("I want a refund.", "I want my money back", "How do I get a refund?", "please refund me", "I'd like to return my order."),
    "cancel": ("I want to cancel my order.", "cancel my order please", "Can you cancel my order?", "I ordered the wrong thing."),
    "damage": ("My order arrived damaged.", "The item is broken.", "I got the wrong item.", "something is missing from my parcel"),
    "address": ("I want to change my delivery address.", "wrong address on my order", "Can you send it to another address?"),
}  # fmt: skip
ASKS = {
    "where": "Of course. What is your order number?",
    "refund": "I'm sorry to hear that. What is your order number?",
    "cancel": "I see. What is the number of the order you want to cancel?",
    "damage": "I'm sorry about that. What is your order number?",
    "address": "All right. What is your order number?",
}
ACCOUNT = (
    (
        "I forgot my password.",
        "Please use the link 'Forgot password' on the sign-in page, and follow the email you get.",
    ),
    ("I can't log in", "Please check your email address and password. If that does not help, reset your password."),
    ("How do I create an account?", "Choose 'Sign up' on the shop's page and enter your email address and a password."),
    (
        "How do I delete my account?",
        "Open the settings of your account and choose 'Delete account', or write to the shop.",
    ),
    ("How can I change my email address?", "Open the settings of your account and change the email address there."),
    (
        "my payment failed",
        "Please check your card and try again. If it fails again, ask your bank or try another way to pay.",
    ),
    ("I was charged twice", "I'm sorry about that. Please send the shop both payments with your order number."),
    ("Do you have this in another size?", UNKNOWN),
    ("What are your opening hours?", UNKNOWN),
    ("When are you open?", UNKNOWN),
    ("How much is delivery?", UNKNOWN),
    ("How long do I have to return something?", UNKNOWN),
    ("What is your phone number?", UNKNOWN),
    ("Where is your shop?", UNKNOWN),
)


def write_order(draw: Draw) -> Conversation:
    return draw.random.choice([_look_up, _look_up, _without_record, _account])(draw)


def _record(draw: Draw, code: str) -> str:
    shapes = ("Order {code} {status} on {date}.", "Order {code} ({product}) {status} on {date}.", "Order {code} {status}; it is due on {day}.",
              "Order {code}: {product}, {price}, {status} on {date}.")  # fmt: skip
    return draw.phrasing(shapes).format(
        code=code,
        status=draw.choice(STATUSES),
        date=draw.date(),
        day=draw.choice(DAYS),
        product=draw.product(),
        price=draw.price(),
    )


def _opening(draw: Draw) -> tuple[str, str, str]:
    topic = draw.choice(list(OPENINGS))
    return topic, roughen(draw, draw.choice(OPENINGS[topic])), ASKS[topic]


def _give(draw: Draw, code: str) -> str:
    return draw.choice(["{0}", "It's {0}.", "my order number is {0}", "Order {0}", "the number is {0}"]).format(code)


def _look_up(draw: Draw) -> Conversation:
    """The records stand in the system message; the customer gives the number when asked."""
    codes = list(dict.fromkeys(draw.code() for _ in range(draw.random.randint(1, 4))))
    records = {code: _record(draw, code) for code in codes}
    _, said, asked = _opening(draw)
    code = draw.choice(codes)
    answer = records[code]
    if draw.chance(0.15):
        code = draw.code()
        answer = records.get(code, UNKNOWN)
    turns = [(said, asked), (_give(draw, code), answer)]
    if draw.chance(0.3):
        turns.append(exchange(draw, "thanks"))
    return converse(
        "orders", turns, draw.choice(["", "Orders:\n", "Customer's orders:\n"]) + "\n".join(records.values())
    )


def _without_record(draw: Draw) -> Conversation:
    """Nothing is known of any order: the assistant repeats the number and says so."""
    code = draw.code()
    _, said, asked = _opening(draw)
    turns = [
        (said, asked),
        (_give(draw, code), f"Thank you. I have no information about order {code} here. Please contact the shop."),
    ]
    if draw.chance(0.3):
        turns.insert(0, exchange(draw, "greeting"))
    if draw.chance(0.3):
        turns.append(exchange(draw, "thanks"))
    return converse("orders", turns)


def _account(draw: Draw) -> Conversation:
    turns = [(roughen(draw, said), answer) for said, answer in draw.random.sample(ACCOUNT, 2)]
    return converse("orders", turns)
