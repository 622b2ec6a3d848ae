"""/openapi.json, and /docs: the same for people, one page that loads nothing but its own stylesheet.

Knows no API: it shows whatever an OpenAPI document says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from html import escape
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.server.openapi import describe_api

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def build_docs_routes(model: str, guarded: bool) -> list[Route]:
    """`guarded` says that requests to the API need a key; these do not."""
    document = cache(partial(describe_api, model, guarded))
    writers: dict[str, tuple[str, Callable[[], str]]] = {
        "/openapi.json": ("application/json", lambda: json.dumps(document())),
        "/docs": ("text/html", cache(lambda: render_docs(document()))),
        "/docs/style.css": ("text/css", lambda: _STYLE),
    }
    return [Route(path, partial(_send, media_type, write)) for path, (media_type, write) in writers.items()]


async def _send(media_type: str, write: Callable[[], str], request: Request) -> Response:
    content = await anyio.to_thread.run_sync(write)
    return Response(content, headers=_HEADERS, media_type=media_type)


def render_docs(document: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    operations = [(path, method, about) for path, some in document["paths"].items() for method, about in some.items()]
    contents = "".join(
        f'<li><a href="#{about["operationId"]}">{escape(path)}</a></li>' for path, _, about in operations
    )
    parts = [_render_operation(path, method, about) for path, method, about in operations]
    types = [_render_type(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: API</title><link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/docs/style.css"></head>
<body><main><h1>{title}</h1>
<p>An OpenAI-compatible API. <a href="/openapi.json">The same as OpenAPI</a>, <a href="/">the chat page</a>.
An unknown field is refused by its name.</p>
<nav aria-label="Paths"><ul>{"".join(contents)}</ul></nav>
{"".join(parts)}<h2>Types</h2>{"".join(types)}</main></body></html>
"""


def _render_operation(path: str, method: str, about: dict[str, Any]) -> str:
    body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    takes = f"<p>Takes {_render_schema(body)}</p>" if body else ""
    rows = []
    for status, reply in about["responses"].items():
        shown = ", ".join(
            f"{escape(kind)}: {_render_schema(content['schema'])}" for kind, content in reply["content"].items()
        )
        rows.append(f"<tr><td><code>{status}</code></td><td>{escape(reply['description'])}</td><td>{shown}</td></tr>")
    return (
        f'<section id="{about["operationId"]}"><h2><code>{method.upper()} {escape(path)}</code></h2>'
        f"<p>{escape(about['summary'])}</p>{takes}<table>{''.join(rows)}</table></section>"
    )


def _render_type(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = []
    for field, about in schema.get("properties", {}).items():
        note = "required" if field in required else _render_default(about)
        rows.append(f"<tr><td><code>{escape(field)}</code></td><td>{_render_schema(about)}</td><td>{note}</td></tr>")
    about = escape(schema.get("description", ""))
    head = f'<section id="type-{escape(name)}"><h3>{escape(name)}</h3><p>{about}</p>'
    return f"{head}<table>{''.join(rows)}</table></section>"


def _render_default(about: dict[str, Any]) -> str:
    default = about.get("default")
    return "" if default is None else f"default <code>{escape(json.dumps(default))}</code>"


def _render_schema(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#type-{name}">{name}</a>'
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_render_schema(one) for one in schema[several] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_render_schema(schema.get('items', {})) or 'anything'}{_render_limits(schema)}"
    return escape(schema.get("type", "anything")) + _render_limits(schema)


_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minLength": "{} or more characters",
    "maxLength": "at most {} characters",
    "minItems": "{} or more",
    "maxItems": "at most {}",
    "maxProperties": "at most {}",
    "pattern": "matching {}",
}


def _render_limits(schema: dict[str, Any]) -> str:
    limits = [escape(words.format(schema[name])) for name, words in _LIMITS.items() if name in schema]
    return f" <small>{', '.join(limits)}</small>" if limits else ""


_STYLE = """:root { color-scheme: light dark;
  --ink: light-dark(#1a1a1a, #e8e8e6); --paper: light-dark(#fcfcfa, #161616);
  --faint: light-dark(#5f5f5c, #a0a09c); --line: light-dark(#dededa, #343432); --accent: light-dark(#0b5cad, #7db8f5); }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 28px; } h2 { font-size: 20px; margin-top: 40px; } h3 { font-size: 16px; margin: 32px 0 0; }
p { max-width: 72ch; } code { font-family: ui-monospace, monospace; font-size: 0.93em; overflow-wrap: break-word; }
a { color: var(--accent); } a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 20px; }
nav a { display: inline-block; line-height: 40px; font-family: ui-monospace, monospace; font-size: 0.93em; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td { border-top: 1px solid var(--line); padding: 6px 12px 6px 0; vertical-align: top; overflow-wrap: break-word; }
td:first-child { white-space: nowrap; }
small { color: var(--faint); font-size: 13px; }
@media (max-width: 640px) {
  tr { display: block; border-top: 1px solid var(--line); padding: 6px 0; }
  td, td:first-child { display: block; border: 0; padding: 0; white-space: normal; overflow-wrap: anywhere; }
}
"""
