from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.conversation import converse
from training.tokenizer import END, SPECIAL, TEMPLATE, encode, read_tokenizer, render, train_tokenizer
from vivace.chat_template import ChatTemplate

TEXTS = ["The shop opens at 9:30 on Monday.", "Where is my order? It is late.", "é 漢"] * 20
ROLES = {"assistant": 4.0, "user": 3.0, "system": 2.0, "header": 1.0}
TALK = converse("test", [("Hi\n\nthere", "Hello!"), ("Bye", "Goodbye\n- a\n- b")], "Be kind.")


def test_special_tokens_come_first_and_any_text_is_given_back() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2]
    assert tokenizer.get_vocab_size() <= 400
    assert tokenizer.decode(tokenizer.encode("Ünseen 🙂 text\n").ids) == "Ünseen 🙂 text\n"


def test_what_is_trained_on_is_what_the_template_writes() -> None:
    messages = [message._asdict() for message in TALK.messages]
    assert ChatTemplate({"default": TEMPLATE}, {}).render(messages, add_generation_prompt=False, tools=None) == render(
        TALK
    )


def test_a_token_weighs_as_its_role_and_the_template_as_header() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    document = encode(tokenizer, TALK, ROLES)
    said: dict[float, list[int]] = {}
    for token, weight in zip(document.tokens, document.weights, strict=True):
        said.setdefault(weight, []).append(token)
    assert tokenizer.decode(said[2.0], skip_special_tokens=False) == "Be kind.<|im_end|>"
    assert tokenizer.decode(said[3.0], skip_special_tokens=False) == "Hi\n\nthere<|im_end|>Bye<|im_end|>"
    assert tokenizer.decode(said[4.0], skip_special_tokens=False) == "Hello!<|im_end|>Goodbye\n- a\n- b<|im_end|>"
    assert END not in said[1.0]


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8").replace("<|im_end|>", "<|end|>")
    json.loads(text)
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="special tokens"):
        read_tokenizer(tmp_path)
