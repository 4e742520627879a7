"""Idempotency-Key: a request that is sent again gets the answer of the first, for a day. Owns the rows of keys; must
not know what is asked."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from fastapi import Request, Response

from embedmill.api.problems import Problem
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.api", "idempotency.sql")


class Answer:
    """`stored` is the answer of the first; where there is none, `body` is to be filled in."""

    def __init__(self, stored: dict[str, Any] | None = None) -> None:
        self.stored = stored
        self.body: dict[str, Any] = {}


class Idempotency:
    """The keys of one tenant."""

    def __init__(self, database: Database, tenant_id: int) -> None:
        self._database = database
        self._tenant_id = tenant_id

    async def begin(self, key: str, request_hash: bytes) -> Answer:
        """Raises Problem where the key was used for something else, or its first request is still under way."""
        values = {"tenant_id": self._tenant_id, "key": key, "request_hash": request_hash}
        if await self._database.fetch_one(_SQL["begin"], values) is not None:
            return Answer()
        row = await self._database.fetch_one(_SQL["find"], values)
        if row is None:  # its first request has just come to nothing
            return await self.begin(key, request_hash)
        if row[0] != request_hash:
            raise Problem(422, "idempotency_key_reused", "this Idempotency-Key was used for another request")
        if row[1] is None:
            detail = "the first request with this Idempotency-Key is still under way: try again in a moment"
            raise Problem(409, "request_in_progress", detail, headers={"Retry-After": "2"})
        return Answer(msgspec.json.decode(row[2]))

    async def keep(self, key: str, answer: Answer) -> None:
        response = msgspec.json.encode(answer.body).decode()
        await self._database.fetch(
            _SQL["keep"], {"tenant_id": self._tenant_id, "key": key, "response": response}
        )

    async def forget(self, key: str) -> None:
        await self._database.fetch(_SQL["forget"], {"tenant_id": self._tenant_id, "key": key})


@contextlib.asynccontextmanager
async def answered_once(
    request: Request, response: Response, database: Database, tenant_id: int, asked: bytes
) -> AsyncIterator[Answer]:
    """What a request's Idempotency-Key stands for: the answer of the first, or one whose `body` is to be filled in and
    is kept at the end. `asked` tells another request under the same key from the same one. Without a key, nothing is
    kept. Raises Problem."""
    key = request.headers.get("idempotency-key")
    if key is None:
        yield Answer()
        return
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise Problem(422, "invalid_request", "Idempotency-Key: 1 to 255 printable characters")
    idempotency = Idempotency(database, tenant_id)
    answer = await idempotency.begin(key, hashlib.sha256(asked).digest())
    if answer.stored is not None:
        response.headers["Idempotent-Replayed"] = "true"
        yield answer
        return
    try:
        yield answer
    except BaseException:
        await idempotency.forget(key)
        raise
    await idempotency.keep(key, answer)
