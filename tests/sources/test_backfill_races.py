"""Writers between the moment in which the walk looks at a row and the one in which it saves it: the last text wins,
what is gone stays gone, nothing is left out. The cutter stands between the two, and is held up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.backfill_orders import BackfillOrder, BackfillSource, stop_backfill
from tests.support.provider import RunningProvider
from tests.support.walks import (
    WholeCutter,
    add_notes,
    documents,
    order,
    read_all,
    run,
    state_of,
    walk_of,
)


async def step_with(
    app: App, source: BackfillSource, meanwhile: Callable[[], Awaitable[None]]
) -> WholeCutter:
    """One batch of the walk; what happens `meanwhile` does so after the rows were looked at, and before they are saved,
    the first time."""
    first = asyncio.Event()

    async def before() -> None:
        if not first.is_set():
            first.set()
            await meanwhile()

    cutter = WholeCutter(before)
    await (await walk_of(app, source, cutter)).step()
    return cutter


async def quiet(app: App, source: BackfillSource) -> dict[str, str | None]:
    """What stands when everything was read."""
    await read_all(app, source, WholeCutter())
    return await documents(app)


async def test_a_row_changed_meanwhile_ends_with_its_last_text(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 3)
    await order(app, source)
    await step_with(app, source, lambda: run(app, "UPDATE public.notes SET body = 'newer' WHERE id = 2"))
    assert "2" not in await documents(app), "an outdated text is not saved"
    assert await quiet(app, source) == {"1": "note 1", "2": "newer", "3": "note 3"}


async def test_a_row_of_which_only_another_column_changed_is_not_left_out(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """No trigger tells of that, and the walk has gone past it."""
    source = await add_notes(app, pipeline, 3)
    await order(app, source)
    await step_with(app, source, lambda: run(app, "UPDATE public.notes SET seen = seen + 1"))
    assert await quiet(app, source) == {"1": "note 1", "2": "note 2", "3": "note 3"}
    assert (await state_of(app, source)).end_reason == "done"


async def test_a_row_deleted_meanwhile_and_read_as_such_does_not_come_back(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 3)
    await order(app, source)

    async def delete_and_forget() -> None:
        # As if another reader had already taken the change.
        await run(app, "DELETE FROM public.notes WHERE id = 2", "DELETE FROM embedmill.record_changes")

    await step_with(app, source, delete_and_forget)
    assert set(await quiet(app, source)) == {"1", "3"}


async def test_a_row_that_ceases_to_be_wanted_meanwhile_does_not_come_back(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 3, condition="seen = 0")
    await order(app, source)

    async def unwant_and_forget() -> None:
        await run(
            app, "UPDATE public.notes SET seen = 1 WHERE id = 2", "DELETE FROM embedmill.record_changes"
        )

    await step_with(app, source, unwant_and_forget)
    assert set(await quiet(app, source)) == {"1", "3"}


async def test_a_table_truncated_and_filled_anew_meanwhile(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 3)
    await order(app, source)
    await step_with(
        app,
        source,
        lambda: run(app, "TRUNCATE public.notes", "INSERT INTO public.notes VALUES (2, 'another')"),
    )
    assert await quiet(app, source) == {"2": "another"}


async def test_rows_inserted_behind_the_walk_are_told_by_triggers(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 10)
    await order(app, source, BackfillOrder(batch_size=5))
    await step_with(app, source, lambda: run(app, "INSERT INTO public.notes VALUES (-1, 'behind')"))
    assert (await quiet(app, source))["-1"] == "behind"


async def test_a_transaction_that_commits_after_the_walk_went_past_is_not_missed(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 3)
    await order(app, source)
    async with app.database.transaction() as writer:
        await writer.execute("UPDATE public.notes SET body = 'late' WHERE id = 1")
        await writer.execute("INSERT INTO public.notes VALUES (0, 'unseen')")
        await (await walk_of(app, source, WholeCutter())).step()
        assert (await documents(app))["1"] == "note 1"
    assert await quiet(app, source) == {"0": "unseen", "1": "late", "2": "note 2", "3": "note 3"}


async def test_a_walk_stopped_or_begun_anew_meanwhile_moves_no_cursor(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 4)
    tenant = await app.tenant_id()
    await order(app, source, BackfillOrder(batch_size=2))

    async def stop() -> None:
        await stop_backfill(app.database, tenant, source, actor="test")

    await step_with(app, source, stop)
    assert await documents(app) == {}
    assert (await state_of(app, source)).rows_walked == 0

    async def begin_anew() -> None:
        await order(app, source, BackfillOrder(batch_size=3), from_start=True)

    await order(app, source)
    await step_with(app, source, begin_anew)
    assert (await state_of(app, source)).rows_walked == 0
    assert len(await quiet(app, source)) == 4


async def test_a_reader_whose_lease_is_over_saves_nothing(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 3)
    await order(app, source)
    await step_with(
        app,
        source,
        lambda: run(
            app, "UPDATE embedmill.record_sources SET reader_token = nextval('embedmill.lease_tokens')"
        ),
    )
    assert await documents(app) == {}
    assert len(await quiet(app, source)) == 3


async def test_what_was_changed_is_read_before_the_walk_goes_on(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 20)
    await order(app, source, BackfillOrder(batch_size=5))
    await run(app, "UPDATE public.notes SET body = 'urgent' WHERE id = 19")
    cutter = WholeCutter()
    await read_all(app, source, cutter)
    assert cutter.texts[0] == "urgent"
    assert sorted(cutter.texts) == sorted(["urgent", *(f"note {n}" for n in range(1, 21) if n != 19)]), (
        "and once each"
    )
    assert await app.database.fetch(
        "SELECT priority::text FROM embedmill.embedding_queue WHERE source_id = '19'"
    ) == [("medium",)]
