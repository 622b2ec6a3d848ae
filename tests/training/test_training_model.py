from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from training.config import DecoderConfig
from training.export import export, load_weights
from training.model import Decoder
from training.packing import join
from training.tokenizer import Document, train_tokenizer

TINY = DecoderConfig(vocab_size=300, hidden_size=48, layers=3, heads=6, kv_heads=2, mlp_size=80, context_length=64)


@pytest.fixture
def model() -> Decoder:
    torch.manual_seed(0)
    model = Decoder(TINY)
    for parameter in model.parameters():  # large enough that every part shows in the logits
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else torch.nn.init.uniform_(
            parameter, 0.5, 1.5
        )
    # As exported, so that nothing is lost on the way.
    model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()})
    return model


def documents(*lengths: int) -> list[Document]:
    torch.manual_seed(1)
    return [Document(torch.randint(0, 300, (length,)).tolist(), [1.0] * length) for length in lengths]


@torch.no_grad()
def logits(model: Decoder, sequences: list[list[Document]], padded: int | None = None) -> torch.Tensor:
    batch = join(sequences, padded)
    return model.logits(model(batch.tokens, batch.layout))


def test_exported_weights_give_the_logits_of_transformers(model: Decoder, tmp_path: Path) -> None:
    export(model, train_tokenizer(["a b"], 300), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    (document,) = documents(40)
    with torch.no_grad():
        due = theirs(torch.tensor([document.tokens])).logits[0]
    torch.testing.assert_close(logits(model, [[document]]), due, rtol=1e-4, atol=1e-4)


def test_a_document_has_the_logits_it_has_alone(model: Decoder) -> None:
    first, second, third = documents(9, 1, 17)
    packed = logits(model, [[first, second], [third]])
    alone = torch.cat([logits(model, [[document]]) for document in (first, second, third)])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_mask_and_bounds_are_the_same_attention(model: Decoder) -> None:
    first, second, third = documents(9, 5, 17)
    by_bounds = logits(model, [[first, second], [third]])
    by_mask = logits(model, [[first, second], [third]], padded=20)
    torch.testing.assert_close(torch.cat([by_mask[:14], by_mask[20:37]]), by_bounds, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_is_gone_on_from_with_the_same_function(model: Decoder, tmp_path: Path) -> None:
    export(model, train_tokenizer(["a b"], 300), tmp_path)
    other = Decoder(TINY)
    load_weights(other, tmp_path)
    sequences = [documents(20)]
    assert torch.equal(logits(other, sequences), logits(model, sequences))


def test_a_checkpoint_of_another_shape_is_refused(model: Decoder, tmp_path: Path) -> None:
    export(model, train_tokenizer(["a b"], 300), tmp_path)
    wider = DecoderConfig(vocab_size=300, hidden_size=48, layers=3, heads=6, kv_heads=3, mlp_size=96)
    with pytest.raises(ValueError, match=r"intermediate_size.*num_key_value_heads"):
        load_weights(Decoder(wider), tmp_path)
