"""The knowledge base as admins edit it: versions, no lost edits, found as soon as it is saved."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.apps.support.people import ARTICLES, Running, fill_shop, make_config
from vivace.apps.support.app import build_service, prepare

pytestmark = pytest.mark.anyio
LAMP = {"title": "Lamps", "format": "markdown", "text": "# Lamps\n\n## Bulbs\n\nThe Heron lamp takes an E27 bulb."}


async def test_an_article_is_found_when_it_is_saved_changed_when_it_is_changed_and_gone_when_deleted(
    shop: Running,
) -> None:
    admin = await shop.staff("admin")
    made = await admin.request("POST", "/api/admin/articles", LAMP, 201)
    assert (made["version"], made["passages"]) == (1, 1)
    path = f"/api/admin/articles/{made['id']}"
    (hit, *_) = (await admin.get("/api/admin/search?q=Heron+bulb"))["hits"]
    assert (hit["article_id"], hit["version"], "E27" in hit["text"]) == (made["id"], 1, True)
    changed = LAMP | {"text": "The Heron lamp takes an E14 bulb.", "version": 1}
    assert (await admin.request("PUT", path, changed))["version"] == 2
    assert "E14" in (await admin.get("/api/admin/search?q=Heron+bulb"))["hits"][0]["text"]
    await admin.request("DELETE", path, None, 204)
    assert all(hit["article_id"] != made["id"] for hit in (await admin.get("/api/admin/search?q=Heron+bulb"))["hits"])
    await admin.get(path, 404)
    versions = (await admin.get(f"{path}/versions"))["versions"]
    assert [(version["version"], version["deleted"]) for version in versions] == [(3, True), (2, False), (1, False)]
    restored = await admin.request("POST", f"{path}/restore", {"version": 1})
    assert (restored["version"], restored["text"]) == (4, LAMP["text"])
    assert "E27" in (await admin.get("/api/admin/search?q=Heron+bulb"))["hits"][0]["text"]


async def test_of_two_who_edit_one_version_the_second_is_told(shop: Running) -> None:
    admin = await shop.staff("admin")
    made = await admin.request("POST", "/api/admin/articles", LAMP, 201)
    edit = LAMP | {"version": 1}
    replies = await asyncio.gather(*(admin.send("PUT", f"/api/admin/articles/{made['id']}", edit) for _ in range(3)))
    assert sorted(reply.status_code for reply in replies) == [200, 409, 409]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("hours.html", b"<h1>Hours</h1><p>We open at <b>seven</b>.</p><script>alert(1)</script>", "seven"),
        ("prices.csv", "item,price\nlamp,89\n".encode("utf-8-sig"), "89"),
        ("notes.txt", "我们周日休息。".encode(), "周日休息"),
    ],
)
async def test_files_of_every_format_can_be_sent(name: str, content: bytes, word: str, shop: Running) -> None:
    admin = await shop.staff("admin")
    path = f"/api/admin/articles/file?name={name}"
    reply = await admin.http.post(path, content=content, headers=admin.headers)
    assert reply.status_code == 201, reply.text
    hits = (await admin.get(f"/api/admin/search?q={word}"))["hits"]
    assert any(word in hit["text"] and hit["article_id"] == reply.json()["id"] for hit in hits)


@pytest.mark.parametrize(("name", "content"), [("x.exe", b"x"), ("x.txt", b"\xff\xfe"), ("x.md", b"   "), ("", b"x")])
async def test_a_file_that_is_no_article_is_refused(name: str, content: bytes, shop: Running) -> None:
    admin = await shop.staff("admin")
    reply = await admin.http.post(f"/api/admin/articles/file?name={name}", content=content, headers=admin.headers)
    assert reply.status_code == 400


def test_an_index_that_was_lost_or_left_behind_is_made_again_at_the_start(database: str, tmp_path: Path) -> None:
    config = make_config(tmp_path / "data", database)
    service = build_service(config)
    fill_shop(service)
    prepare(service)
    assert service.knowledge.search("shop", "refund of a returned item", 1)[0].title == "Returns"
    service.knowledge.close()
    service.store.close()
    for file in (tmp_path / "data").glob("index.db*"):
        file.unlink()
    service = build_service(config)
    assert service.knowledge.search("shop", "refund of a returned item", 1) == []
    assert service.knowledge.bring_all_into_step("shop") == len(ARTICLES)
    assert service.knowledge.bring_all_into_step("shop") == 0
    assert service.knowledge.search("shop", "refund of a returned item", 1)[0].title == "Returns"
    service.knowledge.close()
    service.store.close()
