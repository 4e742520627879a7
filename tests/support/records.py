"""Sources of records for tests: shard feeds by hand, a worker that reads and embeds until nothing is left. Must not
assert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

import msgspec

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.events import Event
from embedmill.worker.loop import Companion, Worker, WorkerOptions


async def add_feed(app: App, pipeline: Pipeline, name: str, template: str | None = None) -> int:
    """A shard feed; its id."""
    rows = await app.database.fetch(
        "INSERT INTO embedmill.record_sources (tenant_id, pipeline_id, kind, name, template, rows) "
        "VALUES (%s, %s, 'shards', %s, %s, 0) RETURNING id",
        (pipeline.tenant_id, pipeline.id, name, template),
    )
    return int(rows[0][0])


async def push_shards(app: App, feed: int, shards: dict[str, str | dict[str, object] | None]) -> None:
    """Set the content (or the fields) of shards; None deletes one. As the API does it, without its checks."""
    async with app.database.transaction() as connection:
        for shard_id, content in shards.items():
            await connection.execute(
                "INSERT INTO embedmill.shards AS s (record_source_id, shard_id, tenant_id, version, content, fields, "
                "                                   deleted_at) "
                "SELECT id, %(shard_id)s, tenant_id, 1, %(content)s, %(fields)s::jsonb, %(deleted_at)s::timestamptz "
                "  FROM embedmill.record_sources WHERE id = %(feed)s "
                "ON CONFLICT (record_source_id, shard_id) DO UPDATE SET version = s.version + 1, "
                "   content = excluded.content, fields = excluded.fields, deleted_at = excluded.deleted_at",
                {
                    "feed": feed,
                    "shard_id": shard_id,
                    "content": content if isinstance(content, str) else None,
                    "fields": msgspec.json.encode(content).decode() if isinstance(content, dict) else None,
                    "deleted_at": "now" if content is None else None,
                },
            )
        await connection.execute(
            "INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys) "
            "SELECT id, tenant_id, 'U', %s FROM embedmill.record_sources WHERE id = %s",
            (list(shards), feed),
        )


def reading_worker(
    app: App, *, source_ids: list[int] | None = None, on_event: Callable[[Event], None] = lambda event: None
) -> Worker:
    """A worker that reads records and embeds."""

    def companions(worker_id: UUID) -> list[Companion]:
        return [app.record_reader(worker_id, source_ids=source_ids)]

    return Worker(app.database, app.provider, WorkerOptions(), on_event=on_event, companions=companions)


async def is_quiet(app: App) -> bool:
    """Whether nothing is left to read or to embed."""
    rows = await app.database.fetch(
        "SELECT NOT EXISTS (SELECT FROM embedmill.record_changes)"
        "   AND NOT EXISTS (SELECT FROM embedmill.embedding_queue)"
        "   AND NOT EXISTS (SELECT FROM embedmill.backfills WHERE started_at IS NOT NULL AND ended_at IS NULL)"
    )
    return bool(rows[0][0])


async def work_until_quiet(app: App, *, seconds: float = 120.0) -> None:
    """Read and embed until nothing is left."""
    worker = reading_worker(app)
    async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(worker.run())
        while not await is_quiet(app) and not running.done():
            await asyncio.sleep(0.02)
        worker.stop()
