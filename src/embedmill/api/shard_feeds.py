"""/api/v1/shards/{shardTypeId}: the feeds that shards are pushed to. Owns the wire's shapes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from embedmill.api.problems import describe
from embedmill.api.service import Admin, Reader, Writer
from embedmill.api.shards import PipelineName, ShardTypeId
from embedmill.api.wire import Wire
from embedmill.sources import shard_feeds

router = APIRouter(prefix="/shards", tags=["shards"])


class FeedWishes(Wire):
    """How shards of a type are embedded. `template` puts the `fields` of a shard together (`$title`); without one all
    fields are joined. `pipeline`: where the feed is, else `default`."""

    pipeline: Annotated[str | None, Field(max_length=100)] = None
    template: Annotated[str | None, Field(min_length=1, max_length=100_000, examples=["$title\n\n$body"])] = (
        None
    )
    priority: Literal["high", "medium", "low"] = "medium"


class ShardFeed(Wire):
    """A feed. `shards` are those that are not deleted; `documents`: of these, read; `changes`: shards that wait to be
    read. `chunks`, `embedded` and `unembeddable` say how far it is embedded. `trouble`: why it is not read."""

    shard_type_id: str
    pipeline: str
    template: str | None
    priority: str
    is_paused: bool
    trouble: str | None
    shards: int
    documents: int
    changes: int
    chunks: int
    embedded: int
    unembeddable: int
    created_at: datetime

    @classmethod
    def of(cls, feed: shard_feeds.ShardFeed) -> ShardFeed:
        fields = {name: getattr(feed, name) for name in cls.model_fields if name != "is_paused"}
        return cls(**fields, is_paused=feed.paused_at is not None)


class ShardFeedList(Wire):
    feeds: list[ShardFeed]


class RemovedFeed(Wire):
    """How many documents a removed feed left behind with their vectors, or took with it."""

    documents_kept: int
    documents_deleted: int


@router.get("", responses=describe(401, 403, 429))
async def list_feeds(caller: Reader) -> ShardFeedList:
    """All shard feeds of the tenant."""
    found = await shard_feeds.list_feeds(caller.database, caller.tenant_id)
    return ShardFeedList(feeds=[ShardFeed.of(feed) for feed in found])


@router.get("/{shardTypeId}", responses=describe(401, 403, 404, 409, 422, 429))
async def get_feed(shard_type_id: ShardTypeId, caller: Reader, pipeline: PipelineName = None) -> ShardFeed:
    """One feed, and how far it is embedded."""
    return ShardFeed.of(
        await shard_feeds.find_feed(caller.database, caller.tenant_id, shard_type_id, pipeline=pipeline)
    )


@router.put("/{shardTypeId}", responses=describe(401, 403, 404, 409, 422, 429))
async def put_feed(shard_type_id: ShardTypeId, wishes: FeedWishes, caller: Writer) -> ShardFeed:
    """Make a feed, or change it. With another template its shards are read anew; what comes out the same costs
    nothing."""
    feed = await shard_feeds.put_feed(
        caller.database,
        caller.tenant_id,
        shard_type_id,
        pipeline=wishes.pipeline,
        template=wishes.template,
        priority=wishes.priority,
        actor=caller.principal.actor,
    )
    return ShardFeed.of(feed)


@router.delete("/{shardTypeId}", responses=describe(401, 403, 404, 409, 422, 429))
async def remove_feed(
    shard_type_id: ShardTypeId,
    caller: Admin,
    pipeline: PipelineName = None,
    with_vectors: Annotated[
        bool, Query(alias="withVectors", description="Delete the documents and their vectors too.")
    ] = False,
) -> RemovedFeed:
    """Forget a feed and its shards. Its documents stay searchable unless told otherwise."""
    feed = await shard_feeds.find_feed(caller.database, caller.tenant_id, shard_type_id, pipeline=pipeline)
    removed = await shard_feeds.remove_feed(
        caller.database, feed, with_vectors=with_vectors, actor=caller.principal.actor
    )
    return RemovedFeed.model_validate(removed)
