"""What is recognised as the same request, and what a request's Cache-Control asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.sampling import GenerationDefaults
from vivace.server.protocol import decode_chat, decode_completion
from vivace.server.responses import decode_responses
from vivace.server.sharing import Directives, Keys, find_keys, read_directives

GREEDY, WARM = GenerationDefaults(), GenerationDefaults(temperature=0.7)
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "a secret question"}]}


def keys_of(defaults: GenerationDefaults = GREEDY, caller: str = "", pace: str = "", **fields: Any) -> Keys | None:
    asked = decode_chat(json.dumps(CHAT | fields).encode())
    return find_keys("/v1/chat/completions", asked, defaults, caller, pace)


def format_of(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me"},
        {"metadata": {"a": "b"}},
        {"store": False},
        {"safety_identifier": "x"},
        {"prompt_cache_key": "x"},
        {"service_tier": "auto"},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"temperature": 0},
        {"temperature": None, "n": None},
    ],
)
def test_what_changes_no_answer_changes_no_key(fields: dict[str, Any]) -> None:
    assert keys_of(**fields) == keys_of()


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "a secret question "}]},
        {"messages": [{"role": "system", "content": "a secret question"}]},
        {"max_tokens": 5},
        {"n": 2},
        {"stop": "x"},
        {"top_p": 0.5},
        {"seed": 1},
        {"seed": 2},
        {"logprobs": True},
        {"cache_salt": "mine"},
        {"cache_salt": "yours"},
        {"response_format": {"type": "json_object"}},
        {"response_format": format_of({"a": {}, "b": {}})},
        {"response_format": format_of({"b": {}, "a": {}})},
        {"logit_bias": {"1": 1}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"ignore_eos": True},
    ],
    ids=str,
)
def test_what_may_change_an_answer_changes_the_key(fields: dict[str, Any]) -> None:
    found = keys_of(**fields)
    assert found is not None
    assert found.answer not in _seen
    _seen.add(found.answer)


_plain = keys_of()
assert _plain is not None
_seen = {_plain.answer}
"""So that no two of the cases are equal either."""


def test_only_requests_without_chance_have_keys() -> None:
    assert keys_of(WARM) is None
    assert keys_of(temperature=0.7) is None
    assert keys_of(WARM, temperature=0) is not None
    assert keys_of(temperature=0.7, seed=3) is not None
    assert keys_of(temperature=0.7, seed=3) != keys_of(temperature=0.8, seed=3)


def test_callers_that_must_not_share_have_keys_of_their_own() -> None:
    mine, yours = keys_of(caller="a"), keys_of(caller="b")
    assert mine is not None
    assert yours is not None
    assert mine.answer != yours.answer
    assert mine.flight != yours.flight


def test_requests_of_different_pace_share_kept_answers_and_do_not_wait_together() -> None:
    calm, hasty = keys_of(), keys_of(pace="ttft=50ms")
    assert calm is not None
    assert hasty is not None
    assert calm.answer == hasty.answer
    assert calm.flight != hasty.flight


def test_routes_share_nothing() -> None:
    completion = decode_completion(b'{"model": "tiny", "prompt": "x"}')
    response = decode_responses(b'{"model": "tiny", "input": "x"}')
    found = [find_keys("/v1/completions", completion, GREEDY), find_keys("/v1/responses", response, GREEDY)]
    assert None not in found
    assert len({key.answer for key in found if key}) == 2
    assert found[0] != find_keys("/v1/responses", completion, GREEDY)


def test_keys_hold_no_text() -> None:
    found = keys_of()
    assert found is not None
    assert (len(found.answer), len(found.flight)) == (32, 32)
    assert b"secret" not in found.answer + found.flight


@pytest.mark.parametrize(
    ("header", "directives"),
    [
        ("", Directives()),
        ("no-store", Directives(store=False)),
        ("No-Store, max-age=3", Directives(store=False, max_age_s=3)),
        ("no-cache", Directives(max_age_s=0)),
        ("max-age=0", Directives(max_age_s=0)),
        (' max-age="60" ,private', Directives(max_age_s=60)),
        ("max-age=-1", Directives()),
        ("max-age=x, no-storage", Directives()),
        ("max-age=" + "9" * 5000, Directives(max_age_s=2.0**31)),
    ],
)
def test_cache_control_is_read_as_the_standard_has_it(header: str, directives: Directives) -> None:
    assert read_directives(header) == directives


@given(st.text())
def test_any_header_is_read(header: str) -> None:
    read_directives(header)
