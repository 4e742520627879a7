"""The walk looks at its next batch while it saves one: that is neither lost nor saved outdated, whatever happens
between the look and its turn."""

from __future__ import annotations

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConfigurationError
from embedmill.sources.backfill import Backfill
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
    walk,
    walk_of,
)

ALL = {str(n): f"note {n}" for n in range(1, 7)}


async def one_step(app: App, source: BackfillSource, cutter: WholeCutter) -> Backfill:
    """A walk over six rows that has saved two and looked at the next two."""
    await order(app, source, BackfillOrder(batch_size=2))
    backfill = await walk_of(app, source, cutter)
    await backfill.step()
    assert cutter.texts == ["note 1", "note 2", "note 3", "note 4"]
    assert set(await documents(app)) == {"1", "2"}
    return backfill


async def test_what_was_looked_at_ahead_is_saved_in_its_turn_and_not_looked_at_again(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    cutter = WholeCutter()
    backfill = await one_step(app, source, cutter)
    while await backfill.step() is not None:
        pass
    assert cutter.texts == list(ALL.values())
    assert await documents(app) == ALL
    state = await state_of(app, source)
    assert (state.rows_walked, state.end_reason) == (6, "done")


async def test_a_row_that_changes_after_that_ends_with_its_last_text(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    backfill = await one_step(app, source, WholeCutter())
    await run(
        app,
        "UPDATE public.notes SET body = 'newer' WHERE id = 3",
        "DELETE FROM public.notes WHERE id = 4",
        "DELETE FROM embedmill.record_changes",  # as if another reader had taken them before
    )
    await backfill.step()
    assert set(await documents(app)) == {"1", "2"}, "neither is saved as it was"
    await read_all(app, source, WholeCutter())
    assert await documents(app) == {key: text for key, text in ALL.items() if key != "4"} | {"3": "newer"}


async def test_a_document_that_comes_after_that_is_looked_at_again(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    cutter = WholeCutter()
    backfill = await one_step(app, source, cutter)
    await run(app, "UPDATE public.notes SET body = 'newer' WHERE id = 3")
    await backfill._reading.read_changes()
    await backfill.step()
    assert await documents(app) == {"1": "note 1", "2": "note 2", "3": "newer", "4": "note 4"}
    assert (await state_of(app, source)).rows_walked == 4


async def test_a_reader_that_dies_after_that_has_taken_nothing_along(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    await one_step(app, source, WholeCutter())  # and is never heard of again
    assert (await state_of(app, source)).rows_walked == 2
    successor = WholeCutter()
    await walk(app, source, successor)
    assert successor.texts == [f"note {n}" for n in range(3, 7)]
    assert await documents(app) == ALL


async def test_a_reader_whose_lease_is_over_after_that_saves_nothing_of_it(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    backfill = await one_step(app, source, WholeCutter())
    successor = await walk_of(app, source, WholeCutter())
    assert await backfill.step() is None
    assert set(await documents(app)) == {"1", "2"}
    while await successor.step() is not None:
        pass
    assert await documents(app) == ALL


async def test_a_walk_that_is_stopped_or_begun_anew_after_that_goes_by_its_new_orders(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    backfill = await one_step(app, source, WholeCutter())
    await stop_backfill(app.database, await app.tenant_id(), source, actor="test")
    assert await backfill.step() is None
    assert set(await documents(app)) == {"1", "2"}

    await order(app, source, BackfillOrder(batch_size=2))
    backfill = await walk_of(app, source, WholeCutter())
    await backfill.step()
    await order(app, source, BackfillOrder(batch_size=2), from_start=True)
    await backfill.step()
    assert (await state_of(app, source)).rows_walked == 2, "from the first row on"
    assert set(await documents(app)) == {"1", "2", "3", "4"}


async def test_fewer_rows_than_were_looked_at_are_saved_where_fewer_are_allowed(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    backfill = await one_step(app, source, WholeCutter())
    await backfill.step(max_rows=1)
    assert set(await documents(app)) == {"1", "2", "3"}


async def test_a_walk_that_waits_between_batches_looks_at_nothing_ahead(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    await order(app, source, BackfillOrder(batch_size=2, delay_seconds=60))
    cutter = WholeCutter()
    await (await walk_of(app, source, cutter)).step()
    assert cutter.texts == ["note 1", "note 2"]


async def test_nothing_is_looked_at_for_which_the_queue_has_no_room(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    await order(app, source, BackfillOrder(batch_size=2))
    cutter = WholeCutter()
    await (await walk_of(app, source, cutter, window_items=3)).step()
    assert cutter.texts == ["note 1", "note 2"]


async def test_a_look_ahead_that_fails_costs_the_batch_before_it_nothing_and_is_told_in_its_turn(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    await order(app, source, BackfillOrder(batch_size=2))
    requests = 0

    async def fails_from_the_second_on() -> None:
        nonlocal requests
        requests += 1
        if requests > 1:
            raise ConfigurationError("the parser is gone")

    backfill = await walk_of(app, source, WholeCutter(fails_from_the_second_on))
    await backfill.step()
    assert set(await documents(app)) == {"1", "2"}
    with pytest.raises(ConfigurationError):
        await backfill.step()
    assert (await state_of(app, source)).rows_walked == 2
