"""A database made before migration 0004, with items waiting and being worked on: it migrates, and work goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from embedmill.database.migrator import migrate, shipped_functions, shipped_migrations

ITEMS = """
INSERT INTO embedmill.embedding_queue
    (tenant_id, generation_id, document_id, first_ordinal, last_ordinal, priority, source_type, source_id)
SELECT g.tenant_id, g.id, NULL, 0, 0, (ARRAY['high', 'medium', 'low']::embedmill.queue_priority[])[n %% 3 + 1],
       'test', n::text
  FROM embedmill.generations g, generate_series(1, %(count)s) AS n
RETURNING generation_id
"""
CLAIM = "SELECT id, lease_token FROM embedmill.claim_items(%s, %s, %s, 1000, 1000, 600) ORDER BY id"
FINISH = "SELECT embedmill.finish_items(%s, %s)"


def folder_of_before(tmp_path: Path) -> Path:
    """The SQL of version 3; functions are the current ones, less what needs version 4 to be made."""
    shutil.copytree(str(shipped_migrations()), tmp_path / "migrations")
    shutil.copytree(str(shipped_functions()), tmp_path / "functions")
    for file in (tmp_path / "migrations").glob("*.sql"):
        if int(file.name[:4]) > 3:
            file.unlink()
    (tmp_path / "functions" / "26_lanes.sql").unlink()
    return tmp_path


@pytest.fixture
def before(empty_database: str, tmp_path: Path) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    folder = folder_of_before(tmp_path)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        migrate(connection, folder / "migrations", folder / "functions")
        yield connection


def test_live_items_and_leases_of_before_go_on(before: psycopg.Connection[tuple[Any, ...]]) -> None:
    generation = before.execute(ITEMS, {"count": 9}).fetchall()[0][0]
    held = before.execute(CLAIM, (uuid4(), generation, 4)).fetchall()
    assert len(held) == 4
    live = "SELECT to_jsonb(q) FROM embedmill.embedding_queue q ORDER BY id"
    rows = before.execute(live).fetchall()

    assert "0004_lean_queue.sql" in migrate(before).applied
    assert before.execute(live).fetchall() == rows, "no item is touched"

    done = before.execute(FINISH, ([row[0] for row in held], [row[1] for row in held])).fetchall()
    assert sorted(done[0][0]) == [row[0] for row in held], "a lease of before is good"
    taken = []
    while one := before.execute(CLAIM, (uuid4(), generation, 1)).fetchall():
        taken += one
    assert not {row[0] for row in taken} & {row[0] for row in held}
    assert len(taken) == 5
    for item, token in taken:
        assert before.execute(FINISH, ([item], [token])).fetchall() == [([item],)]
    ended = before.execute("SELECT count(*), count(DISTINCT id) FROM embedmill.embedding_queue_history")
    assert ended.fetchall() == [(9, 9)]


def test_a_pipeline_paused_before_stays_paused(before: psycopg.Connection[tuple[Any, ...]]) -> None:
    generation = before.execute(ITEMS, {"count": 3}).fetchall()[0][0]
    before.execute("UPDATE embedmill.pipelines SET paused_at = now()")
    migrate(before)
    assert before.execute(CLAIM, (uuid4(), generation, 1)).fetchall() == []
    before.execute("UPDATE embedmill.pipelines SET paused_at = NULL")
    assert len(before.execute(CLAIM, (uuid4(), generation, 1)).fetchall()) == 1


@pytest.mark.parametrize(
    "change",
    [
        "status = 'processing'",
        "status = 'completed'",
        "lease_token = 1",
        "worker_id = gen_random_uuid()",
        "status = 'processing', lease_token = 1",
        "status = 'processing', worker_id = gen_random_uuid()",
        "status = 'rate_limited', lease_token = 1, worker_id = gen_random_uuid()",
    ],
)
def test_the_new_check_refuses_what_the_old_one_refused(
    before: psycopg.Connection[tuple[Any, ...]], change: str
) -> None:
    before.execute(ITEMS, {"count": 1})
    for _ in range(2):
        with pytest.raises(psycopg.errors.CheckViolation, match="embedding_queue_check"):
            before.execute(f"UPDATE embedmill.embedding_queue SET {change}".encode())
        migrate(before)
