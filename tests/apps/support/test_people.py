"""Accounts and sessions: who gets in, for how long, and who sees what."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import jwt
import pytest
import sqlalchemy as sa

from tests.apps.support.people import NO_LIMITS, PASSWORD, Person, Running, make_config, running
from vivace.apps.support.accounts import Passwords, clean_email, clean_name
from vivace.apps.support.limits import RateLimiter, find_address, name_address
from vivace.apps.support.sessions import TokenMaker, derive_key
from vivace.apps.support.settings import PasswordCost, Rate, Rates, SupportConfig
from vivace.apps.support.store import password_resets
from vivace.errors import ConfigError, InvalidError, RateLimitedError, SignedOutError

pytestmark = pytest.mark.anyio

RESETS = sa.select(password_resets)


# Over HTTP


async def test_sign_up_sign_out_and_sign_in(shop: Running) -> None:
    ada = await shop.customer("Ada@Example.com ", "Ada  Lovelace")
    assert await ada.get("/api/me") == ada.tokens["account"]
    assert (ada.tokens["account"]["email"], ada.tokens["account"]["name"]) == ("ada@example.com", "Ada Lovelace")
    await ada.request("DELETE", "/api/sessions/current", None, 204)
    await ada.get("/api/me", 401)
    again = await shop.sign_in("ADA@example.com")
    assert again.id == ada.id


async def test_a_wrong_password_and_an_unknown_address_look_the_same(shop: Running) -> None:
    await shop.customer()
    nobody = Person(shop.http)
    wrong = await nobody.request("POST", "/api/sessions", {"email": "ada@example.com", "password": "wrong"}, 401)
    unknown = await nobody.request("POST", "/api/sessions", {"email": "eve@example.com", "password": "wrong"}, 401)
    assert wrong == unknown
    assert wrong["error"]["code"] == "wrong_credentials"


async def test_an_address_has_one_account(shop: Running) -> None:
    await shop.customer()
    body = {"email": "ada@example.com", "password": PASSWORD, "name": "Eve"}
    error = await Person(shop.http).request("POST", "/api/accounts", body, 409)
    assert error["error"]["code"] == "email_taken"


async def test_a_guest_who_signs_up_keeps_the_conversations(shop: Running) -> None:
    guest = await shop.guest()
    conversation = await guest.start()
    old = Person(shop.http, dict(guest.tokens))
    body = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}
    ada = Person(shop.http).take(await guest.request("POST", "/api/accounts", body, 201))
    assert (ada.tokens["account"]["role"], ada.id) == ("customer", guest.id)
    assert (await ada.read(conversation))["conversation"]["id"] == conversation
    await old.get("/api/me", 401)


# A forgotten password


async def make_reset_token(shop: Running, person: Person) -> str:
    admin = await shop.staff("admin")
    link = await admin.request("POST", f"/api/admin/accounts/{person.id}/reset", {}, 201)
    page, _, token = link["path"].partition("#")
    assert page == "/reset"
    return str(token)


async def test_a_reset_link_sets_a_password_once_and_ends_every_session(shop: Running) -> None:
    ada = await shop.customer()
    token = await make_reset_token(shop, ada)
    assert token not in str(shop.service.store.read(lambda connection: connection.execute(RESETS).all()))
    body = {"token": token, "password": "another long password"}
    nobody = Person(shop.http)
    assert await nobody.request("PUT", "/api/password-resets", body) == {"page": "/"}
    await ada.get("/api/me", 401)
    await ada.request("POST", "/api/sessions/refresh", {"refresh_token": ada.tokens["refresh_token"]}, 401)
    old = {"email": "ada@example.com", "password": PASSWORD}
    await nobody.request("POST", "/api/sessions", old, 401)
    await nobody.request("POST", "/api/sessions", old | {"password": "another long password"}, 201)
    error = await nobody.request("PUT", "/api/password-resets", body, 409)
    assert error["error"]["code"] == "reset_gone"


async def test_of_two_who_use_a_link_at_once_one_does(shop: Running) -> None:
    ada = await shop.customer()
    token = await make_reset_token(shop, ada)
    bodies = [{"token": token, "password": f"long password {number}"} for number in range(4)]
    replies = await asyncio.gather(*(Person(shop.http).send("PUT", "/api/password-resets", body) for body in bodies))
    assert sorted(one.status_code for one in replies) == [200, 409, 409, 409]


@pytest.mark.parametrize("how", ["an hour passes", "a second link", "another password", "disabled", "a wrong token"])
async def test_a_reset_link_is_void_when(how: str, shop: Running) -> None:
    ada = await shop.customer()
    token = await make_reset_token(shop, ada)
    if how == "an hour passes":
        shop.clock.added_s = 3601
    elif how == "a second link":
        admin = await shop.sign_in("admin@shop.example.com")
        await admin.request("POST", f"/api/admin/accounts/{ada.id}/reset", {}, 201)
    elif how == "another password":
        await ada.request("PUT", "/api/me/password", {"current": PASSWORD, "new": "a third long password"})
    elif how == "disabled":
        admin = await shop.sign_in("admin@shop.example.com")
        for disabled in (True, False):
            await admin.request("PATCH", f"/api/admin/accounts/{ada.id}", {"disabled": disabled})
    else:
        token = token[:-1] + ("A" if token[-1] != "A" else "B")
    body = {"token": token, "password": "another long password"}
    assert (await Person(shop.http).request("PUT", "/api/password-resets", body, 409))["error"]["code"] == "reset_gone"


async def test_reset_links_are_audited_and_made_for_those_who_can_sign_in(shop: Running) -> None:
    ada, guest = await shop.customer(), await shop.guest()
    token = await make_reset_token(shop, ada)
    await Person(shop.http).request("PUT", "/api/password-resets", {"token": token, "password": "a long new password"})
    admin = await shop.sign_in("admin@shop.example.com")
    await admin.request("POST", f"/api/admin/accounts/{guest.id}/reset", {}, 400)
    await admin.request("POST", "/api/admin/accounts/nobody/reset", {}, 404)
    entries = (await admin.get("/api/admin/audit"))["entries"]
    found = {entry["action"]: entry for entry in entries}
    assert found["password_reset.create"]["actor"] == admin.id
    assert found["password_reset.use"]["subject"] == found["password_reset.create"]["subject"] == ada.id
    assert token not in str(entries)


async def test_reset_tokens_cannot_be_tried_out(tmp_path: Path) -> None:
    rates = replace(NO_LIMITS, sign_ins_of_address=Rate(3, 1.0))
    async with running(make_config(tmp_path, rates=rates), filled=False) as shop:
        body = {"token": "x", "password": "a long new password"}
        replies = [(await Person(shop.http).send("PUT", "/api/password-resets", body)).status_code for _ in range(4)]
        assert replies == [409, 409, 409, 429]


async def test_an_access_token_expires_and_a_refresh_token_gives_the_next(shop: Running) -> None:
    ada = await shop.customer()
    shop.clock.added_s = 601
    await ada.get("/api/me", 401)
    fresh = await ada.request("POST", "/api/sessions/refresh", {"refresh_token": ada.tokens["refresh_token"]})
    assert fresh["refresh_token"] != ada.tokens["refresh_token"]
    await Person(shop.http, fresh).get("/api/me")


async def test_a_refresh_token_that_is_used_again_at_once_gives_the_same_and_later_ends_the_session(
    shop: Running,
) -> None:
    ada = await shop.customer()
    body = {"refresh_token": ada.tokens["refresh_token"]}
    first = await ada.request("POST", "/api/sessions/refresh", body)
    again = await ada.request("POST", "/api/sessions/refresh", body)
    assert again["refresh_token"] == first["refresh_token"]
    shop.clock.added_s = 11
    await ada.request("POST", "/api/sessions/refresh", body, 401)
    await Person(shop.http, first).get("/api/me", 401)
    await ada.request("POST", "/api/sessions/refresh", {"refresh_token": first["refresh_token"]}, 401)


async def test_of_many_refreshes_at_once_all_get_the_same_next_token(shop: Running) -> None:
    ada = await shop.customer()
    body = {"refresh_token": ada.tokens["refresh_token"]}
    replies = await asyncio.gather(*(ada.request("POST", "/api/sessions/refresh", body) for _ in range(5)))
    assert len({reply["refresh_token"] for reply in replies}) == 1


async def test_a_new_password_ends_every_other_session(shop: Running) -> None:
    ada = await shop.customer()
    other = await shop.sign_in("ada@example.com")
    body = {"current": PASSWORD, "new": "another long password"}
    fresh = Person(shop.http, await ada.request("PUT", "/api/me/password", body))
    for signed_out in (ada, other):
        await signed_out.get("/api/me", 401)
    await fresh.get("/api/me")
    await fresh.request("PUT", "/api/me/password", {"current": "wrong", "new": "another long password"}, 401)


async def test_a_disabled_account_is_out_at_once(shop: Running) -> None:
    admin, ada = await shop.staff("admin"), await shop.customer()
    await admin.request("PATCH", f"/api/admin/accounts/{ada.id}", {"disabled": True})
    await ada.get("/api/me", 401)
    body = {"email": "ada@example.com", "password": PASSWORD}
    await Person(shop.http).request("POST", "/api/sessions", body, 401)
    await admin.request("PATCH", f"/api/admin/accounts/{admin.id}", {"disabled": True}, 400)


@pytest.mark.parametrize("token", ["x", "a.b.c", "Bearer", "é", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."])
async def test_what_is_no_token_is_signed_out(token: str, shop: Running) -> None:
    headers = {b"authorization": f"Bearer {token}".encode()}
    reply = await shop.http.get("/api/me", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "signed_out")


async def test_roles_are_what_they_are_now_whatever_the_token_was_made_for(shop: Running) -> None:
    admin, agent = await shop.staff("admin"), await shop.staff("agent")
    await agent.get("/api/agent/queue")
    await agent.get("/api/admin/settings", 403)
    await admin.request("PATCH", f"/api/admin/accounts/{agent.id}", {"role": "customer"})
    await agent.get("/api/agent/queue", 401)
    demoted = await shop.sign_in("agent@shop.example.com")
    await demoted.get("/api/agent/queue", 403)


async def test_too_many_sign_ins_are_refused_with_the_time_to_come_back(database: str, tmp_path: object) -> None:
    from pathlib import Path

    rates = Rates(sign_ins_of_email=Rate(3, 1.0))
    async with running(make_config(Path(str(tmp_path)) / "data", database, rates=rates), filled=False) as shop:
        body = {"email": "ada@example.com", "password": "wrong"}
        replies = [await Person(shop.http).send("POST", "/api/sessions", body) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [401, 401, 401, 429]
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 60


# Parts


def test_a_limiter_lets_a_burst_through_and_then_so_many_a_minute() -> None:
    now = [0.0]
    limiter = RateLimiter(Rate(2, 60.0), lambda: now[0])
    for _ in range(2):
        limiter.take("a")
    with pytest.raises(RateLimitedError) as refused:
        limiter.take("a")
    assert refused.value.retry_after_s == pytest.approx(1.0)
    limiter.take("b")
    now[0] = 1.0
    limiter.take("a")


def test_an_address_is_the_peers_unless_a_trusted_proxy_says_whose() -> None:
    assert find_address("1.2.3.4", "6.6.6.6", ()) == "1.2.3.4"
    assert find_address("10.0.0.1", "6.6.6.6, 5.5.5.5", ("10.0.0.1",)) == "5.5.5.5"
    assert find_address("10.0.0.1", "6.6.6.6, 10.0.0.2", ("10.0.0.1", "10.0.0.2")) == "6.6.6.6"
    assert name_address("2001:db8:1:2:3:4:5:6") == name_address("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    assert name_address("::ffff:1.2.3.4") == "1.2.3.4"
    assert name_address("nonsense") == "unknown"


def test_a_password_is_kept_as_a_hash_that_is_renewed_when_the_cost_rises() -> None:
    cheap, dear = Passwords(PasswordCost(1, 8, 1)), Passwords(PasswordCost(2, 16, 1))
    kept = cheap.hash("pässword 123")
    assert kept.startswith("$argon2id$")
    assert "pässword" not in kept
    assert cheap.verify(kept, "pa\u0308ssword 123"), "the same letters in another form"
    assert not cheap.verify(kept, "password 123")
    assert not cheap.verify(None, "of no account")
    assert not cheap.verify("no hash", "x")
    assert dear.is_outdated(kept)
    assert not cheap.is_outdated(kept)


def test_a_token_signed_for_one_purpose_is_nothing_for_another() -> None:
    maker = TokenMaker(b"k" * 32, SupportConfig())
    claims = {"sub": "a", "sid": "s", "exp": 2e9}
    for key in (b"k" * 32, derive_key(b"k" * 32, "refresh token")):
        with pytest.raises(SignedOutError):
            maker.read_access(jwt.encode(claims, key, "HS256"), 0.0)
    with pytest.raises(SignedOutError):
        maker.read_refresh("s.0.deadbeef")
    with pytest.raises(SignedOutError):
        maker.read_refresh("")


@pytest.mark.parametrize("email", ["", "a", "a@b", "a b@c.de", "<a@b.de>", "a@b.de\n", "x" * 250 + "@b.de", 'a"@b.de'])
def test_what_is_no_address_is_refused(email: str) -> None:
    if email.strip() == "a@b.de":
        assert clean_email(email) == "a@b.de"
        return
    with pytest.raises(InvalidError, match="e-mail"):
        clean_email(email)


def test_a_name_is_one_line_without_control_characters() -> None:
    assert clean_name("  A\u202eda\n\x00 B ") == "Ada B"
    for name in ("", "\u200b", "x" * 81):
        with pytest.raises(InvalidError):
            clean_name(name)


@pytest.mark.parametrize(
    "options",
    [
        {"server": "model"},
        {"tenants": ()},
        {"tenants": ("A B",)},
        {"port": 70000},
        {"max_answers": 0},
        {"embed_origins": ("x",)},
    ],
)
def test_a_configuration_that_cannot_work_says_so(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SupportConfig(**options)  # type: ignore[arg-type]
