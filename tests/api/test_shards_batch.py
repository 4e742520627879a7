"""Many shards at once: what became of each, poison among good ones, entries of one shard in one batch, sent again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from embedmill.database.pipelines import Pipeline
from tests.support.records import is_quiet
from tests.support.serving import Serving, serving

P = {"pipeline": "standin"}


async def push(service: Serving, entries: list[Any], **headers: str) -> dict[str, Any]:
    # By json.dumps: half of a surrogate pair is sent as it comes from others' encoders.
    content = json.dumps({"shards": entries}).encode()
    response = await service.client.post("/shards:batch", content=content, params=P, headers=headers)
    assert response.status_code == 200, response.text
    return dict(response.json())


def entry(shard_id: str, content: str | None = None, **said: Any) -> dict[str, Any]:
    given = said if content is None else {"content": content, **said}
    return {"shardTypeId": "t", "shardId": shard_id, **given}


def statuses(answer: dict[str, Any]) -> list[tuple[str, int | None, str | None]]:
    return [(one["status"], one["version"], one["reason"]) for one in answer["results"]]


async def quiet(service: Serving) -> None:
    async with asyncio.timeout(60):
        while not await is_quiet(service.app):
            await asyncio.sleep(0.05)


async def test_poison_is_dead_lettered_and_its_neighbours_are_done(
    database: str, tmp_path: Any, service: Serving, pipeline: Pipeline
) -> None:
    poison: dict[str, dict[str, Any]] = {
        "nul": {"content": "a\0b"},
        "surrogate": {"content": "half \ud800 of it"},
        "metadata": {"content": "good", "metadata": {"a": "\0"}},
        "field": {"fields": {"a": ["\udfff"]}},
        "infinite": {"fields": {"a": float("inf")}},
        "deep": {"fields": {"a": json.loads("[" * 200 + "]" * 200)}},
    }
    entries = [entry("good 1", "Wheat."), *(entry(name, **said) for name, said in poison.items())]
    entries += [entry("empty", ""), entry("blank fields", fields={"a": None}), entry("good 2", "Rye.")]
    entries.append(entry("no poison", "a \\u0000 that was only written down", metadata={"a": "\\u0000"}))
    answer = await push(service, entries)
    assert statuses(answer) == [
        ("applied", 1, None),
        *[("rejected", 1, "not_storable")] * len(poison),
        *[("applied", 1, None)] * 4,
    ]
    assert answer["results"][1]["message"].startswith("content: it holds a NUL character")
    await quiet(service)
    letters = await service.app.database.fetch(
        "SELECT d.source_id, l.reason FROM embedmill.dead_letters l "
        "JOIN embedmill.knowledge_documents d ON d.id = l.document_id WHERE l.resolved_at IS NULL"
    )
    assert dict(letters) == {
        **dict.fromkeys(poison, "not_storable"),
        **dict.fromkeys(("empty", "blank fields"), "empty"),
    }
    feed = (await service.client.get("/shards/t")).json()
    assert (feed["shards"], feed["documents"], feed["chunks"], feed["embedded"]) == (11, 11, 3, 3)
    state = (await service.client.get("/shards/t/nul")).json()
    assert (state["isRead"], state["embedded"], state["errorReason"]) == (True, False, "not_storable")
    assert [job["status"] for job in state["embeddingJobs"]] == ["failed"]
    assert "NUL" in state["error"]
    assert "NUL" in state["embeddingJobs"][0]["error"]

    mended = await push(service, [entry(name, f"Mended {name}.") for name in poison])
    assert mended["applied"] == len(poison)
    await quiet(service)
    feed = (await service.client.get("/shards/t")).json()
    assert (feed["shards"], feed["chunks"], feed["embedded"]) == (11, 9, 9)
    assert (await service.client.get("/shards/t/nul")).json()["embedded"]


async def test_a_bad_entry_is_told_and_its_neighbours_are_applied(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    bad: list[Any] = [
        None,
        "a",
        {"shardId": "a", "content": "c"},
        entry("", "c"),
        entry("x" * 2001, "c"),
        entry("a\0", "c"),
        entry("\ud800", "c"),
        entry("a", "c", version="1"),
        entry("a", "c", operation="remove"),
        entry("a", "c", operation="delete"),
        entry("a", "c", pipeline="p"),
        entry("a"),
        {"shardTypeId": "file", "shardId": "a", "content": "c"},
        {"shardTypeId": "a/b", "shardId": "a", "content": "c"},
    ]
    entries = [each for one in bad for each in (one, entry(f"good {len(str(one))} {bad.index(one)}", "c"))]
    answer = await push(idle_service, entries)
    assert (answer["applied"], answer["rejected"]) == (len(bad), len(bad))
    assert all(one["reason"] == "invalid" and one["message"] for one in answer["results"][::2])
    assert all(one["status"] == "applied" for one in answer["results"][1::2])


async def test_entries_of_one_shard_in_one_batch_end_with_the_newest(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    answer = await push(
        idle_service,
        [
            entry("a", "three", version=3),
            entry("a", "five", version=5),
            entry("a", "four", version=4),
            entry("b", "first"),
            entry("b", "second"),
            entry("c", "none"),
            entry("c", "seven", version=7),
            entry("c", "six", version=6),
            entry("d", "two", version=2),
            entry("d", "two", version=2),
            entry("d", "another two", version=2),
            entry("e", "eight", version=8),
            entry("e", operation="delete"),
        ],
    )
    assert statuses(answer) == [
        ("ignored", 5, None),
        ("applied", 5, None),
        ("ignored", 5, None),
        ("ignored", 1, None),
        ("applied", 1, None),
        ("applied", 1, None),
        ("applied", 7, None),
        ("ignored", 7, None),
        ("applied", 2, None),
        ("applied", 2, None),
        ("rejected", 2, "version_conflict"),
        ("ignored", 9, None),
        ("applied", 9, None),
    ]
    rows = await idle_service.app.database.fetch(
        "SELECT shard_id, content, version FROM embedmill.shards WHERE deleted_at IS NULL ORDER BY 1"
    )
    assert rows == [("a", "five", 5), ("b", "second", 1), ("c", "seven", 7), ("d", "two", 2)]


async def test_ten_thousand_shards_of_several_types_and_one_more(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    entries = [
        {"shardTypeId": f"type {n % 3}", "shardId": str(n), "content": f"Shard {n}. " + "x" * 1000}
        for n in range(10_000)
    ]
    answer = await push(idle_service, entries)
    assert (answer["applied"], len(answer["results"])) == (10_000, 10_000)
    assert [one["shardId"] for one in answer["results"]] == [str(n) for n in range(10_000)]
    counts = await idle_service.app.database.fetch(
        "SELECT (SELECT count(*) FROM embedmill.shards), (SELECT count(*) FROM embedmill.knowledge_documents), "
        "(SELECT count(*) FROM embedmill.embedding_queue), "
        "(SELECT max(cardinality(keys)) FROM embedmill.record_changes), "
        "(SELECT sum(cardinality(keys)) FROM embedmill.record_changes WHERE operation = 'I'), "
        "(SELECT sum(items) FROM (SELECT items FROM embedmill.queue_changes WHERE status = 'live' UNION ALL "
        "SELECT items FROM embedmill.queue_counts WHERE status = 'live') AS counted)"
    )
    assert counts == [(10_000, 10_000, 10_000, 500, 10_000, 10_000)]
    response = await idle_service.client.post("/shards:batch", json={"shards": [entry("a", "c")] * 10_001})
    assert response.status_code == 422
    assert "10,000" in response.json()["detail"]


async def test_a_batch_that_is_none(idle_service: Serving) -> None:
    wrong: list[Any] = [[], {}, {"shards": {}}, {"shards": [], "more": 1}, None]
    for body in wrong:
        assert (await idle_service.client.post("/shards:batch", json=body)).status_code == 422
    answer = await idle_service.client.post("/shards:batch", json={"shards": []})
    assert answer.json() == {"applied": 0, "ignored": 0, "rejected": 0, "results": []}


async def test_a_batch_that_is_sent_again_under_its_key_does_nothing(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    key = {"Idempotency-Key": "one"}
    first = await push(idle_service, [entry("a", "one")], **key)
    await push(idle_service, [entry("a", "two")])
    assert await push(idle_service, [entry("a", "one")], **key) == first
    state = await idle_service.client.get("/shards/t/a")
    assert state.json()["version"] == 2
    other = await idle_service.client.post("/shards:batch", json={"shards": []}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_content_over_the_limit_is_dead_lettered(database: str, tmp_path: Any) -> None:
    async with serving(database, tmp_path / "data", works=False, max_file_mb=0.001) as service:
        sent = {"shards": [entry("a", "x" * 1048), entry("b", "x" * 1049), entry("c", "ü" * 525)]}
        answer = (await service.client.post("/shards:batch", json=sent)).json()
    assert [one["status"] for one in answer["results"]] == ["applied", "rejected", "rejected"]
    assert "1,049 bytes are more than the 1,048" in answer["results"][1]["message"]


async def test_a_shard_type_cannot_be_a_table_of_the_pipeline(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    await idle_service.app.database.fetch(
        "INSERT INTO embedmill.record_sources (tenant_id, pipeline_id, kind, name) VALUES (%s, %s, 'table', 't')",
        (pipeline.tenant_id, pipeline.id),
    )
    response = await idle_service.client.put("/shards/t/a", json={"content": "c"}, params=P)
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    # Another pipeline may have shards of that name.
    response = await idle_service.client.put(
        "/shards/t/a", json={"content": "c"}, params={"pipeline": "default"}
    )
    assert response.status_code == 200
