"""Words of others stay words on every page, whoever wrote them and wherever they are shown."""

from __future__ import annotations

import pytest

from tests.apps.support.page.conftest import Open, Opened, Shop

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser

ATTACK = '<img src=x onerror="globalThis.hit=1"><script>globalThis.hit=1</script>[x](javascript:globalThis.hit=1)'
TRAPS = """() => ({
  hit: globalThis.hit ?? null,
  nodes: document.querySelectorAll("#transcript img, #place img, #transcript script, #place script, [onerror]").length,
  links: [...document.links].filter(({ protocol }) => protocol === "javascript:").length,
})"""
HARMLESS = {"hit": None, "nodes": 0, "links": 0}


def look(opened: Opened) -> None:
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate(TRAPS) == HARMLESS


def test_attacks_do_nothing_on_any_page(open_page: Open, shop: Shop) -> None:
    admin = open_page("/admin#articles/new").sign_in("admin")
    admin.page.get_by_label("Title").fill(f"Zebra {ATTACK}")
    admin.page.get_by_label("Text").fill(f"# {ATTACK}\n\nA zebra costs 12 dollars. {ATTACK}")
    look(admin)
    for kind in ("html", "csv", "text", "markdown"):
        admin.page.get_by_label("Format").select_option(kind)
        look(admin)
    admin.button("Save").click()
    expect(admin.page.locator("#place tbody tr")).to_have_count(1)
    look(admin)

    customer = open_page()
    customer.button("Menu").click()
    customer.button("Make an account").click()
    customer.page.get_by_label("Name").fill(f"Mallory {ATTACK}"[:80])
    customer.page.get_by_label("E-mail").fill("mallory@example.com")
    customer.page.get_by_label("Password").fill("correct horse battery")
    customer.page.keyboard.press("Enter")
    expect(customer.page.locator("#menu")).to_be_hidden()
    shop.model.say(f"A zebra costs 12 dollars. {ATTACK}")
    reply = customer.ask(f"What does a zebra cost? {ATTACK}")
    if reply.locator(".source").count() > 0:
        reply.locator(".source").first.click()
    look(customer)
    reply.get_by_role("button", name="Not helpful").click()
    reply.get_by_label("Tell us more").fill(ATTACK)
    reply.get_by_role("button", name="Send").click()
    expect(reply.get_by_text("Thank you.")).to_be_visible()
    customer.button("Ask for a person").click()

    desk = open_page("/agent").sign_in("agent")
    desk.page.locator("#waiting .ticket").filter(has_text="zebra").click()
    expect(desk.page.locator("#transcript .question")).to_contain_text("<script>")
    desk.page.get_by_label("Search the knowledge base").fill("zebra")
    desk.page.keyboard.press("Enter")
    desk.page.locator(".hit summary").first.click()
    look(desk)
    desk.button("Take over").click()
    desk.send(ATTACK)
    expect(customer.page.locator(".by-agent .prose")).to_contain_text("<img src=x")
    look(customer)

    for section in ("articles", "feedback", "people", "dashboard", "audit"):
        admin.page.evaluate("(hash) => { location.hash = hash; }", section)
        expect(admin.page.locator("#place h1")).to_be_visible()
        look(admin)


@pytest.mark.parametrize("path", ["/", "/agent", "/admin"])
def test_the_browser_itself_refuses_markup_from_text(open_page: Open, path: str) -> None:
    opened = open_page(path)
    refused = """(text) => {
      const tries = [
        () => { document.body.innerHTML = text; },
        () => document.write(text),
        () => { document.createElement("iframe").srcdoc = text; },
        () => new Function(text),
        () => { document.createElement("script").src = "https://elsewhere.example/x.js"; },
      ];
      return tries.map((one) => { try { one(); return "done"; } catch { return "refused"; } });
    }"""
    assert opened.page.evaluate(refused, "<b>text</b>") == ["refused"] * 5
    opened.errors.clear()


def test_pages_name_no_other_host_and_carry_no_style_or_script_of_their_own(open_page: Open, shop: Shop) -> None:
    opened = open_page()
    for path in ("/", "/agent", "/admin"):
        response = opened.page.request.get(shop.url + path)
        policy = response.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
        text = response.text()
        assert "style=" not in text
        assert "<style" not in text
        assert "http://" not in text
        assert "https://" not in text
