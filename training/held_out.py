"""What a run is watched by: loss, and exact answers, on conversations it never trains on.

An answer is exact if every token of it, its end included, is the likeliest one after the right ones before it: that
is the same as greedy decoding giving exactly this answer, and takes one pass for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer

from training.config import ASSISTANT_ONLY
from training.conversation import Conversation
from training.generate import copying, encyclopedia, instructions, orders, shop
from training.generate.words import Draw
from training.model import Decoder
from training.packing import join
from training.sources import DIALOGUES, ask, group, read_dialogues, read_questions
from training.tokenizer import Document, encode

GENERATED = {
    "shop": shop.write_single,
    "unanswerable": shop.write_unanswerable,
    "encyclopedia": encyclopedia.write_entry,
    "copying": copying.write_copy,
    "orders": orders.write_order,
    "instructions": instructions.write_instruction,
}


class Score(NamedTuple):
    loss: float
    """Mean over the assistant's tokens, in nats."""
    exact: float
    """Share of conversations of which every assistant token is the likeliest."""


def gather(data: Path | None, tokenizer: Tokenizer, count: int, length: int) -> dict[str, list[Document]]:
    """`count` held-out documents of each generated set, a third as many of each other, these cut to `length` tokens."""
    generated = {name: _write(write, count) for name, write in GENERATED.items()}
    documents = {name: [encode(tokenizer, c, ASSISTANT_ONLY) for c in generated[name]] for name in generated}
    return documents | {
        name: [_cut(encode(tokenizer, c, ASSISTANT_ONLY), length) for c in conversations]
        for name, conversations in _read(data, count // 3).items()
    }


def _read(data: Path | None, count: int) -> dict[str, Sequence[Conversation]]:
    sets: dict[str, Sequence[Conversation]] = {}
    if data is not None:
        sets |= {name: read_dialogues(data, name, "valid")[:count] for name in DIALOGUES}
        groups = group(list(read_questions(data, "squadshifts_new_wiki", "valid")))
        draw = Draw("questions")
        sets["squadshifts_new_wiki"] = [ask(groups, "squadshifts_new_wiki", draw) for _ in range(count)]
    return sets


def _write(write: Callable[[Draw], Conversation], count: int) -> list[Conversation]:
    draw = Draw(f"held out {write.__name__}", held_out=True)
    return [write(draw) for _ in range(count)]


def _cut(document: Document, length: int) -> Document:
    return Document(document.tokens[:length], document.weights[:length])


@torch.no_grad()
def score(model: Decoder, sets: Mapping[str, Sequence[Document]]) -> dict[str, Score]:
    model.eval()
    scores = {name: _score(model, list(documents)) for name, documents in sets.items()}
    model.train()
    return scores


def _score(model: Decoder, documents: list[Document]) -> Score:
    device = model.embed_tokens.weight.device
    batch = join([documents]).to(device)
    chosen = batch.weights > 0
    logits = model.logits(model(batch.tokens, batch.layout)[chosen]).float()
    targets = batch.targets[chosen]
    wrong = torch.zeros(len(batch.tokens), dtype=torch.bool, device=device)
    wrong[chosen] = logits.argmax(-1) != targets
    exact = sum(not bool(wrong[start:end].any()) for start, end in batch.layout.bounds) / len(documents)
    return Score(float(F.cross_entropy(logits, targets)), exact)
