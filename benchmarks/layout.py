"""Vectors in their row (storage PLAIN) or beside it, in pieces (EXTERNAL, pgvector's default), for the usual numbers of
dimensions: what a row takes on disk, of the server's processor to write by COPY, and to compare with a query.

    python -m benchmarks.layout [--megabytes 100] [--rounds 3]

The tables are those of generations (embedmill.vectors_<id>), filled as the embedder fills them.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import product
from typing import Any

import numpy as np
import psutil
import psycopg
from psycopg import sql

from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.core.hashing import HASH_BYTES
from embedmill.embed.vector_copy import VECTOR_COLUMNS, encode_vectors

KINDS = (
    ("vector", 384), ("vector", 512), ("vector", 768), ("vector", 1024), ("vector", 1280), ("vector", 1536),
    ("vector", 2000), ("halfvec", 768), ("halfvec", 1024), ("halfvec", 1536), ("halfvec", 2048),
    ("halfvec", 2560), ("halfvec", 3072),
)  # fmt: skip
LAYOUTS = ("PLAIN", "EXTERNAL")
CALL = 1000
# A look through a table takes a few ticks of the clock: as many as make so long.
COMPARING_SECONDS = 1.0
SCALAR_BYTES = {"vector": 4, "halfvec": 2}


def main() -> None:
    options = _read_options()
    measured: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    with benchmark_database() as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        for _, (storage, dimensions), layout in product(range(options.rounds), KINDS, LAYOUTS):
            rows = options.megabytes * 2**20 // (dimensions * SCALAR_BYTES[storage])
            one = measure(connection, storage, dimensions, layout, rows)
            measured.setdefault((storage, dimensions, layout), []).append(one)
    rows = [compared(storage, dimensions, measured) for storage, dimensions in KINDS]
    show_table("A row in its place (PLAIN) beside pieces elsewhere (EXTERNAL), medians", rows)
    save_result("layout", rows, vars(options))


def measure(
    connection: psycopg.Connection[Any], storage: str, dimensions: int, layout: str, rows: int
) -> dict[str, float]:
    """Bytes of a row, and microseconds of the server's processor to write and to compare it."""
    kind = sql.SQL("{}({})").format(sql.SQL(storage), sql.Literal(dimensions))
    connection.execute("DROP TABLE IF EXISTS laid")
    connection.execute(
        sql.SQL(
            "CREATE TABLE laid (chunk_id bigint PRIMARY KEY, input_hash bytea NOT NULL, embedding {} NOT NULL, "
            "                   document_id bigint)"
        ).format(kind)
    )
    connection.execute(sql.SQL("ALTER TABLE laid ALTER embedding SET STORAGE {}").format(sql.SQL(layout)))
    connection.execute("CHECKPOINT")
    vectors = np.random.default_rng(7).standard_normal((CALL, dimensions), dtype=np.float32)
    copy_rows = sql.SQL("COPY laid ({}) FROM STDIN (FORMAT binary)").format(
        sql.SQL(", ").join(map(sql.Identifier, VECTOR_COLUMNS))
    )
    server = psutil.Process(connection.info.backend_pid)
    before = _booked(server)
    for first in range(0, rows, CALL):
        count = min(CALL, rows - first)
        ids = range(first, first + count)
        pieces = encode_vectors(ids, ids, [bytes(HASH_BYTES)] * count, vectors[:count], range(count), storage)
        with connection.cursor().copy(copy_rows) as copy:
            for piece in pieces:
                copy.write(piece)
    written = _booked(server) - before
    connection.execute("VACUUM ANALYZE laid")
    row = connection.execute("SELECT pg_total_relation_size('laid')").fetchone()
    assert row is not None
    compare = sql.SQL("SELECT min(embedding <=> {}::{}) FROM laid").format(
        sql.Literal(str(vectors[0].tolist())), kind
    )
    connection.execute("SET max_parallel_workers_per_gather = 0")
    times, started = 0, _booked(server)
    while _booked(server) - started < COMPARING_SECONDS:
        connection.execute(compare)
        times += 1
    compared_in = (_booked(server) - started) / times
    return {
        "bytes": row[0] / rows,
        "write": 1e6 * written / rows,
        "compare": 1e6 * compared_in / rows,
    }


def compared(
    storage: str, dimensions: int, measured: dict[tuple[str, int, str], list[dict[str, float]]]
) -> dict[str, object]:
    row: dict[str, object] = {"storage": storage, "dimensions": dimensions}
    for what, digits in (("bytes", None), ("write", 1), ("compare", 2)):
        plain, external = (
            statistics.median(one[what] for one in measured[storage, dimensions, layout])
            for layout in LAYOUTS
        )
        unit = "" if what == "bytes" else "_us"
        row |= {
            f"plain_{what}{unit}": round(plain, digits),
            f"external_{what}{unit}": round(external, digits),
            f"{what}_ratio": round(plain / external, 2),
        }
    return row


def _booked(process: psutil.Process) -> float:
    """Seconds of processor so far, in ticks of a hundredth."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100, help="of vectors in each table")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
