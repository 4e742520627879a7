"""Shards through both clients: from a push to its vectors, batches that are split, poison that is told."""

from __future__ import annotations

import asyncio

import pytest

from embedmill import AsyncClient, Client
from embedmill.client import ApiConflictError, ApiNotFoundError, ShardChange, shards
from embedmill.database.pipelines import Pipeline
from tests.client.scripted import Says, scripted


async def test_a_shard_is_put_seen_and_deleted(client: AsyncClient, pipeline: Pipeline) -> None:
    feed = await client.put_shard_feed("articles", pipeline="standin", template="$title")
    assert (feed.shard_type_id, feed.template, feed.shards) == ("articles", "$title", 0)
    put = await client.put_shard("articles", "a/1", fields={"title": "Wheat"}, version=3, metadata={"x": 1})
    assert (put.status, put.version) == ("applied", 3)
    with pytest.raises(ApiConflictError):
        await client.put_shard("articles", "a/1", "another", version=3)
    async with asyncio.timeout(60):
        while not (state := await client.get_shard("articles", "a/1")).embedded:
            await asyncio.sleep(0.05)
    assert (state.chunk_count, state.metadata, state.embedding_jobs[0].status) == (1, {"x": 1}, "completed")
    done = await client.put_shards(
        [
            {"shard_type_id": "articles", "shard_id": "b", "content": "half \ud800"},
            {"shard_type_id": "articles", "shard_id": "c", "content": "whole"},
        ]
    )
    assert [one.reason for one in done.results] == ["not_storable", None]
    assert (await client.delete_shard("articles", "a/1")).version == 4
    with pytest.raises(ApiNotFoundError):
        await client.get_shard("articles", "nothing")
    assert [one.shard_type_id for one in await client.shard_feeds()] == ["articles"]
    assert (await client.remove_shard_feed("articles", with_vectors=True)).documents_kept == 0
    with pytest.raises(ApiNotFoundError):
        await client.shard_feed("articles")


def test_many_entries_go_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_ENTRIES", 2)
    entries: list[ShardChange] = [
        {"shard_type_id": "t", "shard_id": str(n), "operation": "delete"} for n in range(5)
    ]
    answer = b'{"applied": 1, "ignored": 0, "rejected": 1, "results": []}'
    with scripted(otherwise=Says(200, answer)) as server, Client(server.address) as client:
        done = client.put_shards(entries)
    assert [one.body.count(b'"shardId"') for one in server.asked] == [2, 2, 1]
    assert len({one.headers["idempotency-key"] for one in server.asked}) == 3
    assert (done.applied, done.ignored, done.rejected) == (3, 0, 3)
