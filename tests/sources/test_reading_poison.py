"""Rows that cannot be embedded are told with their reason, and cost their neighbours nothing; retried, they are read
as they are then."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.dead_letters import Letters, list_letters, retry_letters
from embedmill.sources import table_rows
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from tests.support.audit import assert_books_balance
from tests.support.commands import CommandLine
from tests.support.provider.handle import RunningProvider
from tests.support.records import work_until_quiet

NOTES = "CREATE TABLE public.notes (id bigint PRIMARY KEY, body text, divisor integer NOT NULL DEFAULT 1)"


async def add_notes(app: App, pipeline: Pipeline, condition: str | None = None) -> None:
    await app.database.fetch(NOTES)
    await add_table(app.database, pipeline, "notes", TablePlan("$body", condition=condition), actor="tester")


async def write(app: App, bodies: dict[int, str | None]) -> None:
    await app.database.fetch(
        "INSERT INTO public.notes SELECT * FROM unnest(%s::bigint[], %s::text[]) "
        "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
        (list(bodies), list(bodies.values())),
    )


async def open_letters(app: App, pipeline: Pipeline) -> dict[str | None, str]:
    """The reason of each open dead letter, by what it is about."""
    letters = await list_letters(
        app.database, pipeline.tenant_id, Letters(), resolved_too=False, limit=100, after=None
    )
    assert len({letter.document for letter in letters}) == len(letters)
    return {letter.document: letter.reason for letter in letters}


async def retry_all(app: App, pipeline: Pipeline) -> None:
    await retry_letters(app.database, pipeline.tenant_id, Letters(), actor="tester")
    await work_until_quiet(app)


async def coverage(app: App) -> tuple[int, ...]:
    """(rows, documents, chunks, embedded, unembeddable) of the one source."""
    rows = await app.database.fetch(
        "SELECT s.rows, s.documents, k.chunks, k.embedded, k.unembeddable FROM embedmill.record_sources s "
        "  JOIN embedmill.coverage_counters k ON k.record_source_id = s.id"
    )
    assert len(rows) == 1
    return rows[0]


async def test_poison_rows_are_dead_letters_with_their_reasons_and_their_neighbours_are_done(
    app: App, pipeline: Pipeline, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_rows, "MAX_ROW_BYTES", 20_000)
    provider.configure(poison="arsenic", poison_names_input=True)
    await add_notes(app, pipeline)
    await write(app, {n: f"Note {n}" for n in range(20)})
    await write(app, {3: None, 5: " \n\t ", 7: "With arsenic.", 9: "x " * 20_000, 11: ""})
    await work_until_quiet(app)
    assert await open_letters(app, pipeline) == {
        "public.notes 3": "empty",
        "public.notes 5": "empty",
        "public.notes 7": "input_rejected",
        "public.notes 9": "too_large",
        "public.notes 11": "empty",
    }
    assert await coverage(app) == (20, 20, 16, 15, 1)
    await assert_books_balance(app)

    # Some are mended, and retried with those that are not.
    await write(app, {9: "Shorter now."})
    provider.configure(poison=None)
    await work_until_quiet(app)
    assert (await open_letters(app, pipeline)).keys() == {f"public.notes {n}" for n in (3, 5, 7, 11)}
    await retry_all(app, pipeline)
    assert (await open_letters(app, pipeline)).keys() == {f"public.notes {n}" for n in (3, 5, 11)}
    assert await coverage(app) == (20, 20, 17, 17, 0)
    await write(app, {3: "Three", 5: "Five"})
    await app.database.fetch("DELETE FROM public.notes WHERE id = 11")
    await work_until_quiet(app)
    assert await open_letters(app, pipeline) == {}
    assert await coverage(app) == (19, 19, 19, 19, 0)
    await assert_books_balance(app)


async def test_the_command_says_which_row_it_is_and_retries_it(
    app: App, pipeline: Pipeline, provider: RunningProvider, database: str, tmp_path: Path
) -> None:
    await add_notes(app, pipeline)
    await write(app, {1: "Well", 2: ""})
    await work_until_quiet(app)
    command = CommandLine(tmp_path, database)
    (letter,) = command.json("queue", "dead-letters")
    assert (letter["document"], letter["reason"]) == ("public.notes 2", "empty")
    assert "public.notes 2" in command.run("queue", "dead-letters").stdout
    # The row was mended without a trigger that saw it.
    async with app.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("UPDATE public.notes SET body = 'Well too' WHERE id = 2")
    assert "1" in command.run("queue", "dead-letters", "retry", str(letter["id"]), "--yes").stdout
    await work_until_quiet(app)
    assert command.json("queue", "dead-letters") == []
    assert await coverage(app) == (2, 2, 2, 2, 0)


async def test_a_condition_that_fails_on_a_row_is_told_for_that_row_alone(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_notes(app, pipeline, condition="100 / divisor > 10")
    await write(app, {n: f"Note {n}" for n in range(9)})
    await app.database.fetch("UPDATE public.notes SET divisor = 0 WHERE id = 4")
    await app.database.fetch("UPDATE public.notes SET divisor = 50 WHERE id = 5")
    await work_until_quiet(app)
    assert await open_letters(app, pipeline) == {"public.notes 4": "condition_failed"}
    await retry_all(app, pipeline)
    assert await open_letters(app, pipeline) == {"public.notes 4": "condition_failed"}
    await app.database.fetch("UPDATE public.notes SET divisor = 1 WHERE id = 4")
    await work_until_quiet(app)
    assert await open_letters(app, pipeline) == {}
    assert await coverage(app) == (8, 8, 8, 8, 0)
