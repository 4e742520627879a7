"""Pages read by index and from counters, however much there is: each statement that the service sends while a page is
fetched is run again, and what it and the functions that it calls read of the large tables is counted."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import pytest
from fastapi import APIRouter
from psycopg import sql

from embedmill.database.asking import AskedConnection
from embedmill.database.pool import SERVICE_ROLE
from tests.dashboard.crowd import DIMENSIONS, LARGE, SMALL, Sizes, make_crowd
from tests.dashboard.every_page import addresses, later_page, routers, unlisted
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, client_at, serving

SIZES = Sizes(
    ended=20_000,
    live=12_000,
    sources=40,
    uploads=6_000,
    records=6_000,
    chunks=2,
    calls=12_000,
    letters=6_000,
    deliveries=8_000,
    events_of_a_job=2,
    large_pipelines=2,
    others=1,
)
LARGE_TABLES = (
    r"^(embedding_queue|embedding_queue_history.*|knowledge_chunks|knowledge_documents|knowledge_document_texts|"
    r"ingestion_jobs|llm_usage_log|dead_letters|events|webhook_deliveries|vectors_.*|shards)$"
)
MOST_SCANNED_ROWS = 500
"""Of one table by one statement: a day's partition that has only begun may be read whole."""
MOST_WALKED_ROWS = 10_500
"""By one node of a plan: what is counted is counted up to 10,000."""
MOST_BLOCKS = 6_000
"""Of 8 KiB, hit or read, by one statement."""


class Asked(msgspec.Struct, frozen=True):
    """A statement as the service sent it: in the role of the service on behalf of a tenant, or as the owner."""

    text: str
    parameters: Any
    role: str
    tenant_id: str


class Reading(msgspec.Struct, frozen=True):
    """What a statement read: rows one after the other, by table, and blocks of all tables and indexes."""

    scanned: Mapping[str, int]
    blocks: int
    walked: int

    @property
    def fault(self) -> str | None:
        whole = {table: rows for table, rows in self.scanned.items() if rows > MOST_SCANNED_ROWS}
        if whole:
            return f"reads {whole} from one end to the other"
        if self.walked > MOST_WALKED_ROWS:
            return f"walks over {self.walked} rows or entries of an index"
        return f"reads {self.blocks} blocks" if self.blocks > MOST_BLOCKS else None


@contextmanager
def listening(patch: pytest.MonkeyPatch) -> Iterator[list[Asked]]:
    """Whatever is asked over the service's connections, as long as the block lasts."""
    heard: list[Asked] = []
    execute, ask = AskedConnection.execute, AskedConnection.ask

    def note(connection: AskedConnection, query: Any, parameters: Any) -> None:
        text = query.as_string(connection) if isinstance(query, sql.Composable) else str(query)
        is_question = re.match(r"\s*(--[^\n]*\n\s*)*(SELECT|WITH)\b", text) is not None
        if is_question and "set_config('embedmill.tenant_id'" not in text:
            heard.append(Asked(text, parameters, *_on_behalf[connection]))
        elif is_question:
            role = SERVICE_ROLE if connection.info.get_parameters().get("options") else ""
            _on_behalf[connection] = (role, parameters["tenant_id"])

    _on_behalf: dict[AskedConnection, tuple[str, str]] = _Owner()

    async def executing(self: AskedConnection, query: Any, parameters: Any = None, **more: Any) -> Any:
        note(self, query, parameters)
        return await execute(self, query, parameters, **more)

    async def asking(self: AskedConnection, query: str, parameters: Mapping[str, Any]) -> Any:
        note(self, query, parameters)
        return await ask(self, query, parameters)

    with patch.context() as patched:
        patched.setattr(AskedConnection, "execute", executing)
        patched.setattr(AskedConnection, "ask", asking)
        yield heard


class _Owner(dict[AskedConnection, tuple[str, str]]):
    """Who names no tenant is the owner."""

    def __missing__(self, connection: AskedConnection) -> tuple[str, str]:
        return ("", "")


def read_by(connection: psycopg.Connection[tuple[Any, ...]], asked: Asked) -> Reading:
    """What a statement reads, functions that it calls included; nothing of it stays."""
    with connection.transaction(force_rollback=True):
        if asked.role:
            connection.execute("SELECT set_config('embedmill.tenant_id', %s, true)", (asked.tenant_id,))
            connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(asked.role)))
        before = _scanned(connection)
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {asked.text}"
        row = connection.execute(explain.encode(), asked.parameters).fetchone()
        assert row is not None
        top = row[0][0]["Plan"]
        after = _scanned(connection)
        scanned = {table: rows - before.get(table, 0) for table, rows in after.items()}
        return Reading(scanned, top["Shared Hit Blocks"] + top["Shared Read Blocks"], _longest_walk(top))


def _longest_walk(node: Mapping[str, Any]) -> int:
    """The most rows that one node of a plan takes from a table or an index: a count may walk an index alone."""
    own = int(node["Actual Rows"] * node["Actual Loops"]) if node["Node Type"].endswith("Scan") else 0
    return max([own, *(_longest_walk(each) for each in node.get("Plans", []))])


def _scanned(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[str, int]:
    """Rows that this transaction has read one after the other, of each large table."""
    rows = connection.execute(
        "SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables WHERE relname ~ %s AND seq_tup_read > 0",
        (LARGE_TABLES,),
    ).fetchall()
    return {row[0]: row[1] for row in rows}


@pytest.fixture
async def crowded(database: str, provider: RunningProvider, tmp_path: Any) -> AsyncIterator[Serving]:
    """A service without workers on a crowded database, analysed once."""
    provider.reset(dimensions=DIMENSIONS)
    await make_crowd(database, tmp_path, SIZES, provider.base_url)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ANALYZE")
    async with serving(database, tmp_path, works=False, requests_per_minute=1_000_000) as one:
        yield one


async def test_no_page_reads_a_large_table_from_one_end_to_the_other(
    crowded: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: dict[tuple[str, str], tuple[str, Asked]] = {}
    for tenant in (LARGE, SMALL):
        row = await crowded.app.database.fetch_one(
            "SELECT id FROM embedmill.tenants WHERE slug = %s", (tenant,)
        )
        assert row is not None
        async with client_at(crowded.address) as client:
            client.cookies.set("embedmill_tenant", tenant)
            for route, listed in (await addresses(crowded.app.database, row[0])).items():
                assert listed or tenant == SMALL, f"the large tenant has nothing for {route}"
                waiting = list(listed)
                for address in waiting:
                    with listening(monkeypatch) as heard:
                        answer = await client.get(address)
                    assert answer.status_code == 200, f"{address}: {answer.text}"
                    later = later_page(answer.text)
                    if later is not None and len(waiting) == len(listed) and "/jobs/" not in address:
                        waiting.append(later)
                    for asked in heard:
                        # One text asked with other values is another question.
                        statements[asked.text, repr(asked.parameters)] = (f"{address} as {tenant}", asked)
    assert len(statements) > 200

    planted = Asked("SELECT count(*) FROM embedmill.embedding_queue", None, "", "")
    within = "SELECT max(error_message) FROM embedmill.embedding_jobs WHERE tenant_id = %(tenant_id)s"
    planted_in_a_view = Asked(within, {"tenant_id": 1}, SERVICE_ROLE, "1")
    faults = []
    with psycopg.connect(crowded.app.database.url, autocommit=True) as connection:
        connection.execute("SET search_path = embedmill, public")
        # What finds faults finds those that are there: a count of all rows, and one behind a view and policies.
        assert read_by(connection, planted).fault is not None
        assert "from one end to the other" in (read_by(connection, planted_in_a_view).fault or "")
        for where, asked in statements.values():
            fault = read_by(connection, asked).fault
            if fault is not None:
                faults.append(f"{where} {fault}: {asked.text}\n{asked.parameters}")
    assert faults == [], "\n\n".join(faults)


def test_a_page_that_is_not_looked_at_here_is_noticed() -> None:
    assert unlisted(routers()) == set()
    planted = APIRouter()

    @planted.get("/queue/everything")
    async def everything() -> None: ...

    @planted.post("/queue/everything")
    async def act() -> None: ...

    assert unlisted([*routers(), planted]) == {"/queue/everything"}
