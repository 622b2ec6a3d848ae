"""One's own data: given out, deleted, and forgotten in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.apps.support.people import Running
from tests.apps.support.test_security import _dump
from vivace.apps.support import upkeep

pytestmark = pytest.mark.anyio
SECRET = "A question about zanzibar: how many days to return an item?"


async def test_an_export_has_all_that_is_kept(shop: Running) -> None:
    ada = await shop.customer()
    conversation = await ada.start()
    await ada.ask(conversation, SECRET)
    data = await ada.get("/api/me/export")
    assert data["account"]["email"] == "ada@example.com"
    assert data["conversations"][0]["messages"][0]["text"] == SECRET
    assert data["sessions"]
    assert "argon2" not in str(data)


async def test_a_deleted_account_leaves_nothing_but_the_audit(shop: Running, database: str, tmp_path: Path) -> None:
    ada = await shop.customer("ada@zanzibar.example")
    conversation = await ada.start()
    answer = await ada.ask(conversation, SECRET)
    if "id" in answer:
        await ada.request("PUT", f"/api/messages/{answer['id']}/feedback", {"rating": "up", "text": "zanzibar"})
    await ada.request("DELETE", "/api/me", {"confirm": False}, 400)
    await ada.request("DELETE", "/api/me", {"confirm": True}, 204)
    await ada.get("/api/me", 401)
    assert "zanzibar" not in _dump(shop)
    if database.startswith("sqlite"):
        for file in tmp_path.glob("support.db*"):
            assert b"zanzibar" not in file.read_bytes(), "not in the free pages nor in the log of changes either"
    admin = await shop.staff("admin")
    entries = (await admin.get("/api/admin/audit"))["entries"]
    assert "account.delete" in [entry["action"] for entry in entries]


async def test_what_nobody_touched_for_long_is_forgotten(shop: Running) -> None:
    guest = await shop.guest()
    conversation = await guest.start()
    await guest.ask(conversation, "How many days do I have to return an item?")
    shop.change_settings(retention_days=30)
    assert await upkeep.look_at_retention(shop.service) == 0
    shop.clock.added_s = 31 * 86400.0
    assert await upkeep.look_at_retention(shop.service) == 1
    assert conversation not in "\n".join(line for line in _dump(shop).split("\n") if "conversation." not in line)


async def test_the_audit_has_no_words_of_anybody(shop: Running) -> None:
    admin, ada = await shop.staff("admin"), await shop.customer()
    conversation = await ada.start()
    await ada.ask(conversation, SECRET)
    await ada.request("POST", f"/api/conversations/{conversation}/close", {})
    body = {"title": "Zanzibar", "format": "text", "text": "zanzibar"}
    await admin.request("POST", "/api/admin/articles", body, 201)
    await admin.request("POST", "/api/admin/webhooks", {"url": "https://zanzibar.example/"}, 201)
    entries = (await admin.get("/api/admin/audit"))["entries"]
    assert {"article.save", "conversation.closed", "webhook.add"} <= {entry["action"] for entry in entries}
    assert "zanzibar" not in str(entries).lower()
