"""Shards over REST: from a PUT to its vectors, versions, deletion, what is seen of it meanwhile, feeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from embedmill.access.keys import Role
from embedmill.database.pipelines import Pipeline
from tests.support.records import is_quiet
from tests.support.serving import Serving, serving

P = {"pipeline": "standin"}


async def put(service: Serving, shard: str, body: dict[str, Any], status: int = 200, **params: Any) -> Any:
    response = await service.client.put(f"/shards/{shard}", json=body, params=P | params)
    assert response.status_code == status, response.text
    return response.json()


async def get(service: Serving, shard: str) -> Any:
    response = await service.client.get(f"/shards/{shard}", params=P)
    assert response.status_code == 200, response.text
    return response.json()


async def until(service: Serving, shard: str, wanted: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(60):
        while not wanted(state := await get(service, shard)):
            await asyncio.sleep(0.05)
    return state


async def quiet(service: Serving) -> None:
    async with asyncio.timeout(60):
        while not await is_quiet(service.app):
            await asyncio.sleep(0.05)


async def test_a_shard_becomes_vectors_and_is_found(service: Serving, pipeline: Pipeline) -> None:
    told = await put(service, "articles/a", {"content": "Wheat is ground.", "metadata": {"lang": "en"}})
    assert told == {
        "shardTypeId": "articles",
        "shardId": "a",
        "status": "applied",
        "version": 1,
        "reason": None,
        "message": None,
    }
    state = await until(service, "articles/a", lambda state: state["embedded"])
    assert (state["chunkCount"], state["embeddedChunks"], state["version"]) == (1, 1, 1)
    assert state["metadata"] == {"lang": "en"}
    assert [job["status"] for job in state["embeddingJobs"]] == ["completed"]
    assert state["embeddingJobs"][0]["metadata"]["vectorCount"] == 1

    answer = await service.client.post("/search", json={"query": "Wheat is ground.", "pipeline": "standin"})
    passage = answer.json()["passages"][0]
    assert (passage["sourceType"], passage["sourceId"], passage["metadata"]) == (
        "articles",
        "a",
        {"lang": "en"},
    )

    assert (await put(service, "articles/a", {"content": "Rye."}))["version"] == 2
    state = await until(service, "articles/a", lambda state: state["embedded"])
    assert state["version"] == 2
    assert (await service.client.delete("/shards/articles/a")).json()["version"] == 3
    await quiet(service)
    state = await get(service, "articles/a")
    assert (state["isDeleted"], state["documentId"], state["embedded"]) == (True, None, False)
    feed = (await service.client.get("/shards/articles")).json()
    assert (feed["shards"], feed["documents"], feed["chunks"], feed["embedded"]) == (0, 0, 0, 0)


async def test_its_job_is_seen_at_once_and_says_that_it_waits_to_be_read(idle_service: Serving) -> None:
    service = idle_service
    response = await service.client.put("/shards/articles/a", json={"content": "Wheat."})
    assert response.status_code == 200
    page = await service.client.get("/embedding-jobs", params={"shardTypeId": "articles", "shardId": "a"})
    (job,) = page.json()["jobs"]
    assert (job["status"], job["operation"], job["shardId"]) == ("pending", "INSERT", "a")
    rows = await service.app.database.fetch(
        "SELECT reason, explanation FROM embedmill.explain_item(%s)", (job["id"],)
    )
    assert rows[0] == ("to_be_read", "its record waits to be read and cut by a worker")
    assert "no_worker" in {row[0] for row in rows}
    state = (await service.client.get("/shards/articles/a")).json()
    assert (state["isRead"], state["embedded"], state["chunkCount"]) == (False, False, 0)
    assert [one["id"] for one in state["embeddingJobs"]] == [job["id"]]


async def test_a_change_of_what_was_embedded_is_seen_as_pending_too(
    service: Serving, pipeline: Pipeline
) -> None:
    await put(service, "articles/a", {"content": "Wheat."})
    await until(service, "articles/a", lambda state: state["embedded"])
    await service.client.put("/shards/articles", json={"pipeline": "standin"})
    await service.app.database.fetch("UPDATE embedmill.record_sources SET paused_at = now()")
    await put(service, "articles/a", {"content": "Rye."})
    state = await get(service, "articles/a")
    assert [(job["status"], job["operation"]) for job in state["embeddingJobs"]] == [
        ("pending", "UPDATE"),
        ("completed", "INSERT"),
    ]
    assert (state["isRead"], state["embedded"], state["chunkCount"]) == (False, False, 1)


async def test_versions_over_rest(idle_service: Serving) -> None:
    client = idle_service.client

    async def push(version: int, content: str) -> Any:
        response = await client.put("/shards/t/a", json={"content": content, "version": version})
        return response.json()["status"], response.json()["version"], response.json()["reason"]

    assert await push(10, "ten") == ("applied", 10, None)
    assert await push(9, "nine") == ("ignored", 10, None)
    assert await push(10, "ten") == ("applied", 10, None)
    other = await client.put("/shards/t/a", json={"content": "not ten", "version": 10})
    assert (other.status_code, other.json()["code"]) == (409, "version_conflict")
    deleted = (await client.delete("/shards/t/a", params={"version": 12})).json()
    assert (deleted["status"], deleted["version"]) == ("applied", 12)
    assert await push(11, "eleven") == ("ignored", 12, None)
    assert (await client.put("/shards/t/a", json={"content": "c", "version": 12})).status_code == 409
    # Deleted before it came at all.
    assert (await client.delete("/shards/t/late", params={"version": 3})).json()["status"] == "applied"
    late = (await client.put("/shards/t/late", json={"content": "late", "version": 2})).json()
    assert (late["status"], late["version"]) == ("ignored", 3)
    assert (await client.delete("/shards/t/late")).json() == {**late, "status": "applied"}
    assert (await client.delete("/shards/t/nothing")).status_code == 404
    assert (await client.delete("/shards/nothing/a")).status_code == 404


@pytest.mark.parametrize(
    "shard_id", ["a/b/c", "https://example.com/a?b=c#d", "ünï 文", " ", "100%", "a:b", "x" * 2000]
)
async def test_ids_of_every_kind(idle_service: Serving, shard_id: str) -> None:
    where = f"/shards/t/{quote(shard_id, safe='')}"
    made = (await idle_service.client.put(where, json={"content": "c"})).json()
    assert (made["shardId"], made["status"]) == (shard_id, "applied")
    assert (await idle_service.client.get(where)).json()["shardId"] == shard_id
    assert (await idle_service.client.delete(where)).json()["version"] == 2


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("t/" + "x" * 2001, {"content": "c"}, "2,001 bytes"),
        ("t/a%00b", {"content": "c"}, "NUL"),
        ("t%00/a", {"content": "c"}, "NUL"),
        ("t/", {"content": "c"}, "shardId"),
        ("upload/a", {"content": "c"}, "choose another name"),
        ("t" * 256 + "/a", {"content": "c"}, "256 bytes"),
        ("t/a", {}, "content"),
        ("t/a", {"content": "c", "fields": {"a": "b"}}, "not both"),
        ("t/a", {"content": ["c"]}, "content: a text"),
        ("t/a", {"fields": "c"}, "fields: an object"),
        ("t/a", {"content": "c", "metadata": []}, "metadata: an object"),
        ("t/a", {"content": "c", "version": -1}, "version"),
        ("t/a", {"content": "c", "version": 1.5}, "version"),
        ("t/a", {"content": "c", "version": True}, "version"),
        ("t/a", {"content": "c", "version": 2**63}, "version"),
        ("t/a", {"content": "c", "operation": "delete"}, "DELETE"),
        ("t/a", {"content": "c", "shardId": "b"}, "leave it out"),
        ("t/a", {"content": "c", "Metadata": {}}, "Metadata"),
        ("t/a", [], "object"),
    ],
)
async def test_a_mistake_is_told_and_nothing_is_kept(
    idle_service: Serving, path: str, body: Any, says: str
) -> None:
    response = await idle_service.client.put(f"/shards/{path}", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["code"] == "invalid_request"
    assert says in response.json()["detail"]
    assert await idle_service.app.database.fetch("SELECT FROM embedmill.shards") == []


async def test_a_body_that_is_no_json_or_too_large(database: str, tmp_path: Any) -> None:
    async with serving(database, tmp_path / "data", works=False, max_request_mb=0.1) as service:
        for body in (b"", b"{", b'{"content": "\xff"}', b"[" * 50_000 + b"]" * 50_000):
            assert (await service.client.put("/shards/t/a", content=body)).status_code == 422
        response = await service.client.put("/shards/t/a", json={"content": "x" * 110_000})
        assert (response.status_code, response.json()["code"]) == (413, "too_large")


async def test_a_feed_is_made_and_changed(service: Serving, pipeline: Pipeline) -> None:
    client = service.client
    wishes = {"pipeline": "standin", "template": "$title: $body", "priority": "high"}
    made = (await client.put("/shards/products", json=wishes)).json()
    assert (made["template"], made["priority"], made["shards"]) == ("$title: $body", "high", 0)
    assert (
        await client.put("/shards/products/1", json={"fields": {"title": "Mill", "body": 12}})
    ).status_code == 200
    state = await until(service, "products/1", lambda state: state["embedded"])
    assert state["embeddingJobs"][0]["priority"] == "high"
    await client.put("/shards/products", json=wishes | {"template": "$title, $body"})
    await quiet(service)
    rows = await service.app.database.fetch("SELECT text FROM embedmill.knowledge_chunks")
    assert rows == [("Mill, 12",)]
    assert (await get(service, "products/1"))["embedded"]
    assert [feed["shardTypeId"] for feed in (await client.get("/shards")).json()["feeds"]] == ["products"]
    for wrong, status in (
        ({"template": "no field"}, 422),
        ({"template": "a $ b"}, 422),
        ({"priority": "urgent"}, 422),
        ({"pipeline": "nothing"}, 404),
    ):
        assert (await client.put("/shards/others", json=wrong)).status_code == status, wrong


@pytest.mark.parametrize("with_vectors", [False, True])
async def test_a_feed_that_is_removed(service: Serving, pipeline: Pipeline, with_vectors: bool) -> None:
    await put(service, "articles/a", {"content": "Wheat."})
    await until(service, "articles/a", lambda state: state["embedded"])
    await service.app.database.fetch("UPDATE embedmill.record_sources SET paused_at = now()")
    await put(service, "articles/b", {"content": "Never read."})
    await put(service, "articles/a", {"content": "Never read either."})
    removed = await service.client.delete("/shards/articles", params={"withVectors": with_vectors})
    assert removed.json() == {"documentsKept": int(not with_vectors), "documentsDeleted": int(with_vectors)}
    assert (await service.client.get("/shards/articles")).status_code == 404
    left = await service.app.database.fetch(
        "SELECT source_id, record_source_id FROM embedmill.knowledge_documents"
    )
    assert left == ([] if with_vectors else [("a", 0)])
    assert await service.app.database.fetch("SELECT FROM embedmill.embedding_queue") == []
    # The same name again.
    await put(service, "articles/a", {"content": "Barley."})
    await until(service, "articles/a", lambda state: state["embedded"])
    feed = (await service.client.get("/shards/articles")).json()
    assert (feed["shards"], feed["documents"], feed["chunks"]) == (1, 1, 1)


async def test_who_may(service: Serving, pipeline: Pipeline) -> None:
    reader, writer = await service.client_of(Role.READER), await service.client_of(Role.WRITER)
    assert (await reader.put("/shards/t/a", json={"content": "c"})).status_code == 403
    assert (await writer.put("/shards/t/a", json={"content": "c"}, params=P)).status_code == 200
    assert (await reader.get("/shards/t/a")).status_code == 200
    assert (await writer.delete("/shards/t")).status_code == 403
