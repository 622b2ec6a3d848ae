"""Where conversations come from: files of the data folder, if there is one, and the generators beside it.

A source yields one random conversation for a `Draw`. Splits never mix: `train` is for training, `valid` for early
stopping, `test` for the figures of the model card.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from training.conversation import Conversation, Message, converse
from training.generate import copying, encyclopedia, ignorance, instructions, orders, product, shop, small_talk
from training.generate.words import Draw

Source = Callable[[Draw], Conversation]

GENERATED: Mapping[str, Source] = {
    "copying": copying.write_copy,
    "encyclopedia": encyclopedia.write_entry,
    "ignorance": ignorance.write_ignorance,
    "instructions": instructions.write_instruction,
    "orders": orders.write_order,
    "product": product.write_product,
    "shop": shop.write_shop,
    "shop_long": shop.write_long_shop,
    "shop_short": shop.write_short_shop,
    "small_talk": small_talk.write_small_talk,
}
DIALOGUES = ("camrest", "taskmaster4", "synthetic_persona_chat", "multiwoz", "sgd", "cucom_ecommerce", "topical_chat")
QUESTIONS = ("squad2", "squadshifts_new_wiki")


def read_dialogues(data: Path, name: str, split: str) -> list[Conversation]:
    return [_conversation(record, name) for record in _read(data / "dialogue" / f"{name}.{split}.jsonl.gz")]


def read_questions(data: Path, name: str, split: str) -> list[dict[str, Any]]:
    """Records with `context`, `question` and `answers`, as they stand in the file."""
    return list(_read(data / "qa" / f"{name}.{split}.jsonl.gz"))


def open_sources(data: Path | None) -> dict[str, Source]:
    """All training sources there are; without a data folder, the generated ones."""
    sources = dict(GENERATED)
    if data is None:
        return sources
    for name in DIALOGUES:
        sources[name] = partial(_choose, read_dialogues(data, name, "train"))
    for name in QUESTIONS:
        sources[name] = partial(ask, group(read_questions(data, name, "train")), name)
    seeds = _read(data / "instruct" / "self_instruct_seed.train.jsonl")
    sources["self_instruct"] = partial(_choose, [_conversation(record, "self_instruct") for record in seeds])
    return sources


def _read(path: Path) -> Iterator[dict[str, Any]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    yield from map(json.loads, text.rstrip("\n").split("\n"))


def _conversation(record: dict[str, Any], source: str) -> Conversation:
    neutral = _without_brand if source == "cucom_ecommerce" else str.strip
    messages = tuple(Message(m["role"], neutral(m["content"].strip())) for m in record["messages"])
    return Conversation(messages, source)


def _without_brand(text: str) -> str:
    """The agent of this set speaks for one company; ours speaks for any shop."""
    text = re.sub(r"\b[Aa]mazon(\.in|\.com)?'s\b", "the shop's", text)
    return re.sub(r"\b(AMAZON|[Aa]mazon)(\.in|\.com)?\b", "the shop", text)


def _choose(conversations: Sequence[Conversation], draw: Draw) -> Conversation:
    """A conversation, or for one of many turns, half the time, what comes after some turn of it."""
    conversation = draw.random.choice(conversations)
    turns = len(conversation.messages) // 2
    if turns < 6 or draw.chance(0.5):
        return conversation
    first = draw.random.randrange(turns // 2)
    return Conversation(conversation.messages[2 * first :], conversation.source)


def group(records: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["context"]].append(record)
    return list(groups.items())


def ask(groups: Sequence[tuple[str, list[dict[str, Any]]]], source: str, draw: Draw) -> Conversation:
    """Up to four questions about one passage, answered with the shortest gold span.

    Most unanswerable questions are left out: a small model is unsure of every span, and would refuse always.
    """
    context, records = draw.random.choice(groups)
    asked = [record for record in records if record["answers"] or draw.chance(0.12)] or list(records)
    chosen = draw.random.sample(asked, min(len(asked), draw.random.randint(1, 4)))
    turns = [(record["question"], min(record["answers"], key=len, default=shop.UNKNOWN)) for record in chosen]
    return converse(source, turns, context)
