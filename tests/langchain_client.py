"""LangChain's client of a server: `langchain_client.py URL MODEL` prints what it got as JSON."""

from __future__ import annotations

import json
import sys
from typing import Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Visit(BaseModel):
    """A visit to a town."""

    town: Literal["Ulm", "北京"]
    again: bool


@tool  # type: ignore[untyped-decorator]
def weather(day: Literal["Mo", "Di"]) -> str:
    """The weather on a day."""
    return f"Rain on {day}."


def main(url: str, model: str) -> None:
    chat = ChatOpenAI(base_url=url, api_key="none", model=model, temperature=1, seed=4, max_tokens=200)
    call = chat.bind_tools([weather], tool_choice="weather").invoke("Hi").tool_calls[0]
    told = {
        "whole": chat.invoke("Hi", max_tokens=12).content,
        "streamed": "".join(str(chunk.content) for chunk in chat.stream("Hi", max_tokens=12)),
        "structured": chat.with_structured_output(Visit, method="json_schema").invoke("Hi").model_dump(),
        "call": {"name": call["name"], "args": call["args"]},
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
