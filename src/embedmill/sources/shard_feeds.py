"""Shard feeds: sources of records whose content other systems push. Owns making, finding, changing and removing them;
what is pushed is shards.py's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg

from embedmill.database.pipelines import find_pipeline
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConflictError, EmbedmillError, NotFoundError
from embedmill.sources.shard_entries import read_type
from embedmill.sources.template import Template

_SQL = load_queries("embedmill.sources", "shards.sql")
DEFAULT_PIPELINE = "default"
DEFAULT_PRIORITY = "medium"
_BATCH = 1_000


class ShardFeed(msgspec.Struct, frozen=True):
    """A feed in a pipeline. `shards` are those that are not deleted, as far as their changes are read; `documents`: of
    these, read; `changes`: shards that wait to be read (counted up to 10,000 notes of changes); `chunks`, `embedded`
    and `unembeddable` of the live generation."""

    id: int
    tenant_id: int
    pipeline_id: int
    generation_id: int
    shard_type_id: str
    pipeline: str
    template: str | None
    priority: str
    paused_at: datetime | None
    trouble: str | None
    shards: int
    documents: int
    chunks: int
    embedded: int
    unembeddable: int
    changes: int
    created_at: datetime


class RemovedFeed(msgspec.Struct, frozen=True):
    """How many documents a removed feed left behind, or took with it."""

    documents_kept: int
    documents_deleted: int


async def list_feeds(
    database: Database, tenant_id: int, *, name: str | None = None, pipeline: str | None = None
) -> list[ShardFeed]:
    """The shard feeds of a tenant, by name."""
    rows = await database.fetch(_SQL["feeds"], {"tenant_id": tenant_id, "name": name, "pipeline": pipeline})
    return [ShardFeed(*row) for row in rows]


async def find_feed(
    database: Database, tenant_id: int, name: str, *, pipeline: str | None = None
) -> ShardFeed:
    """The feed of a type. Raises NotFoundError with those that there are, ConflictError where several pipelines have
    one, none of them the default one, and none was named."""
    found = await list_feeds(database, tenant_id, name=name, pipeline=pipeline)
    if len(found) > 1:
        found = [feed for feed in found if feed.pipeline == DEFAULT_PIPELINE] or found
    if len(found) > 1:
        raise _several(name, [feed.pipeline for feed in found])
    if not found:
        others = ", ".join(feed.shard_type_id for feed in await list_feeds(database, tenant_id))
        where = f" in the pipeline {pipeline}" if pipeline else ""
        there = f"there are: {others}" if others else "there is none yet"
        raise NotFoundError(
            f"there is no shard type {name!r}{where}; {there}. The first PUT of a shard makes it"
        )
    return found[0]


async def put_feed(
    database: Database,
    tenant_id: int,
    name: str,
    *,
    pipeline: str | None,
    template: str | None,
    priority: str = DEFAULT_PRIORITY,
    actor: str,
) -> ShardFeed:
    """Make a feed, or change the one that there is; with another template its shards are read anew. Raises
    NotFoundError (no such pipeline), ConfigurationError (the template, the name), ConflictError."""
    if template is not None:
        Template(template)
    read_type(name)
    for is_last in (False, True):
        try:
            async with database.transaction() as connection:
                await connection.execute(_SQL["act_as"], {"actor": actor})
                feed = (await _known_feeds(connection, tenant_id, [name], pipeline)).get(name)
                if feed is None:
                    where = pipeline or DEFAULT_PIPELINE
                    await _insert(connection, tenant_id, name, where, template, priority)
                else:
                    await _alter(connection, tenant_id, feed, name, template, priority)
            break
        except psycopg.errors.UniqueViolation:
            if is_last:
                raise
        except _NoPipelineError:
            await find_pipeline(database, tenant_id, pipeline or DEFAULT_PIPELINE)  # tells which there are
            raise
    return await find_feed(database, tenant_id, name, pipeline=pipeline)


async def _alter(
    connection: Connection, tenant_id: int, feed: int, name: str, template: str | None, priority: str
) -> None:
    values = {"record_source_id": feed, "template": template, "priority": priority}
    cursor = await connection.execute(_SQL["hold_feed"], values)
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"the feed {name} was removed a moment ago")
    await connection.execute(_SQL["alter_feed"], values)
    if row[0] != template:
        await connection.execute(_SQL["reread"], values)
    await _record(
        connection, tenant_id, "shards.alter", name, {"template": row[0]}, {"template": template, "priority": priority}
    )  # fmt: skip


async def open_feeds(
    connection: Connection, tenant_id: int, names: Sequence[str], pipeline: str | None
) -> dict[str, int | EmbedmillError]:
    """The feeds of these types, those that are missing made; in place of one that cannot be had, why. Raises
    UniqueViolation where somebody else has just made one: to be tried again then."""
    feeds: dict[str, int | EmbedmillError] = {}
    for name in names:
        try:
            feed = (await _known_feeds(connection, tenant_id, [name], pipeline)).get(name)
            if feed is None:
                where = pipeline or DEFAULT_PIPELINE
                feed = await _insert(connection, tenant_id, name, where, None, DEFAULT_PRIORITY)
            feeds[name] = feed
        except (ConflictError, NotFoundError) as error:
            feeds[name] = error
    return feeds


async def _known_feeds(
    connection: Connection, tenant_id: int, names: Sequence[str], pipeline: str | None
) -> dict[str, int]:
    cursor = await connection.execute(
        _SQL["feeds_named"], {"tenant_id": tenant_id, "names": list(names), "pipeline": pipeline}
    )
    found: dict[str, list[tuple[int, str, str]]] = {}
    for name, feed, kind, where in await cursor.fetchall():
        found.setdefault(name, []).append((feed, kind, where))
    feeds = {}
    for name, several in found.items():
        shards = [each for each in several if each[1] == "shards"]
        if not shards and (pipeline or DEFAULT_PIPELINE) in {where for _, _, where in several}:
            raise ConflictError(f"{name} is a table source of that pipeline: choose another shard type")
        chosen = [each for each in shards if len(shards) == 1 or each[2] == DEFAULT_PIPELINE]
        if shards and not chosen:
            raise _several(name, [where for _, _, where in shards])
        if chosen:
            feeds[name] = chosen[0][0]
    return feeds


async def _insert(
    connection: Connection, tenant_id: int, name: str, pipeline: str, template: str | None, priority: str
) -> int:
    values = {
        "tenant_id": tenant_id,
        "name": name,
        "pipeline": pipeline,
        "template": template,
        "priority": priority,
    }
    cursor = await connection.execute(_SQL["insert_feed"], values)
    row = await cursor.fetchone()
    if row is None:
        raise _NoPipelineError(
            f"there is no pipeline {pipeline!r}: name one that there is; `embedmill pipeline list` shows them"
        )
    cursor = await connection.execute(_SQL["left_behind"], values)
    if await cursor.fetchone() is not None:
        await _repeat(connection, _SQL["adopt"], row[0])
    new = {"pipeline": pipeline, "template": template, "priority": priority}
    await _record(connection, tenant_id, "shards.create", name, None, new)
    return int(row[0])


async def pause_feed(database: Database, feed: ShardFeed, *, is_paused: bool, actor: str) -> ShardFeed:
    """Paused, shards are still taken, but not read until it is resumed."""
    async with database.transaction() as connection:
        await connection.execute(_SQL["act_as"], {"actor": actor})
        await connection.execute(_SQL["pause_feed"], {"record_source_id": feed.id, "is_paused": is_paused})
        act = "shards.pause" if is_paused else "shards.resume"
        await _record(connection, feed.tenant_id, act, feed.shard_type_id, None, None)
    return await find_feed(database, feed.tenant_id, feed.shard_type_id, pipeline=feed.pipeline)


async def remove_feed(database: Database, feed: ShardFeed, *, with_vectors: bool, actor: str) -> RemovedFeed:
    """Forget a feed and its shards. Documents that were read stay with their vectors, as documents of no source, unless
    `with_vectors`. Cut off at any point it is done again by the same call."""
    step = _SQL["delete_documents" if with_vectors else "release_documents"]
    values = {"id": feed.id, "limit": _BATCH}
    await pause_feed(database, feed, is_paused=True, actor=actor)
    documents = 0
    while (await _count(database, _SQL["drop_unread"], values)) > 0:
        pass
    while gone := await _count(database, step, values):
        documents += gone
    async with database.transaction() as connection:
        await connection.execute(_SQL["act_as"], {"actor": actor})
        # From here on nobody writes to it any more; what came meanwhile goes with it.
        await connection.execute(_SQL["close_feed"], values)
        await _repeat(connection, _SQL["drop_unread"], feed.id)
        documents += await _repeat(connection, step, feed.id)
        await connection.execute(_SQL["delete_feed"], values)
        new = {"with_vectors": with_vectors, "documents": documents}
        old = {"pipeline": feed.pipeline, "template": feed.template}
        await _record(connection, feed.tenant_id, "shards.remove", feed.shard_type_id, old, new)
    return RemovedFeed(0 if with_vectors else documents, documents if with_vectors else 0)


async def _repeat(connection: Connection, query: Any, feed: int) -> int:
    """Take steps until none is left; how many documents they were about."""
    done = 0
    while True:
        cursor = await connection.execute(query, {"id": feed, "limit": _BATCH})
        row = await cursor.fetchone()
        if row is None or not row[0]:
            return done
        done += int(row[0])


async def _count(database: Database, query: Any, values: dict[str, Any]) -> int:
    row = await database.fetch_one(query, values)
    return int(row[0]) if row else 0


async def _record(
    connection: Connection, tenant_id: int, action: str, subject: str, old: object, new: object
) -> None:
    await connection.execute(
        _SQL["record_action"],
        {
            "tenant_id": tenant_id,
            "action": action,
            "subject": subject,
            "old_value": None if old is None else msgspec.json.encode(old).decode(),
            "new_value": None if new is None else msgspec.json.encode(new).decode(),
        },
    )


class _NoPipelineError(NotFoundError):
    """There is no pipeline of that name."""


def _several(name: str, pipelines: Sequence[str]) -> ConflictError:
    return ConflictError(
        f"the shard type {name} is in several pipelines ({', '.join(pipelines)}): say which pipeline"
    )
