"""What an audit finds beside documents and rows: leases of dead workers, triggers that do not fire, rows of our own
that nobody will take up, half-built indexes, the number of live items. Owns these short looks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import sql

from embedmill.database.pool import Connection
from embedmill.database.queries import load_queries
from embedmill.sources.audit_kinds import Example
from embedmill.sources.audit_work import AuditWork, Note, Step

_SQL = load_queries("embedmill.sources", "audit.sql")

_LEASES = {
    "item": "an item of the queue",
    "reader": "the reading of a source",
    "parser": "the parsing of a job's document",
    "reservation": "money reserved for a call",
}


class UpkeepAudit:
    """The steps of a tenant that are no walk."""

    def __init__(self, work: AuditWork) -> None:
        self._work = work
        self._database = work.database
        self._tenant = {"tenant_id": work.scope.tenant_id}

    def steps(self) -> list[tuple[str, Step]]:
        return [("leases", self.leases), ("left_behind", self.left_behind)]

    def counting_steps(self) -> list[tuple[str, Step]]:
        return [("live_items", self.live_items)]

    def watch_step(self, source_id: int, name: str) -> tuple[str, Step]:
        """Before the source's rows are walked: what comes after that is seen by the triggers."""

        async def watch(cursor: Any) -> AsyncIterator[None]:
            await self._watch(source_id, name)
            await self._work.save(None)
            yield

        return f"watch:{source_id}", watch

    def index_step(self, pipeline_id: int) -> tuple[str, Step]:
        async def indexes(cursor: Any) -> AsyncIterator[None]:
            await self._indexes(pipeline_id)
            await self._work.save(None)
            yield

        return f"indexes:{pipeline_id}", indexes

    async def leases(self, cursor: Any) -> AsyncIterator[None]:
        """What dead workers hold."""
        kind = "items_whose_worker_is_gone"
        notes = [
            (kind, Example(item, detail=f"{_LEASES[what]}, held by worker {worker}"), 1)
            for what, item, worker in await self._database.fetch(_SQL["leases"], self._tenant)
        ]
        await self._settle(notes, "mend_leases")
        yield

    async def left_behind(self, cursor: Any) -> AsyncIterator[None]:
        """Rows of ours that nobody will take up."""
        kind = "left_behind"
        changes = await self._database.fetch(_SQL["lost_changes"], self._tenant)
        notes = [
            (
                kind,
                Example(str(change), f"source {source}", detail="a change of a source that was removed"),
                1,
            )
            for source, change in changes
        ]
        await self._settle(notes, "mend_lost_changes")
        cuts = await self._database.fetch(_SQL["lost_cuts"], self._tenant)
        notes = [
            (
                kind,
                Example(str(document), document_id=document, detail=f"to be cut by plan {chunk_set}, gone"),
                1,
            )
            for document, chunk_set in cuts
        ]
        await self._settle(notes, "mend_lost_cuts")
        yield

    async def live_items(self, cursor: Any) -> AsyncIterator[None]:
        """How many items are said to live."""
        row = await self._database.fetch_one(_SQL["live_items"], self._tenant)
        wrong = int(row[0]) if row else 0
        kind = "job_counters_that_lie"
        notes = [(kind, Example("live items", detail=f"{wrong:+} are missing in the counts"), 1)]
        await self._settle(notes if wrong else [], "mend_live_items")
        yield

    async def _settle(self, notes: list[Note], repair: str) -> None:
        """Mended by one statement, all of them, or noted."""
        if notes and self._work.mends(notes[0][0]):

            async def mend(connection: Connection) -> list[Note]:
                await connection.execute(_SQL[repair], self._tenant)
                return notes

            await self._work.mend(None, mend)
        else:
            for kind, example, count in notes:
                self._work.note(kind, example, count=count)
        await self._work.save(None)

    async def _watch(self, source_id: int, name: str) -> None:
        kind = "source_not_watched"
        asked = {"record_source_id": source_id}
        row = await self._database.fetch_one(_SQL["watch"], asked)
        if row is None:
            return  # a shard feed
        trouble, bare, enabling = row
        if trouble is None and bare:
            trouble = f"triggers are missing on {', '.join(bare)}"
        if trouble is None:
            return
        mended = self._work.mends(kind) and await self._watch_again(asked, enabling)
        self._work.note(kind, Example(name, name, detail=trouble), mended=mended)

    async def _watch_again(self, asked: dict[str, int], enabling: list[str]) -> bool:
        """Switch our triggers on and put missing ones back; whether all is well then."""
        try:
            async with self._connection_for_ddl() as connection, connection.transaction():
                await connection.execute(_SQL["wait_briefly"])
                for statement in enabling:
                    # Made by the database from quoted names.
                    await connection.execute(sql.SQL(statement))
            await self._database.fetch(_SQL["mend_watch"], asked)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable):
            return False
        row = await self._database.fetch_one(_SQL["watch"], asked)
        return row is not None and row[0] is None and not row[1]

    @asynccontextmanager
    async def _connection_for_ddl(self) -> AsyncIterator[Connection]:
        """Of nobody afterwards: the driver forgets all prepared statements of a session that alters tables."""
        async with self._database.connection() as connection:
            try:
                yield connection
            finally:
                await connection.close()

    async def _indexes(self, pipeline_id: int) -> None:
        kind = "index_invalid"
        for generation_id, name in await self._database.fetch(
            _SQL["invalid_indexes"], {"pipeline_id": pipeline_id}
        ):
            mended = self._work.mends(kind) and await self._drop(generation_id, name)
            self._work.note(kind, Example(name, detail="half-built: searches scan meanwhile"), mended=mended)

    async def _drop(self, generation_id: int, name: str) -> bool:
        """Unless somebody builds it just now."""
        asked = {"generation_id": generation_id, "name": name}
        async with self._connection_for_ddl() as connection:
            row = await (await connection.execute(_SQL["try_index_lock"], asked)).fetchone()
            if not (row and row[0]):
                return False
            row = await (await connection.execute(_SQL["index_is_invalid"], asked)).fetchone()
            if row and row[0]:
                index = sql.Identifier("embedmill", name)
                await connection.execute(_SQL["drop_index"].format(index=index))
        return True  # the lock goes with the session
