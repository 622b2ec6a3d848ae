"""Routes of accounts and sessions: sign-up, sign-in, guests, one's own data."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.apps.support import accounts, audit, password_resets, privacy, sessions, shops
from vivace.apps.support.accounts import Account, check_password, clean_email, clean_name
from vivace.apps.support.bodies import (
    ChangedAccount,
    Confirmation,
    NewAccount,
    NewGuest,
    NewPassword,
    Refresh,
    ResetPassword,
    SignIn,
)
from vivace.apps.support.service import Service, reply, reply_nothing
from vivace.apps.support.sessions import Tokens
from vivace.apps.support.views import show_account, show_tokens
from vivace.errors import ConflictError, CredentialsError, ForbiddenError, SignedOutError

_GUEST_NAMES = {"en": "Guest", "zh": "访客"}
_PAGES = {"agent": "/agent", "admin": "/admin"}
"""Where staff sign in; all others do on the chat's page."""
_WRONG = "E-mail or password is wrong."


def build_people_routes(service: Service) -> list[Route]:
    people = _People(service)
    return [
        Route("/api/shop", people.show_shop),
        Route("/api/guests", people.make_guest, methods=["POST"]),
        Route("/api/accounts", people.sign_up, methods=["POST"]),
        Route("/api/sessions", people.sign_in, methods=["POST"]),
        Route("/api/sessions", people.sign_out_everywhere, methods=["DELETE"]),
        Route("/api/sessions/refresh", people.refresh, methods=["POST"]),
        Route("/api/sessions/current", people.sign_out, methods=["DELETE"]),
        Route("/api/password-resets", people.reset_password, methods=["PUT"]),
        Route("/api/me", people.show_me),
        Route("/api/me", people.change_me, methods=["PATCH"]),
        Route("/api/me", people.delete_me, methods=["DELETE"]),
        Route("/api/me/password", people.change_password, methods=["PUT"]),
        Route("/api/me/export", people.export_me),
    ]


class _People:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def show_shop(self, request: Request) -> Response:
        service = self._service
        service.limit_address(request, service.limiters.requests_of_address)
        tenant = service.choose_tenant(request.query_params.get("tenant"))
        settings = await service.read(shops.load, tenant)
        greeting = {"en": settings.greeting.choose("en"), "zh": settings.greeting.choose("zh")}
        return reply(
            {
                "tenant": tenant,
                "name": settings.name,
                "greeting": greeting,
                "personal_replies": settings.personal_replies,
                "max_message_characters": service.config.max_message_characters,
            }
        )

    async def make_guest(self, request: Request) -> Response:
        service = self._service
        service.limit_address(request, service.limiters.new_accounts_of_address)
        body = await service.decode(request, NewGuest)
        tenant = service.choose_tenant(body.tenant)
        tokens = await service.write(self._begin_as_guest, tenant, body.language)
        return reply(show_tokens(tokens), 201)

    def _begin_as_guest(self, connection: Connection, tenant: str, language: str) -> Tokens:
        now = self._service.clock()
        account = accounts.create(connection, tenant, "guest", _GUEST_NAMES[language], language, now)
        return sessions.begin(connection, self._service.tokens, account, now)

    async def sign_up(self, request: Request) -> Response:
        service = self._service
        service.limit_address(request, service.limiters.new_accounts_of_address)
        body = await service.decode(request, NewAccount)
        check_password(body.password)
        guest = await self._find_guest(request)
        tenant = service.choose_tenant(body.tenant) if guest is None else guest.tenant
        email, name = clean_email(body.email), clean_name(body.name)
        password_hash = await service.password_workers.run(service.passwords.hash, body.password)
        tokens = await service.write(self._begin_as_customer, tenant, guest, email, name, body.language, password_hash)
        return reply(show_tokens(tokens), 201)

    async def _find_guest(self, request: Request) -> Account | None:
        """The guest who asks, if one does."""
        if "authorization" not in request.headers:
            return None
        account = (await self._service.identify(request)).account
        if account.role != "guest":
            raise ConflictError("This session has an account already. Sign out first.")
        return account

    def _begin_as_customer(
        self,
        connection: Connection,
        tenant: str,
        guest: Account | None,
        email: str,
        name: str,
        language: str,
        password_hash: str,
    ) -> Tokens:
        now = self._service.clock()
        if guest is None:
            account = accounts.create(connection, tenant, "customer", name, language, now, email, password_hash)
        else:
            account = accounts.upgrade_guest(connection, guest, name, email, password_hash)
            accounts.end_sessions(connection, account.id, now)
        audit.note(connection, tenant, account.id, "account.create", account.id, {"guest": guest is not None}, now)
        return sessions.begin(connection, self._service.tokens, account, now)

    async def sign_in(self, request: Request) -> Response:
        service = self._service
        service.limit_address(request, service.limiters.sign_ins_of_address)
        body = await service.decode(request, SignIn)
        tenant, email = service.choose_tenant(body.tenant), body.email.strip().lower()
        service.limiters.sign_ins_of_email.take(f"{tenant} {email}")
        found = await service.read(accounts.find_by_email, tenant, email)
        password_hash = None if found is None else found[1]
        right = await service.password_workers.run(service.passwords.verify, password_hash, body.password)
        if found is None or not right:
            raise CredentialsError(_WRONG)
        account = found[0]
        renewed = None
        if password_hash is not None and service.passwords.is_outdated(password_hash):
            renewed = await service.password_workers.run(service.passwords.hash, body.password)
        return reply(show_tokens(await service.write(self._begin, account, renewed)), 201)

    def _begin(self, connection: Connection, account: Account, password_hash: str | None) -> Tokens:
        now = self._service.clock()
        if password_hash is not None:
            accounts.update(connection, account.tenant, account.id, password_hash=password_hash)
        audit.note(connection, account.tenant, account.id, "session.begin", account.id, {}, now)
        return sessions.begin(connection, self._service.tokens, account, now)

    async def refresh(self, request: Request) -> Response:
        service = self._service
        service.limit_address(request, service.limiters.requests_of_address)
        body = await service.decode(request, Refresh)
        tokens = await service.write(sessions.refresh, service.tokens, body.refresh_token, service.clock())
        if tokens is None:
            raise SignedOutError("This refresh token was used before, so its session has ended. Sign in again.")
        return reply(show_tokens(tokens))

    async def sign_out(self, request: Request) -> Response:
        identity = await self._service.identify(request)
        await self._service.write(sessions.revoke, identity.session_id, self._service.clock())
        return reply_nothing()

    async def sign_out_everywhere(self, request: Request) -> Response:
        identity = await self._service.identify(request)
        await self._service.write(accounts.end_sessions, identity.account.id, self._service.clock())
        return reply_nothing()

    async def show_me(self, request: Request) -> Response:
        return reply(show_account((await self._service.identify(request)).account))

    async def change_me(self, request: Request) -> Response:
        account = (await self._service.identify(request)).account
        body = await self._service.decode(request, ChangedAccount)
        values: dict[str, Any] = {"language": body.language, "personal": body.personal}
        values["name"] = None if body.name is None else clean_name(body.name)
        changed = {name: value for name, value in values.items() if value is not None}
        if not changed:
            return reply(show_account(account))
        return reply(show_account(await self._service.write(accounts.update, account.tenant, account.id, **changed)))

    async def change_password(self, request: Request) -> Response:
        service = self._service
        identity = await service.identify(request)
        account = identity.account
        body = await service.decode(request, NewPassword)
        check_password(body.new)
        service.limiters.sign_ins_of_email.take(f"{account.tenant} {account.email}")
        before = await service.read(accounts.get_password_hash, account.id)
        if not await service.password_workers.run(service.passwords.verify, before, body.current):
            raise CredentialsError("The present password is wrong.")
        password_hash = await service.password_workers.run(service.passwords.hash, body.new)
        return reply(show_tokens(await service.write(self._replace_password, account, password_hash)))

    def _replace_password(self, connection: Connection, account: Account, password_hash: str) -> Tokens:
        now = self._service.clock()
        accounts.update(connection, account.tenant, account.id, password_hash=password_hash)
        accounts.end_sessions(connection, account.id, now)
        password_resets.forget(connection, account.id)
        audit.note(connection, account.tenant, account.id, "account.password", account.id, {}, now)
        return sessions.begin(connection, self._service.tokens, account, now)

    async def reset_password(self, request: Request) -> Response:
        """By whoever has the link; the token is looked at before a hash is worked out, and again when it is used."""
        service = self._service
        service.limit_address(request, service.limiters.sign_ins_of_address)
        body = await service.decode(request, ResetPassword)
        check_password(body.password)
        await service.read(password_resets.check, body.token, service.clock())
        password_hash = await service.password_workers.run(service.passwords.hash, body.password)
        account = await service.write(password_resets.use, body.token, password_hash, service.clock())
        return reply({"page": _PAGES.get(account.role, "/")})

    async def export_me(self, request: Request) -> Response:
        account = (await self._service.identify(request)).account
        data = await self._service.write(privacy.export, account, self._service.clock())
        response = reply(data)
        response.headers["content-disposition"] = 'attachment; filename="my-data.json"'
        return response

    async def delete_me(self, request: Request) -> Response:
        service = self._service
        account = (await service.identify(request)).account
        await service.decode(request, Confirmation)
        if account.role == "admin":
            raise ForbiddenError("An admin's account is deleted by another admin, who first makes it a customer's.")
        deleted = await service.write(privacy.delete_account, account, service.clock())
        await service.workers.run(service.store.shrink)
        for conversation_id in deleted:
            service.tell_change(account.tenant, conversation_id, bot_stops=True)
        return reply_nothing()
