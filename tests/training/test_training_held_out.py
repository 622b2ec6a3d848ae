from __future__ import annotations

from pathlib import Path

import torch

from tests.training.data_folder import write_data
from training.config import ASSISTANT_ONLY, DecoderConfig
from training.conversation import converse
from training.held_out import GENERATED, gather, score
from training.model import Decoder
from training.packing import join
from training.sources import DIALOGUES
from training.tokenizer import encode, train_tokenizer

TOKENIZER = train_tokenizer(["one two three hello goodbye"] * 4, 280)
TALK = converse("test", [("hello", "one two"), ("goodbye", "three")])


def test_an_answer_is_exact_only_if_every_token_of_it_is_the_likeliest() -> None:
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(vocab_size=280, hidden_size=32, layers=1, heads=2, kv_heads=1, mlp_size=64))
    document = encode(TOKENIZER, TALK, ASSISTANT_ONLY)
    assert score(model, {"a": [document]})["a"].exact == 0.0
    batch = join([[document]])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        chosen = batch.weights > 0
        logits = model.logits(model(batch.tokens, batch.layout)[chosen])
        torch.nn.functional.cross_entropy(logits, batch.targets[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()
    learned = score(model, {"a": [document]})["a"]
    assert learned.exact == 1.0
    assert learned.loss < 0.1
    other = encode(TOKENIZER, converse("test", [("hello", "one two"), ("goodbye", "goodbye")]), ASSISTANT_ONLY)
    assert score(model, {"a": [document, other]})["a"].exact == 0.5


def test_without_data_the_generated_sets_are_watched_and_with_it_the_validation_split(tmp_path: Path) -> None:
    write_data(tmp_path)
    assert gather(None, TOKENIZER, 3, 100).keys() == GENERATED.keys()
    sets = gather(tmp_path, TOKENIZER, 6, 100)
    assert sets.keys() == {*GENERATED, *DIALOGUES, "squadshifts_new_wiki"}
    assert all(len(document.tokens) <= 100 for name in DIALOGUES for document in sets[name])


def test_the_same_conversations_are_watched_every_time() -> None:
    assert gather(None, TOKENIZER, 3, 100) == gather(None, TOKENIZER, 3, 100)
