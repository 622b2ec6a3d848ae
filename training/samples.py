"""Twenty conversations to read, as Markdown.

    python -m training.samples MODEL --quantize int8

None of the passages or questions is generated; they were written to see what the model does with them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import vivace

LONGEST_REPLY = 128


class Sample(NamedTuple):
    turns: Sequence[str]
    """What the user says; the model's own answers stand between."""
    system: str | None = None


FLOWERS = (
    "Rosa's Flowers delivers bouquets on the same day if you order before 2 pm. Delivery costs $6.50. "
    "We are open from 8:30 am to 7 pm, Monday to Saturday."
)
BIKES = (
    "You are the assistant of Northside Bikes. Use only this information:\n"
    "[1] You can return any bicycle within 30 days. The refund takes 5 days.\n\n"
    "[2] The Falcon 300 costs $899. The Sparrow costs $420.\n\n"
    "[3] Call us on 0800 555 019."
)
BAKERY = (
    "Opening hours: 6 am to 4 pm, closed on Sunday.\nThe owner is Ms Petrova.\n"
    "A birthday cake costs 35 euros and takes two days."
)
TOWER = (
    "The Eiffel Tower is a wrought-iron lattice tower in Paris, France. It is named after the engineer Gustave Eiffel, "
    "whose company built the tower from 1887 to 1889. It is 330 metres tall."
)
ORDERS = "Orders:\nOrder 48213 was shipped on 14 March.\nOrder 50077 is being packed on 2 April."

SAMPLES: tuple[Sample, ...] = (
    Sample(["Hi there!", "How are you?"]),
    Sample(["Who are you?", "Are you a robot?"]),
    Sample(["What is vivace?", "How do budgets work?"]),
    Sample(["How do I start the server?", "Thanks, bye"]),
    Sample(["Until what time can I order for today?", "And how much is delivery?"], FLOWERS),
    Sample(["When are you open?", "Do you sell roses?"], FLOWERS),
    Sample(["How long do I have to return a bicycle?", "And when do I get my money back?"], BIKES),
    Sample(["How much is the Falcon 300?", "And the Sparrow?"], BIKES),
    Sample(["What is your phone number?", "What colours does the Falcon have?"], BIKES),
    Sample(["Who is the owner?", "What does a birthday cake cost?"], BAKERY),
    Sample(["How tall is the Eiffel Tower?", "Who is it named after?"], TOWER),
    Sample(["Where is my order?", "It's 48213."], ORDERS),
    Sample(["I want a refund.", "My order number is 7781-B."]),
    Sample(["I forgot my password."]),
    Sample(["What are your opening hours?"]),
    Sample(["Hola, ¿dónde está mi pedido?", "Translate dog into French."]),
    Sample(["Make a list of apples, bread and milk.", "Count to five."]),
    Sample(["My name is Daniel.", "What is my name?"]),
    Sample(["Who won the world cup in 1998?"]),
    Sample(["I had a bad day.", "My dog is ill."]),
)


def converse(llm: vivace.LLM, sample: Sample) -> Iterator[tuple[str, str]]:
    """The roles and texts of a sample, the model's greedy answers among them."""
    messages = [] if sample.system is None else [{"role": "system", "content": sample.system}]
    yield from ((message["role"], message["content"]) for message in messages)
    for said in sample.turns:
        messages.append({"role": "user", "content": said})
        yield "user", said
        answer = llm.generate(messages, max_tokens=LONGEST_REPLY, temperature=0.0)
        messages.append({"role": "assistant", "content": answer.text})
        yield "assistant", answer.text if answer.finish_reason == "stop" else f"{answer.text} [cut off]"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.samples", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--quantize", default="int8")
    options = parser.parse_args()
    with vivace.load(options.model, quantize=options.quantize) as llm:
        for number, sample in enumerate(SAMPLES, 1):
            print(f"{number}.")
            for role, text in converse(llm, sample):
                print(f"   - {role}: " + " / ".join(text.split("\n")))


if __name__ == "__main__":
    main()
