"""What requests may say, and how errors name what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vivace.errors import ModelNotFoundError
from vivace.server.decoding import FieldError
from vivace.server.protocol import (
    chat_messages,
    chat_params,
    check_model,
    completion_params,
    completion_prompts,
    decode_chat,
    decode_completion,
)

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "messages": HELLO} | fields).encode()


def completion(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "Hello"} | fields).encode()


def refusal(body: bytes) -> FieldError:
    with pytest.raises(FieldError) as caught:
        chat_messages(decode_chat(body).messages)
    return caught.value


def test_an_unknown_field_is_refused_by_name() -> None:
    error = refusal(chat(temprature=1))
    assert (error.field, error.code) == ("temprature", "unknown_parameter")
    assert "'temprature'" in str(error)


def test_an_unknown_field_of_a_message_is_refused_by_its_path() -> None:
    error = refusal(chat(messages=[*HELLO, {"role": "user", "content": "x", "colour": 1}]))
    assert (error.field, error.code) == ("messages[1].colour", "unknown_parameter")


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    body = json.loads(chat())
    del body[missing]
    error = refusal(json.dumps(body).encode())
    assert (error.field, error.code) == (missing, "missing_required_parameter")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_completion_tokens", 0),
        ("stream", "yes"),
        ("messages", []),
        ("messages", "Hello"),
        ("stop", ["x"] * 17),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [2**31]),
        ("metadata", {"a": 1}),
        ("seed", 1.5),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("frequency_penalty", "much"),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {str(id): 1 for id in range(1025)}),
        ("min_tokens", -1),
        ("logprobs", 3),
        ("top_logprobs", 21),
        ("top_logprobs", True),
    ],
)
def test_a_value_out_of_range_names_its_field(field: str, value: object) -> None:
    error = refusal(chat(**{field: value}))
    assert error.field is not None
    assert error.field.startswith(field)
    assert error.code == "invalid_value"
    assert field in str(error)


@pytest.mark.parametrize("stop", ["", [""], ["x", ""]])
def test_an_empty_stop_string_is_refused(stop: object) -> None:
    assert (refusal(chat(stop=stop)).field or "").startswith("stop")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modalities", ["text", "audio"]),
        ("reasoning_effort", "high"),
        ("service_tier", "flex"),
    ],
)
def test_a_field_that_is_not_supported_yet_is_refused_by_name(field: str, value: object) -> None:
    error = refusal(chat(**{field: value}))
    assert (error.field, error.code) == (field, "unsupported_parameter")
    assert field in str(error)
    assert "Leave it out" in str(error)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "logprobs": False, "top_logprobs": 0, "frequency_penalty": 0.0, "presence_penalty": 0},
        {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"logit_bias": {}, "modalities": ["text"], "service_tier": "auto", "verbosity": "medium"},
        {"n": None, "logprobs": None, "tools": None, "response_format": None, "stop": None, "seed": None},
        {"user": "someone", "metadata": {"run": "7"}, "store": True, "prompt_cache_key": "k"},
        {"min_p": 0, "repetition_penalty": 1.0, "min_tokens": 0},
    ],
)
def test_values_that_ask_for_nothing_are_accepted(fields: dict[str, object]) -> None:
    assert decode_chat(chat(**fields)).model == "tiny"


@pytest.mark.parametrize(("field", "value"), [("best_of", 2), ("echo", True), ("suffix", ".")])
def test_a_completion_field_that_is_not_supported_yet_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(FieldError) as caught:
        decode_completion(completion(**{field: value}))
    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"\xff", b'{"model": "\xff"}', b'{"model": "\\ud800"}'])
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    assert refusal(body).code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"text"'])
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    assert refusal(body).code == "invalid_value"


def test_a_body_nested_too_deeply_is_refused() -> None:
    deep = b'{"model": "tiny", "modalities": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert refusal(deep).code == "invalid_json"


def test_stream_options_without_a_stream_are_refused() -> None:
    assert refusal(chat(stream_options={"include_usage": True})).field == "stream_options"


def test_content_parts_are_joined_line_by_line() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = chat_messages(decode_chat(chat(messages=[{"role": "user", "content": parts}])).messages)
    assert messages == [{"role": "user", "content": "one\ntwo"}]


def test_a_part_that_is_not_text_is_refused_by_its_path() -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    error = refusal(chat(messages=[{"role": "user", "content": parts}]))
    assert error.field == "messages[0].content[1]"
    assert "text" in str(error)


def test_a_message_without_content_is_refused() -> None:
    assert refusal(chat(messages=[{"role": "assistant"}])).field == "messages[0].content"


def test_half_a_tool_call_in_a_message_is_refused_by_its_path() -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    assert refusal(chat(messages=[message])).field == "messages[0].tool_calls[0].function"


def test_a_message_as_the_official_client_returns_it_can_be_sent_back() -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    assert chat_messages(decode_chat(chat(messages=[message])).messages) == [{"role": "assistant", "content": "Hi"}]


def test_every_role_reaches_the_template_and_developer_is_system() -> None:
    roles = ["system", "developer", "user", "assistant", "tool"]
    messages = [{"role": role, "content": "x", "name": "n", "tool_call_id": "t"} for role in roles]
    told = chat_messages(decode_chat(chat(messages=messages)).messages)
    assert [message["role"] for message in told] == ["system", "system", "user", "assistant", "tool"]
    assert told[4] == {"role": "tool", "content": "x", "name": "n", "tool_call_id": "t"}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hello", ["Hello"]),
        (["Hello"], ["Hello"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([7], [(7,)]),
        ([[1, 2]], [(1, 2)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
        ("", [""]),
    ],
)
def test_prompts_come_in_every_form(prompt: object, expected: object) -> None:
    assert completion_prompts(decode_completion(completion(prompt=prompt))) == expected


@pytest.mark.parametrize("fields", [{"prompt": [1, "a"]}, {"prompt": []}, {"prompt": ["a"] * 65, "n": 2}])
def test_no_prompt_a_mixture_or_too_many_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(FieldError, match="prompt must be a text"):
        completion_prompts(decode_completion(completion(**fields)))


def test_params_carry_what_was_asked() -> None:
    body = chat(
        max_tokens=5, temperature=0.5, top_k=3, top_p=0.9, seed=7, stop="x", stop_token_ids=[4], ignore_eos=True
    )
    params = chat_params(decode_chat(body))
    assert (params.max_tokens, params.temperature, params.top_k, params.top_p) == (5, 0.5, 3, 0.9)
    assert (params.seed, params.stop, params.stop_token_ids, params.ignore_eos) == (7, ("x",), (4,), True)


def test_params_carry_penalties_biases_and_bounds() -> None:
    body = chat(
        min_p=0.1,
        repetition_penalty=1.2,
        presence_penalty=-1,
        frequency_penalty=0.5,
        logit_bias={"5": -1},
        min_tokens=3,
    )
    params = chat_params(decode_chat(body))
    assert (params.min_p, params.repetition_penalty, params.min_tokens) == (0.1, 1.2, 3)
    assert (params.presence_penalty, params.frequency_penalty) == (-1, 0.5)
    assert params.logit_bias == {5: -1}


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_a_chat_asks_for_log_probabilities_with_two_fields(fields: dict[str, Any], logprobs: int | None) -> None:
    assert chat_params(decode_chat(chat(**fields))).logprobs == logprobs


def test_top_logprobs_without_logprobs_are_refused() -> None:
    with pytest.raises(FieldError, match="Set logprobs to true") as caught:
        chat_params(decode_chat(chat(top_logprobs=2)))
    assert caught.value.field == "top_logprobs"


def test_a_completion_asks_for_log_probabilities_with_one_field() -> None:
    assert completion_params(decode_completion(completion())).logprobs is None
    assert completion_params(decode_completion(completion(logprobs=0))).logprobs == 0
    with pytest.raises(FieldError) as caught:
        decode_completion(completion(logprobs=21))
    assert caught.value.field == "logprobs"


def test_what_is_left_open_stays_open() -> None:
    params = chat_params(decode_chat(chat()))
    assert (params.max_tokens, params.temperature, params.top_k, params.top_p, params.seed) == (None,) * 5
    assert params.stop == ()


def test_max_completion_tokens_is_the_limit_too() -> None:
    assert chat_params(decode_chat(chat(max_completion_tokens=9))).max_tokens == 9
    assert chat_params(decode_chat(chat(max_completion_tokens=9, max_tokens=9))).max_tokens == 9


def test_two_different_limits_are_refused() -> None:
    with pytest.raises(FieldError, match="differ"):
        chat_params(decode_chat(chat(max_completion_tokens=9, max_tokens=8)))


def test_completions_stop_after_sixteen_tokens_unless_told_otherwise() -> None:
    assert completion_params(decode_completion(completion())).max_tokens == 16
    assert completion_params(decode_completion(completion(max_tokens=3))).max_tokens == 3


def test_negative_seeds_are_the_same_bits_unsigned() -> None:
    assert chat_params(decode_chat(chat(seed=-1))).seed == 2**64 - 1
    with pytest.raises(FieldError, match="seed"):
        chat_params(decode_chat(chat(seed=2**64)))


def test_a_model_that_is_not_served_is_refused_with_the_one_that_is() -> None:
    check_model("tiny", "tiny")
    with pytest.raises(ModelNotFoundError, match=r"'gpt'.*'tiny'"):
        check_model("gpt", "tiny")
