"""Search over ten thousand, a hundred thousand and a million chunks of 384 dimensions (halfvec): how long the product
takes, and how much of what is nearest it finds, without a filter, by tenant and by metadata.

    python -m benchmarks.search [--sizes 10000 100000 1000000] [--queries 200] [--folder FOLDER] [--only-fill]

Each size has a server of its own with the settings that every user gets, one after the other. It is filled by COPY into
the product's tables and indexed by the product; with --folder it stays, and what it
holds is not filled again. The product's Searcher is asked as the service does it: in the role of the service, on behalf
of a tenant, under row-level security; the query's vector is given, so no provider is waited for. Its milliseconds are
those of the whole answer, passages, sources and metadata included; `work` is the processor's time of it, ours and the
server's: what is waited for on a machine that has nothing else to do. Beside it, turn by turn, the bare index of
pgvector: the ids of the nearest vectors, nothing else, by a prepared statement. Recall@10 is against the exact
answer, of the vectors that are stored. `short_pages` counts those that hold fewer than ten passages though more pass
the filter.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks.results import save_result, show_table
from benchmarks.search.exact import nearest, recall
from benchmarks.search.filling import SHARES, Holding, Installation, facts, installation, stored_vectors
from benchmarks.search.passages import CHUNKS_PER_DOCUMENT, SHELVES, Floats, Integers
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import SERVICE_ROLE, Database
from embedmill.database.queries import load_queries, vectors_table
from embedmill.ports import EmbeddingProvider
from embedmill.search.query_call import QueryVectors
from embedmill.search.searcher import Filter, Mode, Searcher

_SQL = load_queries("benchmarks.search", "asking.sql")
PAGE = 10
WARM_UP = 100


class Given(QueryVectors):
    """The vector of a query that was asked for already."""

    def __init__(self, vector: str) -> None:
        self._vector = vector

    async def of(self, pipeline: Pipeline, provider: EmbeddingProvider | None) -> str:
        return self._vector


class Asked(NamedTuple):
    """The queries of a tenant, and the exact answers' material."""

    holding: Holding
    vectors: Floats
    texts: list[str]
    topics: Integers
    ids: Integers
    stored: Floats


class Case(NamedTuple):
    """What is asked: `field` is the metadata that chooses, with a value of its own for each query."""

    name: str
    tenant: str = "default"
    mode: Mode = Mode.VECTOR
    field: str | None = None


CASES = (
    Case("all chunks"),
    Case("tenant of 10%", tenant="tenth"),
    Case("tenant of 1%", tenant="hundredth"),
    Case("tenant of 0.01%", tenant="ten-thousandth"),
    Case("metadata of 10%", field="tenth"),
    Case("metadata of 5%", field="twentieth"),
    Case("metadata of 2%", field="fiftieth"),
    Case("metadata of 1%", field="hundredth"),
    Case("metadata of 1%, far from the query", field="shelf"),
    Case("metadata of 0.1%", field="thousandth"),
    Case("tenant of 10%, metadata of 1%", tenant="tenth", field="hundredth"),
    Case("all chunks", mode=Mode.TEXT),
    Case("metadata of 1%", mode=Mode.TEXT, field="hundredth"),
    Case("all chunks", mode=Mode.HYBRID),
    Case("metadata of 1%", mode=Mode.HYBRID, field="hundredth"),
)


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        async with kept_or_not(options.folder, size) as made:
            if not options.only_fill:
                rows += await measure_size(made, size, options)
    return rows


@asynccontextmanager
async def kept_or_not(folder: Path | None, size: int) -> AsyncIterator[Installation]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        async with installation((folder or Path(temporary)) / str(size), size) as made:
            yield made


async def measure_size(made: Installation, size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    async with (
        await psycopg.AsyncConnection.connect(made.url, autocommit=True) as connection,
        Database(made.url, max_connections=2, role=SERVICE_ROLE) as service,
    ):
        for tenant in SHARES:
            asked = await questions(connection, made.holdings[tenant], options.queries + WARM_UP)
            of_index = await facts(connection, asked.holding)
            for case in CASES:
                if case.tenant == tenant and options.only in f"{case.mode} {case.name}":
                    row = await measure_case(service, connection, asked, case)
                    rows.append({"chunks": size, **row, **(of_index if case == CASES[0] else {})})
                    print(rows[-1], flush=True)
    return rows


async def questions(connection: psycopg.AsyncConnection[Any], holding: Holding, count: int) -> Asked:
    vectors, texts, topics = holding.passages.queries(count)
    return Asked(holding, vectors, texts, topics, *await stored_vectors(connection, holding))


async def measure_case(
    service: Database, connection: psycopg.AsyncConnection[Any], asked: Asked, case: Case
) -> dict[str, Any]:
    """Each query once, the first ones not counted; the bare index in turns with it."""
    pipeline = asked.holding.pipeline
    searcher = Searcher(service.for_tenant(pipeline.tenant_id, actor="benchmark"), pipeline, None)
    wanted = values_of(asked, case)
    costs, bare, found = [], [], []
    for number, text in enumerate(asked.texts):
        where = Filter() if case.field is None else Filter(metadata={case.field: int(wanted[number])})
        vector = literal(asked.vectors[number])
        bare.append(await bare_index(connection, pipeline, vector))
        sessions = await sessions_of(connection, service)
        before = clocks(sessions)
        (answer,) = await searcher._search(text, [case.mode], PAGE, where, Given(vector))
        costs.append(clocks(sessions) - before)
        found.append([hit.chunk_id for hit in answer.hits])
    milliseconds = np.array(costs[WARM_UP:]) * 1000
    row: dict[str, Any] = {
        "mode": case.mode.value,
        "filter": case.name,
        "p50_ms": round(float(np.median(milliseconds[:, 0])), 1),
        "p99_ms": round(float(np.percentile(milliseconds[:, 0], 99)), 1),
        "work_p50_ms": round(float(np.median(milliseconds[:, 1:].sum(axis=1))), 1),
        "work_p99_ms": round(float(np.percentile(milliseconds[:, 1:].sum(axis=1), 99)), 1),
        "server_work_p50_ms": round(float(np.median(milliseconds[:, 2])), 1),
        "bare_index_p50_ms": round(statistics.median(bare[WARM_UP:]), 1),
    }
    if case.mode is not Mode.TEXT:
        row |= exactness(asked, case, wanted, found)
    return row


def exactness(asked: Asked, case: Case, wanted: Integers, found: list[list[int]]) -> dict[str, Any]:
    """Recall of a page by vector, and how many pages were shorter than need be. A page of both lists is no ranking by
    vector: only its length is looked at."""
    allowed = None
    passing = np.full(len(found), len(asked.ids))
    if case.field is not None:
        chunks = asked.ids - asked.holding.first - 1
        fields = asked.holding.passages.metadata_of(chunks // CHUNKS_PER_DOCUMENT)
        allowed = fields[case.field][None, :] == wanted[:, None]
        passing = allowed.sum(axis=1)
    short = sum(len(page) < min(PAGE, n) for page, n in zip(found, passing.tolist(), strict=True))
    row: dict[str, Any] = {"passing_chunks": int(statistics.median(passing)), "short_pages": short}
    if case.mode is Mode.VECTOR:
        exact = nearest(asked.ids, asked.stored, asked.vectors, allowed, PAGE)
        row["recall_at_10"] = round(recall(found, exact), 4)
    return row


def values_of(asked: Asked, case: Case) -> Integers:
    """For each query the value that its filter asks for; of shelves one that is not the query's own."""
    numbers = np.arange(len(asked.texts))
    if case.field == "shelf":
        return (asked.topics + SHELVES // 2) % SHELVES
    values = {"tenth": 10, "twentieth": 20, "fiftieth": 50, "hundredth": 100, "thousandth": 1000, None: 1}
    return numbers * 7 % values[case.field]


def literal(vector: Floats) -> str:
    """As pgvector reads it."""
    return "[" + ",".join(map(str, vector.tolist())) + "]"


async def bare_index(connection: psycopg.AsyncConnection[Any], pipeline: Pipeline, vector: str) -> float:
    """Milliseconds of the ids of the nearest vectors."""
    await connection.execute(_SQL["default_depth"])
    statement = _SQL["bare_index"].format(vectors=vectors_table(pipeline.generation.id))
    started = time.perf_counter()
    await (await connection.execute(statement, {"query": vector, "limit": PAGE}, prepare=True)).fetchall()
    return (time.perf_counter() - started) * 1000


async def sessions_of(connection: psycopg.AsyncConnection[Any], service: Database) -> list[int]:
    """The processes that answer the service."""
    cursor = await connection.execute(_SQL["sessions"], {"name": service.session_name})
    return [pid for (pid,) in await cursor.fetchall()]


def clocks(sessions: Sequence[int]) -> NDArray[np.float64]:
    """Seconds: of the clock, of our processor time, of the sessions' (Linux tells)."""
    files = [Path(f"/proc/{pid}/schedstat") for pid in sessions]
    of_sessions = sum(int(file.read_text("ascii").split()[0]) for file in files if file.exists()) / 1e9
    return np.array([time.perf_counter(), time.process_time(), of_sessions])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only-fill", action="store_true")
    parser.add_argument("--only", default="", help="cases whose mode and name hold this")
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    if rows:
        show_table("Search (a million: p50 under 20 ms, recall at least 0.95, no short page)", rows)
        save_result("search", rows, {"queries": options.queries, "sizes": options.sizes})


if __name__ == "__main__":
    main()
