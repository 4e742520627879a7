"""Watches a database from within: installs the triggers of observer.sql and says what they saw that must not be.
Owns the reading of those logs; must not look at the tables that the product keeps its own books in."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import sql

from embedmill.core.jobs import ITEM_TRANSITIONS, ItemStatus
from embedmill.database.pool import Database
from embedmill.database.queries import vectors_table

_SQL = Path(__file__).with_name("observer.sql").read_text()
_WATCH_VECTORS = sql.SQL(
    "CREATE TRIGGER crash_vectors AFTER INSERT ON {vectors} REFERENCING NEW TABLE AS written "
    "FOR EACH STATEMENT EXECUTE FUNCTION crash.vectors_written({generation_id})"
)
_UNHELD_WRITES = """
SELECT session, chunk_id, item_id, shown_token, current_token, is_locked, is_same_text
  FROM crash.writes
 WHERE NOT coalesce(shown_token = current_token AND is_locked AND is_same_text, false)
"""
_TRANSITIONS = """
SELECT t.xid::text, t.item_id, t.session, t.old_status, coalesce(t.new_status, e.status), t.old_token, t.new_token,
       t.old_worker, t.new_worker, t.shown_token, t.context
  FROM crash.transitions t
  LEFT JOIN crash.ends e ON e.item_id = t.item_id AND e.xid = t.xid AND t.new_status IS NULL
 ORDER BY t.seq
"""


class Change:
    """One change of an item's row. `session` is None for whoever is no worker: the test itself."""

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.xid: str = row[0]
        self.item_id: int = row[1]
        self.session: str | None = row[2]
        self.old_status: str | None = row[3]
        self.new_status: str | None = row[4]
        self.old_token: int | None = row[5]
        self.new_token: int | None = row[6]
        self.old_worker: UUID | None = row[7]
        self.new_worker: UUID | None = row[8]
        self.shown_token: int | None = row[9]
        self.context: str = row[10]

    @property
    def is_rescue(self) -> bool:
        return "rescue" in self.context

    def __repr__(self) -> str:
        return f"Change({vars(self)})"


class Observer:
    """The triggers of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def install(self) -> None:
        await self._database.fetch(_SQL.encode())

    async def watch_generation(self, generation_id: int) -> None:
        await self._database.fetch(
            _WATCH_VECTORS.format(
                vectors=vectors_table(generation_id), generation_id=sql.Literal(str(generation_id))
            )
        )

    async def enqueued(self) -> set[int]:
        """Every item that ever was."""
        rows = await self._database.fetch(
            "SELECT DISTINCT item_id FROM crash.transitions WHERE old_status IS NULL"
        )
        return {row[0] for row in rows}

    async def unheld_writes(self) -> list[tuple[Any, ...]]:
        """Vectors whose writer did not hold the current lease of their item, with the row locked, to the end of
        its transaction; or beside another text."""
        return await self._database.fetch(_UNHELD_WRITES)

    async def writes(self) -> int:
        row = await self._database.fetch_one("SELECT count(*) FROM crash.writes")
        return int(row[0]) if row else 0

    async def writes_by_session(self) -> dict[tuple[str, bytes], int]:
        """How many vectors each session wrote of each input (by its hash)."""
        rows = await self._database.fetch(
            "SELECT session, input_hash, count(*) FROM crash.writes GROUP BY session, input_hash"
        )
        return {(row[0], bytes(row[1])): row[2] for row in rows}

    async def changes(self) -> list[Change]:
        return [Change(row) for row in await self._database.fetch(_TRANSITIONS)]

    async def wrong_changes(self, workers: Mapping[str, UUID]) -> list[tuple[str, Change]]:
        """Changes that must not be: against the table of states; a worker's word about an item that another
        holds; an end without the item's own token; a token that was given twice. `workers` are the ids by
        the names of their sessions."""
        changes = await self.changes()
        wrong = [("no such transition", net) for net in _net_changes(changes) if not _is_legal(net)]
        tokens: set[int] = set()
        for change in changes:
            if change.new_token is not None and change.new_token != change.old_token:
                if change.new_token in tokens:
                    wrong.append(("a token given twice", change))
                tokens.add(change.new_token)
            is_claim = change.new_status == "processing" and change.new_token != change.old_token
            if is_claim and (change.session is None or change.new_worker != workers.get(change.session)):
                wrong.append(("a claim in another's name", change))
            is_a_workers_word = (
                change.old_status == "processing" and change.session is not None and not change.is_rescue
            )
            if is_a_workers_word and change.old_worker != workers.get(str(change.session)):
                wrong.append(("another worker's item", change))
            if change.new_status == "completed" and change.shown_token != change.old_token:
                wrong.append(("an end without its token", change))
        return wrong


def _net_changes(changes: list[Change]) -> list[Change]:
    """What each transaction made of each item: the steps in between nobody ever saw."""
    net: dict[tuple[str, int], Change] = {}
    for change in changes:
        first = net.setdefault((change.xid, change.item_id), copy(change))
        first.new_status = change.new_status
    return list(net.values())


def _is_legal(change: Change) -> bool:
    if change.old_status is None:
        return change.new_status == "pending"
    if change.new_status is None:
        return False
    old, new = ItemStatus(change.old_status), ItemStatus(change.new_status)
    return old == new or new in ITEM_TRANSITIONS[old]
