"""Text to tokens: byte-level BPE, and a ChatML-style template over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.conversation import Conversation

END_OF_TEXT, START, END = 0, 1, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Document(NamedTuple):
    """One conversation in tokens, [length] each."""

    tokens: list[int]
    weights: list[float]
    """Of the loss of predicting each token."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al., 2016; Radford et al., 2019) of exactly `vocab_size` tokens, or fewer if the
    texts hold no more pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def read_tokenizer(directory: Path) -> Tokenizer:
    """Raises `ValueError` if its special tokens are not ours."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    if [tokenizer.token_to_id(token) for token in SPECIAL] != [END_OF_TEXT, START, END]:
        raise ValueError(f"The tokenizer in {directory} has other special tokens than {SPECIAL}; take one made here.")
    return tokenizer


def render(conversation: Conversation) -> str:
    return "".join(f"{SPECIAL[START]}{role}\n{content}{SPECIAL[END]}\n" for role, content in conversation.messages)


def encode(tokenizer: Tokenizer, conversation: Conversation, role_weights: Mapping[str, float]) -> Document:
    """The rendered conversation. A turn's own tokens and the one that ends it weigh as its role, the rest as header."""
    tokens: list[int] = tokenizer.encode(render(conversation), add_special_tokens=False).ids
    newline = tokenizer.token_to_id("Ċ")
    weights: list[float] = []
    weight = header = role_weights["header"]
    turns = iter(conversation.messages)
    in_header = True
    for token in tokens:
        weights.append(header if in_header else weight)
        if token == END:
            in_header = True
        elif token == START:
            weight = role_weights[next(turns).role]
        elif in_header and token == newline and len(weights) > 1 and tokens[len(weights) - 2] != END:
            in_header = False
    return Document(tokens, weights)
