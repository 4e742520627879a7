"""Shards: what other systems push to a feed. Owns writing many at once, so that late and repeated versions do no harm,
and what is told of one shard; what a sender may say stands in shard_entries.py, the rules of versions in
database/functions/74_shards.sql."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, cast

import msgspec
import psycopg

from embedmill.database.pipelines import find_pipeline
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries, vectors_table
from embedmill.errors import ConflictError, EmbedmillError, NotFoundError
from embedmill.sources.catalog import record_source
from embedmill.sources.saving import content_hash
from embedmill.sources.shard_entries import ShardEntry
from embedmill.sources.shard_feeds import DEFAULT_PIPELINE, ShardFeed, find_feed, open_feeds
from embedmill.sources.shard_rows import ShardRows

_SQL = load_queries("embedmill.sources", "shards.sql")
_TRIES = 4

Status = Literal["applied", "ignored", "rejected"]


class Outcome(msgspec.Struct, frozen=True):
    """What became of an entry. `version` is the one that stands now. ignored: a newer one stands. rejected: `reason`
    is `not_storable` (kept as a dead letter, under its version), `version_conflict` or `no_feed` (nothing was kept)."""

    status: Status
    version: int | None
    reason: str | None = None
    message: str | None = None


class Shard(msgspec.Struct, frozen=True):
    """A shard as it stands. `embedded` is true when every chunk of this very state that can have a vector has it;
    `chunk_count` and `embedded_chunks` are those of its document, which may still be of an older state.
    `error_reason`: why this state has no chunks."""

    shard_type_id: str
    shard_id: str
    pipeline: str
    version: int
    is_deleted: bool
    metadata: str
    updated_at: datetime
    document_id: int | None
    chunk_count: int
    embedded_chunks: int
    unembeddable_chunks: int
    is_read: bool
    embedded: bool
    error_reason: str | None
    error_message: str | None
    feed: ShardFeed


class Shards:
    """The shards of one tenant."""

    def __init__(self, database: Database, tenant_id: int) -> None:
        self._database = database
        self._tenant_id = tenant_id

    async def put(self, entries: Sequence[ShardEntry], *, pipeline: str | None = None) -> list[Outcome]:
        """Apply entries, of one feed or several, in one transaction; an outcome for each. The feed of a type that is
        new is made. Of entries of the same shard the newest is applied, and the others are told that it stands.
        Raises NotFoundError where the pipeline that was named does not exist."""
        if pipeline is not None:
            await find_pipeline(self._database, self._tenant_id, pipeline)
        for attempt in range(_TRIES):
            try:
                async with self._database.transaction() as connection:
                    return await self._put(connection, entries, pipeline)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
                # Another writer was at the same documents, or has just made the same feed.
                if attempt == _TRIES - 1:
                    raise
            except psycopg.Error as error:
                # The feed was removed between its being looked up and being locked: it is made anew.
                if error.sqlstate != "EM404" or attempt == _TRIES - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _put(
        self, connection: Connection, entries: Sequence[ShardEntry], pipeline: str | None
    ) -> list[Outcome]:
        type_ids = sorted({entry.shard_type_id for entry in entries})
        opened = await open_feeds(connection, self._tenant_id, type_ids, pipeline)
        outcomes: list[Outcome | None] = [
            Outcome("rejected", None, "no_feed", str(feed)) if isinstance(feed, EmbedmillError) else None
            for feed in (opened[entry.shard_type_id] for entry in entries)
        ]
        feeds = {type_id: feed for type_id, feed in opened.items() if isinstance(feed, int)}
        # In the order of their numbers, so that batches of the same feeds do not wait for each other crosswise.
        for type_id, feed in sorted(feeds.items(), key=lambda each: each[1]):
            mine = [n for n, entry in enumerate(entries) if entry.shard_type_id == type_id]
            for turn in _turns(entries, mine):
                await self._put_turn(connection, feed, entries, turn, outcomes)
        return cast("list[Outcome]", outcomes)

    async def _put_turn(
        self,
        connection: Connection,
        feed: int,
        entries: Sequence[ShardEntry],
        turn: Sequence[_Fold],
        outcomes: list[Outcome | None],
    ) -> None:
        winners = [entries[fold.winner] for fold in turn]
        cursor = await connection.execute(
            _SQL["put_shards"],
            {
                "record_source_id": feed,
                "shard_ids": [entry.shard_id for entry in winners],
                "are_deletions": [entry.is_deletion for entry in winners],
                "versions": [entry.version for entry in winners],
                "floors": [fold.floor for fold in turn],
                "contents": [None if entry.reject_reason else entry.content for entry in winners],
                "fields": [None if entry.reject_reason else entry.fields for entry in winners],
                "metadata": ["{}" if entry.reject_reason else entry.metadata for entry in winners],
                "reject_reasons": [entry.reject_reason for entry in winners],
            },
        )
        found = {shard_id: (outcome, version) for shard_id, outcome, version in await cursor.fetchall()}
        for fold, entry in zip(turn, winners, strict=True):
            outcome, version = found[entry.shard_id]
            outcomes[fold.winner] = _outcome(entry, outcome, version)
            for loser in fold.losers:
                outcomes[loser] = _outcome(entries[loser], "ignored", version)

    async def put_one(self, entry: ShardEntry, *, pipeline: str | None = None) -> Outcome:
        """As `put`. Raises NotFoundError (no such pipeline), ConflictError (a type that is no shard feed, or one of
        several)."""
        (outcome,) = await self.put([entry], pipeline=pipeline)
        if outcome.reason == "no_feed":
            await self._find_pipeline(pipeline)
            raise ConflictError(outcome.message)
        return outcome

    async def _find_pipeline(self, pipeline: str | None) -> None:
        await find_pipeline(self._database, self._tenant_id, pipeline or DEFAULT_PIPELINE)

    async def delete(
        self, shard_type_id: str, shard_id: str, *, version: int | None, pipeline: str | None = None
    ) -> Outcome:
        """Delete a shard. With a version, also one that has not come yet: then it does not come any more. Raises
        NotFoundError where there is none and no version was said."""
        if version is None:
            await self.find(shard_type_id, shard_id, pipeline=pipeline)
        entry = ShardEntry(shard_type_id, shard_id, is_deletion=True, version=version)
        return await self.put_one(entry, pipeline=pipeline)

    async def find(self, shard_type_id: str, shard_id: str, *, pipeline: str | None = None) -> Shard:
        """Its state; a deleted one is found as long as that is remembered. Raises NotFoundError."""
        feed = await find_feed(self._database, self._tenant_id, shard_type_id, pipeline=pipeline)
        values = {"record_source_id": feed.id, "shard_id": shard_id, "generation_id": feed.generation_id}
        row = await self._database.fetch_one(
            _SQL["shard"].format(vectors=vectors_table(feed.generation_id)), values
        )
        if row is None:
            raise NotFoundError(f"there is no shard {shard_id!r} of type {shard_type_id}")
        return await self._shard(feed, shard_id, row)

    async def _shard(self, feed: ShardFeed, shard_id: str, row: tuple[Any, ...]) -> Shard:
        version, is_deleted, metadata, updated_at, document_id, hashed, reason, message = row[:8]
        chunks, embedded, unembeddable = row[8:11]
        is_read = hashed is not None and not is_deleted and await self._is_read(feed, shard_id, bytes(hashed))
        return Shard(
            shard_type_id=feed.shard_type_id,
            shard_id=shard_id,
            pipeline=feed.pipeline,
            version=version,
            is_deleted=is_deleted,
            metadata=metadata,
            updated_at=updated_at,
            document_id=document_id,
            chunk_count=chunks,
            embedded_chunks=embedded,
            unembeddable_chunks=unembeddable,
            is_read=is_read,
            embedded=is_read and reason is None and 0 < embedded == chunks - unembeddable,
            error_reason=reason if is_read else None,
            error_message=message if is_read else None,
            feed=feed,
        )

    async def _is_read(self, feed: ShardFeed, shard_id: str, hashed: bytes) -> bool:
        """Whether the document is of this very state: derived from the content, and from no status."""
        rows = ShardRows(self._database, await record_source(self._database, feed.id))
        loaded = (await rows.load([shard_id])).rows
        return bool(loaded) and content_hash(loaded[0].content) == hashed


class _Fold(msgspec.Struct):
    """Entries of one shard, of which one is the newest whatever stands: `floor` is what its version must pass, where
    it says none."""

    winner: int
    floor: int = 0
    losers: list[int] = msgspec.field(default_factory=list)


def _turns(entries: Sequence[ShardEntry], numbers: Sequence[int]) -> Iterator[list[_Fold]]:
    """The entries of a feed in turns, each shard once in a turn. A second turn is needed only where it depends on what
    stands in the database which of two entries is the newer one."""
    rest = list(numbers)
    while rest:
        folds: dict[str, _Fold] = {}
        undecided: set[str] = set()
        later: list[int] = []
        for number in rest:
            entry = entries[number]
            fold = folds.get(entry.shard_id)
            if fold is None:
                folds[entry.shard_id] = _Fold(number)
            elif entry.shard_id in undecided or not _fold_in(fold, number, entries):
                undecided.add(entry.shard_id)
                later.append(number)
        yield list(folds.values())
        rest = later


def _fold_in(fold: _Fold, number: int, entries: Sequence[ShardEntry]) -> bool:
    """Take an entry to those before it; False where it cannot be said which is newer."""
    first, second = entries[fold.winner], entries[number]
    if second.version is None:
        fold.losers.append(fold.winner)
        fold.winner, fold.floor = number, max(fold.floor, first.version or 0)
        return True
    if first.version is None or first.version == second.version:
        return False
    if second.version > first.version:
        fold.losers.append(fold.winner)
        fold.winner = number
    else:
        fold.losers.append(number)
    return True


def _outcome(entry: ShardEntry, outcome: str, version: int) -> Outcome:
    if outcome == "ignored":
        return Outcome("ignored", version)
    if outcome == "conflict":
        return Outcome(
            "rejected",
            version,
            "version_conflict",
            f"version {version} stands already with another content: send a higher version",
        )
    if entry.reject_reason is not None:
        return Outcome("rejected", version, "not_storable", entry.reject_reason)
    return Outcome("applied", version)
