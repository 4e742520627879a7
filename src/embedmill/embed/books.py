"""The books of a pipeline: a row of the ledger for each call, and each ingestion job's share in what was written.
Owns the reckoning; must not open a transaction: both belong into the one that writes the vectors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from uuid import UUID

from embedmill.core.pricing import apportion, cost_usd
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection
from embedmill.database.queries import load_queries
from embedmill.embed.results import Call, Written
from embedmill.queue.items import Item

_SQL = load_queries("embedmill.embed", "embed.sql")


class Books:
    """Counts and costs of one pipeline's generation."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._generation = pipeline.generation

    async def record_usage(self, connection: Connection, call: Call, jobs: Collection[UUID | None]) -> bool:
        """A row of the ledger for a call that served these jobs; the same call again changes nothing: False."""
        spec = self._generation.spec
        cursor = await connection.execute(
            _SQL["record_usage"],
            {
                "tenant_id": self._pipeline.tenant_id,
                "pipeline_id": self._pipeline.id,
                "generation_id": self._generation.id,
                "worker_id": call.worker_id,
                "call_id": call.id,
                "session_id": next(iter(jobs)) if len(jobs) == 1 else None,
                "usage_type": call.usage_type,
                "provider": spec.provider,
                "model": spec.model,
                "inputs": call.inputs,
                "input_tokens": call.tokens,
                "latency_ms": call.latency_ms,
                "cost_usd": cost_usd(call.tokens, self._pipeline.price_per_million_tokens),
                "error": call.error,
            },
        )
        return cursor.rowcount == 1

    async def settle_budget(self, connection: Connection, call: Call) -> None:
        """What the call did cost goes onto the budgets in which it was reserved: once, with its row of the ledger,
        and last in the transaction, for everybody waits for a budget's row."""
        reservation = call.reservation
        if reservation is None:
            return
        rest = reservation.tokens - sum(reservation.job_tokens)
        shares = apportion(call.tokens, [*reservation.job_tokens, max(rest, 0)])[:-1]
        price = self._pipeline.price_per_million_tokens
        await connection.execute(
            _SQL["settle_budget"],
            {
                "tenant_id": self._pipeline.tenant_id,
                "call_id": call.id,
                "amount": cost_usd(call.tokens, price),
                "jobs": reservation.jobs,
                "amounts": [cost_usd(share, price) for share in shares],
            },
        )

    async def advance_jobs(
        self,
        connection: Connection,
        items: Sequence[Item],
        written: Written,
        tokens: Mapping[int, int],
        completed: set[int],
        *,
        reused: bool,
        buried: bool,
    ) -> None:
        """The jobs' shares; also those without one, whose last item may just have ended."""
        ours = Counter(target.item_id for target in written.ours)
        chunks: dict[UUID, int] = defaultdict(int)
        paid: dict[UUID, int] = defaultdict(int)
        for item in items:
            if item.job_id is not None and (item.id in tokens or item.id in completed):
                chunks[item.job_id] += ours[item.id]
                paid[item.job_id] += tokens.get(item.id, 0)
        if not chunks:
            return
        jobs = sorted(chunks)
        counts = [chunks[job] for job in jobs]
        price = self._pipeline.price_per_million_tokens
        costs: list[Decimal | None] = [cost_usd(paid[job], price) for job in jobs]
        none = [0] * len(jobs)
        await connection.execute(
            _SQL["advance_jobs"],
            {
                "jobs": jobs,
                "embedded": none if buried else counts,
                "reused": counts if reused else none,
                "failed": counts if buried else none,
                "tokens": [paid[job] for job in jobs],
                "costs": costs,
            },
        )
