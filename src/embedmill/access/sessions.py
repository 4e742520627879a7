"""Sessions of the dashboard: what stands in a browser's cookie, and the token that its forms carry. Owns how both are
made and checked; nothing is stored, and the API key itself is in neither.

A session names its key by the HMAC under which the key is found, so that a key that was revoked or has expired ends all
its sessions at once. Whoever holds a cookie can do what the key can, until the session ends; nobody can make one, or
get the key back from it, without the pepper.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import struct

import msgspec

from embedmill.access.keys import Principal, Role, hash_key, is_key
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

SESSION_SECONDS = 12 * 3600
_SQL = load_queries("embedmill.access", "keys.sql")
_HEAD = struct.Struct(">Q16s")  # when it ends (Unix seconds), and chance
_HMAC_BYTES = 32
_COOKIE = re.compile(r"[A-Za-z0-9_-]{118}")
_LOCAL = b"local user"


class Session(msgspec.Struct, frozen=True):
    """A session that is good: whose it is, and the token that its forms carry."""

    principal: Principal
    form_token: str


async def begin_session(database: Database, pepper: bytes, presented_key: str, *, now: float) -> str | None:
    """The cookie of a new session; None where the key is nobody's, was revoked or has expired. `now` in Unix
    seconds."""
    if not is_key(presented_key):
        return None
    key_hmac = hash_key(pepper, presented_key)
    if await database.fetch_one(_SQL["authenticate"], {"key_hmac": key_hmac}) is None:
        return None
    body = _HEAD.pack(int(now) + SESSION_SECONDS, secrets.token_bytes(16)) + key_hmac
    return base64.urlsafe_b64encode(body + _sign(pepper, b"session", body)).decode().rstrip("=")


async def read_session(database: Database, pepper: bytes, cookie: str, *, now: float) -> Session | None:
    """Whose session a cookie is; None where it is none of ours, has ended, or its key lets nobody in any more."""
    body = _verified_body(pepper, cookie)
    if body is None or _HEAD.unpack_from(body)[0] <= now:
        return None
    row = await database.fetch_one(_SQL["authenticate"], {"key_hmac": body[_HEAD.size :]})
    if row is None:
        return None
    return Session(Principal(row[0], row[1], row[2], Role(row[3])), _form_token(pepper, body))


def local_form_token(pepper: bytes) -> str:
    """What the forms of whoever needs no key carry: other sites cannot read it off our pages."""
    return _form_token(pepper, _LOCAL)


def is_form_token(expected: str, presented: str) -> bool:
    """Compared in a time that says nothing of how much was right."""
    return hmac.compare_digest(expected.encode(), presented.encode())


def _verified_body(pepper: bytes, cookie: str) -> bytes | None:
    if _COOKIE.fullmatch(cookie) is None:
        return None
    try:
        whole = base64.urlsafe_b64decode(cookie + "==")
    except binascii.Error:
        return None
    body, signature = whole[:-_HMAC_BYTES], whole[-_HMAC_BYTES:]
    if len(body) != _HEAD.size + _HMAC_BYTES:
        return None
    return body if hmac.compare_digest(signature, _sign(pepper, b"session", body)) else None


def _form_token(pepper: bytes, session: bytes) -> str:
    return base64.urlsafe_b64encode(_sign(pepper, b"form", session)).decode().rstrip("=")


def _sign(pepper: bytes, purpose: bytes, message: bytes) -> bytes:
    """For one purpose: what was signed for another is not good for this one, nor is the HMAC of a key."""
    return hmac.new(pepper, b"dashboard " + purpose + b":" + message, hashlib.sha256).digest()
