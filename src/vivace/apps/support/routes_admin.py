"""Routes of the admin page: articles, intents, feedback, figures, settings, staff, webhooks, audit."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.apps.support import (
    accounts,
    audit,
    dashboard,
    feedback,
    intent_store,
    knowledge,
    password_resets,
    shops,
    webhooks,
)
from vivace.apps.support.accounts import Account, check_password, clean_email, clean_name
from vivace.apps.support.bodies import (
    ChangedArticle,
    ChangedStaff,
    Empty,
    NewArticle,
    NewStaff,
    NewWebhook,
    Restored,
    SavedIntent,
    SwitchedWebhook,
    Tried,
    clean_text,
    decode,
)
from vivace.apps.support.delivery import make_secret
from vivace.apps.support.intent_store import IntentRule
from vivace.apps.support.language import detect_language
from vivace.apps.support.passages import format_of
from vivace.apps.support.password_resets import ResetLink
from vivace.apps.support.redact import redact
from vivace.apps.support.routes_agent import find_hits
from vivace.apps.support.sentiment import judge_sentiment
from vivace.apps.support.service import Service, read_body, read_number, read_words, reply, reply_nothing
from vivace.apps.support.settings import ShopSettings
from vivace.apps.support.store import make_id
from vivace.apps.support.views import show_account
from vivace.errors import DataError, InvalidError, NotFoundError

T = TypeVar("T")

MAX_ARTICLE_CHARACTERS = 1_000_000


def build_admin_routes(service: Service) -> list[Route]:
    articles, intents, people, rest = _Articles(service), _Intents(service), _Staff(service), _Rest(service)
    article, intent, hook = "/api/admin/articles", "/api/admin/intents", "/api/admin/webhooks"
    return [
        Route(article, articles.list_page),
        Route(article, articles.create, methods=["POST"]),
        Route(f"{article}/file", articles.upload, methods=["POST"]),
        Route(f"{article}/{{id}}", articles.show),
        Route(f"{article}/{{id}}", articles.change, methods=["PUT"]),
        Route(f"{article}/{{id}}", articles.delete, methods=["DELETE"]),
        Route(f"{article}/{{id}}/versions", articles.list_versions),
        Route(f"{article}/{{id}}/versions/{{version:int}}", articles.show_version),
        Route(f"{article}/{{id}}/restore", articles.restore, methods=["POST"]),
        Route("/api/admin/search", articles.search),
        Route(intent, intents.list_all),
        Route(f"{intent}/try", intents.try_out, methods=["POST"]),
        Route(f"{intent}/{{label}}", intents.save, methods=["PUT"]),
        Route(f"{intent}/{{label}}", intents.delete, methods=["DELETE"]),
        Route("/api/admin/accounts", people.list_page),
        Route("/api/admin/accounts", people.create, methods=["POST"]),
        Route("/api/admin/accounts/{id}", people.change, methods=["PATCH"]),
        Route("/api/admin/accounts/{id}/reset", people.make_reset_link, methods=["POST"]),
        Route("/api/admin/feedback", rest.list_feedback),
        Route("/api/admin/feedback/export", rest.export_feedback),
        Route("/api/admin/dashboard", rest.show_dashboard),
        Route("/api/admin/settings", rest.show_settings),
        Route("/api/admin/settings", rest.save_settings, methods=["PUT"]),
        Route(hook, rest.list_webhooks),
        Route(hook, rest.add_webhook, methods=["POST"]),
        Route(f"{hook}/{{id}}", rest.switch_webhook, methods=["PATCH"]),
        Route(f"{hook}/{{id}}", rest.remove_webhook, methods=["DELETE"]),
        Route("/api/admin/deliveries", rest.list_deliveries),
        Route("/api/admin/audit", rest.list_audit),
    ]


class _Admin:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def _identify(self, request: Request) -> Account:
        return (await self._service.identify(request, "admin")).account


class _Articles(_Admin):
    async def list_page(self, request: Request) -> Response:
        account = await self._identify(request)
        query, before = read_words(request, "q", 200), read_number(request, "before", None)
        found = await self._service.read(knowledge.list_page, account.tenant, query, before)
        following = str(found[-1].updated_at) if len(found) == knowledge.PAGE else None
        shown = [{name: value for name, value in _show(article).items() if name != "text"} for article in found]
        return reply({"articles": shown, "next": following})

    async def create(self, request: Request) -> Response:
        account = await self._identify(request)
        body = await self._decode(request, NewArticle)
        return await self._create(account, body.title, body.format, body.text)

    async def upload(self, request: Request) -> Response:
        account = await self._identify(request)
        name = read_words(request, "name", 200)
        try:
            format = format_of(name)
        except DataError as error:
            raise InvalidError(f"{error}.") from error
        try:
            text = (await read_body(request, self._service.config.max_file_bytes)).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidError("The file is no text in UTF-8. Convert it.") from error
        return await self._create(account, name.rpartition(".")[0] or name, format, text)

    async def _decode(self, request: Request, type: type[T]) -> T:
        return decode(await read_body(request, self._service.config.max_file_bytes), type)

    async def _create(self, account: Account, title: str, format: str, text: str) -> Response:
        service = self._service
        title, text = clean_text(title, 200), _clean(text)
        await service.workers.run(_check_passages, title, format, text)
        id = await service.write(knowledge.create, account.tenant, title, format, text, account.id, service.clock())
        return await self._indexed(account, id, 201)

    async def show(self, request: Request) -> Response:
        account = await self._identify(request)
        return reply(_show(await self._service.read(knowledge.find, account.tenant, request.path_params["id"])))

    async def change(self, request: Request) -> Response:
        service = self._service
        account = await self._identify(request)
        body, id = await self._decode(request, ChangedArticle), request.path_params["id"]
        title, text = clean_text(body.title, 200), _clean(body.text)
        await service.workers.run(_check_passages, title, body.format, text)
        changed = (title, body.format, text, account.id, service.clock())
        await service.write(knowledge.update, account.tenant, id, body.version, *changed)
        return await self._indexed(account, id)

    async def delete(self, request: Request) -> Response:
        service = self._service
        account = await self._identify(request)
        id = request.path_params["id"]
        await service.write(knowledge.delete, account.tenant, id, account.id, service.clock())
        await service.workers.run(service.knowledge.bring_into_step, account.tenant, id)
        return reply_nothing()

    async def list_versions(self, request: Request) -> Response:
        account = await self._identify(request)
        found = await self._service.read(knowledge.list_versions, account.tenant, request.path_params["id"])
        return reply({"versions": found})

    async def show_version(self, request: Request) -> Response:
        account = await self._identify(request)
        id, version = request.path_params["id"], request.path_params["version"]
        if version >= 2**31:
            raise NotFoundError("There is no such version of an article.")
        return reply(_show(await self._service.read(knowledge.find_version, account.tenant, id, version)))

    async def restore(self, request: Request) -> Response:
        service = self._service
        account = await self._identify(request)
        body, id = await service.decode(request, Restored), request.path_params["id"]
        await service.write(knowledge.restore, account.tenant, id, body.version, account.id, service.clock())
        return await self._indexed(account, id)

    async def search(self, request: Request) -> Response:
        account = await self._identify(request)
        return reply({"hits": await find_hits(self._service, account, request)})

    async def _indexed(self, account: Account, id: str, status: int = 200) -> Response:
        """The article once it can be found."""
        service = self._service
        await service.workers.run(service.knowledge.bring_into_step, account.tenant, id)
        return reply(_show(await service.read(knowledge.find, account.tenant, id)), status)


def _show(article: knowledge.Article) -> dict[str, Any]:
    names = ("id", "title", "format", "version", "text", "passages", "updated_at", "updated_by")
    return {name: getattr(article, name) for name in names}


def _clean(text: str) -> str:
    return clean_text(text, MAX_ARTICLE_CHARACTERS)


def _check_passages(title: str, format: str, text: str) -> None:
    """Raises `InvalidError` for an article that nothing could be found in."""
    article = knowledge.Article("", title, format, 1, text, 0, 0.0, None)
    try:
        passages = knowledge.cut(article)
    except DataError as error:
        raise InvalidError(f"{error}.") from error
    if not passages:
        raise InvalidError("There is no text in this article. Write some.")


class _Intents(_Admin):
    async def list_all(self, request: Request) -> Response:
        account = await self._identify(request)
        rules = await self._service.read(intent_store.list_rules, account.tenant)
        status = self._service.classifier.status(account.tenant)
        return reply(
            {"intents": [_show_rule(rule) for rule in rules], "training": intent_store.describe_status(status)}
        )

    async def save(self, request: Request) -> Response:
        service = self._service
        account = await self._identify(request)
        body = await service.decode(request, SavedIntent)
        label = request.path_params["label"]
        if not (1 <= len(label) <= 80 and label.replace("_", "").replace("-", "").isalnum() and label.isascii()):
            raise InvalidError("An intent is named by 1 to 80 of A-Z, a-z, 0-9, _ and -.")
        replies = {name: text for name in ("en", "zh") if (text := getattr(body.replies, name))}
        if body.action == "reply" and not replies:
            raise InvalidError("An intent that replies needs a text in replies, in en or zh.")
        examples = list(dict.fromkeys(clean_text(example, 500) for example in body.examples))
        rule = IntentRule(label, body.action, replies, examples, service.clock())
        await service.write(intent_store.save_rule, account.tenant, rule, account.id)
        await service.workers.run(service.classifier.train, account.tenant)
        return reply(_show_rule(rule))

    async def delete(self, request: Request) -> Response:
        service = self._service
        account = await self._identify(request)
        label = request.path_params["label"]
        await service.write(intent_store.delete_rule, account.tenant, label, account.id, service.clock())
        await service.workers.run(service.classifier.train, account.tenant)
        return reply_nothing()

    async def try_out(self, request: Request) -> Response:
        account = await self._identify(request)
        body = await self._service.decode(request, Tried)
        return reply(await self._service.workers.run(self._try, account.tenant, clean_text(body.text, 2000)))

    def _try(self, tenant: str, text: str) -> dict[str, Any]:
        settings = self._service.store.read(shops.load, tenant)
        redacted = redact(text, settings.phone_region).text
        language = detect_language(redacted)
        intent, _ = self._service.classifier.classify(tenant, redacted)
        sentiment = judge_sentiment(redacted, language)
        return {
            "intent": intent.label,
            "score": float(intent.score),
            "margin": float(intent.margin),
            "sentiment": {"label": sentiment.label, "score": float(sentiment.score)},
            "language": language,
            "redacted": redacted,
        }


def _show_rule(rule: IntentRule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in IntentRule.__slots__}


class _Staff(_Admin):
    async def list_page(self, request: Request) -> Response:
        account = await self._identify(request)
        role = request.query_params.get("role") or None
        if role is not None and role not in accounts.ROLES:
            raise InvalidError(f"role must be one of {', '.join(accounts.ROLES)}.")
        found = await self._service.read(accounts.list_page, account.tenant, role, read_number(request, "before", None))
        following = str(found[-1].created_at) if len(found) == accounts.PAGE else None
        return reply({"accounts": [_show_staff(one) for one in found], "next": following})

    async def create(self, request: Request) -> Response:
        service = self._service
        admin = await self._identify(request)
        body = await service.decode(request, NewStaff)
        check_password(body.password)
        email, name = clean_email(body.email), clean_name(body.name)
        password_hash = await service.password_workers.run(service.passwords.hash, body.password)
        made = await service.write(_create_staff, admin, body.role, name, email, password_hash, service.clock())
        return reply(_show_staff(made), 201)

    async def change(self, request: Request) -> Response:
        service = self._service
        admin = await self._identify(request)
        body = await service.decode(request, ChangedStaff)
        id = request.path_params["id"]
        if id == admin.id:
            raise InvalidError("Nobody changes their own role. Ask another admin.")
        changed = {name: value for name in ("role", "disabled") if (value := getattr(body, name)) is not None}
        if not changed:
            raise InvalidError("Say what to change: role or disabled.")
        return reply(_show_staff(await service.write(_change_staff, admin, id, changed, service.clock())))

    async def make_reset_link(self, request: Request) -> Response:
        service = self._service
        admin = await self._identify(request)
        await service.decode(request, Empty)
        link = await service.write(_make_reset_link, admin, request.path_params["id"], service.clock())
        return reply({"path": link.path, "expires_at": link.expires_at}, 201)


def _show_staff(account: Account) -> dict[str, Any]:
    return show_account(account) | {"disabled": account.disabled, "created_at": account.created_at}


def _create_staff(
    connection: Connection, admin: Account, role: str, name: str, email: str, password_hash: str, now: float
) -> Account:
    made = accounts.create(connection, admin.tenant, role, name, "en", now, email, password_hash)
    audit.note(connection, admin.tenant, admin.id, "account.create", made.id, {"role": role}, now)
    return made


def _make_reset_link(connection: Connection, admin: Account, id: str, now: float) -> ResetLink:
    return password_resets.create(connection, accounts.find(connection, admin.tenant, id), admin.id, now)


def _change_staff(connection: Connection, admin: Account, id: str, changed: dict[str, Any], now: float) -> Account:
    before = accounts.find(connection, admin.tenant, id)
    if before.role == "guest" and "role" in changed:
        raise InvalidError("A guest has no password. Let them sign up first.")
    account = accounts.update(connection, admin.tenant, id, **changed)
    accounts.end_sessions(connection, id, now)
    password_resets.forget(connection, id)
    audit.note(connection, admin.tenant, admin.id, "account.change", id, changed, now)
    return account


class _Rest(_Admin):
    async def list_feedback(self, request: Request) -> Response:
        account = await self._identify(request)
        rating = request.query_params.get("rating") or None
        if rating not in (None, "up", "down"):
            raise InvalidError("rating must be up or down.")
        found = await self._service.read(
            feedback.list_page, account.tenant, rating, read_number(request, "before", None)
        )
        following = str(found[-1]["created_at"]) if len(found) == feedback.PAGE else None
        return reply({"feedback": found, "next": following})

    async def export_feedback(self, request: Request) -> Response:
        account = await self._identify(request)
        kind = request.query_params.get("kind", "conversations")
        if kind not in ("conversations", "intents"):
            raise InvalidError("kind must be conversations or intents.")
        lines = await self._service.write(_export, account, kind, self._service.clock())
        headers = {"cache-control": "no-store", "content-disposition": f'attachment; filename="{kind}.jsonl"'}
        return Response(lines, headers=headers, media_type="application/x-ndjson")

    async def show_dashboard(self, request: Request) -> Response:
        account = await self._identify(request)
        days = read_number(request, "days", 7, int)
        if not 1 <= days <= 365:
            raise InvalidError("days must be 1 to 365.")
        return reply(await self._service.read(dashboard.measure, account.tenant, days, self._service.clock()))

    async def show_settings(self, request: Request) -> Response:
        account = await self._identify(request)
        return reply(await self._service.read(shops.load, account.tenant))

    async def save_settings(self, request: Request) -> Response:
        account = await self._identify(request)
        settings = await self._service.decode(request, ShopSettings)
        await self._service.write(_save_settings, account, settings, self._service.clock())
        return reply(settings)

    async def list_webhooks(self, request: Request) -> Response:
        account = await self._identify(request)
        return reply({"webhooks": await self._service.read(webhooks.list_all, account.tenant)})

    async def add_webhook(self, request: Request) -> Response:
        service = self._service
        account = await self._identify(request)
        body = await service.decode(request, NewWebhook)
        id = make_id()
        made = await service.write(_add_webhook, account, id, body.url, service.clock())
        return reply(made | {"secret": make_secret(service.key, id)}, 201)

    async def switch_webhook(self, request: Request) -> Response:
        account = await self._identify(request)
        body = await self._service.decode(request, SwitchedWebhook)
        return reply(await self._service.write(webhooks.switch, account.tenant, request.path_params["id"], body.active))

    async def remove_webhook(self, request: Request) -> Response:
        account = await self._identify(request)
        await self._service.write(_remove_webhook, account, request.path_params["id"], self._service.clock())
        return reply_nothing()

    async def list_deliveries(self, request: Request) -> Response:
        account = await self._identify(request)
        return reply({"deliveries": await self._service.read(webhooks.list_deliveries, account.tenant)})

    async def list_audit(self, request: Request) -> Response:
        account = await self._identify(request)
        before = read_number(request, "before", None, int)
        found = await self._service.read(audit.list_entries, account.tenant, before)
        following = str(found[-1]["id"]) if len(found) == audit.PAGE else None
        return reply({"entries": found, "next": following})


def _export(connection: Connection, account: Account, kind: str, now: float) -> str:
    if kind == "intents":
        lines = list(feedback.export_intents(connection, account.tenant))
    else:
        settings = shops.load(connection, account.tenant)
        lines = list(
            feedback.export_conversations(connection, account.tenant, f"You are the assistant of {settings.name}.")
        )
    audit.note(connection, account.tenant, account.id, "feedback.export", kind, {"records": len(lines)}, now)
    return "".join(lines)


def _save_settings(connection: Connection, account: Account, settings: ShopSettings, now: float) -> None:
    shops.save(connection, account.tenant, settings, now)
    figures = {
        name: value for name, value in msgspec.to_builtins(settings).items() if isinstance(value, bool | int | float)
    }
    audit.note(connection, account.tenant, account.id, "settings.save", None, figures, now)


def _add_webhook(connection: Connection, account: Account, id: str, url: str, now: float) -> dict[str, Any]:
    made = webhooks.add(connection, account.tenant, id, url, now)
    audit.note(connection, account.tenant, account.id, "webhook.add", id, {}, now)
    return made


def _remove_webhook(connection: Connection, account: Account, id: str, now: float) -> None:
    webhooks.remove(connection, account.tenant, id)
    audit.note(connection, account.tenant, account.id, "webhook.remove", id, {}, now)
