"""The small parts that pages are put together from: markup out of words and numbers."""

from __future__ import annotations

from html import escape
from typing import Any

Document = dict[str, Any]

THIN = "\N{THIN SPACE}"
NONE = "\N{EN DASH}"
SIGNS = {"kept": "\N{CHECK MARK}", "risk": "!", "missed": "\N{MULTIPLICATION SIGN}", "": ""}
LEVELS = (("ttft_ms", "first token"), ("total_ms", "whole answer"))


def ms(value: float | None) -> str:
    return NONE if value is None else f"{digits(value)}<span class=unit>{THIN}ms</span>"


def digits(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def show_verdict(kind: str, title: str, *sentences: str) -> str:
    sign = f"<span aria-hidden=true>{SIGNS[kind]}</span> " if SIGNS[kind] else ""
    text = "".join(f"<p>{sentence}</p>" for sentence in sentences if sentence)
    return f'<section class="verdict"><h1 class="{kind}">{sign}{escape(title)}</h1>{text}</section>'


def show_figures(*figures: tuple[str, str, str]) -> str:
    """Name, number (markup), and a remark."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{number}<small>{escape(remark)}</small></dd></div>"
        for name, number, remark in figures
    )
    return f'<dl class="figures">{cells}</dl>'


def show_table(head: list[str], rows: list[list[str]]) -> str:
    """The cells are markup; the first of a row is its name."""
    top = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def show_facts(rows: list[tuple[str, Any]]) -> str:
    body = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in rows
        if value != ""
    )
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def section(title: str, remark: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p class=quiet>{remark}</p>{''.join(content)}</section>"


def show_limits(budget: Document) -> str:
    names = {"ttft_ms": "first token", "tpot_ms": "per token", "total_ms": "whole answer"}
    return ", ".join(f"{name} {budget[key]:g}{THIN}ms" for key, name in names.items() if key in budget)
