"""`embedmill table` as it is typed."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.support.commands import CommandLine


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE jobs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text, description text,"
            ' is_active boolean DEFAULT true, "Odd, name" text, embedding vector(384))'
        )
        connection.execute("INSERT INTO jobs (title) VALUES ('a'), ('b')")
    return CommandLine(tmp_path / "data", database)


def test_the_life_of_a_table(command: CommandLine) -> None:
    assert command.run("table", "list").stdout.startswith("no tables: `embedmill table add")
    added = command.run(
        "table", "add", "public.jobs", "--content", r"$title\n\n${Odd, name} costs $$5", "--where", "is_active",
        "--metadata", 'description,"Odd, name"', "--priority", "low",
    ).stdout  # fmt: skip
    assert "public.jobs: triggers attached to the table; 2 rows are to be embedded" in added
    assert "`embedmill worker` embeds them" in added
    shown = command.json("table", "show", "jobs")
    assert shown["template"] == "$title\n\n${Odd, name} costs $$5"
    assert shown["metadata_columns"] == ["description", "Odd, name"]
    assert (shown["rows"], shown["documents"], shown["coverage"]["percent"]) == (2, 0, 0.0)
    listed = command.json("table", "list")
    assert listed == [shown]
    assert "public.jobs  default      2          0        0%  followed" in command.run("table", "list").stdout
    assert command.json("table", "pause", "jobs")["paused_at"] is not None
    assert "state            paused" in command.run("table", "show", "public.jobs").stdout
    assert command.json("table", "resume", "jobs")["paused_at"] is None
    altered = command.json(
        "table", "alter", "jobs", "--where", "", "--metadata", "", "--content", "$description"
    )
    assert (altered["condition"], altered["metadata_columns"], altered["columns"]) == (
        None,
        [],
        ["description"],
    )
    assert "content          $description" in command.run("table", "alter", "jobs", "--reread").stdout
    assert "0 documents stay searchable" in command.run("table", "remove", "jobs").stdout
    assert command.json("table", "list") == []


def test_vectors_into_a_column_and_no_backfill(command: CommandLine) -> None:
    added = command.run(
        "table", "add", "jobs", "--content", "$title", "--into", "column", "embedding", "--no-backfill"
    )
    assert "by `embedmill backfill public.jobs`" in added.stdout
    assert "note:" not in added.stderr
    shown = command.json("table", "show", "jobs")
    statement = "CREATE INDEX CONCURRENTLY ON public.jobs USING hnsw (embedding vector_cosine_ops)"
    assert shown["column"] == {
        "column": "embedding", "rows_with_vector": 0, "rows_are_more": False, "index_statement": statement,
    }  # fmt: skip
    told = command.run("table", "show", "jobs").stdout
    assert f"index            none; searches are quicker with: {statement}" in told
    assert "with a vector    0 rows" in told
    assert (shown["target_column"], shown["backfill"]) == ("embedding", "not begun")
    assert command.json("table", "remove", "jobs", "--with-vectors") == {
        "documents_kept": 0, "documents_deleted": 0,
    }  # fmt: skip


def test_vectors_that_stand_in_the_column_already_are_told_of(command: CommandLine, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE jobs SET embedding = %s WHERE title = 'a'", (str([1.0] * 384),))
    add = ("table", "add", "jobs", "--content", "$title", "--into", "column", "embedding")
    added = command.run(*add)
    assert "rows with a vector in the column embedding already: 1; they are embedded anew" in added.stderr
    assert "--adopt would believe them" in added.stderr
    removed = command.run("table", "remove", "jobs").stdout
    assert "the column embedding of public.jobs was left as it is" in removed
    assert "already: 1; they are believed (--adopt)" in command.run(*add, "--adopt").stderr
    wrong = command.run("table", "alter", "jobs", "--into", "column", "nowhere", status=1).stderr
    assert "nowhere" in wrong
    assert "--where" not in wrong


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["add", "jobs"], 2, "Missing option '--content'"),
        (["add", "jobs", "--content", "\\n\\n"], 1, "names no field"),
        (["add", "nothing", "--content", "$title"], 1, "there is no table nothing"),
        (["add", "jobs", "--content", "$title", "--into", "column"], 2, "--into column embedding"),
        (["add", "jobs", "--content", "$title", "embedding"], 2, "--into column embedding"),
        (["add", "jobs", "--content", "$title", "--adopt"], 2, "--adopt is for --into column"),
        (["add", "jobs", "--content", "$title", "--metadata", '"x'], 2, "no list of columns"),
        (["add", "jobs", "--content", "$title", "-p", "other"], 1, "there is no pipeline 'other'"),
        (["show", "jobs"], 1, "was not added; none was added yet"),
        (["alter", "jobs"], 2, "say what to change"),
        (["alter", "jobs", "--reread"], 1, "was not added"),
        (["remove", "jobs", "-p", "default"], 1, "was not added in the pipeline default"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    command: CommandLine, arguments: list[str], status: int, said: str
) -> None:
    done = command.run("table", *arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
