"""What the operator decides: once for the process (`SupportConfig`), and for each shop while it runs (`ShopSettings`).

Knows neither the command line nor the database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from msgspec import field as struct_field

from vivace.errors import ConfigError

TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class PasswordCost:
    """Of argon2id. The default is the second choice of RFC 9106, for machines with little memory."""

    passes: int = 3
    memory_kib: int = 65536
    lanes: int = 4


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and `per_minute` for ever."""

    burst: int
    per_minute: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Who may do what how often. Each holds for one account or one address; addresses of IPv6 count by /64."""

    sign_ins_of_address: Rate = Rate(20, 10)
    sign_ins_of_email: Rate = Rate(5, 2)
    new_accounts_of_address: Rate = Rate(20, 5)
    messages_of_account: Rate = Rate(10, 20)
    requests_of_account: Rate = Rate(120, 240)
    requests_of_address: Rate = Rate(600, 1200)


@dataclass(frozen=True, slots=True)
class SupportConfig:
    """Where to listen, what to speak to, and all limits of the process. Raises `ConfigError`."""

    server: str = "http://127.0.0.1:8000"
    """The model server; `/v1` is added unless it is there."""
    directory: Path = Path("support-data")
    """The signing key, the index and, unless `database` says otherwise, the database."""
    database: str = ""
    """A URL of SQLAlchemy: `postgresql+psycopg://...` or `sqlite:///...`. Empty: SQLite in `directory`."""
    host: str = "127.0.0.1"
    port: int = 8080
    model: str = ""
    """Empty: the first that the server lists."""
    api_key: str = ""
    tenants: tuple[str, ...] = ("shop",)
    """Shops that one process serves; nothing of one is seen from another."""
    access_token_s: float = 600.0
    refresh_token_s: float = 30 * 86400.0
    guest_token_s: float = 7 * 86400.0
    refresh_grace_s: float = 10.0
    """A refresh token just replaced gives the same answer again: the first may have been lost."""
    password_cost: PasswordCost = PasswordCost()
    rates: Rates = field(default_factory=Rates)
    max_body_bytes: int = 64 * 2**10
    max_file_bytes: int = 4 * 2**20
    max_message_characters: int = 2000
    worker_threads: int = 4
    """For the database, retrieval and classification."""
    max_waiting_work: int = 2048
    """Jobs that may wait for a thread; more are refused with 503."""
    max_answers: int = 128
    """Answers asked of the model server at once."""
    answer_wait_s: float = 2.0
    """How long a question may wait for its place among them; then the passage answers. One that would wait longer
    for its turn is refused with 503."""
    answer_timeout_s: float = 20.0
    """Of one answer of the model server, whole."""
    max_answer_tokens: int = 96
    max_passages: int = 3
    max_passage_characters: int = 600
    max_streams: int = 8192
    max_streams_of_account: int = 8
    keep_alive_s: float = 15.0
    """An event stream says something at least so often, and looks whether its session is still good."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose `X-Forwarded-For` is believed."""
    embed_origins: tuple[str, ...] = ()
    """Sites that may show the chat in a frame, such as `https://shop.example`."""
    allow_private_webhooks: bool = False
    log_format: str = "text"
    log_level: str = "warning"

    def __post_init__(self) -> None:
        if not self.server.startswith(("http://", "https://")):
            raise ConfigError(f"The server is {self.server!r}; give its URL, such as http://127.0.0.1:8000.")
        if not self.tenants or not all(TENANT.fullmatch(name) for name in self.tenants):
            raise ConfigError("Shops are named by 1 to 40 of a-z, 0-9 and -, and there must be one.")
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"The port is {self.port}; it must be 0 (any free one) to 65535.")
        for name in ("worker_threads", "max_answers", "max_passages", "max_answer_tokens", "max_streams"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for origin in self.embed_origins:
            if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]*-]+", origin):
                raise ConfigError(f"{origin!r} is no origin of a site; write it as https://shop.example.")

    @property
    def api(self) -> str:
        """The model server's API, without a slash at the end."""
        base = self.server.rstrip("/")
        return base if base.endswith("/v1") else f"{base}/v1"

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.directory / 'support.db'}"


Words = Annotated[str, Meta(max_length=500)]


class LocalText(Struct, frozen=True, forbid_unknown_fields=True):
    """One text in the languages of the pages."""

    en: Words = ""
    zh: Words = ""

    def choose(self, language: str) -> str:
        """In that language, else in the other."""
        return (self.zh or self.en) if language == "zh" else (self.en or self.zh)


class ShopSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What an admin changes while the application runs; kept for each tenant."""

    name: Annotated[str, Meta(min_length=1, max_length=80)] = "The shop"
    greeting: LocalText = struct_field(
        default_factory=lambda: LocalText("Hello! How can I help you?", "您好！请问有什么可以帮您？")
    )
    instructions: Annotated[str, Meta(max_length=1000)] = ""
    """Added to what the model is told."""
    personal_replies: bool = False
    """Replies may use what a customer's account allows; each customer has to allow it too."""
    live_drafts: bool = True
    """Customers see an answer while it is written, before it is checked."""
    negative_turns: Annotated[int, Meta(ge=1, le=10)] = 2
    """So many unhappy messages in a row call a person."""
    thumbs_down: Annotated[int, Meta(ge=1, le=10)] = 2
    """So many thumbs-down in one conversation call a person."""
    queue_timeout_s: Annotated[float, Meta(ge=10, le=86400)] = 600.0
    """A customer who has waited so long goes back to the bot."""
    retention_days: Annotated[int, Meta(ge=0, le=3650)] = 365
    """Conversations untouched for so long are deleted; 0 keeps them."""
    phone_region: Annotated[str, Meta(pattern="^[A-Z]{2}$")] = "US"
    """Telephone numbers without a country code are looked for as written there."""
