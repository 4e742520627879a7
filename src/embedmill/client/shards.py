"""Shards and their feeds, for both clients. Each method is one definition (operations.py)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Required, TypedDict
from uuid import uuid4

import msgspec

from embedmill.client import endpoints as at
from embedmill.client.asking import Asking
from embedmill.client.operations import Operation
from embedmill.client.records.jobs import Priority
from embedmill.client.records.shards import (
    RemovedFeed,
    ShardFeed,
    ShardOperation,
    ShardResult,
    ShardResults,
    ShardState,
)
from embedmill.client.uploads import json_of

# What a service takes in one request, and well below.
MOST_ENTRIES = 10_000
MOST_BYTES = 16 * 1024 * 1024


class ShardChange(TypedDict, total=False):
    """One entry of a batch: `content` (a text) or `fields` (an object for the feed's template), or a deletion."""

    shard_type_id: Required[str]
    shard_id: Required[str]
    content: str | None
    fields: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    version: int | None
    operation: ShardOperation


class ShardCalls:
    """Content that other systems push."""

    _asking: Asking

    @Operation
    async def put_shard(
        self,
        shard_type_id: str,
        shard_id: str,
        content: str | None = None,
        *,
        fields: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        version: int | None = None,
        pipeline: str | None = None,
    ) -> ShardResult:
        """Set a shard to this state. `result.status` is "ignored" where a newer version stands, "rejected" where the
        content cannot be stored (`result.message`). Without a `version` it is one more than the last. `pipeline`:
        where the feed of a type that is new is made."""
        said = json_of({"content": content, "fields": fields, "metadata": metadata, "version": version})
        call = at.PUT_SHARD.call(
            {"shardTypeId": shard_type_id, "shardId": shard_id},
            query={"pipeline": pipeline},
            body=msgspec.Raw(_encoded(said)),
        )
        return await self._asking.ask(call)

    @Operation
    async def get_shard(
        self, shard_type_id: str, shard_id: str, *, pipeline: str | None = None
    ) -> ShardState:
        """How a shard stands, with its newest embedding jobs. ApiNotFoundError where there never was one."""
        path = {"shardTypeId": shard_type_id, "shardId": shard_id}
        return await self._asking.ask(at.GET_SHARD.call(path, query={"pipeline": pipeline}))

    @Operation
    async def delete_shard(
        self, shard_type_id: str, shard_id: str, *, version: int | None = None, pipeline: str | None = None
    ) -> ShardResult:
        """Delete a shard with its vectors. With a `version`, a late older one does not bring it back."""
        path = {"shardTypeId": shard_type_id, "shardId": shard_id}
        return await self._asking.ask(
            at.DELETE_SHARD.call(path, query={"pipeline": pipeline, "version": version})
        )

    @Operation
    async def put_shards(
        self, entries: Iterable[ShardChange], *, pipeline: str | None = None
    ) -> ShardResults:
        """Set and delete many shards, of one type or several; a result for each, in their order. What is wrong with
        one harms no other. More than 10,000 go in several requests, one after the other."""
        results: list[ShardResult] = []
        applied = ignored = rejected = 0
        for request in _requests_of(entries):
            call = at.PUT_SHARDS.call(
                query={"pipeline": pipeline}, body=msgspec.Raw(request), idempotency_key=uuid4().hex
            )
            answer = await self._asking.ask(call)
            results += answer.results
            applied, ignored, rejected = (
                applied + answer.applied,
                ignored + answer.ignored,
                rejected + answer.rejected,
            )
        return ShardResults(applied=applied, ignored=ignored, rejected=rejected, results=tuple(results))

    @Operation
    async def shard_feeds(self) -> tuple[ShardFeed, ...]:
        """All shard feeds of the tenant."""
        return (await self._asking.ask(at.LIST_SHARD_FEEDS.call())).feeds

    @Operation
    async def shard_feed(self, shard_type_id: str, *, pipeline: str | None = None) -> ShardFeed:
        """One feed, and how far it is embedded."""
        call = at.GET_SHARD_FEED.call({"shardTypeId": shard_type_id}, query={"pipeline": pipeline})
        return await self._asking.ask(call)

    @Operation
    async def put_shard_feed(
        self,
        shard_type_id: str,
        *,
        pipeline: str | None = None,
        template: str | None = None,
        priority: Priority = "medium",
    ) -> ShardFeed:
        """Make a feed, or change it: as it is said here, it is then. `template` puts the fields of a shard together
        ("$title\\n\\n$body"); with another one its shards are read anew."""
        body = {"pipeline": pipeline, "template": template, "priority": priority}
        return await self._asking.ask(at.PUT_SHARD_FEED.call({"shardTypeId": shard_type_id}, body=body))

    @Operation
    async def remove_shard_feed(
        self, shard_type_id: str, *, with_vectors: bool = False, pipeline: str | None = None
    ) -> RemovedFeed:
        """Forget a feed and its shards. Its documents stay searchable unless `with_vectors`."""
        query: dict[str, at.Value] = {
            "pipeline": pipeline,
            "withVectors": "true" if with_vectors else None,
        }
        return await self._asking.ask(at.REMOVE_SHARD_FEED.call({"shardTypeId": shard_type_id}, query=query))


def _requests_of(entries: Iterable[ShardChange]) -> Iterator[bytes]:
    """The entries, shared out in their order; at least one in each request."""
    taken: list[bytes] = []
    size = 0
    for entry in entries:
        encoded = _encoded(json_of(entry))
        if taken and (len(taken) >= MOST_ENTRIES or size + len(encoded) > MOST_BYTES):
            yield _batch(taken)
            taken, size = [], 0
        taken.append(encoded)
        size += len(encoded)
    if taken:
        yield _batch(taken)


def _batch(entries: list[bytes]) -> bytes:
    return b'{"shards":[' + b",".join(entries) + b"]}"


def _encoded(said: Mapping[str, Any]) -> bytes:
    """As ASCII: what is no text (half of a surrogate pair) reaches the service, which says so of this one."""
    return json.dumps(said).encode("ascii")
