"""The walk over rows that lack their vectors: all of them, once, in the order of the key, within its limits."""

from __future__ import annotations

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.backfill_orders import BackfillOrder
from tests.support.audit import assert_books_balance
from tests.support.provider import RunningProvider
from tests.support.records import add_feed, push_shards, work_until_quiet
from tests.support.walks import (
    WholeCutter,
    add_notes,
    add_source,
    documents,
    order,
    run,
    state_of,
    walk,
    walk_of,
)
from tests.support.work import missing_chunks


async def waiting(app: App) -> int:
    rows = await app.database.fetch("SELECT count(*) FROM embedmill.embedding_queue")
    return int(rows[0][0])


async def test_every_row_is_embedded_at_low_priority_and_the_walk_ends(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 40)
    await order(app, source)
    await walk(app, source)
    assert await app.database.fetch("SELECT DISTINCT priority::text FROM embedmill.embedding_queue") == [
        ("low",)
    ]
    state = await state_of(app, source)
    assert (state.rows_walked, state.rows_read, state.end_reason) == (40, 40, "done")
    await work_until_quiet(app)
    assert await missing_chunks(app, pipeline) == 0
    assert await documents(app) == {str(n): f"note {n}" for n in range(1, 41)}
    assert (await state_of(app, source)).coverage_percent == 100
    await assert_books_balance(app)


async def test_a_table_of_many_rows_never_has_more_than_the_window_in_the_queue(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 200)
    await order(app, source, BackfillOrder(batch_size=7))
    backfill = await walk_of(app, source, WholeCutter(), window_items=20)
    most = ended = 0
    while not (await state_of(app, source)).end_reason:
        await backfill.step()
        now_waiting = await waiting(app)
        most = max(most, now_waiting)
        if now_waiting == 20:
            # As a worker would end them.
            rows = await app.database.fetch(
                "DELETE FROM embedmill.embedding_queue "
                " WHERE id IN (SELECT id FROM embedmill.embedding_queue ORDER BY id LIMIT 8) RETURNING 1"
            )
            ended += len(rows)
    assert most == 20
    assert ended + await waiting(app) == 200
    assert len(await documents(app)) == 200


async def test_a_row_of_several_items_waits_for_its_room_and_goes_alone_in_the_end(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 2)
    await run(app, "UPDATE public.notes SET body = repeat('word ', 200000) WHERE id = 2")
    await run(app, "DELETE FROM embedmill.record_changes")
    await order(app, source)
    cutter = app.cutter()
    try:
        backfill = await walk_of(app, source, cutter, window_items=1)
        assert await backfill.step() is not None
        assert await waiting(app) == 1, "the first row has taken the room"
        assert await backfill.step() is None
        await run(app, "DELETE FROM embedmill.embedding_queue")
        assert await backfill.step() is not None
        assert await waiting(app) > 1, "a row is not divided"
    finally:
        await cutter.aclose()


KEYS = [
    ("text", ["a%b", "a", "B", "ä", "'quote\"", "\\x", "%s", "", "{}", "Z z", "ß", "日本", "🙂"]),
    ('text COLLATE "C"', ["b", "A", "a", "B", "é", "~"]),
    ("uuid", ["00000000-0000-0000-0000-000000000002", "f0000000-0000-0000-0000-000000000000"]),
    ("numeric", ["10", "9", "-1.50", "1e3", "0"]),
    ("timestamptz", ["2026-01-01 00:00:00.5+01", "1999-12-31", "infinity"]),
    ("char(4)", ["b", "a", "ab", "abcd"]),
    ("double precision", ["0.1", "-3", "1e300", "NaN"]),
    ("date", ["2026-02-01", "1970-01-01"]),
    ("bytea", ["\\x00ff", "\\x01"]),
]


@pytest.mark.parametrize(("type_name", "values"), KEYS, ids=[kind for kind, _ in KEYS])
async def test_keys_of_any_type_and_collation_are_walked_without_a_gap(
    app: App, pipeline: Pipeline, provider: RunningProvider, type_name: str, values: list[str]
) -> None:
    await run(app, f"CREATE TABLE public.things (k {type_name} PRIMARY KEY, body text)")
    for value in values:
        await app.database.fetch(
            "INSERT INTO public.things SELECT %s, 'thing ' || %s", (value, value)
        ) if type_name.startswith("text") else await run(
            app, f"INSERT INTO public.things VALUES ('{value}', 'thing {value}')"
        )
    source = await add_source(app, pipeline, "public.things", "$body")
    await order(app, source, BackfillOrder(batch_size=1))
    await walk(app, source, stride_rows=2)
    assert sorted((await documents(app)).values(), key=str) == sorted(f"thing {each}" for each in values)
    assert (await state_of(app, source)).rows_read == len(values)


async def test_composite_keys_are_walked_in_their_order(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await run(
        app,
        'CREATE TABLE public."Odd %s" ("the %key" text, n int, body text, PRIMARY KEY ("the %key", n))',
        """INSERT INTO public."Odd %s" SELECT k, n, k || '/' || n FROM unnest(ARRAY['a%', 'B"', '[1]']) AS k,"""
        " generate_series(-2, 9) AS n",
    )
    source = await add_source(app, pipeline, 'public."Odd %s"', "$body")
    await order(app, source, BackfillOrder(batch_size=5))
    await walk(app, source, stride_rows=7)
    expected = [f"{k}/{n}" for k in ("a%", 'B"', "[1]") for n in range(-2, 10)]
    assert sorted((await documents(app)).values(), key=str) == sorted(expected)


async def test_shards_are_walked_as_well(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    feed = await add_feed(app, pipeline, "articles")
    await push_shards(app, feed, {f"s{n}": f"shard {n}" for n in range(9)})
    await run(app, "DELETE FROM embedmill.record_changes")
    from embedmill.sources.backfill_orders import find_source

    source = await find_source(app.database, pipeline.tenant_id, "articles")
    await order(app, source, BackfillOrder(batch_size=4))
    await walk(app, source)
    assert await documents(app) == {f"s{n}": f"shard {n}" for n in range(9)}


async def test_rows_that_stand_are_stepped_over_and_cost_neither_batches_nor_time(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 60)
    await order(app, source)
    await walk(app, source)
    await work_until_quiet(app)
    await run(app, "INSERT INTO public.notes SELECT n, 'late ' || n FROM generate_series(61, 63) AS n")
    await run(app, "DELETE FROM embedmill.record_changes")  # as if the triggers had been off
    assert not await order(app, source, BackfillOrder(batches=1, delay_seconds=3600))
    cutter = WholeCutter()
    await walk(app, source, cutter, stride_rows=10)
    assert cutter.texts == ["late 61", "late 62", "late 63"]
    state = await state_of(app, source)
    assert (state.rows_walked, state.rows_read) == (63, 3)


async def test_documents_whose_vectors_went_missing_are_seen_to_and_paid_for_alone(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 30)
    await order(app, source)
    await walk(app, source)
    await work_until_quiet(app)
    generation = pipeline.generation.id
    await run(
        app,
        f"DELETE FROM embedmill.vectors_{generation} WHERE chunk_id % 10 = 0",
        "UPDATE embedmill.coverage_counters SET embedded = embedded - 3 WHERE embedded > 0",
    )
    provider.forget_counts()
    await order(app, source)
    await work_until_quiet(app)
    assert provider.stats()["inputs_paid"] == 3
    assert await missing_chunks(app, pipeline) == 0
    assert (await state_of(app, source)).rows_read == 3


async def test_rows_that_do_not_satisfy_the_condition_are_not_even_loaded(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 50, condition="id % 25 = 0")
    await order(app, source, BackfillOrder(rows=2))
    await walk(app, source)
    state = await state_of(app, source)
    assert set(await documents(app)) == {"25", "50"}
    assert state.rows_read == 2


async def test_reading_anew_finds_what_changed_behind_the_triggers(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 20, condition="seen = 0")
    await order(app, source)
    await walk(app, source)
    await work_until_quiet(app)
    await run(
        app,
        "UPDATE public.notes SET body = 'other' WHERE id = 7",
        "UPDATE public.notes SET seen = 1 WHERE id = 9",
        "DELETE FROM embedmill.record_changes",
    )
    provider.forget_counts()
    await order(app, source, rereads=True)
    await work_until_quiet(app)
    found = await documents(app)
    assert found["7"] == "other"
    assert "9" not in found
    assert provider.stats()["inputs_paid"] == 1
