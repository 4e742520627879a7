"""`embedmill backfill`: rows that stand in a table get their vectors, within limits, interrupted and gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.audit import assert_books_balance
from tests.support.commands import CommandLine
from tests.support.provider import RunningProvider
from tests.support.walks import add_notes, documents, run, state_of
from tests.support.work import DIMENSIONS, missing_chunks, stand_in_pipeline


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


@pytest.fixture
async def pipeline(app: App, provider: RunningProvider) -> Pipeline:
    return await stand_in_pipeline(
        app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10, price_per_million_tokens=1
    )


async def told(command: CommandLine, *arguments: str, status: int = 0) -> list[str]:
    """What a command prints, line by line."""
    done = await asyncio.to_thread(command.run, *arguments, status=status)
    return done.stdout.splitlines()


async def test_all_rows_are_embedded_and_the_report_says_so(
    app: App, pipeline: Pipeline, command: CommandLine
) -> None:
    await add_notes(app, pipeline, 40)
    lines = await told(command, "backfill", "notes")
    assert lines[0] == "rows      40 walked past, 40 read, 0 left"
    assert lines[1].startswith("embedded  40 chunks in")
    assert lines[-1] == "coverage  100% of public.notes in pipeline 'standin'"
    assert await missing_chunks(app, pipeline) == 0
    status = await told(command, "status")
    assert any(
        line.startswith("source    public.notes: coverage 100%, 40 rows, 0 not read") for line in status
    )
    again = [json.loads(line) for line in await told(command, "backfill", "public.notes", "--json")]
    assert [line["done"] for line in again[-1:]] == [True]
    assert (again[-1]["rows_walked"], again[-1]["rows_read"], again[-1]["tokens"]) == (40, 0, 0)
    assert again[0]["coverage_percent"] == 100


async def test_limits_end_it_and_it_goes_on_where_it_was(
    app: App, pipeline: Pipeline, command: CommandLine
) -> None:
    source = await add_notes(app, pipeline, 30)
    lines = await told(command, "backfill", "notes", "--iterations", "2", "--batch", "6", "--delay", "0.01")
    assert len(await documents(app)) == 12
    assert lines[-1] == (
        "ended     its batches are done; `embedmill backfill public.notes` goes on where it was"
    )
    await told(command, "backfill", "notes", "--rows", "5")
    assert len(await documents(app)) == 17
    await told(command, "backfill", "notes", "--all")
    assert len(await documents(app)) == 30
    assert (await state_of(app, source)).rows_read == 30, "nothing was read twice"
    await assert_books_balance(app)


async def test_a_budget_ends_it_with_a_status_of_its_own(
    app: App, pipeline: Pipeline, command: CommandLine
) -> None:
    source = await add_notes(app, pipeline, 30)
    await told(command, "backfill", "notes", "--budget-usd", "0.000040", status=3)
    state = await state_of(app, source)
    assert 0 < state.cost_usd <= 0.00004
    assert state.embedded < 30


async def test_rows_that_cannot_be_embedded_are_told_with_their_reason_and_known_ones_do_not_fail_it_again(
    app: App, pipeline: Pipeline, command: CommandLine
) -> None:
    await add_notes(app, pipeline, 5)
    await run(app, "UPDATE public.notes SET body = ' ' WHERE id = 3")
    lines = await told(command, "backfill", "notes", status=1)
    assert any(line.startswith("failed    1 empty: ") for line in lines)
    assert lines[-1].startswith("coverage  100%")
    await told(command, "backfill", "notes")


async def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    app: App, pipeline: Pipeline, command: CommandLine, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 30)
    process = command.start("backfill", "notes", "--rate", "10", "--batch", "5")
    async with asyncio.timeout(60):
        while (await state_of(app, source)).embedded < 5:
            assert process.poll() is None
            await asyncio.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 130, said
    state = await state_of(app, source)
    assert state.is_running
    assert 5 <= state.rows_read < 30
    await told(command, "backfill", "notes", "--all")
    assert (await state_of(app, source)).rows_read == 30
    assert sum(provider.paid().values()) == 30
    await assert_books_balance(app)


async def test_killed_with_kill_9_it_reads_nothing_twice(
    app: App, pipeline: Pipeline, command: CommandLine, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 300)
    process = command.start("backfill", "notes", "--batch", "7", "--rate", "200")
    async with asyncio.timeout(60):
        while (await state_of(app, source)).rows_read < 30:
            assert process.poll() is None
            await asyncio.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.communicate)
    read = (await state_of(app, source)).rows_read
    assert len(await documents(app)) == read, "the walk has come as far as its documents"
    await told(command, "backfill", "notes", "--all")
    assert (await state_of(app, source)).rows_read == 300
    assert len(await documents(app)) == 300
    assert await missing_chunks(app, pipeline) == 0
    await assert_books_balance(app)


async def test_it_is_ordered_stopped_scheduled_and_left_to_others(
    app: App, pipeline: Pipeline, command: CommandLine
) -> None:
    source = await add_notes(app, pipeline, 3)
    assert "has begun, 3 rows to read" in (await told(command, "backfill", "notes", "--detach"))[0]
    assert await documents(app) == {}
    assert "the walk has ended" in (await told(command, "backfill", "notes", "--stop"))[0]
    assert (await state_of(app, source)).end_reason == "stopped"
    assert (await told(command, "backfill", "notes", "--stop"))[0] == "public.notes: no walk runs"
    scheduled = await told(command, "backfill", "notes", "--schedule", "0 3 * * *", "--rate", "50")
    assert "next at" in scheduled[0]
    state = await state_of(app, source)
    assert (state.schedule, state.rows_per_second) == ("0 3 * * *", 50)
    assert "no longer" in (await told(command, "backfill", "notes", "--unschedule"))[0]
    log = (await told(command, "config", "log"))[0:6]
    assert any("backfill.schedule" in line for line in log)


async def test_a_paused_source_or_pipeline_is_told_and_not_waited_for(
    app: App, pipeline: Pipeline, command: CommandLine
) -> None:
    await add_notes(app, pipeline, 3)
    await run(app, "UPDATE embedmill.record_sources SET paused_at = now()")
    lines = await told(command, "backfill", "notes", status=1)
    assert lines[-1] == "stopped   public.notes is paused: `embedmill table resume public.notes` goes on"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["backfill", "nothing"], 1, "there is no table or shard type 'nothing'"),
        (["backfill", "nothing", "--rate", "0"], 2, "--rate"),
        (["backfill", "nothing", "--stop", "--schedule", "@daily"], 2, "one at a time"),
        (["backfill", "nothing", "--schedule", "@daily", "--rows", "3"], 2, "--rows is of one walk"),
        (["backfill", "nothing", "--stop", "--all"], 2, "--all has nothing to do with --stop"),
        (["backfill", "nothing", "--all", "--rows", "3"], 2, "--all is without"),
        (["backfill", "nothing", "--for", "soon"], 2, "a time such as"),
        (["backfill", "nothing", "--batch", "0"], 2, "--batch"),
    ],
)
def test_wrong_usage_is_told(command: CommandLine, arguments: list[str], status: int, said: str) -> None:
    assert said in command.run(*arguments, status=status).stderr


async def test_a_schedule_that_is_none_is_refused(
    app: App, pipeline: Pipeline, command: CommandLine, database: str
) -> None:
    await add_notes(app, pipeline, 1)
    done = await asyncio.to_thread(command.run, "backfill", "notes", "--schedule", "61 * * * *", status=1)
    assert "'61' is no minute" in done.stderr
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT schedule FROM embedmill.backfills").fetchall() in ([], [(None,)])
