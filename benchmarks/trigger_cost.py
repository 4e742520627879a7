"""What a followed table costs its writers: the same statements on a table with our triggers and on one without, by
turns in one run; medians, and the median of the ratios of neighbours.

    python -m benchmarks.trigger_cost [--rows 100000] [--singles 2000] [--rounds 5]

A table has a bigint primary key, a title, a text of about 1 kB that is followed, and a counter that is not. The time is
that of the whole statement with its commit; `cpu` is what the server process worked at it, which neighbours on the
machine disturb less. Only triggers are measured: nobody reads what they write down.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.database.migrator import migrate
from embedmill.database.pipelines import find_pipeline, tenant_id
from embedmill.database.pool import Database
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table

MADE = "SELECT g, 'title ' || g, repeat(md5(g::text), 32) FROM generate_series(1, {rows}) AS g"
Connection = psycopg.Connection[tuple[Any, ...]]


class Writer:
    """One session; `measure` gives seconds of the clock and of the server process's processor."""

    def __init__(self, connection: Connection, table: str, rows: int, singles: int) -> None:
        self._connection = connection
        self._table = table
        self._rows = rows
        self._singles = singles
        self._stat = Path(f"/proc/{connection.info.backend_pid}/stat")
        copied = connection.execute(MADE.format(rows=rows).encode()).fetchall()
        self._copied = "".join(f"{number}\t{title}\t{body}\n" for number, title, body in copied).encode()

    def fresh(self, *, filled: bool) -> None:
        """The same state before each measurement, with nothing left for vacuum or a checkpoint to do meanwhile."""
        self._execute(f"TRUNCATE {self._table}")
        if filled:
            self.insert()
        self._execute("TRUNCATE embedmill.record_changes")
        self._execute(f"VACUUM ANALYZE {self._table}")
        self._execute("CHECKPOINT")

    def measure(self, act: str) -> tuple[float, float]:
        self.fresh(filled=act not in ("insert", "copy", "singles"))
        worked, started = self._worked(), time.perf_counter()
        getattr(self, act)()
        return time.perf_counter() - started, self._worked() - worked

    def insert(self) -> None:
        self._execute(f"INSERT INTO {self._table} (id, title, body) {MADE.format(rows=self._rows)}")

    def copy(self) -> None:
        with self._connection.cursor().copy(
            f"COPY {self._table} (id, title, body) FROM STDIN".encode()
        ) as copy:
            copy.write(self._copied)

    def update_unrelated(self) -> None:
        self._execute(f"UPDATE {self._table} SET views = views + 1")

    def update_followed(self) -> None:
        self._execute(f"UPDATE {self._table} SET title = title || '!'")

    def delete(self) -> None:
        self._execute(f"DELETE FROM {self._table}")

    def singles(self) -> None:
        """A transaction each."""
        statement = f"INSERT INTO {self._table} (id, title, body) VALUES (%s, 'title', %s)".encode()
        for number in range(self._singles):
            self._connection.execute(statement, (number, "text " * 200), prepare=True)

    def single_updates(self) -> None:
        """Of the column that is not followed, a transaction each."""
        statement = f"UPDATE {self._table} SET views = views + 1 WHERE id = %s".encode()
        for number in range(self._singles):
            self._connection.execute(statement, (1 + number * 7 % self._rows,), prepare=True)

    def _execute(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def _worked(self) -> float:
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


ACTS = ("insert", "copy", "update_unrelated", "update_followed", "delete", "singles", "single_updates")


def by_turns(writers: list[Writer], act: str, number: int) -> list[tuple[float, float]]:
    """Each measured once, in the order of `writers` or the other way round."""
    if number % 2:
        return [writer.measure(act) for writer in reversed(writers)][::-1]
    return [writer.measure(act) for writer in writers]


async def follow(url: str) -> None:
    async with Database(url) as database:
        pipeline = await find_pipeline(database, await tenant_id(database, "default"), "default")
        plan = TablePlan("$title\n\n$body")
        await add_table(database, pipeline, "followed", plan, backfills=False, actor="benchmark")


def measure(rows: int, singles: int, rounds: int) -> list[dict[str, object]]:
    with benchmark_database() as url, psycopg.connect(url, autocommit=True) as connection:
        migrate(connection)
        for table in ("plain", "followed"):
            connection.execute(
                f"CREATE TABLE {table} (id bigint PRIMARY KEY, title text, body text, views int DEFAULT 0)".encode()
            )
        asyncio.run(follow(url))
        writers = [Writer(connection, table, rows, singles) for table in ("plain", "followed")]
        measured = []
        for writer in writers:
            writer.measure("insert")  # the files stand, the statements are planned
        for act in ACTS:
            taken = [by_turns(writers, act, number) for number in range(rounds)]
            ratios = [followed[0] / plain[0] for plain, followed in taken]
            worked = [followed[1] / max(plain[1], 0.01) for plain, followed in taken]
            measured.append(
                {
                    "what": act,
                    "rows": singles if act.startswith("single") else rows,
                    "plain_seconds": round(statistics.median(plain[0] for plain, _ in taken), 3),
                    "followed_seconds": round(statistics.median(followed[0] for _, followed in taken), 3),
                    "ratio": round(statistics.median(ratios), 2),
                    "ratio_lowest": round(min(ratios), 2),
                    "ratio_highest": round(max(ratios), 2),
                    "cpu_ratio": round(statistics.median(worked), 2),
                }
            )
            print(measured[-1], flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--singles", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = measure(options.rows, options.singles, options.rounds)
    show_table("What triggers cost writers (a bulk insert: at most 1.3)", rows)
    save_result("trigger_cost", rows, vars(options))


if __name__ == "__main__":
    main()
