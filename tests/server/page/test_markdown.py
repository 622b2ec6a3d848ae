"""What a model writes is drawn as markdown and stays text: no markup, no script, no address but http."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.page.conftest import Open, Opened, Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect

pytestmark = pytest.mark.browser

DRAW = """async (texts) => {
  const { showProse } = await import("/static/prose.js");
  return texts.map((text) => {
    const place = document.createElement("div");
    showProse(place)(text);
    return place.innerHTML;
  });
}"""

GROW = """async (texts) => {
  const { showProse } = await import("/static/prose.js");
  return texts.map((text) => {
    const [grown, whole] = [document.createElement("div"), document.createElement("div")];
    const show = showProse(grown);
    for (let end = 0; end < text.length; end += 3) show(text.slice(0, end));
    show(text);
    showProse(whole)(text);
    return [grown.innerHTML, whole.innerHTML];
  });
}"""

INSPECT = """async (texts) => {
  const { showProse } = await import("/static/prose.js");
  const place = document.createElement("div");
  document.body.append(place);
  const show = showProse(place);
  const found = { tags: new Set(), attributes: new Set(), links: new Set() };
  for (const text of texts) {
    show(text);
    for (const node of place.querySelectorAll("*")) {
      found.tags.add(node.tagName.toLowerCase());
      for (const { name } of node.attributes) found.attributes.add(name);
      if (node.href) found.links.add(new URL(node.href).protocol + " " + node.rel);
    }
  }
  place.remove();
  return Object.fromEntries(Object.entries(found).map(([name, set]) => [name, [...set]]));
}"""

TAGS = {
    "p",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "blockquote",
    "div",
    "pre",
    "code",
    "ul",
    "ol",
    "li",
    "span",
    "input",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "strong",
    "em",
    "del",
    "a",
    "button",
}
ATTRIBUTES = {
    "class",
    "tabindex",
    "href",
    "rel",
    "target",
    "type",
    "data-text",
    "start",
    "disabled",
    "checked",
    "scope",
}

ATTACKS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:msgbox)",
    "[x](//elsewhere.example)",
    "[x](/v1/models)",
    "[x](https://user:password@elsewhere.example)",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    '[x](https://a.example "onmouseover=alert(1))',
    '[x](https://a.example/"onmouseover="alert(1))',
    "`<b>`\n```html\n<img src=x onerror=alert(1)>\n```",
    "```<img src=x onerror=alert(1)>\nx\n```",
    "| <img src=x onerror=alert(1)> |\n|---|\n| [x](javascript:alert(1)) |",
    "# <img src=x onerror=alert(1)>",
    "> - <b onclick=alert(1)>x",
]

LINK = 'rel="noopener noreferrer nofollow" target="_blank"'

DRAWN = [
    ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
    ("# a\n### b #", "<h3>a</h3><h5>b</h5>"),
    ("*a* **b** ***c*** __d__ ~~e~~ `f`", "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> "
     "<strong>d</strong> <del>e</del> <code>f</code></p>"),
    ("snake_case_name 2 * 3 * 4 **open", "<p>snake_case_name 2 * 3 * 4 **open</p>"),
    ("**中文。**后面", "<p><strong>中文。</strong>后面</p>"),
    (r"\*a\* \[b\](c) \<", "<p>*a* [b](c) &lt;</p>"),
    ("``a`b``", "<p><code>a`b</code></p>"),
    ("[a *b*](https://c.example/d)", f'<p><a href="https://c.example/d" {LINK}>a <em>b</em></a></p>'),
    ("(see http://a.example/b_(c).)", f'<p>(see <a href="http://a.example/b_(c)" {LINK}>http://a.example/b_(c)</a>.)</p>'),
    ("见 https://a.example/b。好", f'<p>见 <a href="https://a.example/b" {LINK}>https://a.example/b</a>。好</p>'),
    ("![a](https://b.example/c.png)", f'<p><a href="https://b.example/c.png" {LINK}>a</a></p>'),
    ("- a\n- b\n  - c", '<ul><li><span class="line">a</span></li><li><span class="line">b</span>'
     '<ul><li><span class="line">c</span></li></ul></li></ul>'),
    ("3. a\n4. b", '<ol start="3"><li><span class="line">a</span></li><li><span class="line">b</span></li></ol>'),
    ("- a\n\n- b", '<ul class="loose"><li><p>a</p></li><li><p>b</p></li></ul>'),
    ("- [x] a", '<ul><li class="task"><input type="checkbox" disabled="" checked=""><span class="line">a</span></li>'
     "</ul>"),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
    (r"a|b" "\n-|-:\n1|`x" r"\|" "y`", '<div class="table" tabindex="0"><table><thead><tr><th scope="col">a</th>'
     '<th class="to-right" scope="col">b</th></tr></thead><tbody><tr><td>1</td><td class="to-right">'
     "<code>x|y</code></td></tr></tbody></table></div>"),
    ("```py\na < b\n\n  c\n```\nd", '<div class="code"><div class="code-head"><span class="quiet">py</span>'
     '<button type="button" class="plain copy" data-text="copy">Copy</button></div>'
     '<pre tabindex="0"><code>a &lt; b\n\n  c</code></pre></div><p>d</p>'),
    ("1. a\n   ~~~\n   b\n   ~~~", '<ol><li><span class="line">a</span><div class="code"><div class="code-head">'
     '<span class="quiet"></span><button type="button" class="plain copy" data-text="copy">Copy</button></div>'
     '<pre tabindex="0"><code>b</code></pre></div></li></ol>'),
]  # fmt: skip


@pytest.fixture(scope="module")
def prose(browser: Browser, scripted_server: Served) -> Iterator[Page]:
    """A page whose modules can be called, shared by what changes nothing in it."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(scripted_server.url)
    yield page
    context.close()


@pytest.mark.parametrize(("text", "drawn"), DRAWN)
def test_markdown_is_drawn(prose: Page, text: str, drawn: str) -> None:
    assert prose.evaluate(DRAW, [text]) == [drawn]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_stays_text(prose: Page, attack: str) -> None:
    found = prose.evaluate(INSPECT, [attack])
    assert set(found["tags"]) <= TAGS
    assert set(found["attributes"]) <= ATTRIBUTES
    assert set(found["links"]) <= {"https: noopener noreferrer nofollow"}


def test_attacks_through_the_whole_page_stay_text(open_page: Open) -> None:
    opened = open_page(before="globalThis.alert = () => { globalThis.attacked = true; };")
    attacks = "\n\n".join(ATTACKS[:9])
    opened.server.script(attacks)
    opened.ask(attacks)
    page = opened.page
    page.reload()
    expect(opened.reply).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator(".question .text").text_content() == attacks
    assert page.evaluate("globalThis.attacked") is None
    assert page.locator("#transcript :is(img, script, svg, iframe)").count() == 0
    assert page.locator("#transcript a").count() == 0
    assert opened.errors == []


def test_the_browser_itself_refuses_markup_from_text(opened: Opened) -> None:
    refused = """() => {
      try { document.body.innerHTML = "<b>x</b>"; return "taken"; } catch (error) { return error.name; }
    }"""
    assert opened.page.evaluate(refused) == "TypeError"


MARKS = st.lists(
    st.sampled_from([*"*_~`[]()<>!#-+|:\\ \n\t0aé中.\"'&", "https://a.b", "```", "- ", "1. ", "| "]), max_size=60
).map("".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(MARKS, min_size=1, max_size=20))
def test_no_text_makes_anything_but_the_known_nodes(prose: Page, texts: list[str]) -> None:
    found = prose.evaluate(INSPECT, texts)
    assert set(found["tags"]) <= TAGS
    assert set(found["attributes"]) <= ATTRIBUTES
    assert set(found["links"]) <= {"https: noopener noreferrer nofollow"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(MARKS, min_size=1, max_size=10))
def test_a_text_that_grows_is_drawn_as_if_it_had_come_at_once(prose: Page, texts: list[str]) -> None:
    for grown, whole in prose.evaluate(GROW, texts):
        assert grown == whole


@pytest.mark.parametrize(
    "piece", ["*a ", "[", "[a](", "`a", "> ", "- ", "|", "- a\n", "h", "http://", "_a_", "\\", "#", "**a", "```\n"]
)
def test_a_hundred_thousand_marks_do_not_hang_the_page(prose: Page, piece: str) -> None:
    text = piece * (100_000 // len(piece))
    count = "async (text) => (await import('/static/markdown.js')).parseMarkdown(text).length"
    assert prose.evaluate(count, text) >= 1


def test_code_and_replies_are_copied(open_page: Open) -> None:
    opened = open_page(permissions=["clipboard-read", "clipboard-write"])
    opened.server.script("Look:\n```py\na < b\n```")
    opened.ask()
    copies = opened.page.locator(".reply").get_by_role("button", name="Copy")
    for which, text in ((0, "a < b"), (1, "Look:\n```py\na < b\n```")):
        copies.nth(0 if which == 0 else -1).click()
        expect(opened.page.get_by_text("Copied").first).to_be_visible()
        assert opened.page.evaluate("navigator.clipboard.readText()") == text
        expect(opened.page.get_by_text("Copied")).to_have_count(0)


def test_where_there_is_no_clipboard_copying_works_still(open_page: Open) -> None:
    opened = open_page(
        before="delete Navigator.prototype.clipboard;"
        "document.addEventListener('copy', () => { globalThis.copied = String(document.activeElement.value); });"
    )
    opened.ask()
    opened.page.locator(".reply").get_by_role("button", name="Copy").click()
    expect(opened.page.get_by_text("Copied")).to_be_visible()
    assert opened.page.evaluate("globalThis.copied") == "Hello there."
