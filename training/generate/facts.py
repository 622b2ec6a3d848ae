"""What a shop may tell its customers: statements with slots, and questions that the statement answers.

The answer to a question is the statement itself, word for word as it stands in the passage: a small model can learn
to find the right sentence and copy it, and then it does so with sentences it has never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from training.generate.words import DAYS, MATERIALS, STREETS, TOWNS, Draw

Slots = Mapping[str, str]


@dataclass(frozen=True)
class FactKind:
    topic: str
    """Facts of one topic contradict each other, so a passage holds at most one (unless it is about a product)."""
    slots: Callable[[Draw], Slots]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    follow_up: str = ""
    """A question that is understood only after another one."""


class Fact(NamedTuple):
    kind: FactKind
    slots: Slots
    statement: str

    def question(self, draw: Draw) -> str:
        return draw.phrasing(self.kind.questions).format(**self.slots)


def state(kind: FactKind, draw: Draw, shop: str) -> Fact:
    slots = {"shop": shop, **kind.slots(draw)}
    return Fact(kind, slots, draw.phrasing(kind.statements).format(**slots))


def _span(draw: Draw) -> Slots:
    return {"span": draw.span()}


def _price(draw: Draw) -> Slots:
    return {"price": draw.price(2, 200)}


def _day_hours(draw: Draw) -> Slots:
    return {"day": draw.choice(DAYS), "start": draw.hour(6, 11), "end": draw.hour(15, 23)}


def _hours(draw: Draw) -> Slots:
    return {"start": draw.hour(6, 11), "end": draw.hour(15, 23)}


def _product(draw: Draw) -> Slots:
    return {"product": draw.product(), "price": draw.price(2, 900), "span": draw.span()}


GENERAL = (
    FactKind("return window", _span, (
        "You can return any item within {span} of delivery.",
        "Returns are accepted for {span} after purchase.",
        "If you change your mind, send the goods back within {span}.",
        "Our return window is {span}.",
        "Customers have {span} to bring an item back.",
        "{shop} takes returns up to {span} after you receive your order.",
    ), (
        "How long do I have to return something?",
        "What is your return policy?",
        "How many days do I have to send an item back?",
        "Can I return my order?",
        "i want to return my shoes, until when can i do that",
        "Until when can I bring something back?",
        "what's the return window",
        "Is there a time limit for returns?",
    ), "And how long do I have to return it?"),
    FactKind("refund time", _span, (
        "Refunds are paid within {span}.",
        "Your money is back on your card within {span}.",
        "We refund you within {span} of getting the parcel.",
        "A refund takes {span} to arrive.",
        "Once we have the goods, the refund takes {span}.",
    ), (
        "When do I get my money back?",
        "How long does a refund take?",
        "I sent my parcel back, when will I be refunded?",
        "where is my refund",
        "How fast are refunds?",
        "When will the refund be on my account?",
    ), "And when do I get the money?"),
    FactKind("standard delivery", _span, (
        "Standard delivery takes {span}.",
        "Orders arrive within {span}.",
        "We deliver in {span}.",
        "Your parcel reaches you within {span} of the order.",
        "Delivery time is {span}.",
        "Shipping normally takes {span}.",
    ), (
        "How long does delivery take?",
        "When will my order arrive?",
        "How fast do you ship?",
        "What is the delivery time?",
        "how many days until i get my parcel",
        "How soon can I expect my order?",
    ), "And how long does delivery take?"),
    FactKind("express delivery", _price, (
        "Express delivery costs {price}.",
        "Next-day delivery is available for {price}.",
        "For {price} more, your parcel comes the next day by express.",
        "We charge {price} for express shipping.",
        "The fee for express delivery is {price}.",
    ), (
        "How much is express delivery?",
        "What does express shipping cost?",
        "Can I get my order by express?",
        "I need it tomorrow, what do I pay for express?",
        "What do you charge for the express service?",
    ), "And what about express?"),
    FactKind("delivery cost", _price, (
        "Standard shipping costs {price}.",
        "We charge {price} for each delivery.",
        "Postage is {price} for every order.",
        "The delivery fee is {price}.",
        "Delivery is {price} a parcel.",
    ), (
        "How much is shipping?",
        "What does delivery cost?",
        "What is the delivery fee?",
        "how much do you charge for postage",
        "What do I have to pay for delivery?",
    ), "And what does it cost to ship?"),
    FactKind("free delivery", _price, (
        "Delivery is free for orders over {price}.",
        "Orders above {price} ship free.",
        "We ship free of charge from {price} on.",
        "If you spend more than {price}, delivery is free.",
        "From {price} you pay no shipping.",
    ), (
        "When is delivery free?",
        "How much must I spend to get free shipping?",
        "Do you offer free delivery?",
        "is shipping free",
        "From which amount do you ship for free?",
    ), "And when is it free?"),
    FactKind("weekday hours", _hours, (
        "We are open from {start} to {end} on weekdays.",
        "From Monday to Friday {shop} is open from {start} to {end}.",
        "Our opening hours are {start} to {end}, Monday to Friday.",
        "The store opens at {start} and closes at {end}.",
        "On weekdays the shop is open {start} to {end}.",
    ), (
        "What are your opening hours?",
        "When are you open?",
        "When do you open?",
        "what time do you close",
        "At what time does {shop} open on weekdays?",
        "Until what hour is the shop open?",
    ), "And when are you open?"),
    FactKind("weekend hours", _day_hours, (
        "On {day} we are open from {start} to {end}.",
        "{day} hours are {start} to {end}.",
        "We open at {start} and close at {end} on {day}.",
        "On {day} the shop is open between {start} and {end}.",
    ), (
        "When are you open on {day}?",
        "Are you open on {day}?",
        "What are your hours on {day}?",
        "{day} opening times?",
        "I want to come on {day}, when can I?",
    ), "And on {day}?"),
    FactKind("closed", lambda draw: {"date": draw.date()}, (
        "We are closed on {date}.",
        "The shop stays closed on {date}.",
        "Please note that {shop} does not open on {date}.",
        "On {date} we are closed all day.",
    ), (
        "Are you open on {date}?",
        "Can I come to the shop on {date}?",
        "Do you work on {date}?",
        "Is the shop open on {date}?",
    ), "And on {date}?"),
    FactKind("phone", lambda draw: {"phone": draw.phone()}, (
        "Call us on {phone}.",
        "Our phone number is {phone}.",
        "You can reach us by phone at {phone}.",
        "The hotline of {shop} is {phone}.",
        "For help, ring {phone}.",
    ), (
        "What is your phone number?",
        "Can I call you?",
        "How can I reach you by phone?",
        "give me your number please",
        "Which number do I call for help?",
    ), "And by phone?"),
    FactKind("email", lambda draw: {"email": draw.email()}, (
        "Write to us at {email}.",
        "Our email address is {email}.",
        "You can email us at {email}.",
        "Questions by email go to {email}.",
    ), (
        "What is your email address?",
        "Where can I write to you?",
        "How can I contact you by email?",
        "Which address do I send an email to?",
    ), "And by email?"),
    FactKind("address", lambda draw: {"address": f"{draw.number(1, 240)} {draw.name()} {draw.choice(STREETS)}", "town": draw.choice(TOWNS)}, (
        "Our shop is at {address} in {town}.",
        "You find us at {address}, {town}.",
        "The address of {shop} is {address}, {town}.",
        "Visit us at {address}, {town}.",
    ), (
        "Where are you?",
        "What is your address?",
        "Where is your shop?",
        "how do i find your store",
        "Where can I visit you?",
    ), "And where are you?"),
    FactKind("cancellation", _span, (
        "You can cancel an order within {span}.",
        "Orders may be cancelled for {span} after you place them.",
        "Cancellation is free within {span}.",
        "To cancel, tell us within {span} of ordering.",
    ), (
        "Can I cancel my order?",
        "How long can I cancel?",
        "i ordered by mistake, can i cancel",
        "Until when is cancellation possible?",
    ), "And can I cancel?"),
    FactKind("exchange", _span, (
        "Exchanges are possible within {span}.",
        "We exchange the wrong size within {span}.",
        "You may swap an item for another size for {span}.",
        "An exchange can be made within {span}.",
    ), (
        "Can I exchange it for another size?",
        "The size is wrong, can I swap it?",
        "How long do I have to exchange an item?",
        "Is an exchange possible?",
    ), "And can I exchange it?"),
    FactKind("damaged goods", _span, (
        "Report damaged goods within {span}.",
        "If something arrives broken, tell us within {span}.",
        "Damage must be reported within {span} of delivery.",
        "Send us a photo of a damaged item within {span}.",
    ), (
        "My item arrived broken, what should I do?",
        "The parcel is damaged.",
        "What if my order is damaged?",
        "my mug came broken",
        "Something in my parcel is broken, what now?",
    ), "And if it is damaged?"),
    FactKind("discount code", lambda draw: {"code": draw.code(), "percent": draw.number(3, 70)}, (
        "The code {code} gives you {percent}% off.",
        "Use {code} for a discount of {percent}%.",
        "With the voucher {code} you save {percent}%.",
        "New customers get {percent}% off with {code}.",
    ), (
        "Do you have a discount code?",
        "Is there a voucher?",
        "How can I get a discount?",
        "any promo code?",
        "Is there a code that makes it cheaper?",
    ), "And is there a discount?"),
    FactKind("student discount", lambda draw: {"percent": draw.number(3, 50)}, (
        "Students get {percent}% off.",
        "There is a student discount of {percent}%.",
        "With a student card you save {percent}%.",
        "Students pay {percent}% less.",
    ), (
        "Do students get a discount?",
        "Is there a student discount?",
        "I am a student, is it cheaper for me?",
        "What do students save?",
    ), "And for students?"),
    FactKind("loyalty points", lambda draw: {"points": draw.number(2, 500), "price": draw.price(1, 50)}, (
        "Every {price} spent earns {points} points.",
        "Members collect {points} points for each {price}.",
        "You get {points} loyalty points per {price}.",
        "Our club gives {points} points for every {price} you spend.",
    ), (
        "How do I earn points?",
        "How many points do I get?",
        "How does the loyalty programme work?",
        "What does a club member collect?",
    )),
    FactKind("gift wrapping", _price, (
        "Gift wrapping costs {price}.",
        "We wrap your gift for {price}.",
        "For {price} we put it in gift paper.",
        "A gift box is {price}.",
    ), (
        "Do you wrap gifts?",
        "How much is gift wrapping?",
        "It is a present, can you wrap it?",
        "What does it cost to have it wrapped as a gift?",
    ), "And as a gift?"),
    FactKind("payment", lambda draw: {"first": draw.choice(["card", "bank transfer", "invoice", "cash"]), "second": draw.name() + "Pay"}, (
        "You can pay by {first} or {second}.",
        "We accept {first} and {second}.",
        "Payment is by {first} or with {second}.",
        "{shop} takes {first} and {second}.",
    ), (
        "How can I pay?",
        "Which payment methods do you accept?",
        "Do you take credit cards?",
        "What ways to pay are there?",
    ), "And how can I pay?"),
    FactKind("abroad", lambda draw: {"country": draw.name() + draw.choice(["ia", "land", "o"]), "price": draw.price(3, 90)}, (
        "Shipping to {country} costs {price}.",
        "We also deliver to {country}, for {price}.",
        "Parcels to {country} are {price}.",
        "We send orders to {country} for {price}.",
    ), (
        "Do you ship to {country}?",
        "How much is delivery to {country}?",
        "I live in {country}, can I order?",
        "What does a parcel to {country} cost?",
    ), "And to {country}?"),
    FactKind("minimum order", _price, (
        "The minimum order is {price}.",
        "You must order for at least {price}.",
        "We take orders from {price} on.",
        "Orders below {price} are not accepted.",
    ), (
        "Is there a minimum order?",
        "How much do I have to order at least?",
        "What is the smallest order you take?",
        "Can I place a very small order?",
    )),
    FactKind("same-day", lambda draw: {"hour": draw.hour(8, 20)}, (
        "Orders placed before {hour} leave the same day.",
        "Order by {hour} and we dispatch today.",
        "We ship the same day if you order before {hour}.",
        "The cut-off for dispatch today is {hour}.",
    ), (
        "Until when must I order for dispatch today?",
        "Do you ship the same day?",
        "If I order now, does it leave today?",
        "By what time must I order so that it leaves today?",
    )),
    FactKind("pick-up", lambda draw: {"place": f"the {draw.name()} {draw.choice(['station', 'mall', 'market', 'post office', 'warehouse'])}", "span": draw.span()}, (
        "You can pick up parcels at {place}.",
        "Our pick-up point is {place}.",
        "Parcels are kept at {place} for {span}.",
        "Collect your order at {place}.",
    ), (
        "Where can I pick up my parcel?",
        "Can I collect my order myself?",
        "Where is the pick-up point?",
        "Is there a place to collect it?",
    )),
    FactKind("manager", lambda draw: {"person": f"{draw.choice(['Mr', 'Ms', 'Dr'])} {draw.name()}"}, (
        "The manager of {shop} is {person}.",
        "{person} runs {shop}.",
        "Our store manager is {person}.",
        "{shop} is managed by {person}.",
    ), (
        "Who is the manager?",
        "I want to speak to the manager, who is it?",
        "Who runs the shop?",
        "What is the name of your manager?",
    )),
    FactKind("founded", lambda draw: {"year": draw.number(1820, 2025)}, (
        "{shop} was founded in {year}.",
        "We have been in business since {year}.",
        "Our company started in {year}.",
        "{shop} opened its doors in {year}.",
    ), (
        "When was {shop} founded?",
        "How old is your company?",
        "Since when do you exist?",
        "In which year did you start?",
    )),
    FactKind("gift card", _span, (
        "Gift cards are valid for {span}.",
        "A gift card expires after {span}.",
        "Use your gift card within {span}.",
        "Gift vouchers can be spent for {span}.",
    ), (
        "How long is a gift card valid?",
        "When does my gift card expire?",
        "i have an old gift card, does it still work",
        "Do gift cards run out?",
    )),
    FactKind("parking", lambda draw: {"count": draw.number(3, 400), "price": draw.price(1, 20)}, (
        "There are {count} parking spaces, at {price} an hour.",
        "Parking costs {price} an hour.",
        "You can park behind the shop for {price}.",
        "Our car park has {count} spaces.",
    ), (
        "Can I park at your shop?",
        "Is there parking?",
        "Where do I leave my car?",
        "What about a place for the car?",
    ), "And parking?"),
    FactKind("password", _span, (
        "To reset your password, click the link we send you within {span}.",
        "The link for a new password is valid for {span}.",
        "If you forgot your password, use the link within {span}.",
        "A password link works for {span}.",
    ), (
        "I forgot my password.",
        "How do I reset my password?",
        "i can't log in to my account",
        "My password does not work, what can I do?",
    )),
    FactKind("subscription", lambda draw: {"price": draw.price(1, 90), "plan": draw.name()}, (
        "The {plan} plan costs {price} a month.",
        "With the {plan} subscription you pay {price} a month.",
        "A month of {plan} is {price}.",
        "{plan} members pay {price} every month.",
    ), (
        "What does the {plan} plan cost?",
        "How much is {plan}?",
        "Tell me the price of the {plan} subscription.",
        "What do I pay each month for {plan}?",
    ), "And {plan}?"),
    FactKind("trial", _span, (
        "You can try it free for {span}.",
        "The free trial lasts {span}.",
        "The first {span} are free.",
        "Test our service for {span} without paying.",
    ), (
        "Is there a free trial?",
        "How long can I try it for free?",
        "Can I test it first?",
        "How long is it free at the start?",
    )),
    FactKind("dogs", lambda draw: {"rule": draw.choice(["are welcome", "must stay outside", "are welcome on a lead", "are not allowed"])}, (
        "Dogs {rule}.",
        "In our shop dogs {rule}.",
        "Please note that dogs {rule}.",
        "Pets: dogs {rule}.",
    ), (
        "Can I bring my dog?",
        "Are dogs allowed?",
        "May my dog come in?",
        "What about my dog?",
    )),
)  # fmt: skip

ABOUT_PRODUCTS = (
    FactKind("price", _product, (
        "The {product} costs {price}.",
        "The price of the {product} is {price}.",
        "You can buy the {product} for {price}.",
        "The {product} is {price}.",
        "We sell the {product} at {price}.",
    ), (
        "How much is the {product}?",
        "What does the {product} cost?",
        "What is the price of the {product}?",
        "price of the {product}?",
        "How much do you want for the {product}?",
    ), "And the {product}?"),
    FactKind("warranty", _product, (
        "The {product} has a warranty of {span}.",
        "The warranty on the {product} is {span}.",
        "We guarantee the {product} for {span}.",
        "The {product} comes with a guarantee of {span}.",
    ), (
        "How long is the warranty on the {product}?",
        "Does the {product} have a warranty?",
        "What guarantee does the {product} have?",
        "For how long is the {product} guaranteed?",
    ), "And the warranty of the {product}?"),
    FactKind("stock", lambda draw: {"product": draw.product(), "count": draw.number(2, 300)}, (
        "There are {count} of the {product} in stock.",
        "We have {count} pieces of the {product} left.",
        "The {product} is in stock: {count} left.",
        "{count} of the {product} are available.",
    ), (
        "Is the {product} in stock?",
        "How many of the {product} do you have?",
        "Do you have the {product}?",
        "Is the {product} available?",
    ), "And the {product}?"),
    FactKind("sold out", lambda draw: {"product": draw.product(), "date": draw.date()}, (
        "The {product} is sold out until {date}.",
        "The {product} will be back on {date}.",
        "We expect the {product} again on {date}.",
        "The {product} is not available before {date}.",
    ), (
        "When will the {product} be back?",
        "Can I buy the {product} now?",
        "Is the {product} sold out?",
        "When do you get the {product} again?",
    )),
    FactKind("material", lambda draw: {"product": draw.product(), "material": draw.choice(MATERIALS)}, (
        "The {product} is made of {material}.",
        "The {product} consists of {material}.",
        "We make the {product} from {material}.",
        "The material of the {product} is {material}.",
    ), (
        "What is the {product} made of?",
        "Which material is the {product}?",
        "Is the {product} made of plastic?",
        "What material do you use for the {product}?",
    )),
    FactKind("weight", lambda draw: {"product": draw.product(), "weight": f"{draw.number(2, 950)} {draw.choice(['g', 'kg', 'grams', 'pounds'])}"}, (
        "The {product} weighs {weight}.",
        "The weight of the {product} is {weight}.",
        "At {weight}, the {product} is easy to carry.",
        "The {product} has a weight of {weight}.",
    ), (
        "How heavy is the {product}?",
        "What does the {product} weigh?",
        "What is the weight of the {product}?",
        "Is the {product} heavy?",
    )),
    FactKind("battery", lambda draw: {"product": draw.product(), "span": f"{draw.number(2, 96)} hours"}, (
        "The battery of the {product} lasts {span}.",
        "The {product} runs for {span} on one charge.",
        "One charge of the {product} is good for {span}.",
        "The {product} works {span} without charging.",
    ), (
        "How long does the battery of the {product} last?",
        "What is the battery life of the {product}?",
        "How long does the {product} run?",
        "How often must I charge the {product}?",
    )),
    FactKind("order", lambda draw: {"product": draw.code(), "date": draw.date(), "day": draw.choice(DAYS), "status": draw.choice(["was shipped", "is being packed", "is delayed", "was delivered", "is waiting for payment", "left our warehouse", "is with the carrier"])}, (
        "Order {product} {status} on {date}.",
        "Order {product} {status}; it arrives on {day}.",
        "The order {product} {status} and is due on {date}.",
        "Status of order {product}: {status}, expected on {date}.",
    ), (
        "Where is order {product}?",
        "What is the status of order {product}?",
        "when does my order {product} arrive",
        "My order is {product}. Where is it?",
        "Can you check order {product} for me?",
    ), "And order {product}?"),
)  # fmt: skip
"""Of these a passage may hold several, each about another product."""
