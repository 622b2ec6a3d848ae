"""The page's reader of server-sent events: any line ends, cut anywhere, and what no server should send."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.page.conftest import Opened

pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")

pytestmark = pytest.mark.browser

READ = """async (cases) => {
  const { readEvents } = await import("/static/events.js");
  const found = [];
  for (const pieces of cases) {
    const stream = new ReadableStream({ start(control) {
      pieces.forEach((piece) => control.enqueue(Uint8Array.from(piece)));
      control.close();
    } });
    const events = [];
    for await (const { data } of readEvents(stream)) events.push(data);
    found.push(events);
  }
  return found;
}"""

CHAT = """async (body) => {
  const { streamChat } = await import("/static/stream.js");
  globalThis.fetch = async () => new Response(body, { headers: { "content-type": "text/event-stream" } });
  const said = [];
  try {
    const access = { language: "en", signal: new AbortController().signal };
    for await (const event of streamChat({}, access)) said.push(event);
  } catch (error) {
    said.push(error.kind);
  }
  return said;
}"""

data_lines = st.text(alphabet="ab é中:{} ", max_size=12)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(data_lines, max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 300), max_size=12),
    space=st.booleans(),
)
def test_events_are_read_however_they_are_cut(
    opened: Opened, events: list[str], end: str, cuts: list[int], space: bool
) -> None:
    lead = "data: " if space else "data:"
    events = [event if space else event.lstrip(" ") for event in events]
    whole = "".join(f": note{end}id: 1{end}{lead}{event}{end}{end}" for event in events).encode()
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [list(whole[a:b]) for a, b in pairwise(places)]
    read = opened.page.evaluate(READ, [pieces])[0]
    # Alone among line ends, a last carriage return may be half of one: the event it ends is still to come.
    assert read == (events[:-1] if end == "\r" and events else events)


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> str:
    delta = {} if text is None else {"content": text}
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}) + "\n\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", ["broken"]),
        (chunk("a"), [{"text": "a"}, "broken"]),
        (chunk("a") + "data: {", [{"text": "a"}, "broken"]),
        (chunk("a") + "data: {\n\n", [{"text": "a"}, "broken"]),
        ("data: []\n\n" + chunk("a"), [{"text": "a"}, "broken"]),
        ("data: null\n\n", ["broken"]),
        (chunk("a", "stop"), [{"text": "a"}, {"finishReason": "stop"}]),
        (chunk("a", "stop") + "data: [DONE]\n\n" + chunk("b"), [{"text": "a"}, {"finishReason": "stop"}]),
        (chunk("a") + 'data: {"error": {"message": "It broke."}}\n\n', [{"text": "a"}, "failed"]),
        ('data: {"choices": [{"delta": {"content": 5}}]}\n\ndata: [DONE]\n\n', []),
    ],
)
def test_an_answer_is_whole_only_when_the_server_says_so(opened: Opened, body: str, said: list[Any]) -> None:
    assert opened.page.evaluate(CHAT, body) == said
