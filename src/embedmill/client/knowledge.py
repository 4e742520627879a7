"""Search, pipelines, the queue's records, usage and budget, for both clients. Each method is one definition."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

from embedmill.client import endpoints as at
from embedmill.client.asking import Asking
from embedmill.client.operations import Listing, Operation
from embedmill.client.records.coverage import CoverageReport, MinuteActivity, ProcessAnswer
from embedmill.client.records.embedding_jobs import (
    EmbeddingJob,
    EmbeddingJobCounts,
    EmbeddingJobHistory,
    EmbeddingJobStatus,
)
from embedmill.client.records.knowledge import (
    Budget,
    BudgetPeriod,
    Passage,
    Pipeline,
    SearchMode,
    Usage,
    UsageGrouping,
)


class KnowledgeCalls:
    """Answers out, and what they cost."""

    _asking: Asking

    @Operation
    async def search(
        self,
        query: str,
        *,
        pipeline: str | None = None,
        mode: SearchMode | None = None,
        limit: int | None = None,
        document_id: int | None = None,
        source: str | None = None,
        metadata: dict[str, Any] | None = None,
        user_id: str | None = None,
    ) -> tuple[Passage, ...]:
        """The best passages, best first: by meaning and words (hybrid, unless told otherwise), `vector` or `text`.
        `source` may hold * and ?; `metadata` must be part of a document's; the ledger keeps `user_id`."""
        asked = {
            "query": query,
            "pipeline": pipeline,
            "mode": mode,
            "limit": limit,
            "documentId": document_id,
            "source": source,
            "metadata": metadata,
            "userId": user_id,
        }
        body = {name: value for name, value in asked.items() if value is not None}
        return (await self._asking.ask(at.SEARCH.call(body=body))).passages

    @Operation
    async def pipelines(self) -> tuple[Pipeline, ...]:
        """All pipelines of the tenant."""
        return (await self._asking.ask(at.LIST_PIPELINES.call())).pipelines

    @Operation
    async def pipeline(self, name: str) -> Pipeline:
        """One pipeline."""
        return await self._asking.ask(at.GET_PIPELINE.call({"name": name}))

    @Listing
    async def embedding_jobs(
        self,
        *,
        status: EmbeddingJobStatus | None = None,
        shard_type_id: str | None = None,
        shard_id: str | None = None,
        batch_id: at.Id | None = None,
        job_id: at.Id | None = None,
        tenant_id: str | None = None,
        page_size: int = 200,
    ) -> AsyncGenerator[EmbeddingJob, None]:
        """Items of the queue, live or ended, newest first; pages are asked for as they are wanted. `shard_id` goes
        together with `shard_type_id`."""
        where: dict[str, at.Value] = {
            "status": status,
            "shardTypeId": shard_type_id,
            "shardId": shard_id,
            "batchId": None if batch_id is None else at.id_of(batch_id),
            "jobId": None if job_id is None else at.id_of(job_id),
            "tenantId": tenant_id,
        }
        cursor: str | None = None
        while True:
            query = {**where, "cursor": cursor, "limit": page_size}
            page = await self._asking.ask(at.LIST_EMBEDDING_JOBS.call(query=query))
            for job in page.jobs:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    @Operation
    async def embedding_job(self, item_id: int) -> EmbeddingJobHistory:
        """One item with all that was tried about its piece, newest first."""
        return await self._asking.ask(at.GET_EMBEDDING_JOB.call({"id": item_id}))

    @Operation
    async def embedding_job_counts(self, *, tenant_id: str | None = None) -> EmbeddingJobCounts:
        """How many there are in each state, as of two seconds ago at most."""
        call = at.COUNT_EMBEDDING_JOBS.call(query={"tenantId": tenant_id})
        return (await self._asking.ask(call)).stats

    @Operation
    async def coverage(self, *, pipeline: str | None = None) -> CoverageReport:
        """How complete the vectors of each source are, and what the rest waits for."""
        return await self._asking.ask(at.GET_COVERAGE.call(query={"pipeline": pipeline}))

    @Operation
    async def activity(self, *, minutes: int | None = None) -> tuple[MinuteActivity, ...]:
        """What was embedded in each of the last minutes (60, unless told otherwise), oldest first."""
        return (await self._asking.ask(at.GET_ACTIVITY.call(query={"minutes": minutes}))).activity

    @Operation
    async def process_queue(
        self,
        max_items: int | None = None,
        *,
        max_seconds: float | None = None,
        pipeline: str | None = None,
    ) -> ProcessAnswer:
        """Have so much read and embedded within the call, where no worker runs. ApiConflictError while another call of
        the tenant is at it."""
        asked = {"maxItems": max_items, "maxSeconds": max_seconds, "pipeline": pipeline}
        body = {name: value for name, value in asked.items() if value is not None}
        return await self._asking.ask(at.PROCESS_QUEUE.call(body=body))

    @Operation
    async def usage(
        self,
        by: UsageGrouping = "usage_type",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        time_zone: str | None = None,
        limit: int | None = None,
    ) -> Usage:
        """The ledger of paid calls, summed. Times are aware; `time_zone` says whose days are meant."""
        query: dict[str, at.Value] = {
            "by": by,
            "since": since,
            "until": until,
            "timeZone": time_zone,
            "limit": limit,
        }
        return await self._asking.ask(at.GET_USAGE.call(query=query))

    @Operation
    async def budget(self) -> Budget:
        """The tenant's budget. ApiNotFoundError where nothing limits what it spends."""
        return await self._asking.ask(at.GET_BUDGET.call())

    @Operation
    async def set_budget(self, limit_usd: float, *, period: BudgetPeriod = "month") -> Budget:
        """Set, raise or lower it. Work that it stopped goes on when it is raised."""
        return await self._asking.ask(at.SET_BUDGET.call(body={"limitUsd": limit_usd, "period": period}))

    @Operation
    async def remove_budget(self) -> None:
        """Take it away: what it stopped goes on."""
        await self._asking.ask(at.REMOVE_BUDGET.call())
