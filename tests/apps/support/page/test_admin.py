"""The admin page: what is written there is found by the next question, and figures follow what happened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.apps.support.page.conftest import Open, Opened, Shop

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser

SECTIONS = ("dashboard", "articles", "intents", "feedback", "people", "settings", "webhooks", "audit")


@pytest.fixture
def admin(open_page: Open) -> Opened:
    return open_page("/admin").sign_in("admin")


def go(admin: Opened, section: str) -> None:
    admin.page.evaluate("(hash) => { location.hash = hash; }", section)


@pytest.mark.parametrize("width", [1280, 360])
def test_every_section_can_be_seen_and_is_no_wider_than_the_page(open_page: Open, width: int) -> None:
    open_page().ask()
    admin = open_page("/admin", viewport={"width": width, "height": 800}).sign_in("admin")
    for section in SECTIONS:
        go(admin, section)
        expect(admin.page.locator(f"#sections a[href='#{section}']")).to_have_attribute("aria-current", "page")
        expect(admin.page.locator("#place h1")).to_be_visible()
        expect(admin.page.locator("#place .loading")).to_have_count(0)
        assert admin.page.evaluate("document.scrollingElement.scrollWidth") <= width, section


def test_an_article_edited_here_is_what_the_next_customer_is_told(admin: Opened, open_page: Open, shop: Shop) -> None:
    page = admin.page
    go(admin, "articles/new")
    page.get_by_label("Title").fill("Lending umbrellas")
    page.get_by_label("Text").fill("We lend umbrellas for **7 days**.")
    expect(page.locator(".preview strong").first).to_have_text("7 days")
    admin.button("Save").click()
    expect(page.get_by_role("heading", name="Lending umbrellas")).to_be_visible()
    page.get_by_label("Text").fill("We lend umbrellas for 9 days.")
    admin.button("Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    shop.model.say("We lend umbrellas for 9 days.")
    reply = open_page().ask("For how many days do you lend umbrellas?")
    expect(reply.locator(".prose").first).to_contain_text("9 days")
    expect(reply.locator(".source")).to_contain_text("Lending umbrellas")

    expect(page.locator("#place tbody tr")).to_have_count(2)
    page.locator("#place tbody tr").nth(1).get_by_role("button", name="View").click()
    admin.button("Bring this version back").click()
    expect(page.locator("#place tbody tr")).to_have_count(3)
    assert "7 days" in page.get_by_label("Text").input_value()


def test_an_article_that_changed_meanwhile_is_not_written_over(admin: Opened, open_page: Open) -> None:
    go(admin, "articles/new")
    admin.page.get_by_label("Title").fill("Two editors")
    admin.page.get_by_label("Text").fill("Written once.")
    admin.button("Save").click()
    expect(admin.page.get_by_role("heading", name="Two editors")).to_be_visible()
    other = open_page(f"/admin{admin.page.evaluate('location.hash')}").sign_in("admin")
    for editor, text in ((other, "Written twice."), (admin, "Written over.")):
        editor.page.get_by_label("Text").fill(text)
        editor.button("Save").click()
    expect(admin.page.get_by_role("alert").filter(has_text="changed in the meantime")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("ferns.md", "# Ferns\n\nFerns like shade.", "Ferns like shade."),
        ("moss.html", "<h1>Moss</h1><p>Moss likes <b>rain</b>.</p><script>alert(1)</script>", "Moss likes rain."),
        ("seeds.csv", "Seed,Depth\nBasil,1 cm\n", "Basil"),
        ("roses.txt", "Roses like sun.", "Roses like sun."),
    ],
)
def test_files_are_put_into_the_knowledge_base(
    admin: Opened, tmp_path: Path, name: str, content: str, found: str
) -> None:
    (tmp_path / name).write_text(content)
    go(admin, "articles")
    admin.page.locator("input[type=file]").set_input_files(tmp_path / name)
    expect(admin.page.get_by_text("is in the knowledge base")).to_be_visible()
    admin.page.locator(".drop p a").click()
    expect(admin.page.locator(".preview")).to_contain_text(found)
    assert "alert" not in admin.page.locator(".preview").inner_text()


def test_an_intent_that_is_taught_here_is_known(admin: Opened) -> None:
    page = admin.page
    go(admin, "intents/new")
    page.get_by_label("Name").fill("umbrella_rent")
    page.get_by_label("Examples").fill("\n".join(f"may I rent {n} umbrellas from you" for n in range(12)))
    admin.button("Save and train").click()
    expect(page.get_by_role("heading", name="umbrella_rent")).to_be_visible()
    go(admin, "intents")
    page.get_by_label("Try a sentence").fill("may I rent umbrellas from you, my card is 4111 1111 1111 1111")
    admin.button("Try").click()
    expect(page.get_by_text("umbrella_rent · score")).to_contain_text("[card]")


def test_feedback_and_unanswered_questions_come_to_the_admin(admin: Opened, open_page: Open) -> None:
    customer = open_page()
    reply = customer.ask("How many days do I have to return the disliked item?")
    reply.get_by_role("button", name="Not helpful").click()
    reply.get_by_label("Wrong").check()
    reply.get_by_role("button", name="Send").click()
    expect(reply.get_by_text("Thank you.")).to_be_visible()
    go(admin, "feedback")
    row = admin.page.locator("tbody tr").filter(has_text="disliked item")
    expect(row).to_contain_text("Wrong")
    with admin.page.expect_download() as downloading:
        admin.button("Export intents").click()
    assert '"label"' in Path(downloading.value.path()).read_text()
    go(admin, "dashboard")
    expect(admin.page.locator("#place tbody")).to_contain_text("disliked item")
    expect(admin.page.locator("svg.plot").first).to_have_attribute("aria-label", re.compile("p50.*p99"))


def test_settings_are_kept_and_seen_by_customers(admin: Opened, open_page: Open) -> None:
    go(admin, "settings")
    admin.page.get_by_label("Greeting in English").fill("Welcome <i>in</i>.")
    admin.page.get_by_role("switch", name="Personal replies").check()
    admin.button("Save").click()
    expect(admin.page.get_by_text("Saved.")).to_be_visible()
    expect(open_page().page.locator("#greeting")).to_have_text("Welcome <i>in</i>.")
    go(admin, "audit")
    expect(admin.page.locator("tbody")).to_contain_text("settings.save")


def test_what_was_changed_is_not_left_by_mistake(admin: Opened) -> None:
    go(admin, "articles/new")
    admin.page.get_by_label("Title").fill("Half written")
    admin.page.once("dialog", lambda dialog: dialog.dismiss())
    admin.page.locator("#sections a[href='#audit']").click()
    expect(admin.page.get_by_label("Title")).to_have_value("Half written")


def test_an_agent_is_made_and_can_work(admin: Opened, open_page: Open) -> None:
    page = admin.page
    go(admin, "people")
    page.get_by_label("Name").fill("New Agent")
    page.get_by_label("E-mail").fill("new@example.com")
    page.get_by_label("Password").fill("correct horse battery")
    admin.button("Add").click()
    expect(page.locator("tbody tr").filter(has_text="New Agent")).to_be_visible()
    open_page("/agent").sign_in("new@example.com")


def test_a_person_sets_a_new_password_by_the_link_an_admin_gives(admin: Opened, open_page: Open) -> None:
    page = admin.page
    go(admin, "people")
    for field, value in (
        ("Name", "Forgetful"),
        ("E-mail", "forgetful@example.com"),
        ("Password", "a password to lose"),
    ):
        page.get_by_label(field).fill(value)
    admin.button("Add").click()
    page.locator("tbody tr").filter(has_text="Forgetful").get_by_role("button", name="Reset password").click()
    link = page.locator(".secret code").inner_text()
    person = open_page(link)
    assert "#" not in person.page.url
    for field in ("New password", "The same again"):
        person.page.get_by_label(field).fill("correct horse battery")
    person.button("Set password").click()
    person.page.get_by_role("link", name="Sign in").click()
    person.sign_in("forgetful@example.com")
    again = open_page(link)
    for field in ("New password", "The same again"):
        again.page.get_by_label(field).fill("a third long password")
    again.button("Set password").click()
    expect(again.page.get_by_role("alert")).to_contain_text("used already")


def test_a_webhook_tells_its_secret_once(admin: Opened) -> None:
    go(admin, "webhooks")
    admin.page.get_by_label("Address").fill("https://hooks.example.com/support")
    admin.button("Add").click()
    expect(admin.page.locator(".secret code")).not_to_be_empty()
    expect(admin.page.locator("tbody").first).to_contain_text("hooks.example.com")
    go(admin, "audit")
    expect(admin.page.locator("#place h1")).to_have_text("Audit")
    go(admin, "webhooks")
    expect(admin.page.locator("tbody").first).to_contain_text("hooks.example.com")
    expect(admin.page.locator(".secret")).to_have_count(0)
