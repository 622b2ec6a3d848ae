"""Invented people, towns and firms, with questions whose answer is a span of the passage: the form of SQuAD."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from training.conversation import Conversation, converse
from training.generate.words import FIRST_NAMES, Draw

Slots = Mapping[str, str]


class Entry(NamedTuple):
    slots: Callable[[Draw], Slots]
    sentences: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """Each sentence with its questions, and the slot that answers each."""


def _person(draw: Draw) -> Slots:
    return {
        "who": f"{draw.choice(FIRST_NAMES)} {draw.name()}",
        "year": draw.number(1700, 2010),
        "town": draw.name(),
        "trade": draw.choice(["painter", "poet", "engineer", "chemist", "composer", "architect", "sailor", "farmer", "doctor", "lawyer", "historian", "dancer"]),
        "work": f"The {draw.name()} {draw.choice(['Bridge', 'Symphony', 'Letters', 'Theory', 'House', 'Garden'])}",
        "school": f"{draw.name()} {draw.choice(['College', 'University', 'Academy'])}",
        "prize": f"{draw.name()} {draw.choice(['Prize', 'Medal', 'Award'])}",
        "age": draw.number(19, 99),
    }  # fmt: skip


def _place(draw: Draw) -> Slots:
    return {
        "place": draw.name() + draw.choice(["", "ville", "burg", " Bay", "ton"]),
        "people": f"{draw.number(1, 980)},{draw.number(100, 999)}",
        "river": draw.name(),
        "year": draw.number(900, 1990),
        "land": draw.name() + draw.choice(["ia", "land", "mark"]),
        "crop": draw.choice(["rice", "wheat", "olives", "cocoa", "tea", "wine", "salt", "silver", "timber", "fish", "wool", "cheese"]),
        "height": f"{draw.number(20, 4000)} metres",
        "mayor": f"{draw.choice(FIRST_NAMES)} {draw.name()}",
        "fair": f"{draw.name()} {draw.choice(['Fair', 'Festival', 'Parade'])}",
    }  # fmt: skip


def _firm(draw: Draw) -> Slots:
    return {
        "firm": f"{draw.name()} {draw.choice(['Motors', 'Records', 'Airlines', 'Foods', 'Bank', 'Studios', 'Systems'])}",
        "year": draw.number(1850, 2022),
        "founder": f"{draw.choice(FIRST_NAMES)} {draw.name()}",
        "seat": draw.name(),
        "staff": draw.number(12, 9900),
        "item": draw.choice(
            [
                "trucks",
                "songs",
                "planes",
                "soups",
                "loans",
                "films",
                "chips",
                "engines",
                "radios",
                "cameras",
                "bread",
                "paper",
            ]
        ),
        "sum": f"{draw.choice('$£€')}{draw.number(2, 990)} million",
        "rival": draw.name(),
    }


ENTRIES = (
    Entry(_person, (
        ("{who} was born in {town} in {year}.", (("Where was {who} born?", "town"), ("When was {who} born?", "year"), ("Who was born in {town}?", "who"), ("In what year was {who} born?", "year"))),
        ("{who} worked as a {trade} all through life.", (("What was the profession of {who}?", "trade"), ("What did {who} work as?", "trade"))),
        ("The best known work of {who} is {work}.", (("What is the best known work of {who}?", "work"), ("Who made {work}?", "who"))),
        ("{who} studied at {school}.", (("Where did {who} study?", "school"), ("Which school did {who} attend?", "school"))),
        ("In later years came the {prize}.", (("Which prize did {who} win?", "prize"), ("What did {who} receive in later years?", "prize"))),
        ("{who} died at the age of {age}.", (("How old was {who} at death?", "age"), ("At what age did {who} die?", "age"))),
    )),
    Entry(_place, (
        ("{place} is a town in {land} with {people} inhabitants.", (("How many people live in {place}?", "people"), ("In which country is {place}?", "land"), ("What is the population of {place}?", "people"))),
        ("It lies on the river {river}.", (("On which river does {place} lie?", "river"), ("What is the name of the river?", "river"))),
        ("{place} was founded in {year}.", (("When was {place} founded?", "year"), ("What was founded in {year}?", "place"))),
        ("The region is known for its {crop}.", (("What is the region known for?", "crop"), ("What does {place} produce?", "crop"))),
        ("The highest point is {height} above the sea.", (("How high is the highest point?", "height"), ("What is the height of the highest point of {place}?", "height"))),
        ("Since the last election the mayor has been {mayor}.", (("Who is the mayor of {place}?", "mayor"), ("Who won the last election?", "mayor"))),
        ("Every summer the {fair} draws many visitors.", (("What draws many visitors?", "fair"), ("What takes place every summer in {place}?", "fair"))),
    )),
    Entry(_firm, (
        ("{firm} was founded by {founder} in {year}.", (("Who founded {firm}?", "founder"), ("When was {firm} founded?", "year"), ("Which company did {founder} found?", "firm"))),
        ("It has its seat in {seat}.", (("Where is {firm} based?", "seat"), ("In which town is the seat of the company?", "seat"))),
        ("The company employs {staff} people.", (("How many people does {firm} employ?", "staff"), ("How many employees are there?", "staff"))),
        ("It is best known for making {item}.", (("What does {firm} make?", "item"), ("What is the company best known for?", "item"))),
        ("Last year it earned {sum}.", (("How much did {firm} earn last year?", "sum"), ("What were the earnings of the company?", "sum"))),
        ("Its main rival is {rival}.", (("Who is the main rival of {firm}?", "rival"), ("Which company competes with {firm}?", "rival"))),
    )),
)  # fmt: skip


def write_entry(draw: Draw) -> Conversation:
    """Two to seven sentences about one thing, or three about each of two, and one to four questions."""
    entries = draw.random.choices(ENTRIES, k=2 if draw.chance(0.3) else 1)
    texts, turns = [], []
    for entry in entries:
        slots = entry.slots(draw)
        first, *others = entry.sentences
        count = 2 if len(entries) > 1 else draw.random.randint(1, len(others))
        chosen = [first, *draw.random.sample(others, count)]
        texts.append(" ".join(sentence for sentence, _ in chosen).format(**slots))
        for _, questions in chosen:
            question, slot = draw.random.choice(questions)
            turns.append((question.format(**slots), slots[slot]))
    draw.random.shuffle(turns)
    return converse("encyclopedia", turns[: draw.random.randint(1, 4)], "\n\n".join(texts))
