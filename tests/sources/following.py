"""A table of a user's that is followed, for tests: what its triggers wrote down, against what really changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from embedmill.database.pipelines import find_pipeline, tenant_id
from embedmill.database.pool import Database
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import TableSource, add_table

ACTOR = "tester"
Changes = Counter[tuple[str, str]]
"""How often each key was written down, with its operation."""


async def follow(
    url: str, name: str, template: str = "$body", *, pipeline: str = "default", **plan: Any
) -> TableSource:
    """Add a table to a pipeline of the default tenant, without a backfill."""
    async with Database(url) as database:
        found = await find_pipeline(database, await tenant_id(database, "default"), pipeline)
        added = await add_table(
            database, found, name, TablePlan(template, **plan), backfills=False, actor=ACTOR,
            patience_seconds=5,
        )  # fmt: skip
    return added.source


class FollowedTable:
    """A connection of its user's. `state` is a query for (key as text, everything that is heeded) of the rows that
    satisfy the condition."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], state: str) -> None:
        self.connection = connection
        self._state = state.encode()

    def rows(self) -> dict[str, tuple[Any, ...]]:
        return {row[0]: row[1:] for row in self.connection.execute(self._state)}

    def difference(self, statement: str | sql.Composed, parameters: Any = None) -> Changes:
        """Run a statement; what it changed, by comparing the table before and after."""
        before = self.rows()
        text = statement.encode() if isinstance(statement, str) else statement
        self.connection.execute(text, parameters)
        after = self.rows()
        changes: Changes = Counter()
        for key in before.keys() | after.keys():
            if key not in after:
                changes["D", key] += 1
            elif key not in before:
                changes["I", key] += 1
            elif before[key] != after[key]:
                changes["U", key] += 1
        return changes


def noted(connection: psycopg.Connection[tuple[Any, ...]]) -> Changes:
    """What the triggers wrote down, and take it away; no note holds more than 500 keys."""
    notes = connection.execute(
        "WITH taken AS (DELETE FROM embedmill.record_changes RETURNING operation, keys)"
        " SELECT operation::text, keys FROM taken"
    ).fetchall()
    assert all(len(keys) <= 500 for _, keys in notes)
    changes: Changes = Counter()
    for operation, keys in notes:
        changes.update((operation, key) for key in keys or [""])
    return changes


@contextmanager
def connected(url: str, **settings: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        yield connection
