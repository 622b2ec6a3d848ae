"""Sessions: short JWTs to act with, and a refresh token that is replaced at each use.

A refresh token is a session's id, a generation and their HMAC, so the database holds nothing that could be stolen
from it and used. One that was replaced and comes again later than the grace was copied by somebody: the whole session
ends. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import jwt
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.accounts import Account
from vivace.apps.support.settings import SupportConfig
from vivace.apps.support.store import accounts, make_id, sessions
from vivace.errors import ConfigError, SignedOutError

ALGORITHM = "HS256"
KEY_BYTES = 32

_SIGNED_OUT = "Your session has ended. Refresh it, or sign in again."


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: an account by one of its sessions, until `expires_at`."""

    account: Account
    session_id: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a client holds."""

    access_token: str
    refresh_token: str
    expires_at: float
    account: Account


def load_key(directory: Path) -> bytes:
    """The application's secret, made at its first start, readable by its user alone. Raises `ConfigError`."""
    path = directory / "secret.key"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            key = path.read_bytes()
        else:
            key = secrets.token_bytes(KEY_BYTES)
            with os.fdopen(file, "wb") as opened:
                opened.write(key)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read or made ({error.strerror}). Give another --directory.") from error
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} is no key of {KEY_BYTES} bytes. Delete it; everybody will have to sign in again.")
    return key


def derive_key(key: bytes, purpose: str) -> bytes:
    """Another key for each purpose, so that what is signed for one is nothing for another."""
    return hmac.digest(key, purpose.encode(), hashlib.sha256)


class TokenMaker:
    """Signs and reads tokens. Pure but for its keys."""

    def __init__(self, key: bytes, config: SupportConfig) -> None:
        self._access_key = derive_key(key, "access token")
        self._refresh_key = derive_key(key, "refresh token")
        self._config = config

    def make(self, account: Account, session_id: str, generation: int, now: float) -> Tokens:
        expires_at = now + self._config.access_token_s
        claims = {"sub": account.id, "sid": session_id, "ten": account.tenant, "iat": int(now), "exp": expires_at}
        access = jwt.encode(claims, self._access_key, algorithm=ALGORITHM)
        return Tokens(access, self._sign(session_id, generation), expires_at, account)

    def lifetime_s(self, account: Account) -> float:
        """Of a session that is not refreshed."""
        return self._config.guest_token_s if account.role == "guest" else self._config.refresh_token_s

    def read_access(self, token: str, now: float) -> tuple[str, float]:
        """The session's id and when the token expires. Raises `SignedOutError`."""
        options = {"require": ["exp", "sid", "sub"], "verify_exp": False, "verify_iat": False}
        try:
            claims = jwt.decode(token, self._access_key, algorithms=[ALGORITHM], options=options)  # type: ignore[arg-type]
            session_id, expires_at = str(claims["sid"]), float(claims["exp"])
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise SignedOutError(_SIGNED_OUT) from error
        if expires_at <= now:
            raise SignedOutError(_SIGNED_OUT)
        return session_id, expires_at

    def read_refresh(self, token: str) -> tuple[str, int]:
        """Session and generation. Raises `SignedOutError`."""
        session_id, _, rest = token.partition(".")
        number = rest.partition(".")[0]
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise SignedOutError(_SIGNED_OUT)
        if not hmac.compare_digest(token.encode(), self._sign(session_id, int(number)).encode()):
            raise SignedOutError(_SIGNED_OUT)
        return session_id, int(number)

    def _sign(self, session_id: str, generation: int) -> str:
        text = f"{session_id}.{generation}"
        return f"{text}.{hmac.new(self._refresh_key, text.encode(), hashlib.sha256).hexdigest()}"

    @property
    def grace_s(self) -> float:
        return self._config.refresh_grace_s


def begin(connection: Connection, maker: TokenMaker, account: Account, now: float) -> Tokens:
    """A new session of the account."""
    values = {
        "id": make_id(),
        "account_id": account.id,
        "created_at": now,
        "rotated_at": now,
        "expires_at": now + maker.lifetime_s(account),
    }
    connection.execute(sa.insert(sessions).values(values))
    return maker.make(account, values["id"], 0, now)  # type: ignore[arg-type]


_IDENTITY = sa.select(accounts, sessions.c.id.label("session_id"), sessions.c.generation, sessions.c.rotated_at).join(
    accounts, accounts.c.id == sessions.c.account_id
)


def identify(connection: Connection, session_id: str, expires_at: float, now: float) -> Identity:
    """Whose session it is, with the role of now. Raises `SignedOutError` when it has ended."""
    row = connection.execute(_IDENTITY.where(_is_good(session_id, now))).mappings().one_or_none()
    if row is None:
        raise SignedOutError(_SIGNED_OUT)
    return Identity(Account(**{name: row[name] for name in Account.__slots__}), session_id, expires_at)


def _is_good(session_id: str, now: float) -> sa.ColumnElement[bool]:
    return sa.and_(
        sessions.c.id == session_id,
        sessions.c.revoked_at.is_(None),
        sessions.c.expires_at > now,
        accounts.c.disabled.is_(False),
    )


def refresh(connection: Connection, maker: TokenMaker, token: str, now: float) -> Tokens | None:
    """The next tokens of a session; None when the token was used before and its session has been revoked for it.

    Raises `SignedOutError`. (None is no exception, since one would undo the revocation with the transaction.)
    """
    session_id, generation = maker.read_refresh(token)
    connection.execute(sa.update(sessions).where(sessions.c.id == session_id).values(generation=sessions.c.generation))
    row = connection.execute(_IDENTITY.where(_is_good(session_id, now))).mappings().one_or_none()
    if row is None:
        raise SignedOutError(_SIGNED_OUT)
    account = Account(**{name: row[name] for name in Account.__slots__})
    if generation != row["generation"]:
        if generation == row["generation"] - 1 and now - row["rotated_at"] <= maker.grace_s:
            return maker.make(account, session_id, row["generation"], now)
        revoke(connection, session_id, now)
        return None
    values = {"generation": generation + 1, "rotated_at": now, "expires_at": now + maker.lifetime_s(account)}
    connection.execute(sa.update(sessions).where(sessions.c.id == session_id).values(values))
    return maker.make(account, session_id, generation + 1, now)


def revoke(connection: Connection, session_id: str, now: float) -> None:
    connection.execute(
        sa.update(sessions).where(sessions.c.id == session_id, sessions.c.revoked_at.is_(None)).values(revoked_at=now)
    )


def forget_old(connection: Connection, now: float) -> None:
    """Delete sessions that nobody can use any more."""
    connection.execute(sa.delete(sessions).where(sessions.c.expires_at < now - 86400))
