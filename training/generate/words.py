"""Values that can only be copied, never guessed: names made from syllables, prices, hours, numbers.

A value or phrasing is held out for evaluation or free for training, never both: values by a checksum of their text,
phrasings by their place in the list.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence

ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "cl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "sh",
    "sk",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "y",
    "z",
]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "oo", "ou", "ia"]
CODAS = ["", "", "", "n", "r", "l", "s", "m", "t", "x", "nd", "rk", "ll"]
THINGS = [
    "lamp",
    "kettle",
    "backpack",
    "jacket",
    "chair",
    "desk",
    "blender",
    "camera",
    "speaker",
    "headset",
    "bicycle",
    "tent",
    "mattress",
    "watch",
    "toaster",
    "rug",
    "mirror",
    "drill",
    "printer",
    "keyboard",
    "monitor",
    "scarf",
    "cup",
    "umbrella",
    "suitcase",
    "guitar",
    "bottle",
    "pillow",
    "sofa",
    "stroller",
    "helmet",
    "heater",
    "fan",
    "vacuum",
    "notebook",
    "phone",
    "tablet",
    "charger",
    "sweater",
    "coat",
    "raincoat",
    "mug",
    "teapot",
    "bookshelf",
    "fryer",
    "router",
]
COLOURS = [
    "red",
    "blue",
    "green",
    "black",
    "white",
    "grey",
    "yellow",
    "orange",
    "purple",
    "brown",
    "pink",
    "beige",
    "navy",
    "silver",
]
MATERIALS = [
    "cotton",
    "wool",
    "steel",
    "oak",
    "bamboo",
    "leather",
    "linen",
    "glass",
    "ceramic",
    "aluminium",
    "silk",
    "plastic",
    "canvas",
    "cork",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
STREETS = ["Street", "Road", "Lane", "Avenue", "Square", "Court", "Hill", "Row"]
FIRST_NAMES = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Elena",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kim",
    "Lena",
    "Marco",
    "Nora",
    "Omar",
    "Paula",
    "Quinn",
    "Rosa",
    "Samir",
    "Tara",
    "Uma",
    "Victor",
    "Wendy",
    "Yusuf",
    "Zoe",
]
TOWNS = [
    "London",
    "Paris",
    "Lisbon",
    "Dublin",
    "Oslo",
    "Vienna",
    "Madrid",
    "Boston",
    "Leeds",
    "York",
    "Bristol",
    "Denver",
    "Austin",
    "Rome",
    "Prague",
]


def is_held_out(value: str) -> bool:
    return zlib.crc32(value.encode()) % 8 == 0


class Draw:
    """A source of random values and phrasings, all of them held out or none."""

    def __init__(self, seed: int | str, *, held_out: bool = False) -> None:
        self.random = random.Random(seed)
        self.held_out = held_out

    def value(self, make: Callable[[], str]) -> str:
        """A value of this draw's side. After many tries any value will do: some kinds have few."""
        for _ in range(400):
            value = make()
            if is_held_out(value) == self.held_out:
                break
        return value

    def phrasing(self, phrasings: Sequence[str]) -> str:
        """Of four or more phrasings the last is held out; of fewer, none."""
        if len(phrasings) < 4:
            return self.random.choice(phrasings)
        return phrasings[-1] if self.held_out else self.random.choice(phrasings[:-1])

    def choice(self, options: Sequence[str]) -> str:
        return self.random.choice(options)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def number(self, low: int, high: int, step: int = 1) -> str:
        return self.value(lambda: str(self.random.randrange(low, high + 1, step)))

    def name(self) -> str:
        return self.value(self._name)

    def price(self, low: int = 1, high: int = 400) -> str:
        def make() -> str:
            sign = self.random.choice(["$", "$", "£", "€"])
            cents = self.random.choice(["", ".00", ".50", ".99", ".95", f".{self.random.randrange(10, 100)}"])
            return f"{sign}{self.random.randint(low, high)}{cents}"

        return self.value(make)

    def hour(self, first: int = 6, last: int = 23) -> str:
        def make() -> str:
            hour, minute = self.random.randint(first, last), self.random.choice(["00", "15", "30", "45"])
            if self.random.random() < 0.4:
                return f"{hour:02d}:{minute}"
            half = "am" if hour < 12 else "pm"
            twelve = (hour - 1) % 12 + 1
            return f"{twelve} {half}" if minute == "00" else f"{twelve}:{minute} {half}"

        return self.value(make)

    def phone(self) -> str:
        def digits(count: int) -> str:
            return "".join(self.random.choice("0123456789") for _ in range(count))

        shapes = [
            lambda: f"0{digits(4)} {digits(6)}",
            lambda: f"{digits(3)}-{digits(4)}",
            lambda: f"0800 {digits(3)} {digits(3)}",
        ]
        return self.value(self.random.choice(shapes))

    def code(self) -> str:
        """An order number or a voucher."""

        def make() -> str:
            letters = "".join(self.random.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(self.random.randint(1, 3)))
            figures = str(self.random.randrange(100, 99_999))
            return self.random.choice([figures, f"{letters}-{figures}", f"{letters}{figures}", f"#{figures}"])

        return self.value(make)

    def date(self) -> str:
        def make() -> str:
            day, month = self.random.randint(1, 28), self.random.choice(MONTHS)
            return self.random.choice([f"{day} {month}", f"{month} {day}"])

        return self.value(make)

    def span(self) -> str:
        """A length of time."""

        def make() -> str:
            unit, most = self.random.choice([("days", 90), ("days", 45), ("weeks", 12), ("hours", 96), ("months", 36)])
            low = self.random.randint(2, most)
            return (
                f"{low} {unit}" if self.random.random() < 0.75 else f"{low} to {low + self.random.randint(1, 4)} {unit}"
            )

        return self.value(make)

    def product(self) -> str:
        def make() -> str:
            thing = self.random.choice(THINGS)
            return self.random.choice(
                [
                    f"{self._name()} {thing}",
                    f"{self._name()} {self.random.randrange(2, 900)}",
                    f"{self.random.choice(COLOURS)} {thing}",
                    thing,
                ]
            )

        return self.value(make)

    def email(self) -> str:
        box = self.random.choice(["help", "support", "hello", "orders", "care", "service"])
        return self.value(
            lambda: f"{box}@{self._name().lower()}.{self.random.choice(['com', 'shop', 'example', 'org'])}"
        )

    def _name(self) -> str:
        count = self.random.choice([1, 2, 2, 2, 3])
        return "".join(
            self.random.choice(ONSETS) + self.random.choice(VOWELS) + self.random.choice(CODAS) for _ in range(count)
        ).capitalize()
