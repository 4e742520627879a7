"""The fleet with real workers and a provider: up under a backlog and down after it, not up where that cannot help,
back to strength after a death, to nothing in order."""

from __future__ import annotations

import os
import signal

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.fleet.events import DatabaseAway, DatabaseBack, WorkerDied
from tests.fleet.scenes import (
    Fleet,
    add_backlog,
    alive,
    configure,
    is_empty,
    live_workers,
    processing,
    running,
    shut,
    until,
    worker_statuses,
)
from tests.support import audit
from tests.support.postgres import TestServer
from tests.support.provider import RunningProvider
from tests.support.queue_rows import grow_older
from tests.support.work import missing_chunks, stand_in_pipeline


async def test_it_grows_under_a_backlog_shares_the_work_and_shrinks_when_it_is_done(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await configure(app, scale_up_after_seconds=1, scale_down_after_seconds=2)
    await add_backlog(app, pipeline, 60)
    provider.configure(latency_ms=250)
    async with running(Fleet(app, None)) as fleet:
        await until(lambda: is_empty(app))
        await until(lambda: fleet.sizes[-1] == 1)
        await until(lambda: len(fleet.pids) == 1)
    assert max(fleet.sizes) == 3
    assert fleet.sizes[0] == 1
    assert fleet.reasons[0] == "the minimum"
    assert fleet.reasons[1].startswith("oldest waits ")
    assert fleet.reasons[-1] == "idle for 2 s"
    assert await missing_chunks(app, pipeline) == 0
    calls = await app.database.fetch("SELECT count(*) FROM embedmill.llm_usage_log GROUP BY worker_id")
    assert len(calls) == 3
    assert not [event for event in fleet.events if isinstance(event, WorkerDied)]
    await audit.assert_books_balance(app)


async def test_it_does_not_grow_while_the_quota_binds(app: App, provider: RunningProvider) -> None:
    bound = await stand_in_pipeline(
        app, provider.base_url, "bound", dimensions=8, max_inputs_per_call=2, calls_per_minute=1
    )
    await app.database.fetch("SELECT embedmill.grant_quota(%s, 1)", (bound.quota_key,))
    await configure(app, scale_up_after_seconds=1)
    await add_backlog(app, bound, 40)  # more than a worker takes beforehand
    await grow_older(app.database, 3600)
    fleet = Fleet(app, None)
    async with running(fleet):
        await until(lambda: live_workers_are(app, 1))
        polls = await count_polls(app, fleet, 40)  # four times as long as it takes to grow
    assert polls == 40
    assert fleet.sizes == [1]
    # Once the worker has tried them all, each waits for the quota by itself, and none is ready.
    assert fleet.supervisor.decision.reason in {"quota binds", "nothing waits"}


async def test_a_killed_worker_is_replaced_and_others_do_its_work(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_backlog(app, pipeline, 40)
    provider.configure(latency_ms=200)
    async with running(Fleet(app, 2)) as fleet:
        await until(lambda: provider.stats()["in_flight"] == 2)
        before = fleet.pids
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: len(fleet.pids) == 2 and before[0] not in fleet.pids)
        await until(lambda: is_empty(app))
    died = [event for event in fleet.events if isinstance(event, WorkerDied)]
    assert [(event.pid, event.how) for event in died] == [(before[0], "signal 9, SIGKILL")]
    assert await missing_chunks(app, pipeline) == 0
    assert {row[0] for row in await audit.ended_items(app)} == {"completed"}
    assert provider.stats()["inputs_paid"] <= 80 + 2
    await audit.assert_books_balance(app)


async def test_a_stop_ends_every_worker_in_order_and_leaves_nothing_in_processing(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_backlog(app, pipeline, 60)
    provider.configure(latency_ms=300)
    async with running(Fleet(app, 3)) as fleet:
        await until(lambda: provider.stats()["in_flight"] == 3)
        pids = fleet.pids
        assert len({os.getsid(pid) for pid in (*pids, os.getpid())}) == 4  # a terminal's Ctrl-C reaches none
    assert alive(pids) == []
    assert await worker_statuses(app) == ["stopped"] * 3
    assert await processing(app) == 0
    assert await missing_chunks(app, pipeline) > 0
    assert {row[1:] for row in await audit.live_items(app)} == {("pending", 0, 0)}
    assert fleet.supervisor.killed == 0


async def test_new_bounds_are_taken_up_while_it_runs(app: App, pipeline: Pipeline) -> None:
    async with running(Fleet(app, None)) as fleet:
        await until(lambda: live_workers_are(app, 1))
        await configure(app, min_concurrent_workers=3)
        await until(lambda: live_workers_are(app, 3))
        await configure(app, min_concurrent_workers=1, max_concurrent_workers=2)
        await until(lambda: live_workers_are(app, 2))
    assert list(zip(fleet.sizes, fleet.reasons, strict=True)) == [
        (1, "the minimum"),
        (3, "min_concurrent_workers is 3"),
        (2, "max_concurrent_workers is 2"),
    ]
    assert await worker_statuses(app) == ["stopped"] * 3


@pytest.mark.parametrize("processes", [None, 2])
async def test_it_outlives_the_database_and_so_do_its_workers(
    app: App,
    pipeline: Pipeline,
    provider: RunningProvider,
    test_server: TestServer,
    database: str,
    processes: int | None,
) -> None:
    await configure(app, max_concurrent_workers=2, min_concurrent_workers=2)
    await add_backlog(app, pipeline, 40)
    provider.configure(latency_ms=200)
    async with running(Fleet(app, processes)) as fleet:
        await until(lambda: provider.stats()["in_flight"] == 2)
        pids = fleet.pids
        with shut(test_server, database):
            # The calls under way come back, their results cannot be written, and nobody calls again.
            await until(lambda: provider.stats()["in_flight"] == 0)
            if processes is None:
                await until(lambda: DatabaseAway in map(type, fleet.events))
            assert alive(pids) == pids
        await until(lambda: is_empty(app))
        assert fleet.pids == pids
    if processes is None:
        kinds = [type(event) for event in fleet.events]
        assert kinds.count(DatabaseAway) == kinds.count(DatabaseBack) == 1
    assert await missing_chunks(app, pipeline) == 0
    assert {row[0] for row in await audit.ended_items(app)} == {"completed"}


async def live_workers_are(app: App, number: int) -> bool:
    return await live_workers(app) == number


async def count_polls(app: App, fleet: Fleet, polls: int) -> int:
    """Wait for so many decisions of the fleet."""
    seen = 0
    last = fleet.supervisor.decision

    def has_decided() -> bool:
        nonlocal seen, last
        if fleet.supervisor.decision is not last:
            last = fleet.supervisor.decision
            seen += 1
        return seen >= polls

    await until(has_decided)
    return seen
