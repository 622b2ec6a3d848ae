from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints import write_llama
from vivace.engine.admission import AdmissionConfig
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import ConfigError
from vivace.launch import launch, open_ladder, parse_ladder
from vivace.llm import open_draft
from vivace.runners.native import NativeConfig


def test_rungs_are_names_and_models_the_best_first() -> None:
    assert list(parse_ladder(["full=a/b", "fast=c=d"]).items()) == [("full", "a/b"), ("fast", "c=d")]


@pytest.mark.parametrize("rungs", [["full"], ["=x"], ["full="], ["a=x", "a=y"], ["a b=x"]])
def test_what_is_no_ladder_is_refused_with_the_way_to_write_it(rungs: list[str]) -> None:
    with pytest.raises(ConfigError, match="NAME=MODEL"):
        parse_ladder(rungs)


@given(st.lists(st.text(max_size=8), max_size=4))
def test_any_texts_are_a_ladder_or_a_clear_error(rungs: list[str]) -> None:
    with suppress(ConfigError):
        assert len(parse_ladder(rungs)) == len(rungs)


def test_a_ladder_has_at_most_eight_rungs() -> None:
    with pytest.raises(ConfigError, match="at most 8"):
        parse_ladder([f"r{i}=x" for i in range(9)])


def test_rungs_must_make_the_same_tokens(tmp_path: Path) -> None:
    one, other = write_llama(tmp_path / "one"), write_llama(tmp_path / "other")
    assert list(open_ladder({"full": str(one), "fast": str(other)})) == ["full", "fast"]
    (other / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ConfigError, match="another tokenizer"):
        open_ladder({"full": str(one), "fast": str(other)})


def test_a_ladder_is_launched_with_a_cost_for_each_rung(tmp_path: Path) -> None:
    directory = str(write_llama(tmp_path / "one"))
    models = open_ladder({"full": directory, "fast": directory})
    config = NativeConfig(threads=1, max_sequences=4, max_batch_tokens=64, kv_memory_bytes=2**20)
    launched = launch(models, config, SchedulerConfig(), AdmissionConfig())
    try:
        assert launched.first == "full"
        assert len(launched.bridge.stats().costs) == 2
    finally:
        launched.close()


def test_a_draft_has_as_much_room_as_its_model_and_speaks_for_no_ladder(tmp_path: Path) -> None:
    directory = str(write_llama(tmp_path / "one"))
    draft = open_draft(str(write_llama(tmp_path / "small", layers=1, seed=2)), open_ladder({"": directory})[""])
    config = NativeConfig(threads=1, max_sequences=4, max_batch_tokens=64, kv_memory_bytes=2**20, quantize="none")
    policy, rules = SchedulerConfig(max_proposed=4), AdmissionConfig()
    launched = launch(open_ladder({"": directory}), config, policy, rules, draft=draft)
    try:
        assert launched.draft is not None
        assert launched.draft.limits == launched.runners[""].limits
        assert launched.draft.weight_bytes < launched.runners[""].weight_bytes
    finally:
        launched.close()
    with pytest.raises(ConfigError, match="speaks for one model"):
        launch(open_ladder({"full": directory, "fast": directory}), config, policy, rules, draft=draft)
