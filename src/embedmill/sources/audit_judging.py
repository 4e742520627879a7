"""Whether a row that looks wrong is wrong: it, its document and the changes that wait are compared as of one moment, so
that work under way is no finding. Owns the verdict; must not write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from embedmill.database.pipelines import Generation
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries, vectors_table
from embedmill.sources.audit_kinds import Example
from embedmill.sources.audit_rows import AuditedRows
from embedmill.sources.catalog import RecordSource
from embedmill.sources.rows import Row
from embedmill.sources.saving import content_hash

_SQL = load_queries("embedmill.sources", "audit.sql")

Suspicion = Literal["unread", "older", "unwanted", "gone", "complete"]


class Known(msgspec.Struct, frozen=True):
    """A row's document as it stood. Without a hash it was never read."""

    id: int
    version: int
    content_hash: bytes | None


class Suspect(msgspec.Struct, frozen=True):
    """A row that may be at fault, and what was seen of it: no `version`, no row; no `known`, no document."""

    key: str
    suspicion: Suspicion
    version: str | None
    known: Known | None


class Judging:
    """Judges the rows of one source."""

    def __init__(
        self, database: Database, source: RecordSource, generation: Generation, rows: AuditedRows
    ) -> None:
        self._database = database
        self._source = source
        self._generation = generation
        self._rows = rows

    async def confirm(self, suspects: Sequence[Suspect]) -> list[tuple[Suspect, str, Example]]:
        """Which of them are at fault, all looked at as of one moment. A row that has changed since, or has a change
        that waits, is the reader's; one ahead of a backfill, that walk's."""
        keys = [suspect.key for suspect in suspects]
        asked = {"record_source_id": self._source.id, "keys": keys}
        async with self._database.transaction() as connection:
            await connection.execute(_SQL["snapshot"])
            all_wait, waiting = await one_row(connection, _SQL["waiting"], asked)
            if all_wait:
                return []
            versions = await self._rows.versions(connection, keys)
            known = await self.standing(keys, connection)
            runs, walked_to, rereads, is_scheduled = await one_row(connection, _SQL["backfill"], asked) or (
                False,
                None,
                False,
                False,
            )
            ahead: set[str] = set()
            if runs:
                behind = await self._rows.behind(connection, keys, walked_to) if walked_to else set()
                ahead = set(keys) - behind
            unfilled = await self._rows.unfilled(connection, keys)
            done = await self._said_done(
                connection, [each.key for each in suspects if each.suspicion == "unread"]
            )
            complete = await self._complete(connection, suspects)
        found: list[tuple[Suspect, str, Example]] = []
        for suspect in suspects:
            key = suspect.key
            if (
                key in waiting
                or versions.get(key) != suspect.version
                or known.get(key) != suspect.known
                or (suspect.suspicion == "older" and rereads and key in ahead)
            ):
                continue
            verdict = _verdict(
                suspect.suspicion,
                is_said_done=key in done,
                is_unfilled=key in unfilled,
                is_complete=key in complete,
                will_be_read=key in ahead or is_scheduled,
            )
            if verdict is not None:
                found.append((suspect, verdict[0], self._example(suspect, verdict[1])))
        return found

    def _example(self, suspect: Suspect, detail: str) -> Example:
        document_id = None if suspect.known is None else suspect.known.id
        return Example(suspect.key, self._source.name, document_id, detail)

    async def standing(self, keys: Sequence[str], connection: Connection | None = None) -> dict[str, Known]:
        asked = {
            "pipeline_id": self._source.pipeline_id,
            "source_type": self._source.name,
            "keys": list(keys),
        }
        if connection is None:
            rows = await self._database.fetch(_SQL["standing"], asked)
        else:
            rows = await (await connection.execute(_SQL["standing"], asked)).fetchall()
        return {row[0]: Known(row[1], row[2], row[3] and bytes(row[3])) for row in rows}

    async def _said_done(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        if not keys:
            return set()
        reply = await connection.execute(
            _SQL["said_done"],
            {
                "tenant_id": self._source.tenant_id,
                "pipeline_id": self._source.pipeline_id,
                "source_type": self._source.name,
                "keys": list(keys),
            },
        )
        return {row[0] for row in await reply.fetchall()}

    async def _complete(self, connection: Connection, suspects: Sequence[Suspect]) -> set[str]:
        """Rows whose documents have all of their vectors, as the tables of vectors say."""
        by_id = {each.known.id: each.key for each in suspects if each.suspicion == "complete" and each.known}
        if not by_id:
            return set()
        reply = await connection.execute(
            _SQL["complete_documents"].format(vectors=vectors_table(self._generation.id)),
            {
                "document_ids": list(by_id),
                "chunk_set": self._generation.chunk_set,
                "generation_id": self._generation.id,
            },
        )
        return {by_id[row[0]] for row in await reply.fetchall()}


def suspect_of(row: Row, known: Known | None, *, has_column: bool) -> Suspect | None:
    """What may be wrong with a row, from its state and its document's."""
    if not row.is_wanted:
        return None if known is None else Suspect(row.key, "unwanted", row.version, known)
    if known is None or known.content_hash is None:
        return Suspect(row.key, "unread", row.version, known)
    if content_hash(row.content) != known.content_hash:
        return Suspect(row.key, "older", row.version, known)
    return Suspect(row.key, "complete", row.version, known) if has_column else None


def _verdict(
    suspicion: Suspicion,
    *,
    is_said_done: bool,
    is_unfilled: bool,
    is_complete: bool,
    will_be_read: bool,
) -> tuple[str, str] | None:
    """The kind of fault, and the sentence; None: it is none."""
    always = {
        "older": ("vector_of_an_older_text", "the row's text is another than what was read"),
        "gone": ("vector_without_source", "the row is gone"),
        "unwanted": ("vector_without_source", "the row does not satisfy the source's condition"),
    }
    if suspicion in always:
        return always[suspicion]
    if suspicion == "complete":
        is_lost = is_complete and is_unfilled
        return ("done_but_no_vector", "its vector was made, and is not in its column") if is_lost else None
    if is_said_done and is_unfilled:
        return "done_but_no_vector", "an item says completed, and the row has no vector"
    return None if will_be_read else ("source_never_queued", "the row was never read")


def act_on(suspect: Suspect) -> str:
    """How such a thing is mended."""
    return {"gone": "delete", "unwanted": "delete", "complete": "embed"}.get(suspect.suspicion, "read")


async def one_row(connection: Connection, statement: Any, parameters: Mapping[str, Any]) -> Any:
    """The only row of a statement; None where there is none."""
    return await (await connection.execute(statement, parameters)).fetchone()
