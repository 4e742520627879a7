"""Works off the jobs that wait for a parser: fetches what is named by a URL, reads, cuts, commits the chunks, and
launches where that was asked for. Owns the way from `staged` to `chunk_preview_ready`; must not embed (what the queue
does not take, it hands on). Runs beside the embedding in each worker; no transaction is open while it reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import structlog

from embedmill.core.documents import ChunkPlan
from embedmill.core.retrying import backoff_seconds
from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import Pipeline, pipeline_by_id
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import (
    AddressRefusedError,
    ConfigurationError,
    DocumentError,
    NotFoundError,
    SourceUnavailableError,
    StorageError,
)
from embedmill.ingest.parsing import ParserPool
from embedmill.ingest.parsing_protocol import ParseRequest, TokenizerSpec
from embedmill.ingest.storing import ParseLease, PipelineSwitchedError, SourceContent, Storing
from embedmill.logs import about, bind
from embedmill.ports import SILENT, Fetcher, Originals, ProviderSpec, Telemetry, original_key

_SQL = load_queries("embedmill.ingest", "staging.sql")
_log = structlog.get_logger(__name__)

# The death of a worker is seen by its heartbeat; the deadline is for one that hangs with its heart beating.
LEASE_SECONDS = 3600.0
RESCUE_SECONDS = 5.0


class ParseJob(msgspec.Struct, frozen=True):
    """A leased job, and all that is needed to parse it."""

    job_id: UUID
    lease_token: int
    attempts: int
    pipeline_id: int
    document_id: int
    source_type: str
    source_id: str
    name: str | None
    media_type: str | None
    size_bytes: int | None
    content_hash: bytes | None
    original_key: str | None
    original_url: str | None
    chunk_tokens: int | None
    chunk_overlap: int | None
    metadata: dict[str, Any]
    status: str

    @property
    def lease(self) -> ParseLease:
        return ParseLease(self.job_id, self.lease_token)


class ParseRunner:
    """Parses `jobs_at_once` jobs at a time until `stop()`; what is under way then goes back."""

    def __init__(
        self,
        database: Database,
        parsers: ParserPool,
        originals: Originals,
        fetcher: Fetcher,
        *,
        worker_id: UUID,
        tokenizer: Callable[[ProviderSpec], TokenizerSpec],
        embed_directly: Callable[[Pipeline, int, UUID], Awaitable[None]],
        max_file_bytes: int,
        jobs_at_once: int,
        poll_seconds: float = 0.25,
        on_launched: Callable[[], None] = lambda: None,
        telemetry: Telemetry = SILENT,
    ) -> None:
        """`on_launched` is told when a job that is launched by itself was."""
        self._on_launched = on_launched
        self._database = database
        self._parsers = parsers
        self._originals = originals
        self._fetcher = fetcher
        self._worker_id = worker_id
        self._tokenizer = tokenizer
        self._embed_directly = embed_directly
        self._max_file_bytes = max_file_bytes
        self._jobs_at_once = jobs_at_once
        self._poll_seconds = poll_seconds
        self._telemetry = telemetry
        self._chance = random.Random()  # noqa: S311 - jitter, no secret
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._fault: BaseException | None = None

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Until `stop()`. The parsing processes start with the first document and end with us."""
        async with self._parsers:
            await self._run()

    async def _run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        rescuing = asyncio.create_task(self._rescue())
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                if self._fault is not None:
                    raise self._fault  # of ours: our end frees the job for others, and counts as a crash of it
                room = self._jobs_at_once - len(running)
                for job in await self._claim(room) if room else ():
                    task = asyncio.create_task(self._work_on(job))
                    running.add(task)
                    task.add_done_callback(partial(self._done, running))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._poll_seconds)
        finally:
            rescuing.cancel()
            for task in running:
                task.cancel()
            await asyncio.gather(rescuing, *running, return_exceptions=True)

    def _done(self, running: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        running.discard(task)
        if not task.cancelled():
            self._fault = self._fault or task.exception()
        self._wake.set()

    async def _claim(self, limit: int) -> list[ParseJob]:
        rows = await patiently(
            partial(
                self._database.fetch,
                _SQL["claim_parsing"],
                {"worker_id": self._worker_id, "limit": limit, "lease_seconds": LEASE_SECONDS},
            )
        )
        return [ParseJob(*row) for row in rows]

    async def _rescue(self) -> None:
        while True:
            with contextlib.suppress(*AWAY):
                row = await self._database.fetch_one(_SQL["rescue_parsing"])
                if row and row[0]:
                    _log.info("parsing rescued", jobs=row[0])
                    self._wake.set()
            await asyncio.sleep(RESCUE_SECONDS)

    async def _work_on(self, job: ParseJob) -> None:
        """One job to its end, or back to where it was."""
        started = time.perf_counter()
        outcome = "returned"
        with about(job_id=job.job_id), self._telemetry.span("parse") as span:
            try:
                outcome = await self._try(job)
            finally:
                span.note(outcome=outcome)
                seconds = time.perf_counter() - started
                self._telemetry.parsed(outcome=outcome, seconds=seconds)
                _log.info("parser is done", outcome=outcome, milliseconds=round(seconds * 1000, 1))

    async def _try(self, job: ParseJob) -> str:
        """What came of it: ok, failed, returned."""
        try:
            try:
                return await self._read(job)
            except DocumentError as error:
                await self._fail(job, "parsing", error.reason, str(error))
                return "failed"
            except NotFoundError:
                _log.info("pipeline gone")  # and its jobs with it
            except (StorageError, SourceUnavailableError, ConfigurationError) as error:
                await self._give_back(job, stage=_stage_of(job, error), message=str(error))
            except psycopg.Error as error:
                _log.error("parsed job not saved", error=str(error).strip())
                await self._give_back(job, stage=_stage_of(job, error), message=str(error).strip())
        except asyncio.CancelledError:
            await self._give_back(job, attempt=0)
            raise
        return "returned"

    async def _read(self, job: ParseJob) -> str:
        """What came of it, where nothing is raised."""
        pipeline = await patiently(partial(pipeline_by_id, self._database, job.pipeline_id))
        bind(tenant_id=pipeline.tenant_id)
        if job.status == "embedding_in_progress":
            await self._embed(job, pipeline)
            return "ok"
        if job.original_key is None:
            try:
                fetched = await self._fetch(job, pipeline)
            except (AddressRefusedError, DocumentError) as error:
                reason = error.reason if isinstance(error, DocumentError) else "unreadable"
                await self._fail(job, "fetching", reason, str(error))
                return "failed"
            if fetched is None:
                return "returned"
            job = fetched
        await self._parse(job, pipeline)
        return "ok"

    async def _embed(self, job: ParseJob, pipeline: Pipeline) -> None:
        """A job that the queue did not take."""
        _log.info("embedding without the queue")
        await self._embed_directly(pipeline, job.document_id, job.job_id)
        await patiently(
            partial(self._database.fetch, _SQL["leave_parsing"], msgspec.structs.asdict(job.lease))
        )

    async def _fetch(self, job: ParseJob, pipeline: Pipeline) -> ParseJob | None:
        """Keep what the URL gives; None where the job is no longer ours."""
        assert job.original_url is not None  # noqa: S101 - a job has one or the other
        # A name of its own for each try: one that was given up may still be writing.
        key = original_key(pipeline.tenant_id, uuid4())
        async with self._fetcher.fetch(job.original_url) as fetched:
            original = await self._originals.put(key, fetched.chunks(), max_bytes=self._max_file_bytes)
            name, media_type = fetched.name or job.name, fetched.media_type
        values = {
            "job_id": job.job_id,
            "lease_token": job.lease_token,
            "original_key": key,
            "name": name,
            "media_type": media_type,
            "size_bytes": original.size_bytes,
            "content_hash": original.sha256,
        }
        row = await patiently(partial(self._database.fetch_one, _SQL["keep_original"], values))
        if not (row and row[0]):
            await self._originals.delete(key)
            return None
        return msgspec.structs.replace(
            job,
            original_key=key,
            name=name,
            media_type=media_type,
            size_bytes=original.size_bytes,
            content_hash=original.sha256,
        )

    async def _parse(self, job: ParseJob, pipeline: Pipeline) -> None:
        """Read, cut and saved; again, where the pipeline was switched to another plan of chunks meanwhile."""
        assert job.original_key is not None  # noqa: S101 - fetched, if it was not uploaded
        name = job.name or job.source_id
        content = SourceContent(
            job.source_type, job.source_id, name, job.size_bytes, job.content_hash, job.metadata
        )
        storing = Storing(self._database, pipeline, batch_id=None, on_launched=self._on_launched)
        async with self._originals.open_path(job.original_key) as path:
            while True:
                reply = await self._parsers.parse(
                    ParseRequest(
                        name=name,
                        path=str(path),
                        media_type=job.media_type,
                        max_bytes=self._max_file_bytes,
                        plan=_plan_of(job, storing.pipeline.chunk_plan),
                        tokenizer=self._tokenizer(storing.pipeline.generation.spec),
                    )
                )
                try:
                    await patiently(
                        partial(storing.save_parsed, job.lease, content, reply.document, reply.chunks)
                    )
                except PipelineSwitchedError:
                    await patiently(storing.refresh)
                else:
                    return

    async def _fail(self, job: ParseJob, stage: str, reason: str, message: str) -> None:
        values = {
            "job_id": job.job_id,
            "lease_token": job.lease_token,
            "stage": stage,
            "reason": reason,
            "error_message": message,
        }
        await patiently(partial(self._database.fetch, _SQL["fail_parsing"], values))

    async def _give_back(
        self, job: ParseJob, *, attempt: int = 1, stage: str = "parsing", message: str | None = None
    ) -> None:
        delay = backoff_seconds(job.attempts, self._chance) if attempt else 0.0
        values = {
            "job_id": job.job_id,
            "lease_token": job.lease_token,
            "attempts": attempt,
            "delay_ms": int(delay * 1000),
            "stage": stage,
            "error_message": message,
        }
        with contextlib.suppress(*AWAY):  # it comes free when its lease ends
            await self._database.fetch(_SQL["return_parsing"], values)


def _plan_of(job: ParseJob, plan: ChunkPlan) -> ChunkPlan:
    """The job's own, where it has one; else the pipeline's."""
    if job.chunk_tokens is None:
        return plan
    overlap = job.chunk_overlap
    return ChunkPlan(
        max_tokens=job.chunk_tokens,
        overlap_tokens=min(plan.overlap_tokens, job.chunk_tokens // 2) if overlap is None else overlap,
    )


def _stage_of(job: ParseJob, error: Exception) -> str:
    """Where it went wrong. By that a resume knows where to go on: a job that had its chunks is not read anew."""
    if job.status == "embedding_in_progress":
        return "embedding"
    if isinstance(error, SourceUnavailableError):
        return "fetching"
    return "saving" if isinstance(error, psycopg.Error) else "parsing"
