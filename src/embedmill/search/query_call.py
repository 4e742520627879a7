"""The call that turns a query into a vector: within the shared quota, within the tenant's budget, on the books like any
other, failed or not. Owns that one call, once for each model; must not search."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from uuid import uuid4

import numpy as np

from embedmill.core.pricing import cost_usd
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import (
    BudgetReachedError,
    ConfigurationError,
    EmbedmillError,
    ProviderError,
    RateLimitedError,
)
from embedmill.ports import EmbeddingProvider, EmbeddingResponse, Purpose
from embedmill.queue.quotas import cool_down, grant_quota

_SQL = load_queries("embedmill.search", "search.sql")
# Somebody waits for the answer: longer than this for the quota, and he is told to come again.
LONGEST_WAIT_SECONDS = 10.0
# A token is three bytes or more of most texts; what it was is settled by what the provider counts.
_BYTES_OF_A_TOKEN = 3


class QueryCall:
    """One query's call."""

    def __init__(
        self, database: Database, pipeline: Pipeline, provider: EmbeddingProvider, *, user_id: str | None
    ) -> None:
        """`user_id`: on whose behalf, for the ledger."""
        self._user_id = user_id
        self._database = database
        self._pipeline = pipeline
        self._provider = provider
        self._call_id = uuid4()
        self.tokens = 0
        self.cost_usd: Decimal | None = Decimal(0)
        """What the call was charged, once it was made; None is unknown."""

    async def embed(self, query: str) -> str:
        """The query's vector, as pgvector reads it. Raises BudgetReachedError, and ProviderError; a RateLimitedError
        where the quota has no room within ten seconds."""
        expected = max(1, len(query.encode("utf-8", "replace")) // _BYTES_OF_A_TOKEN)
        await self._wait_for_quota(expected)
        await self._reserve(expected)
        started = time.monotonic()
        try:
            response = await self._provider.embed([query], Purpose.QUERY)
        except ProviderError as error:
            await self._record(expected if error.charged else 0, started, error=str(error))
            if isinstance(error, RateLimitedError):
                seconds = error.retry_after_seconds or 1.0
                await cool_down(self._database, self._pipeline.quota_key, seconds, str(error))
            raise
        await self._record(expected if response.tokens is None else response.tokens, started)
        return _as_text(response)

    async def _wait_for_quota(self, tokens: int) -> None:
        if self._pipeline.generation.spec.provider == "local":
            return
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while wait := await grant_quota(self._database, self._pipeline.quota_key, tokens):
            if time.monotonic() + wait > deadline:
                message = (
                    f"the quota {self._pipeline.quota_key} is used up for now: ask again in {wait:.0f} s"
                )
                raise RateLimitedError(message, retry_after_seconds=wait)
            await asyncio.sleep(wait)

    async def _reserve(self, tokens: int) -> None:
        amount = self._cost(tokens)
        if not amount:
            return
        row = await self._database.fetch_one(
            _SQL["reserve_budget"],
            {
                "tenant_id": self._pipeline.tenant_id,
                "asker_id": self._call_id,
                "call_id": self._call_id,
                "amount_usd": amount,
            },
        )
        if row is not None:
            raise BudgetReachedError(
                f"the tenant's budget of {row[1]} USD leaves no room for this query ({row[2]} USD are spent): "
                "raise it with `embedmill budget set`, or search by words (--mode text), which costs nothing"
            )

    async def _record(self, tokens: int, started: float, *, error: str | None = None) -> None:
        spec = self._pipeline.generation.spec
        cost = self._cost(tokens)
        self.tokens, self.cost_usd = tokens, cost
        values = {
            "tenant_id": self._pipeline.tenant_id,
            "pipeline_id": self._pipeline.id,
            "generation_id": self._pipeline.generation.id,
            "call_id": self._call_id,
            "user_id": self._user_id,
            "provider": spec.provider,
            "model": spec.model,
            "input_tokens": tokens,
            "latency_ms": int((time.monotonic() - started) * 1000),
            "cost_usd": cost,
            "error": error,
        }
        async with self._database.transaction() as connection:
            await connection.execute(_SQL["record_query"], values)
            if cost:
                await connection.execute(_SQL["settle_budget"], values)
            elif self._pipeline.price_per_million_tokens:
                await connection.execute(_SQL["settle_budget"], {**values, "cost_usd": Decimal(0)})

    def _cost(self, tokens: int) -> Decimal | None:
        return cost_usd(tokens, self._pipeline.price_per_million_tokens)


class QueryVectors:
    """The vectors of one query, by generation: each is asked for once, and a refusal is not asked for again."""

    def __init__(self, database: Database, query: str, user_id: str | None) -> None:
        self._database = database
        self._query = query
        self._user_id = user_id
        self._known: dict[int, str | EmbedmillError] = {}
        self.seconds: float | None = None
        self.tokens = 0
        self.cost_usd: Decimal | None = Decimal(0)

    async def of(self, pipeline: Pipeline, provider: EmbeddingProvider | None) -> str:
        """As pgvector reads it. Raises what the call raises."""
        if provider is None:
            raise ConfigurationError("this search has no provider: only --mode text is possible")
        generation = pipeline.generation.id
        if generation not in self._known:
            self._known[generation] = await self._ask(pipeline, provider)
        known = self._known[generation]
        if isinstance(known, EmbedmillError):
            raise known
        return known

    async def _ask(self, pipeline: Pipeline, provider: EmbeddingProvider) -> str | EmbedmillError:
        call = QueryCall(self._database, pipeline, provider, user_id=self._user_id)
        began_at = time.monotonic()
        try:
            return await call.embed(self._query)
        except EmbedmillError as error:
            return error
        finally:
            self.seconds = (self.seconds or 0.0) + time.monotonic() - began_at
            self.tokens += call.tokens
            self.cost_usd = (
                None if self.cost_usd is None or call.cost_usd is None else self.cost_usd + call.cost_usd
            )


def _as_text(response: EmbeddingResponse) -> str:
    return "[" + ",".join(np.format_float_scientific(x, trim="0") for x in response.vectors[0]) + "]"
