"""One question from the moment it is kept to its answer: understand, retrieve, answer, check, post; or call a person.

Each stage is timed. Everything that computes or waits for the database runs on worker threads. Whether the bot may
still speak is decided in the transaction that posts (`conversations.post_reply`), not here. Knows no HTTP and no
reader.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import takewhile, zip_longest

from sqlalchemy.engine import Connection

from vivace.apps.support import accounts, conversations, handover, personal, shops
from vivace.apps.support.accounts import Account
from vivace.apps.support.conversations import Conversation, Message, NewMessage
from vivace.apps.support.extract import MIN_SCORE, answer_from
from vivace.apps.support.grounding import check_answer, cite
from vivace.apps.support.hub import Hub, name_queue
from vivace.apps.support.index import Hit
from vivace.apps.support.intent_store import Classifier, IntentRule
from vivace.apps.support.intents import Intent
from vivace.apps.support.knowledge import KnowledgeBase
from vivace.apps.support.model_client import Ending, ModelClient
from vivace.apps.support.order_numbers import find_order_numbers, match_order, say_not_seen
from vivace.apps.support.personal import MAX_ORDERS, Personal, is_order
from vivace.apps.support.prompt import build_prompt
from vivace.apps.support.sentiment import Sentiment, judge_sentiment
from vivace.apps.support.settings import ShopSettings, SupportConfig
from vivace.apps.support.store import Store
from vivace.apps.support.timeline import Stopwatch
from vivace.apps.support.workers import Workers
from vivace.errors import ModelServerError

DRAFTS_COUNTED = 20
FEW_DRAFTS = 6
"""Of so few nothing is concluded."""
_PLACEHOLDER = re.compile(r"\[(?:card|iban|phone|email|address)\]")
"""Of personal data: nothing to look for."""

_logger = logging.getLogger("vivace.support.answers")


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be answered. `stopwatch` has run since it came, or since it was found after a restart."""

    conversation_id: str
    message_id: str
    stopwatch: Stopwatch = field(default_factory=Stopwatch)


@dataclass(frozen=True, slots=True)
class Understood:
    """All that is known when it is decided what to do."""

    conversation: Conversation
    message: Message
    history: Sequence[Message]
    account: Account
    settings: ShopSettings
    language: str
    intent: Intent
    rule: IntentRule | None
    sentiment: Sentiment
    negative_turns: int
    hits: Sequence[Hit]
    personal: Personal
    orders: Sequence[str] = ()
    """Numbers of orders that are asked about."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the bot would say. `source` is `model`, `passage` or `fixed`."""

    text: str
    source: str
    citations: Sequence[dict[str, object]] = ()


class Pipeline:
    """Answers questions. One for the process, used from its event loop."""

    def __init__(
        self,
        config: SupportConfig,
        store: Store,
        workers: Workers,
        hub: Hub,
        classifier: Classifier,
        knowledge: KnowledgeBase,
        model: ModelClient,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._workers = workers
        self._hub = hub
        self._classifier = classifier
        self._knowledge = knowledge
        self._model = model
        self._clock = clock
        self._places = asyncio.Semaphore(config.max_answers)
        self._kept: deque[bool] = deque(maxlen=DRAFTS_COUNTED)
        """Of the last drafts, whether each became the answer."""

    async def answer(self, question: Question, is_stopped: Callable[[], bool], *, pressed: bool = False) -> bool:
        """Answer the question, or call a person; whether the conversation changed its state. `pressed`: without the
        model.

        `is_stopped` is asked between pieces: whether somebody else has the conversation, so that nothing more need be
        said.
        """
        question.stopwatch.mark("wait")
        understood = await self._workers.run(self._understand, question)
        if understood is None:
            return False
        try:
            reply = await self._decide(understood, question.stopwatch, is_stopped, pressed=pressed)
            if isinstance(reply, Reply):
                await self._post(understood, reply, question.stopwatch)
                return False
            if reply is None:
                return False
            return await self._call_person(understood, reply)
        finally:
            self._hub.end_draft(question.conversation_id)

    async def give_up(self, question: Question) -> None:
        """The pipeline failed on this question: a person should see it."""
        await self._workers.run(self._store.write, _call_after_failure, question, self._clock())
        self._hub.note(question.conversation_id)

    def _understand(self, question: Question) -> Understood | None:
        """On a worker thread. None when the question is not the bot's to answer any more."""
        watch = question.stopwatch
        understood = self._store.read(self._load, question)
        watch.mark("load")
        if understood is None:
            return None
        text = understood.message.text
        intent, rule = self._classifier.classify(understood.conversation.tenant, text)
        sentiment = judge_sentiment(text, understood.language)  # type: ignore[arg-type]
        watch.mark("classify")
        about_orders = rule is not None and rule.action == "orders"
        numbers = find_order_numbers(text, about_orders=about_orders)
        hits = self._retrieve(understood, rule, numbers)
        watch.mark("retrieve")
        negative = self._store.write(_note, understood, intent, sentiment)
        watch.mark("note")
        return replace(
            understood, intent=intent, rule=rule, sentiment=sentiment, negative_turns=negative, hits=hits,
            orders=numbers if about_orders or rule is None else (),
        )  # fmt: skip

    def _load(self, connection: Connection, question: Question) -> Understood | None:
        message = conversations.get_message(connection, question.message_id)
        if not message.due:
            return None
        conversation = conversations.find_by_id(connection, question.conversation_id)
        account = accounts.find(connection, conversation.tenant, conversation.account_id)
        settings = shops.load(connection, conversation.tenant)
        history = [
            said
            for said in conversations.list_recent(connection, conversation.id, message.event)
            if said.author != "system"
        ]
        language = message.language if message.language in ("en", "zh") else conversation.language
        known = personal.gather(connection, account, settings, conversation.id, message.text, language)
        nothing = (Intent(None, 0.0, 0.0), None, Sentiment("neutral", 0.0), 0, ())
        return Understood(conversation, message, history, account, settings, language, *nothing, known)

    def _retrieve(self, understood: Understood, rule: IntentRule | None, numbers: Sequence[str]) -> list[Hit]:
        """What the account allows, and the knowledge base: its own orders first if the question is about orders."""
        if rule is not None and rule.action in ("handover", "reply"):
            return []
        text = _PLACEHOLDER.sub(" ", understood.message.text)
        for number in numbers:  # in no article, or in one as an example
            text = text.replace(number, " ")
        known, limit = understood.personal, self._config.max_passages
        wanted = rule is not None and rule.action == "orders"
        named = [order for number in numbers if (order := match_order(known, number)) is not None]
        own = [order.hit for order in named or (known.orders[:MAX_ORDERS] if wanted and not numbers else ())]
        found = self._knowledge.search(understood.conversation.tenant, text, limit)
        before = next((said.text for said in reversed(understood.history) if said.author == "customer"), "")
        if before and not _bear(found):  # "And how long does that take?" is about what was said before
            found = self._knowledge.search(understood.conversation.tenant, f"{before} {text}", limit)
        found = [*known.past, *found][:limit]
        return [*own, *found] if wanted or rule is None else [*found, *own]

    async def _decide(
        self, understood: Understood, watch: Stopwatch, is_stopped: Callable[[], bool], *, pressed: bool
    ) -> Reply | str | None:
        """What to say, or for what reason to call a person; None when somebody else has the conversation."""
        rule, settings = understood.rule, understood.settings
        if rule is not None and rule.action == "handover":
            return "asked"
        if understood.negative_turns >= settings.negative_turns:
            return "negative"
        if rule is not None and rule.action == "reply":
            words = rule.replies.get(understood.language) or next(iter(rule.replies.values()), "")
            if words:
                return Reply(personal.fill_name(words, understood.personal.name), "fixed")
        if understood.orders:
            return await self._workers.run(_tell_orders, understood)
        if not understood.hits:
            return "no_passage"
        if not _bear(understood.hits):
            return "low_confidence"
        draft, ending = ("", None) if pressed else await self._write(understood, watch, is_stopped)
        if is_stopped():
            return None
        reply = await self._workers.run(_check, understood, draft, ending)
        watch.mark("check")
        if ending is not None:
            self._kept.append(reply is not None and reply.source == "model")
        return reply or "low_confidence"

    async def _write(
        self, understood: Understood, watch: Stopwatch, is_stopped: Callable[[], bool]
    ) -> tuple[str, Ending | None]:
        """The model's answer, and its ending; None when the server did not give one, whole and in time."""
        prompt = build_prompt(
            understood.settings,
            understood.hits,
            understood.history,
            understood.message.text,
            understood.language,
            self._config.max_passage_characters,
        )
        text, ending = "", None
        shown = understood.settings.live_drafts and self._drafts_are_kept()
        try:
            async with asyncio.timeout(self._config.answer_wait_s):
                await self._places.acquire()
        except TimeoutError:
            watch.mark("place")
            return "", None
        try:
            watch.mark("place")
            async with aclosing(self._model.stream(prompt)) as pieces:
                async for piece in pieces:
                    if is_stopped():
                        break
                    if isinstance(piece, Ending):
                        ending = piece
                        continue
                    text += piece
                    if shown:
                        self._hub.extend(understood.conversation.id, understood.message.id, piece)
                        watch.note_first_token()
        except ModelServerError as error:
            _logger.warning("no answer from the model server: %s", error)
        finally:
            self._places.release()
            watch.mark("answer")
        return text, ending

    def _drafts_are_kept(self) -> bool:
        """Whether most drafts become the answer. Of a model whose drafts do not, only what was checked is shown."""
        return len(self._kept) < FEW_DRAFTS or sum(self._kept) >= len(self._kept) / 2

    async def _post(self, understood: Understood, reply: Reply, watch: Stopwatch) -> None:
        watch.note_first_token()
        new = NewMessage(
            author="bot",
            text=reply.text,
            language=understood.language,
            reply_to=understood.message.id,
            source=reply.source,
            citations=reply.citations,
            timeline=watch.as_dict(),
            first_token_ms=watch.first_token_ms,
            total_ms=watch.total_ms,
        )
        conversation = understood.conversation
        await self._workers.run(
            self._store.write, conversations.post_reply, conversation.id, conversation.version, new, self._clock()
        )

    async def _call_person(self, understood: Understood, reason: str) -> bool:
        changed = await self._workers.run(self._store.write, _call, understood, reason, self._clock())
        if changed:
            self._hub.note(name_queue(understood.conversation.tenant))
        return changed


def _note(connection: Connection, understood: Understood, intent: Intent, sentiment: Sentiment) -> int:
    conversations.note_understanding(connection, understood.message.id, intent.label, sentiment.label)
    return conversations.count_negative(connection, understood.conversation.id, sentiment.label == "negative")


def _call(connection: Connection, understood: Understood, reason: str, now: float) -> bool:
    conversation = understood.conversation
    if handover.call_person(connection, conversation.id, conversation.version, reason, now) is None:
        return False
    if reason in ("no_passage", "low_confidence"):
        conversations.note_unanswered(connection, understood.message.id)
    return True


def _call_after_failure(connection: Connection, question: Question, now: float) -> None:
    conversation = conversations.find_by_id(connection, question.conversation_id)
    if handover.call_person(connection, conversation.id, conversation.version, "failed", now) is not None:
        conversations.note_unanswered(connection, question.message_id)


def _bear(hits: Sequence[Hit]) -> bool:
    """Whether any of them is about the question."""
    return any(hit.score >= MIN_SCORE for hit in hits)


def _check(understood: Understood, draft: str, ending: Ending | None) -> Reply | None:
    """The draft if passages about the question bear it, else what they say themselves; None if they say nothing to the
    point. A draft that only other passages bear may be true, and answers another question."""
    text = draft.strip()
    if text:
        finished = ending is not None and ending.reason == "stop"
        hits = [hit for hit in understood.hits if hit.score >= MIN_SCORE]
        passages = [f"{hit.title}\n{hit.heading}\n{hit.text}" for hit in hits]
        if check_answer(text, passages, understood.language, finished).supported:  # type: ignore[arg-type]
            reply = _cite(text, "model", hits)
            if reply.citations:
                return reply
    return _quote(understood.hits, understood.message.text)


def _quote(hits: Sequence[Hit], question: str) -> Reply | None:
    """The account's orders if they come first, and the passage that fits, word for word."""
    orders = [hit.text for hit in takewhile(is_order, hits)]
    passage = answer_from(hits[len(orders) :], question)
    parts = ["\n".join(orders), passage]
    text = "\n\n".join(part for part in parts if part)
    return _cite(text, "passage", hits) if text else None


def _tell_orders(understood: Understood) -> Reply:
    """Of each order that was named what the account shows, or why it shows nothing; then the passage that fits."""
    unseen = [
        say_not_seen(understood.personal, number, understood.language)
        for number in understood.orders
        if match_order(understood.personal, number) is None
    ]
    question = understood.message.text
    for number in understood.orders:
        question = question.replace(number, " ")
    quoted = _quote(understood.hits, question) or Reply("", "passage")
    text = "\n\n".join(part for part in ("\n".join(unseen), quoted.text) if part)
    return replace(quoted, text=text, source="fixed" if unseen else "passage")


def _cite(text: str, source: str, hits: Sequence[Hit]) -> Reply:
    """The text with [1], [2] behind what leans on a passage, once for neighbouring sentences, and what these are."""
    numbers: dict[int, int] = {}
    marked, at = "", 0
    found = cite(text, hits)
    for citation, following in zip_longest(found, found[1:]):
        number = numbers.setdefault(citation.passage_id, len(numbers) + 1)
        if following and following.passage_id == citation.passage_id and text[citation.end : following.start].isspace():
            continue
        marked += f"{text[at : citation.end]} [{number}]"
        at = citation.end
    by_id = {hit.passage_id: hit for hit in hits}
    citations = [_show_citation(number, by_id[id]) for id, number in numbers.items()]
    return Reply(marked + text[at:], source, citations)


def _show_citation(number: int, hit: Hit) -> dict[str, object]:
    names = ("article_id", "version", "title", "heading", "text")
    return {"number": number} | {name: getattr(hit, name) for name in names}
