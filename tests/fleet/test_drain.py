"""A worker is drained: it ends in order, nothing takes its place until somebody asks, and its supervisor is neither
confused nor hurried."""

from __future__ import annotations

import json

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConfigurationError, ConflictError, NotFoundError
from embedmill.fleet.events import WorkerDied, WorkerDrained
from embedmill.fleet.roster import (
    drain_worker,
    list_sweeps,
    list_workers,
    replace_worker,
    set_scale,
)
from embedmill.queue.administration import read_audit_log
from embedmill.queue.config import read_config
from tests.fleet.scenes import (
    Fleet,
    add_backlog,
    alive,
    configure,
    is_empty,
    live_workers,
    processing,
    running,
    until,
)
from tests.support import audit
from tests.support.commands import CommandLine
from tests.support.provider import RunningProvider
from tests.support.queue_rows import claim, enqueue, grow_older, register_worker
from tests.support.work import missing_chunks


async def states(app: App) -> list[str]:
    return sorted(worker.state for worker in await list_workers(app.database))


async def test_a_drained_worker_is_not_replaced_until_somebody_asks_and_others_do_its_work(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_backlog(app, pipeline, 20)
    provider.configure(latency_ms=100)
    async with running(Fleet(app, 2)) as fleet:
        await until(lambda: provider.stats()["in_flight"] == 2)
        drained, stays = await list_workers(app.database)
        asked = await drain_worker(app.database, str(drained.id)[:13], actor="ann")
        assert (asked.id, asked.pid, asked.changed) == (drained.id, drained.pid, True)
        await until(lambda: fleet.pids == [stays.pid])
        assert not (await drain_again(app, drained.id)), "it has ended"
        await until(lambda: is_empty(app))
        assert fleet.events[1:] == [WorkerDrained(drained.pid)]
        assert await states(app) == ["drained", "idle"] or await states(app) == ["drained", "working"]
        assert fleet.pids == [stays.pid]
        await replace_worker(app.database, str(drained.id), actor="ann")
        await until(lambda: len(fleet.pids) == 2 and drained.pid not in fleet.pids)
        await until(lambda: live_workers_are(app, 2))
        await until(lambda: nothing_is_kept_empty(fleet))
    assert alive([drained.pid, stays.pid]) == []
    assert not [event for event in fleet.events if isinstance(event, WorkerDied)]
    assert await missing_chunks(app, pipeline) == 0
    assert {row[0] for row in await audit.ended_items(app)} == {"completed"}
    actions = [record.action for record in await read_audit_log(app.database, 1, limit=5)]
    assert actions == ["worker.replace", "worker.drain"]


async def drain_again(app: App, worker_id: object) -> bool:
    try:
        return (await drain_worker(app.database, str(worker_id), actor="ann")).changed
    except ConflictError:
        return False


def nothing_is_kept_empty(fleet: Fleet) -> bool:
    return not any(seat.is_kept_empty for seat in fleet.supervisor._seats)


async def live_workers_are(app: App, number: int) -> bool:
    return await live_workers(app) == number


async def test_a_backlog_does_not_bring_in_another_by_the_door_of_the_scaler(
    app: App, pipeline: Pipeline
) -> None:
    await configure(app, scale_up_after_seconds=0)
    fleet = Fleet(app, None)
    async with running(fleet):
        await until(lambda: live_workers_are(app, 1))
        (only,) = await list_workers(app.database)
        await drain_worker(app.database, str(only.id), actor="ann")
        await until(lambda: fleet.pids == [])
        await add_backlog(app, pipeline, 10)
        await grow_older(app.database, 3600)
        await until(lambda: "a worker was drained" in fleet.supervisor.decision.reason)
        assert fleet.sizes == [1]
        assert await processing(app) == 0
        await replace_worker(app.database, str(only.id), actor="ann")
        await until(lambda: is_empty(app))


async def test_a_supervisor_stops_beside_a_place_that_is_kept_empty(app: App, pipeline: Pipeline) -> None:
    async with running(Fleet(app, 1)) as fleet:
        await until(lambda: live_workers_are(app, 1))
        (only,) = await list_workers(app.database)
        await drain_worker(app.database, str(only.id), actor="ann")
        await until(lambda: WorkerDrained(only.pid) in fleet.events)


async def test_the_command_line_lists_drains_and_says_why_not(
    app: App, pipeline: Pipeline, database: str, tmp_path: object
) -> None:
    command = CommandLine(tmp_path / "data", database)  # type: ignore[operator]
    assert "no workers within a day" in command.run("fleet", "list").stdout
    worker_id = await register_worker(app.database, host_id="far", pid=77)
    held = await enqueue(app.database, pipeline.generation.id, 3)
    await claim(app.database, pipeline.generation.id, worker_id=worker_id)
    (listed,) = json.loads(command.run("fleet", "list", "--json").stdout)
    assert (listed["id"], listed["state"], listed["items"]) == (
        str(worker_id),
        "working",
        {"default/standin": len(held)},
    )
    said = command.run("fleet", "drain", str(worker_id)[:8]).stdout
    assert said == f"worker {worker_id} (test, pid 77) is stopping in order\n"
    assert "was asked to stop already" in command.run("fleet", "drain", str(worker_id)).stdout
    assert "draining" in command.run("fleet", "list").stdout
    assert "may be replaced" in command.run("fleet", "replace", str(worker_id)).stdout
    assert "no place to be filled" in command.run("fleet", "replace", str(worker_id), status=1).stderr
    assert "there is no worker 'zzz'" in command.run("fleet", "drain", "zzz", status=1).stderr


async def test_whom_one_means_is_said_and_what_has_ended_is_not_drained(app: App) -> None:
    one = await register_worker(app.database)
    await register_worker(app.database)
    for nonsense in ("", "   ", "\x00", "%", "_", "x" * 100_000):
        with pytest.raises(NotFoundError):
            await drain_worker(app.database, nonsense, actor="ann")
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_workers SET status = 'stopped' WHERE worker_id = %s", (one,)
    )
    with pytest.raises(ConflictError, match="has ended already"):
        await drain_worker(app.database, str(one), actor="ann")
    with pytest.raises(ConflictError, match="was not drained"):
        await replace_worker(app.database, str(one), actor="ann")
    assert await read_audit_log(app.database, 1, limit=5) == []


async def test_the_roster_tells_who_is_lost_and_the_last_sweeps(app: App) -> None:
    await register_worker(app.database, beat_seconds_ago=61)
    await register_worker(app.database, beat_seconds_ago=3 * 86_400)
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_workers SET status = 'stopped' WHERE heartbeat_at < now() - interval '1 day'"
    )
    assert await states(app) == ["lost"]
    await app.database.fetch(
        "INSERT INTO embedmill.sweeps (task, tick, term, worker_id, outcome) "
        "SELECT 'fold_counts', n, 1, gen_random_uuid(), n::text FROM generate_series(1, 9) AS n"
    )
    assert [(one.task, one.outcome) for one in await list_sweeps(app.database)] == [("fold_counts", "9")]


async def test_the_scale_is_set_as_a_whole_or_not_at_all(app: App) -> None:
    with pytest.raises(ConfigurationError, match="the least cannot be more"):
        await set_scale(app.database, least=4, most=3, actor="ann")
    await set_scale(app.database, least=2, most=5, actor="ann")
    await set_scale(app.database, least=2, most=6, actor="ann")
    config = await read_config(app.database)
    assert (config.min_concurrent_workers, config.max_concurrent_workers) == (2, 6)
    records = await read_audit_log(app.database, 1, limit=5)
    assert sorted(record.subject for record in records) == [
        "max_concurrent_workers",
        "max_concurrent_workers",
        "min_concurrent_workers",
    ]
