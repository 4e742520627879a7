"""Shards in the database: versions in any order from several writers, what is kept of them, work that waits."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.shard_entries import ShardEntry
from embedmill.sources.shard_feeds import find_feed, pause_feed
from embedmill.sources.shards import Outcome, Shards
from tests.support.audit import assert_books_balance
from tests.support.provider.handle import RunningProvider
from tests.support.records import add_feed, push_shards, work_until_quiet

SHARDS, VERSIONS = 4, 6


async def test_a_late_older_version_changes_nothing(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    shards = Shards(app.database, pipeline.tenant_id)

    async def put(version: int | None, content: str | None) -> Outcome:
        entry = ShardEntry("articles", "a", content is None, version, content)
        return (await shards.put([entry], pipeline=pipeline.name))[0]

    assert await put(5, "Five.") == Outcome("applied", 5)
    assert await put(4, "Four.") == Outcome("ignored", 5)
    assert await put(5, "Five.") == Outcome("applied", 5)
    assert (await put(5, "Other five.")).reason == "version_conflict"
    assert await put(None, "Six.") == Outcome("applied", 6)
    assert await put(9, None) == Outcome("applied", 9)
    assert await put(8, "Eight.") == Outcome("ignored", 9)
    assert (await shards.find("articles", "a")).is_deleted
    assert await put(10, "Ten.") == Outcome("applied", 10)
    await work_until_quiet(app)
    shard = await shards.find("articles", "a")
    assert (shard.version, shard.is_deleted, shard.embedded) == (10, False, True)
    feed = await find_feed(app.database, pipeline.tenant_id, "articles")
    assert (feed.shards, feed.documents, feed.embedded) == (1, 1, 1)


@st.composite
def writers(draw: st.DrawFn) -> list[list[list[ShardEntry]]]:
    """Each version of each shard once, in any order, dealt out to writers, each with its batches."""
    versions = [(shard, version) for shard in range(SHARDS) for version in range(1, VERSIONS + 1)]
    entries = [
        ShardEntry("t", f"s{shard}", True, version)
        if draw(st.integers(0, 2)) == 0
        else ShardEntry("t", f"s{shard}", False, version, f"{shard} at {version}")
        for shard, version in draw(st.permutations(versions))
    ]
    dealt: list[list[list[ShardEntry]]] = [[], [], []]
    while entries:
        size = draw(st.integers(1, 8))
        dealt[draw(st.integers(0, 2))].append(entries[:size])
        entries = entries[size:]
    return dealt


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(dealt=writers())
async def test_any_order_of_versions_from_several_writers_ends_with_the_newest(
    app: App, pipeline: Pipeline, dealt: list[list[list[ShardEntry]]]
) -> None:
    await app.database.fetch("DELETE FROM embedmill.record_changes")
    await app.database.fetch("DELETE FROM embedmill.record_sources")
    shards = Shards(app.database, pipeline.tenant_id)

    async def write(batches: list[list[ShardEntry]]) -> list[Outcome]:
        return [one for batch in batches for one in await shards.put(batch, pipeline=pipeline.name)]

    outcomes = await asyncio.gather(*(write(batches) for batches in dealt))
    assert all(outcome.status in {"applied", "ignored"} for told in outcomes for outcome in told)
    newest = {
        entry.shard_id: entry
        for batches in dealt
        for batch in batches
        for entry in batch
        if entry.version == VERSIONS
    }
    rows = await app.database.fetch(
        "SELECT shard_id, version, content, deleted_at IS NOT NULL FROM embedmill.shards ORDER BY 1"
    )
    assert rows == [(s, VERSIONS, e.content, e.is_deletion) for s, e in sorted(newest.items())]
    # What the changes say of the number of shards is what there is.
    counted = await app.database.fetch(
        "SELECT sum(CASE operation WHEN 'I' THEN cardinality(keys) WHEN 'D' THEN -cardinality(keys) ELSE 0 END) "
        "FROM embedmill.record_changes"
    )
    assert (counted[0][0] or 0) == sum(not entry.is_deletion for entry in newest.values())


async def test_writers_and_a_reader_at_the_same_shards_end_with_the_newest_text(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """Deleted and made again all through, while a worker reads and embeds them."""
    shards = Shards(app.database, pipeline.tenant_id)

    async def write(writer: int) -> None:
        for turn in range(15):
            version = 3 * turn + writer
            await shards.put(
                [
                    ShardEntry("t", f"s{n}", (n + version) % 3 == 0, version, f"Shard {n} at {version}.")
                    if (n + version) % 3
                    else ShardEntry("t", f"s{n}", True, version)
                    for n in range(20)
                ],
                pipeline=pipeline.name,
            )

    await write(0)
    await asyncio.gather(*(write(writer) for writer in range(3)), work_until_quiet(app))
    await work_until_quiet(app)
    rows = await app.database.fetch(
        "SELECT s.shard_id, s.version, s.content, t.text FROM embedmill.shards s "
        "LEFT JOIN embedmill.knowledge_documents d ON d.source_id = s.shard_id AND d.source_type = 't' "
        "LEFT JOIN embedmill.knowledge_document_texts t ON t.document_id = d.id ORDER BY 1"
    )
    assert len(rows) == 20
    assert all(version == 44 and content == text for _, version, content, text in rows)
    feed = await find_feed(app.database, pipeline.tenant_id, "t")
    alive = sum(row[2] is not None for row in rows)
    assert (feed.shards, feed.documents, feed.chunks, feed.embedded) == (alive, alive, alive, alive)
    await assert_books_balance(app)


async def test_what_waits_to_be_read_is_not_freed_by_a_budget(app: App, pipeline: Pipeline) -> None:
    """It would be claimed without any chunk, and end as completed without a vector."""
    shards = Shards(app.database, pipeline.tenant_id)
    await shards.put([ShardEntry("t", "a", content="Wheat.")], pipeline=pipeline.name)
    await app.database.fetch("SELECT embedmill.sweep_budgets()")
    await app.database.fetch("SELECT embedmill.release_budget(%s)", (pipeline.tenant_id,))
    rows = await app.database.fetch("SELECT available_at = 'infinity' FROM embedmill.embedding_queue")
    assert rows == [(True,)]


async def test_why_a_shard_waits_names_a_pause(app: App, pipeline: Pipeline) -> None:
    shards = Shards(app.database, pipeline.tenant_id)
    await shards.put([ShardEntry("t", "a", content="Wheat.")], pipeline=pipeline.name)
    feed = await find_feed(app.database, pipeline.tenant_id, "t")
    await pause_feed(app.database, feed, is_paused=True, actor="test")
    rows = await app.database.fetch(
        "SELECT x.reason, x.explanation FROM embedmill.embedding_queue q, embedmill.explain_item(q.id) AS x"
    )
    assert rows[0][0] == "to_be_read"
    assert "the source t is paused since" in rows[0][1]


async def test_old_tombstones_are_forgotten_and_young_ones_are_not(app: App, pipeline: Pipeline) -> None:
    shards = Shards(app.database, pipeline.tenant_id)
    await shards.put(
        [
            ShardEntry("t", n, n != "alive", 1, None if n != "alive" else "c")
            for n in ("old", "young", "alive")
        ]
    )
    await app.database.fetch(
        "UPDATE embedmill.shards SET deleted_at = now() - interval '31 days' WHERE shard_id = 'old'"
    )
    assert await app.database.fetch("SELECT embedmill.forget_deleted_shards(30)") == [(1,)]
    rows = await app.database.fetch("SELECT shard_id FROM embedmill.shards ORDER BY 1")
    assert rows == [("alive",), ("young",)]


async def test_fields_of_any_name_are_embedded_and_hold_up_nobody(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    feed = await add_feed(app, pipeline, "odd")
    odd: dict[str, str | dict[str, object] | None] = {
        "a": {"": "no name", "{x": "a brace", "a}b": "another", "$": "a dollar"},
        "b": "The next one.",
    }
    await push_shards(app, feed, odd)
    await work_until_quiet(app)
    rows = await app.database.fetch("SELECT text FROM embedmill.knowledge_chunks ORDER BY document_id")
    first, second = (row[0] for row in rows)
    assert sorted(first.split("\n\n")) == ["a brace", "a dollar", "another", "no name"]
    assert second == "The next one."
