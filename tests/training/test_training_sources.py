from __future__ import annotations

from pathlib import Path

from tests.training.data_folder import write_data
from training.generate.shop import UNKNOWN
from training.generate.words import Draw
from training.sources import GENERATED, open_sources, read_dialogues


def test_without_a_data_folder_there_are_the_generated_sources() -> None:
    assert open_sources(None).keys() == GENERATED.keys()


def test_the_data_folder_adds_its_sets(tmp_path: Path) -> None:
    write_data(tmp_path)
    sources = open_sources(tmp_path)
    assert {"sgd", "cucom_ecommerce", "squad2", "squadshifts_new_wiki", "self_instruct"} < sources.keys()
    for name, source in sources.items():
        assert source(Draw(0)).source == name.removesuffix("_long").removesuffix("_short")


def test_the_support_set_speaks_for_no_brand(tmp_path: Path) -> None:
    write_data(tmp_path, reply="Welcome to Amazon. AMAZON's best, at amazon.in; Amazonian.")
    (dialogue, *_) = read_dialogues(tmp_path, "cucom_ecommerce", "train")
    assert dialogue.messages[1].content == "Welcome to the shop. the shop's best, at the shop; Amazonian."
    (dialogue, *_) = read_dialogues(tmp_path, "sgd", "train")
    assert "Amazon" in dialogue.messages[1].content


def test_questions_are_answered_with_the_shortest_span_or_the_admission(tmp_path: Path) -> None:
    write_data(tmp_path)
    source = open_sources(tmp_path)["squad2"]
    answers = {message.content for seed in range(40) for message in source(Draw(seed)).messages[2::2]}
    assert answers == {"nine", UNKNOWN}


def test_a_long_dialogue_is_entered_at_a_turn_of_the_user(tmp_path: Path) -> None:
    write_data(tmp_path, turns=9)
    source = open_sources(tmp_path)["sgd"]
    lengths = set()
    for seed in range(40):
        conversation = source(Draw(seed))
        assert conversation.messages[0].role == "user"
        lengths.add(len(conversation.messages))
    assert max(lengths) == 18
    assert min(lengths) >= 10
