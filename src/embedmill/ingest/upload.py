"""Takes uploads in: keeps the bytes, then makes the document and its job, which waits for a parser. Owns the order of
the two; must not parse. The bytes are in the store before the database knows of them: what a crash leaves behind is
an original without a job, which a sweep removes, and never a job without its original.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import structlog

from embedmill.core.documents import ChunkPlan
from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import DocumentError, EmbedmillError, StorageError
from embedmill.ports import Originals, StoredOriginal, original_key

_SQL = load_queries("embedmill.ingest", "staging.sql")
_log = structlog.get_logger(__name__)

UPLOAD = "upload"
URL = "url"
# A request is answered within seconds, also where the database is away: by an error that says so.
_TRIES = 8
# Bytes that are older get no job any more: the sweep of originals may be about to remove them (originals_sweep.py).
LONGEST_KEPT_SECONDS = 12 * 3600.0


class Kept(msgspec.Struct, frozen=True):
    """What became of the bytes of one upload: they stand in the store, or `error` says why not."""

    job_id: UUID
    name: str
    media_type: str | None
    original: StoredOriginal | None
    error: EmbedmillError | None = None
    kept_at: float = msgspec.field(default_factory=time.monotonic)


class Wishes(msgspec.Struct, frozen=True):
    """What the uploader asks for, for all files of a request. `source_id` names the document: the next upload under
    that name is its next version; without it, equal bytes are the same document."""

    priority: str = "medium"
    batch_id: UUID | None = None
    metadata: dict[str, Any] = {}
    user_id: str | None = None
    auto_launch: bool = False
    source_id: str | None = None
    chunk_plan: ChunkPlan | None = None
    budget_usd: float | None = None


class Staged(msgspec.Struct, frozen=True):
    """A job that was made, or found (`is_known`: these bytes were taken in before)."""

    job_id: UUID
    document_id: int
    status: str
    is_known: bool = False
    error_message: str | None = None


class Uploads:
    """Uploads of one tenant, whose `database` sees that tenant's rows only."""

    def __init__(self, database: Database, originals: Originals, tenant_id: int) -> None:
        self._database = database
        self._originals = originals
        self._tenant_id = tenant_id

    async def keep(
        self, name: str, media_type: str | None, content: AsyncIterator[bytes], *, max_bytes: int
    ) -> Kept:
        """Stream the bytes into the store. Whatever goes wrong with this file is told, never raised: the others of
        the same request go on."""
        job_id = uuid4()
        key = original_key(self._tenant_id, job_id)
        try:
            original = await self._originals.put(key, content, max_bytes=max_bytes)
        except (DocumentError, StorageError) as error:
            return Kept(job_id, name, media_type, None, error)
        return Kept(job_id, name, media_type, original)

    async def stage(self, pipeline: Pipeline, kept: Kept, wishes: Wishes) -> Staged:
        """Make the document and the job of what was kept; of what could not be kept, a job that says so."""
        if kept.original is None:
            return await self._stage_failure(pipeline, kept, wishes)
        if time.monotonic() - kept.kept_at > LONGEST_KEPT_SECONDS:
            await self.discard(kept)
            late = StorageError("failed", "the request took longer than twelve hours: upload this file again")
            return await self._stage_failure(
                pipeline, msgspec.structs.replace(kept, original=None, error=late), wishes
            )
        try:
            staged = await patiently(
                partial(self._stage, pipeline, kept, kept.original, wishes), tries=_TRIES
            )
        except AWAY:
            raise  # the job may be committed, and only the answer was lost: the sweep knows
        except psycopg.Error:
            await self.discard(kept)
            raise
        if staged.is_known:
            await self.discard(kept)
        return staged

    async def stage_url(
        self, pipeline: Pipeline, url: str, wishes: Wishes, *, job_id: UUID | None = None
    ) -> Staged:
        """A job whose bytes a worker fetches. A `job_id` that stands already is answered as it is: a URL says nothing
        of its bytes, by which a request that is sent again could be known."""
        name = url.partition("?")[0].rstrip("/").rpartition("/")[2][:255] or url[:255]
        values = {
            "job_id": job_id or uuid4(),
            "source_type": URL,
            "source_id": wishes.source_id or url,
            "name": name,
            "media_type": None,
            "size_bytes": None,
            "content_hash": None,
            "original_key": None,
            "original_url": url,
        }
        return await patiently(partial(self._insert, pipeline, values, wishes), tries=_TRIES)

    async def discard(self, kept: Kept) -> None:
        """Remove bytes that no job has. A sweep finds what this misses."""
        if kept.original is not None:
            try:
                await self._originals.delete(kept.original.key)
            except StorageError as error:
                _log.warning("original not removed", job_id=str(kept.job_id), error=str(error))

    async def _stage(
        self, pipeline: Pipeline, kept: Kept, original: StoredOriginal, wishes: Wishes
    ) -> Staged:
        values = {
            "job_id": kept.job_id,
            "source_type": UPLOAD,
            "source_id": wishes.source_id or f"sha256:{original.sha256.hex()}",
            "name": kept.name,
            "media_type": kept.media_type,
            "size_bytes": original.size_bytes,
            "content_hash": original.sha256,
            "original_key": original.key,
            "original_url": None,
        }
        return await self._insert(pipeline, values, wishes)

    async def _insert(self, pipeline: Pipeline, values: dict[str, Any], wishes: Wishes) -> Staged:
        plan = wishes.chunk_plan
        row = await self._database.fetch_one(
            _SQL["stage_job"],
            {
                **values,
                "pipeline_id": pipeline.id,
                "priority": wishes.priority,
                "batch_id": wishes.batch_id,
                "metadata": msgspec.json.encode(wishes.metadata).decode(),
                "user_id": wishes.user_id,
                "auto_launch": wishes.auto_launch,
                "budget_usd": wishes.budget_usd,
                "chunk_tokens": plan.max_tokens if plan else None,
                "chunk_overlap": plan.overlap_tokens if plan else None,
            },
        )
        assert row is not None  # noqa: S101 - the function returns its one row
        # Our own job, committed before the answer to COMMIT was lost, is no older acquaintance.
        return Staged(row[0], row[1], row[2], is_known=row[3] and row[0] != values["job_id"])

    async def _stage_failure(self, pipeline: Pipeline, kept: Kept, wishes: Wishes) -> Staged:
        message = str(kept.error)
        reason = kept.error.reason if isinstance(kept.error, DocumentError) else "storage"
        row = await patiently(
            partial(
                self._database.fetch_one,
                _SQL["stage_failure"],
                {
                    "job_id": kept.job_id,
                    "pipeline_id": pipeline.id,
                    "source_type": UPLOAD,
                    "source_id": wishes.source_id or f"upload:{kept.job_id}",
                    "name": kept.name,
                    "batch_id": wishes.batch_id,
                    "priority": wishes.priority,
                    "metadata": msgspec.json.encode(wishes.metadata).decode(),
                    "user_id": wishes.user_id,
                    "stage": "staging",
                    "reason": reason,
                    "error_message": message,
                },
            ),
            tries=_TRIES,
        )
        assert row is not None  # noqa: S101 - the function returns its one row
        return Staged(kept.job_id, row[0], "failed", error_message=message)
