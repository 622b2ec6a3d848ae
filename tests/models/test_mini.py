"""What the embedded model promises, whatever its weights: that it fits, answers, stops, and is the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from vivace.llm import LLM, load
from vivace.models.hub import locate_model

MINI = locate_model("mini")


@pytest.fixture(scope="module")
def mini() -> Iterator[LLM]:
    with load("mini", quantize="none", threads=2, max_sequences=8) as llm:
        yield llm


def test_it_fits_in_the_package_with_its_licence_and_card() -> None:
    assert sum(file.stat().st_size for file in MINI.iterdir()) <= 40 * 2**20
    assert "CC-BY-SA-4.0" in (MINI / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Attribution-ShareAlike 4.0" in (MINI / "LICENSE").read_text(encoding="utf-8")


def test_it_is_the_bf16_master() -> None:
    config = json.loads((MINI / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hello"}],
        [{"role": "user", "content": "My order has not arrived. What can I do?"}],
        [
            {"role": "system", "content": "Returns are accepted for 21 days after purchase. Parking costs $3 an hour."},
            {"role": "user", "content": "How long do I have to return something?"},
        ],
    ],
    ids=["greeting", "order", "passage"],
)
def test_greedy_tokens_are_those_of_transformers(mini: LLM, messages: list[dict[str, str]]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINI)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    due = theirs.generate(**prompt, do_sample=False, max_new_tokens=48)[0, prompt["input_ids"].shape[1] :].tolist()
    answer = mini.generate(messages, max_tokens=48, temperature=0.0)
    assert answer.token_ids == due
    assert answer.prompt_tokens == prompt["input_ids"].shape[1]
