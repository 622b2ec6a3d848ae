"""Updates become text, calls and log-probabilities, and what they took is counted."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.updates import END, Updates, make_answer, scored_update, update
from vivace.engine.request import FinishReason
from vivace.errors import EngineStoppedError, StepFailedError
from vivace.models.model import Model
from vivace.server.answer import TOKENS_AT_A_TIME, Answer, Answers
from vivace.server.replies import ScoredToken
from vivace.server.tools import HERMES, Tool, ToolUse

pytestmark = pytest.mark.anyio


async def read_pieces(answer: Answer) -> list[str]:
    pieces = []
    while answer.finish_reason is None:
        pieces.append((await answer.read()).text)
    return pieces


async def test_tokens_are_scored_up_to_the_stop_token_and_once_each(model: Model) -> None:
    updates = Updates(scored_update(b"a\xc3"), scored_update(b"\xa9b", FinishReason.STOP, END))
    answer = make_answer(model, updates, logprobs=1)
    assert (await answer.read()).tokens == [
        ScoredToken(b"a", -0.97, [(b"A", -0.65)], 0),
        ScoredToken(b"\xc3", -1.95, [(b"A", -0.65)], 1),
    ]
    scored = (await answer.read()).tokens
    assert scored is not None
    assert [(token.spelling, token.offset) for token in scored] == [(b"\xa9", 1), (b"b", 2)]


async def test_tokens_are_scored_up_to_the_one_that_completes_a_stop_string(model: Model) -> None:
    updates = Updates(scored_update("ab"), scored_update("cde"), update("", FinishReason.ABORT))
    answer = make_answer(model, updates, stop=("bc",), logprobs=0)
    whole = await answer.read_all()
    assert whole.text == "a"
    assert [token.spelling for token in whole.tokens or ()] == [b"a", b"b", b"c"]


async def test_nothing_is_scored_for_who_did_not_ask(model: Model) -> None:
    answer = make_answer(model, Updates(update("ab", FinishReason.LENGTH)))
    assert (await answer.read_all()).tokens is None


async def test_half_a_character_waits_for_its_other_half(model: Model) -> None:
    first, second = b"a\xc3", b"\xa9"
    answer = make_answer(model, Updates(update(first), update(second), update("", FinishReason.STOP, END)))
    assert await read_pieces(answer) == ["a", "é", ""]


async def test_half_a_character_at_the_end_is_marked(model: Model) -> None:
    answer = make_answer(model, Updates(update(b"a\xc3", FinishReason.LENGTH)))
    assert await read_pieces(answer) == ["a\ufffd"]


async def test_a_stop_token_counts_and_is_no_text(model: Model) -> None:
    updates = Updates(update("ab"), update("c", FinishReason.STOP, END, cached_tokens=2))
    answer = make_answer(model, updates)
    assert (await answer.read_all()).text == "abc"
    usage = await Answers([answer]).usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 4, 7)
    assert usage.prompt_tokens_details.cached_tokens == 2


async def test_after_a_stop_string_the_request_is_aborted_and_its_times_awaited(model: Model) -> None:
    updates = Updates(update("abc"), update("d"), update("e", FinishReason.ABORT))
    answer = make_answer(model, updates, stop=("b",))
    assert (await answer.read_all()).text == "a"
    assert updates.aborted == ["r"]
    usage = await Answers([answer]).usage()
    assert usage.completion_tokens == 2
    assert usage.timing["decode_ms"] == 4


async def test_a_stop_string_in_the_last_update_aborts_nothing(model: Model) -> None:
    updates = Updates(update("abc", FinishReason.LENGTH))
    answer = make_answer(model, updates, stop=("b",))
    assert (await answer.read_all()).text == "a"
    assert answer.finish_reason == "stop"
    assert updates.aborted == []


async def test_the_flush_is_what_the_other_parts_leave(model: Model) -> None:
    answer = make_answer(model, Updates(update("a", FinishReason.LENGTH)))
    await answer.read_all()
    timing = (await Answers([answer]).usage()).timing
    assert timing["preprocess_ms"] + timing["queue_ms"] + timing["prefill_ms"] + timing["decode_ms"] == 10
    assert timing["flush_ms"] >= 0
    assert timing["total_ms"] == pytest.approx(10 + timing["flush_ms"], abs=0.01)


async def test_a_failed_step_is_raised_with_its_reason(model: Model) -> None:
    answer = make_answer(model, Updates(update("", FinishReason.ERROR, error="The step failed (it broke).")))
    with pytest.raises(StepFailedError, match="it broke"):
        await answer.read()


async def test_an_abort_nobody_here_asked_for_is_raised(model: Model) -> None:
    answer = make_answer(model, Updates(update("x"), update("", FinishReason.ABORT)))
    with pytest.raises(EngineStoppedError, match="before its answer was whole"):
        await answer.read_all()


async def test_updates_that_end_without_a_reason_are_an_error(model: Model) -> None:
    answer = make_answer(model, Updates(update("x")))
    with pytest.raises(EngineStoppedError):
        await answer.read_all()


async def test_a_reader_that_was_slow_lets_the_loop_go_on_while_it_catches_up(model: Model) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(count_turns())
    text = "x" * (TOKENS_AT_A_TIME * 10)
    whole = await make_answer(model, Updates(update(text, FinishReason.LENGTH))).read_all()
    other.cancel()
    assert whole.text == text
    assert turns >= 9


HELP = ToolUse(HERMES, [Tool("help", {})])
CALL = '<tool_call>\n{"name": "help", "arguments": {"a": 1}}\n</tool_call>'


async def test_calls_are_read_from_the_text_and_are_the_reason_it_finished(model: Model) -> None:
    updates = Updates(*(update(character) for character in f"One moment.{CALL}"), update("", FinishReason.STOP, END))
    whole = await make_answer(model, updates, tools=HELP).read_all()
    assert (whole.text, whole.finish_reason) == ("One moment.", "tool_calls")
    assert [(call.name, call.arguments) for call in whole.calls] == [("help", '{"a": 1}')]


async def test_a_call_cut_short_is_told_as_far_as_it_goes_and_finishes_by_its_length(model: Model) -> None:
    whole = await make_answer(model, Updates(update(CALL[:-15], FinishReason.LENGTH)), tools=HELP).read_all()
    assert whole.finish_reason == "length"
    assert [(call.name, call.arguments) for call in whole.calls] == [("help", '{"a": 1')]


def answers_of(model: Model, *texts: str, per_prompt: int = 1) -> tuple[list[Answer], Answers]:
    made = [make_answer(model, Updates(update(text), update("!", FinishReason.LENGTH))) for text in texts]
    return made, Answers(made, per_prompt)


async def test_several_answers_keep_their_places_and_count_a_prompt_once(model: Model) -> None:
    _, answers = answers_of(model, "a", "b", "c", "d", per_prompt=2)
    assert [whole.text for whole in await answers.read_all()] == ["a!", "b!", "c!", "d!"]
    assert answers.finished
    usage = await answers.usage()
    assert (usage.prompt_tokens, usage.completion_tokens) == (6, 8)


async def test_several_answers_can_be_read_as_they_come(model: Model) -> None:
    _, answers = answers_of(model, "a", "b", "c")
    texts, reasons = ["", "", ""], ["", "", ""]
    while not answers.finished:
        for index, piece, reason in await answers.read():
            texts[index] += piece.text
            reasons[index] = reason or ""
    assert (texts, reasons) == (["a!", "b!", "c!"], ["length"] * 3)


async def test_one_answer_that_fails_is_the_failure_of_all(model: Model) -> None:
    failing = make_answer(model, Updates(update("", FinishReason.ERROR, error="It broke.")))
    answers = Answers([make_answer(model, Updates(update("a", FinishReason.LENGTH))), failing])
    with pytest.raises(StepFailedError, match="It broke"):
        await answers.read_all()
    await answers.aclose()
