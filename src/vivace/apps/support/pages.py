"""The pages' files as they are, with the headers that keep them to themselves. Knows nothing of what they show."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

STATIC = Path(__file__).parent / "static"
SHARED = Path(__file__).parents[2] / "pages"
"""What all of vivace's pages share: stylesheet, Markdown, timing, words."""
PAGES: Mapping[str, str] = {
    "/": "chat.html",
    "/agent": "agent.html",
    "/admin": "admin.html",
    "/reset": "reset.html",
    "/embed.js": "embed.js",
}
MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def build_page_routes(embed_origins: Sequence[str], static: Path = STATIC, shared: Path = SHARED) -> list[Route]:
    """A route for each file there is; the chat alone may stand in a frame, on these sites."""
    routes = []
    for file in (file for folder in (static, shared) if folder.is_dir() for file in sorted(folder.iterdir())):
        if file.is_file() and file.suffix in MEDIA_TYPES:
            framed = embed_origins if file.name == PAGES["/"] else ()
            send = _build_sender(file, framed)
            routes += [Route(path, send) for path, name in PAGES.items() if name == file.name]
            routes.append(Route(f"/static/{file.name}", send))
    return routes


def _build_sender(file: Path, framed_by: Sequence[str]) -> partial[Response]:
    content = file.read_bytes()
    ancestors = " ".join(["'self'", *framed_by]) if framed_by else "'none'"
    policy = (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors {ancestors}; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    # The embedding script is loaded by other sites; nothing else is.
    resource = "cross-origin" if file.name == PAGES["/embed.js"] or framed_by else "same-origin"
    headers = HEADERS | {
        "content-security-policy": policy,
        "cross-origin-resource-policy": resource,
        "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }
    return partial(_send, content, headers, MEDIA_TYPES[file.suffix])


def _send(content: bytes, headers: dict[str, str], media_type: str, request: Request) -> Response:
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
