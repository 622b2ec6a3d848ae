"""The official client against real models, in this process and in one of its own: every shape it reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest

from tests.checkpoints import HERMES, write_llama
from tests.test_serve_process import serving
from vivace.engine.bridge import EngineThread
from vivace.engine.engine import Engine
from vivace.grammar import GrammarCompiler
from vivace.llm import load_runner
from vivace.models.model import open_model
from vivace.runners.native import NativeConfig
from vivace.server.app import ServerConfig, build_app

pytestmark = pytest.mark.anyio

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
MODEL = "caller"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose template takes tools."""
    directory = write_llama(tmp_path_factory.mktemp("models") / MODEL, context=4096)
    (directory / "chat_template.jinja").write_text(HERMES)
    return directory


@pytest.fixture(scope="module")
def url(directory: Path) -> Iterator[str]:
    """A server in a process of its own."""
    with serving(str(directory), "--threads", "1") as server:
        yield server.url
        server.stop()


@pytest.fixture(params=["in this process", "in a process of its own"])
async def client(directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[openai.AsyncOpenAI]:
    if request.param == "in a process of its own":
        base = f"{request.getfixturevalue('url')}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
            yield client
        return
    model = open_model(str(directory))
    runner = load_runner(model, NativeConfig(threads=1, max_sequences=16))
    compiler = GrammarCompiler(model.tokenizer, model.config.vocab_size, model.generation.stop_token_ids)
    app = build_app(model, EngineThread(Engine(runner), compiler), ServerConfig())
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        inside: Any = http
        yield openai.AsyncOpenAI(base_url="http://x/v1", api_key="none", http_client=inside, max_retries=0)
    runner.close()


def options(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": HELLO, "max_tokens": 300, "temperature": 1.0, "seed": 5} | more


async def test_a_chat_streamed_is_the_chat_whole(client: openai.AsyncOpenAI) -> None:
    whole = (await client.chat.completions.create(**options(max_tokens=30))).choices[0]
    chunks = [chunk async for chunk in await client.chat.completions.create(**options(max_tokens=30), stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


async def test_a_message_in_chinese_is_as_good_as_one_in_english(client: openai.AsyncOpenAI) -> None:
    chinese = [{"role": "user", "content": "你好，请介绍一下你自己。"}]
    answer = await client.chat.completions.create(**options(messages=chinese, max_tokens=5))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > len("你好，请介绍一下你自己。".encode())
    fields: Any = {"response_format": {"type": "regex", "regex": "你好[！。]"}}
    answer = await client.chat.completions.create(**options(messages=chinese), extra_body=fields)
    assert re.fullmatch("你好[！。]", answer.choices[0].message.content or "")
    with pytest.raises(openai.BadRequestError, match="'温度'") as caught:
        await client.chat.completions.create(**options(extra_body={"温度": 1}))
    assert caught.value.param == "温度"


async def test_several_answers_are_those_of_seeds_in_a_row(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**options(max_tokens=12, n=3))
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    alone = [(await client.chat.completions.create(**options(max_tokens=12, seed=5 + i))).choices[0] for i in range(3)]
    assert [choice.message.content for choice in answer.choices] == [choice.message.content for choice in alone]
    texts = ["", "", ""]
    async for chunk in await client.chat.completions.create(**options(max_tokens=12, n=3), stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


async def test_several_prompts_have_several_answers(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt=["a", "b"], n=2, max_tokens=4, temperature=1, seed=3)
    alone = await client.completions.create(model=MODEL, prompt="b", max_tokens=4, temperature=1, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[2].text == alone.choices[0].text
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 16)


class Visit(pydantic.BaseModel):
    town: Literal["Ulm", "北京"]
    again: bool
    stars: Literal[1, 2, 3]


async def test_a_schema_is_kept_to(client: openai.AsyncOpenAI) -> None:
    for seed in range(3):
        parsed = await client.chat.completions.parse(**options(seed=seed), response_format=Visit)
        assert parsed.choices[0].message.parsed is not None
        assert parsed.choices[0].finish_reason == "stop"
    answer = await client.chat.completions.create(
        **options(response_format={"type": "json_object"}, logit_bias={ord("}"): 100})
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


async def test_a_schema_that_cannot_be_held_to_is_refused_in_words(client: openai.AsyncOpenAI) -> None:
    schema = {"name": "x", "schema": {"type": "array", "uniqueItems": True}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="uniqueItems"):
            await client.chat.completions.create(
                **options(response_format={"type": "json_schema", "json_schema": schema}, stream=stream)
            )


def tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"day": {"enum": ["Mo", "Di"]}}, "required": ["day"]}
    return {"type": "function", "function": {"name": name, "parameters": schema | {"additionalProperties": False}}}


TOOLS = [tool("open_hours"), tool("weather")]


async def test_a_call_that_is_demanded_is_made_and_its_result_can_be_sent(client: openai.AsyncOpenAI) -> None:
    asked = options(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    choice = (await client.chat.completions.create(**asked)).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.function.name in ("open_hours", "weather")
    assert json.loads(call.function.arguments)["day"] in ("Mo", "Di")
    result = {"role": "tool", "tool_call_id": call.id, "content": "9 to 5"}
    messages = [*HELLO, choice.message.model_dump(), result]
    answer = await client.chat.completions.create(**options(messages=messages, tools=TOOLS, max_tokens=5))
    assert answer.choices[0].message.role == "assistant"


async def test_calls_can_be_streamed(client: openai.AsyncOpenAI) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    asked = options(tools=TOOLS, tool_choice=named)
    whole = (await client.chat.completions.create(**asked)).choices[0].message.tool_calls or []
    chunks = [chunk.choices[0] async for chunk in await client.chat.completions.create(**asked, stream=True)]
    deltas = [delta for choice in chunks for delta in choice.delta.tool_calls or []]
    assert [delta.function.name for delta in deltas if delta.id] == ["weather"]
    assert "".join(delta.function.arguments or "" for delta in deltas) == whole[0].function.arguments
    assert chunks[-1].finish_reason == "tool_calls"


async def test_without_tool_choice_an_answer_may_be_text(client: openai.AsyncOpenAI) -> None:
    for choice in ("auto", "none"):
        asked = options(tools=TOOLS, tool_choice=choice, max_tokens=10)
        message = (await client.chat.completions.create(**asked)).choices[0].message
        assert message.content


async def test_log_probabilities_are_those_of_the_tokens_told(client: openai.AsyncOpenAI) -> None:
    asked = options(logprobs=True, top_logprobs=3, max_tokens=6, temperature=0)
    choice = (await client.chat.completions.create(**asked)).choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert len(content) == 6
    assert all(token.logprob == token.top_logprobs[0].logprob for token in content)
    assert all(token.logprob <= 0 for token in content)


async def test_a_response_streamed_is_the_response_whole(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": "Hello",
        "max_output_tokens": 20,
        "instructions": "Be brief.",
        "extra_body": {"seed": 3},
    }
    whole = await client.responses.create(**asked)
    assert (whole.status, whole.object) == ("incomplete", "response")
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 20
    events = [event async for event in await client.responses.create(**asked, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == whole.output_text


async def test_a_conversation_of_responses_with_calls_and_their_results(client: openai.AsyncOpenAI) -> None:
    flat: Any = [{"type": "function", **entry["function"]} for entry in TOOLS]
    asked: dict[str, Any] = {"model": MODEL, "tools": flat, "max_output_tokens": 300, "extra_body": {"seed": 1}}
    first = await client.responses.create(**asked, input="Hi", tool_choice={"type": "function", "name": "weather"})
    (call,) = first.output
    assert call.type == "function_call"
    assert call.name == "weather"
    assert json.loads(call.arguments)["day"] in ("Mo", "Di")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    items: Any = [{"role": "user", "content": "Hi"}, call.model_dump(exclude_none=True), result]
    second = await client.responses.create(**asked | {"max_output_tokens": 5, "tool_choice": "none"}, input=items)
    assert second.output_text
    events = [
        event
        async for event in await client.responses.create(
            **asked, input="Hi", tool_choice="required", parallel_tool_calls=False, stream=True
        )
    ]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    told = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert "".join(event.arguments for event in done) == told != ""
    assert events[-1].type == "response.completed"


async def test_a_response_keeps_to_a_schema(client: openai.AsyncOpenAI) -> None:
    parsed = await client.responses.parse(model=MODEL, input="Hi", text_format=Visit, max_output_tokens=300)
    assert parsed.output_parsed is not None


async def test_errors_are_the_clients_own_kinds(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL):
        await client.responses.create(model="gpt-4o", input="Hi")
    with pytest.raises(openai.BadRequestError, match="previous_response_id") as caught:
        await client.responses.create(model=MODEL, input="Hi", previous_response_id="resp_1")
    assert caught.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError, match="context"):
        await client.chat.completions.create(**options(messages=[{"role": "user", "content": "x" * 5000}]))


def test_a_client_that_somebody_else_wrote_works_unchanged(url: str) -> None:
    """LangChain's, in a process of its own: its imports warn."""
    pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    script = Path(__file__).parent / "langchain_client.py"
    done = subprocess.run(
        [sys.executable, str(script), f"{url}/v1", MODEL], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["whole"] == told["streamed"] != ""
    assert told["structured"]["town"] in ("Ulm", "北京")
    assert told["call"]["name"] == "weather"
    assert told["call"]["args"]["day"] in ("Mo", "Di")
