"""Shards, what became of them, and their feeds."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from embedmill.client.records.base import Moment, Record
from embedmill.client.records.embedding_jobs import EmbeddingJob

ShardOperation: TypeAlias = Literal["upsert", "delete"]


class ShardResult(Record, frozen=True):
    """What became of a shard. `version` is the one that stands now; `ignored`: because it is newer. `rejected` says why
    by `reason` (not_storable: it is kept as a dead letter; version_conflict, no_feed, invalid: nothing is kept) and
    `message`."""

    shard_type_id: str | None
    shard_id: str | None
    status: str
    """applied, ignored or rejected."""
    version: int | None
    reason: str | None
    message: str | None


class ShardResults(Record, frozen=True):
    """The results of a batch, in the order of its entries."""

    applied: int
    ignored: int
    rejected: int
    results: tuple[ShardResult, ...]


class ShardState(Record, frozen=True):
    """A shard as it stands. `is_read`: its document is of this state; until then the chunks are those of an older one.
    `embedded`: every chunk of this state that can have a vector has it. `error_reason`: why it has no chunks."""

    shard_type_id: str
    shard_id: str
    pipeline: str
    version: int
    is_deleted: bool
    metadata: dict[str, Any]
    updated_at: Moment
    document_id: int | None
    chunk_count: int
    embedded_chunks: int
    unembeddable_chunks: int
    is_read: bool
    embedded: bool
    error_reason: str | None
    error: str | None
    embedding_jobs: tuple[EmbeddingJob, ...]


class ShardFeed(Record, frozen=True):
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
    created_at: Moment


class ShardFeedList(Record, frozen=True):
    feeds: tuple[ShardFeed, ...]


class RemovedFeed(Record, frozen=True):
    """How many documents a removed feed left behind with their vectors, or took with it."""

    documents_kept: int
    documents_deleted: int
