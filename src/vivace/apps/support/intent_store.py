"""The operator's intents: labels, what is to be done about each, and examples, from which a model is trained.

Training takes a second or so on a worker thread; until it is done the model before goes on. Knows no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.audit import note
from vivace.apps.support.intents import Example, Intent, IntentModel, IntentSettings, train_intents
from vivace.apps.support.sample import NO_INTENT
from vivace.apps.support.store import Store, intents
from vivace.errors import NotFoundError, VivaceError

ACTIONS = ("answer", "reply", "orders", "handover")
UNKNOWN = Intent(None, 0.0, 0.0)

_logger = logging.getLogger("vivace.support.intents")


@dataclass(frozen=True, slots=True)
class IntentRule:
    """An intent as the operator has it. `reply` answers with `replies`, `orders` may use the customer's orders,
    `handover` calls a person, `answer` does nothing special."""

    label: str
    action: str
    replies: Mapping[str, str]
    examples: Sequence[str]
    updated_at: float


def list_rules(connection: Connection, tenant: str) -> list[IntentRule]:
    """By label."""
    query = sa.select(intents).where(intents.c.tenant == tenant).order_by(intents.c.label)
    return [
        IntentRule(**{name: row[name] for name in IntentRule.__slots__}) for row in connection.execute(query).mappings()
    ]


def save_rule(connection: Connection, tenant: str, rule: IntentRule, actor: str | None) -> None:
    """Add it, or put it in the place of the one with its label."""
    values = {
        "action": rule.action,
        "replies": dict(rule.replies),
        "examples": list(rule.examples),
        "updated_at": rule.updated_at,
    }
    here = (intents.c.tenant == tenant, intents.c.label == rule.label)
    if connection.execute(sa.update(intents).where(*here).values(values)).rowcount == 0:
        connection.execute(sa.insert(intents).values(values | {"tenant": tenant, "label": rule.label}))
    note(connection, tenant, actor, "intent.save", rule.label, {"examples": len(rule.examples)}, rule.updated_at)


def delete_rule(connection: Connection, tenant: str, label: str, actor: str, now: float) -> None:
    """Raises `NotFoundError`."""
    statement = sa.delete(intents).where(intents.c.tenant == tenant, intents.c.label == label)
    if connection.execute(statement).rowcount == 0:
        raise NotFoundError("There is no such intent.")
    note(connection, tenant, actor, "intent.delete", label, {}, now)


@dataclass(frozen=True, slots=True)
class Trained:
    """What is in use for one tenant."""

    state: str = "empty"
    """`ready`, `training`, `failed` or `empty`."""
    model: IntentModel | None = None
    rules: Mapping[str, IntentRule] = field(default_factory=dict)
    trained_at: float | None = None
    message: str | None = None


class Classifier:
    """The trained models of all tenants. Thread-safe."""

    def __init__(self, store: Store, settings: IntentSettings | None = None) -> None:
        self._store = store
        self._settings = settings or IntentSettings()
        self._trained: dict[str, Trained] = {}
        self._turn = threading.Lock()

    def status(self, tenant: str) -> Trained:
        return self._trained.get(tenant, Trained())

    def classify(self, tenant: str, text: str) -> tuple[Intent, IntentRule | None]:
        """The intent, and what the operator wants done about it; unknown while there is no model."""
        trained = self.status(tenant)
        if trained.model is None:
            return UNKNOWN, None
        intent = trained.model.classify(text)
        return intent, trained.rules.get(intent.label or "")

    def train(self, tenant: str) -> Trained:
        """Train from what the database has now. What cannot be trained is told in the status, and the model before
        stays."""
        with self._turn:
            before = self.status(tenant)
            self._trained[tenant] = Trained("training", before.model, before.rules, before.trained_at)
            rules = self._store.read(list_rules, tenant)
            trained = self._make(rules, before)
            self._trained[tenant] = trained
            return trained

    def _make(self, rules: Sequence[IntentRule], before: Trained) -> Trained:
        examples = [
            Example(text, None if rule.label == NO_INTENT else rule.label) for rule in rules for text in rule.examples
        ]
        if not examples:
            return Trained()
        try:
            model = train_intents(examples, self._settings)
        except (VivaceError, ValueError) as error:
            _logger.warning("the intents cannot be trained; the model before stays in use")
            message = str(error) if isinstance(error, VivaceError) else "These examples cannot be learned from."
            return Trained("failed", before.model, before.rules, before.trained_at, message)
        return Trained("ready", model, {rule.label: rule for rule in rules}, time.time())


def describe_status(trained: Trained) -> dict[str, Any]:
    """As the API tells it."""
    return {"state": trained.state, "trained_at": trained.trained_at, "message": trained.message}
