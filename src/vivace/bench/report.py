"""A document as one HTML page that needs no network: the verdict first, then the figures that bear it out.

Knows documents and plots; computes nothing that is not in a document.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from vivace.bench.page import Document, section, show_facts
from vivace.bench.run_page import run_page
from vivace.bench.study_pages import compare_page, find_max_page, sweep_page

_CSS = Path(__file__).parent / "report.css"
_SWITCH = (
    "const r=document.documentElement,b=document.getElementById('theme');b.onclick=()=>{const d=r.dataset.theme||"
    "(matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light');r.dataset.theme=d==='dark'?'light':'dark'};"
)


def render(document: Document) -> str:
    """The page of a run, a sweep, a search or a comparison."""
    kind = document.get("kind", "run")
    body = _PAGES[kind](document)
    return lay_out(
        f"{document['model']}: {kind}",
        "vivace bench",
        f"{document['model']} · {document['url']}",
        body + _environment(document),
        f"{document['tool']}, {document['began']}",
    )


def lay_out(title: str, name: str, about: str, body: str, footer: str) -> str:
    """A whole page around a body of markup; the other parts are plain text."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS.read_text(encoding='utf-8')}</style>"
        f"<header><b>{escape(name)}</b><span class=quiet>{escape(about)}</span>"
        '<button id="theme">Light or dark</button></header>'
        f"<main>{body}<footer class=quiet>{escape(footer)}</footer></main>"
        f"<script>{_SWITCH}</script></html>"
    )


def _environment(document: Document) -> str:
    environment, workload = document["environment"], document["workload"]
    lengths = ", ".join(
        f"{name} {workload[key]}" for key, name in (("input_tokens", "in"), ("output_tokens", "out")) if workload[key]
    )
    api = "chat" if workload["chat"] else "completions"
    rows = [
        (
            "Workload",
            f"{workload['from']}; tokens {lengths}; {api}, {'streamed' if workload['stream'] else 'not streamed'}",
        ),
        ("Seed", document["seed"]),
        ("Warm-up", f"{workload['warmup']} requests, not counted"),
        ("Prefix cache", "kept cold by salted prompts" if workload["salted"] else "as the server has it"),
        (
            "Client",
            f"{environment['cpu']}, {environment['cores']} cores, {environment['memory_bytes'] / 2**30:.1f} GiB",
        ),
        ("System", f"{environment['system']}, Python {environment['python']}, uvloop {environment['uvloop']}"),
        ("Load average", f"{environment['load_average']:.2f} when it began"),
    ]
    return section(
        "What was measured, and where",
        "The client's machine; the server's too, where it is the same.",
        show_facts(rows),
    )


_PAGES: dict[str, Callable[[Document], str]] = {
    "run": run_page,
    "sweep": sweep_page,
    "find-max": find_max_page,
    "compare": compare_page,
}
