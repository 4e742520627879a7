"""Idempotency-Key: a request that is sent again gets the answer of the first, for a day. Owns the rows of keys; must
not know what is asked."""

from __future__ import annotations

from typing import Any

import msgspec

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
