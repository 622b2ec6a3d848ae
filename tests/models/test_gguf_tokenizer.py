from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from tests.checkpoints import CHATML, byte_level_tokenizer, metaspace_tokenizer
from tests.gguf_files import byte_level_metadata, encode, value, write_gguf
from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.gguf import GgufFile
from vivace.models.gguf_tokenizer import MAX_PIECE_CHARACTERS, read_gguf_tokenizer
from vivace.models.hub import locate_model
from vivace.tokenizer import Tokenizer

TEXTS = [
    "Hello, world!",
    "  two  spaces   and three ",
    "don't we'll 1234 3.14\n\n\tdone\r\n",
    "\u4f60\u597d, \u4e16\u754c",
    "caf\u00e9 cafe\u0301 \U0001f600",
    "hello hell he she",
    "",
    " ",
]


def read(directory: Path, metadata: dict[str, Any], architecture: str = "llama", **more: Any) -> Tokenizer:
    """`more` adds to the metadata, under tokenizer.ggml; None takes a key out."""
    changed = metadata | {f"tokenizer.ggml.{key}": content for key, content in more.items()}
    kept = {key: content for key, content in changed.items() if content is not None}
    return read_gguf_tokenizer(GgufFile.open(write_gguf(directory / "model.gguf", kept)), architecture)


def tokens_of(vocabulary: tokenizers.Tokenizer) -> list[str]:
    return [vocabulary.id_to_token(id) for id in range(vocabulary.get_vocab_size())]


def scored_metadata(prefix: bool = True) -> dict[str, Any]:
    """`metaspace_tokenizer` as SentencePiece would have it: a piece's score falls with the rank of its merge."""
    vocabulary = metaspace_tokenizer()
    tokens, merges = tokens_of(vocabulary), json.loads(vocabulary.to_str())["model"]["merges"]
    ranks = {left + right: rank for rank, (left, right) in enumerate(merges)}
    kinds = [2 if token == "<unk>" else 3 if token in ("<s>", "</s>") else 6 if token[:3] == "<0x" else 1
             for token in tokens]  # fmt: skip
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(ranks.get(token, 1000 + id)) for id, token in enumerate(tokens)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def merged_metadata(**more: Any) -> dict[str, Any]:
    """The embedded model's byte-level tokenizer, which has merges."""
    model = json.loads((locate_model("mini") / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"] for token in model["added_tokens"]}
    tokens = sorted(model["model"]["vocab"], key=model["model"]["vocab"].__getitem__)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["model"]["merges"]]
    return byte_level_metadata() | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in added else 1 for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }


@pytest.mark.parametrize("text", TEXTS)
def test_a_byte_level_tokenizer_is_the_same_as_before(tmp_path: Path, text: str) -> None:
    tokenizer, expected = read(tmp_path, byte_level_metadata()), byte_level_tokenizer()
    assert tokenizer.encode(text) == expected.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_scored_pieces_are_joined_as_their_merges_were(tmp_path: Path, text: str) -> None:
    tokenizer, expected = read(tmp_path, scored_metadata()), metaspace_tokenizer()
    ids = tokenizer.encode(text)
    assert ids == expected.encode(text).ids
    assert tokenizer.decode(ids) == expected.decode(ids)


@pytest.mark.parametrize("text", ["Hello hello", "<s>he", "the </s> end"])
def test_names_of_special_tokens_are_found_in_a_raw_text(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, scored_metadata()).encode(text) == metaspace_tokenizer().encode(text).ids


def test_scored_pieces_without_a_space_before_the_text(tmp_path: Path) -> None:
    tokenizer, vocabulary = read(tmp_path, scored_metadata(prefix=False)), metaspace_tokenizer().get_vocab()
    assert tokenizer.encode("he he") == [vocabulary["<s>"], vocabulary["he"], vocabulary["\u2581he"]]
    assert tokenizer.decode(tokenizer.encode(" he he")) == " he he"
    assert tokenizer.decode(tokenizer.encode("he he")) == "he he"


def test_of_pieces_that_overlap_the_better_score_wins(tmp_path: Path) -> None:
    metadata = scored_metadata(prefix=False) | {
        "tokenizer.ggml.tokens": ["<unk>", "a", "b", "c", "ab", "bc", "abc"],
        "tokenizer.ggml.scores": [0.0, -9.0, -9.0, -9.0, -3.0, -2.0, -5.0],
        "tokenizer.ggml.token_type": [2, 1, 1, 1, 1, 1, 1],
    }
    plain: dict[str, Any] = {"add_bos_token": False, "bos_token_id": None, "eos_token_id": None}
    tokenizer = read(tmp_path, metadata, **plain)
    assert tokenizer.encode("abc") == [6]
    assert tokenizer.encode("abbc") == [4, 5]
    tokenizer = read(tmp_path, metadata, scores=[0.0, -9.0, -9.0, -9.0, -3.0, -2.0, -500.0], **plain)
    assert tokenizer.encode("abc") == [6]


@pytest.mark.parametrize(
    ("pre", "architecture"), [("gpt-2", "gpt2"), (None, "gpt2"), ("default", "qwen2"), ("llama-bpe", "llama"),
                              ("qwen2", "qwen2"), ("smollm", "llama"), ("tekken", "llama")],
)  # fmt: skip
@pytest.mark.parametrize("text", TEXTS)
def test_every_split_keeps_the_text(tmp_path: Path, pre: str | None, architecture: str, text: str) -> None:
    tokenizer = read(tmp_path, merged_metadata(), architecture, pre=pre)
    decoded = tokenizer.decode(tokenizer.encode(text))
    assert decoded == (text.replace("e\u0301", "\u00e9") if architecture == "qwen2" else text)


def test_merges_are_followed(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, merged_metadata())
    expected = tokenizers.Tokenizer.from_file(str(locate_model("mini") / "tokenizer.json"))
    expected.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected.normalizer = None
    for text in TEXTS:
        assert tokenizer.encode(text, special=False) == expected.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["it", "'s", " 12345", "!?", "\n\n"]),
        ("llama-bpe", ["it", "'s", " ", "123", "45", "!?\n\n"]),
        ("qwen2", ["it", "'s", " ", "1", "2", "3", "4", "5", "!?\n\n"]),
        ("smollm", ["it", "'s", " ", "1", "2", "3", "4", "5", "!?", "\n\n"]),
        ("tekken", ["it", "'s", " ", "1", "2", "3", "4", "5", "!?\n\n"]),
    ],
)
def test_texts_are_split_as_the_named_pattern_says(tmp_path: Path, pre: str, pieces: list[str]) -> None:
    """Seen by a vocabulary that would join everything: no token reaches over a cut."""
    text = "it's 12345!?\n\n"
    mapped = [piece.replace(" ", "\u0120").replace("\n", "\u010a") for piece in pieces]
    whole, tokens = "".join(mapped), byte_level_metadata()["tokenizer.ggml.tokens"]
    spans = [(start, end) for start in range(len(whole)) for end in range(start + 2, len(whole) + 1)]
    longer = dict.fromkeys(sorted((whole[start:end] for start, end in spans), key=len))
    tokens = list(dict.fromkeys([*tokens, *longer]))
    joins = [f"{token[:cut]} {token[cut:]}" for token in longer for cut in range(1, len(token))]
    metadata = byte_level_metadata() | {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": joins}
    tokenizer = read(tmp_path, metadata, pre=pre, token_type=None, add_bos_token=False)
    assert [tokens[id] for id in tokenizer.encode(text)] == mapped


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [104, 105]),
        ({"add_bos_token": True}, [256, 104, 105]),
        ({"add_eos_token": True}, [104, 105, 258]),
        ({"add_bos_token": True, "add_eos_token": True}, [256, 104, 105, 258]),
        ({"add_bos_token": None, "pre": "llama-bpe"}, [256, 104, 105]),
        ({"add_bos_token": None, "pre": "qwen2"}, [104, 105]),
        ({"add_bos_token": True, "bos_token_id": None}, [104, 105]),
    ],
)
def test_what_stands_around_a_text_is_as_the_file_says(
    tmp_path: Path, more: dict[str, Any], expected: list[int]
) -> None:
    tokenizer = read(tmp_path, byte_level_metadata(), **more)
    assert tokenizer.encode("hi") == expected
    assert tokenizer.encode("hi", special=False) == [104, 105]


def test_special_tokens_and_the_template_are_those_of_the_file(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, byte_level_metadata())
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    ids = tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    assert ids[0] == 257
    assert tokenizer.decode(ids) == "user\nhi\nassistant\n"


def test_a_file_may_hold_several_templates_or_none(tmp_path: Path) -> None:
    named = {"tokenizer.chat_template.tool_use": "tools {{ bos_token }}"}
    tokenizer = read(tmp_path, byte_level_metadata() | named)
    message = [{"role": "user", "content": "hi"}]
    assert tokenizer.render_chat(message, tools=[{}]) == "tools <|endoftext|>"
    assert tokenizer.render_chat(message).startswith("<|im_start|>user")
    assert not read(tmp_path, byte_level_metadata() | {"tokenizer.chat_template": None}).has_chat_template


def test_tokens_that_users_define_are_found_whole_and_are_text(tmp_path: Path) -> None:
    metadata = byte_level_metadata()
    kinds = [4 if id == 257 else kind for id, kind in enumerate(metadata["tokenizer.ggml.token_type"])]
    tokenizer = read(tmp_path, metadata, token_type=kinds)
    assert tokenizer.encode("a<|im_start|>") == [97, 257]
    assert tokenizer.decode([97, 257]) == "a<|im_start|>"


def test_control_tokens_of_phi3_take_the_spaces_after_them(tmp_path: Path) -> None:
    text = "<|im_end|>  a<|endoftext|> a"
    assert read(tmp_path, byte_level_metadata(), "phi3").encode(text) == [258, 97, 256, 32, 97]
    assert read(tmp_path, byte_level_metadata(), "llama").encode(text) == [258, 32, 32, 97, 256, 32, 97]


def test_tokens_without_a_name_are_left_out(tmp_path: Path) -> None:
    tokens = [*byte_level_metadata()["tokenizer.ggml.tokens"], "", ""]
    tokenizer = read(tmp_path, byte_level_metadata(), tokens=tokens, token_type=None)
    assert tokenizer.encode("hi") == [104, 105]
    assert tokenizer.decode([104, 259, 260, 105]) == "hi"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tokens": None}, "tokenizer.ggml.tokens is None; it must be a list"),
        ({"tokens": encode([1, 2])}, "tokenizer.ggml.tokens is .*a list of at most"),
        ({"tokens": ["a", "a"], "token_type": None}, "holds a token twice"),
        ({"token_type": [1, 1]}, "tokenizer.ggml.token_type is .*a list of 259 numbers"),
        ({"token_type": "x"}, "tokenizer.ggml.token_type is 'x'"),
        ({"merges": None}, "tokenizer.ggml.merges is None"),
        ({"merges": ["ab"]}, "holds 'ab', which is no pair"),
        ({"merges": ["a zz"]}, "the tokens make no tokenizer"),
        ({"bos_token_id": 259}, "tokenizer.ggml.bos_token_id is 259; .*from 0 to 258"),
        ({"model": None}, "tokenizer.ggml.model is missing"),
        ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token is 1; it must be true or false"),
    ],
)
def test_lists_that_contradict_each_other_are_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"model\.gguf: .*{message}"):
        read(tmp_path, byte_level_metadata(), **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"scores": None}, "tokenizer.ggml.scores is None"),
        ({"scores": [0.0]}, "tokenizer.ggml.scores is .*a list of"),
        ({"scores": value("f32", [float("nan")] * 290)}, "tokenizer.ggml.scores is .*finite|a list of"),
        (
            {"tokens": ["a" * (MAX_PIECE_CHARACTERS + 1)], "scores": [0.0], "token_type": None},
            "a piece of more than 1024",
        ),
    ],
)
def test_scores_that_cannot_be_are_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    plain = {"bos_token_id": None, "eos_token_id": None, "unknown_token_id": None} if "tokens" in more else {}
    with pytest.raises(CheckpointError, match=rf"model\.gguf: .*{message}"):
        read(tmp_path, scored_metadata(), **more | plain)


def test_joins_of_pieces_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivace.models.gguf_tokenizer.MAX_MERGES", 3)
    with pytest.raises(CheckpointError, match="join in more than 3 ways"):
        read(tmp_path, scored_metadata())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "bert"}, "tokenizer.ggml.model is 'bert'; supported are gpt2, llama"),
        ({"pre": "viking"}, "tokenizer.ggml.pre is 'viking'; supported are gpt-2, llama-bpe"),
        ({"pre": None}, "tokenizer.ggml.pre is 'default'"),
    ],
)
def test_a_kind_of_tokenizer_that_is_not_known_is_unsupported(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"model\.gguf: .*{message}"):
        read(tmp_path, byte_level_metadata(), **more)


def test_a_template_that_is_no_string_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.chat_template is 3"):
        read(tmp_path, byte_level_metadata() | {"tokenizer.chat_template": 3})


def test_the_chat_template_of_the_tests_is_in_the_file() -> None:
    assert byte_level_metadata()["tokenizer.chat_template"] == CHATML
