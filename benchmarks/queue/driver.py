"""One queue in a process of its own, driven by lines of JSON: a request on standard input, an answer on standard
output. Owns the timing of single calls; decides nothing. Runs in the environment of its queue.

python -m benchmarks.queue.driver NAME URL CLIENTS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.queue.systems import System, find_system


class Meter:
    """Processor time of the server's processes that serve this database: the same however busy the machine is."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
        self._files = [Path(f"/proc/{pid}/schedstat") for (pid,) in rows]

    def seconds(self) -> float:
        """Since the processes began; 0 where the system does not tell (only Linux does)."""
        return sum(int(file.read_text().split()[0]) for file in self._files if file.exists()) / 1e9


async def rate(system: System, url: str, jobs: int, batch: int, clients: int) -> dict[str, float]:
    """Seconds of enqueueing, and of claiming and completing `jobs` jobs in calls of `batch`, by `clients` at once.

    Every client completes what it claimed before it claims again, as a worker with nothing to do would.
    """
    calls = max(1, jobs // batch // clients)
    seconds = {"enqueue": 0.0, "claim": 0.0, "complete": 0.0}
    taken = 0

    async def enqueue(client: int) -> None:
        for _ in range(calls):
            await system.enqueue(client, batch)

    async def work(client: int) -> None:
        nonlocal taken
        for _ in range(calls):
            started = time.perf_counter()
            claimed = await system.claim(client, batch)
            ready = time.perf_counter()
            await system.complete(client, claimed)
            seconds["claim"] += (ready - started) / clients
            seconds["complete"] += (time.perf_counter() - ready) / clients
            taken += len(claimed)

    meter = Meter(url)
    used = meter.seconds()
    started = time.perf_counter()
    await asyncio.gather(*(enqueue(client) for client in range(clients)))
    seconds["enqueue"] = time.perf_counter() - started
    await asyncio.gather(*(work(client) for client in range(clients)))
    assert taken == calls * batch * clients, f"{taken} of {calls * batch * clients} claimed"
    return {**seconds, "jobs": taken, "server": meter.seconds() - used}


async def claims(system: System, url: str, batch: int, calls: int, refill: bool) -> dict[str, list[float]]:
    """Milliseconds of each claim, and of the server's processor in it. What was claimed is completed and replaced
    between the calls, untimed."""
    milliseconds = []
    processor = []
    meter = Meter(url)
    for _ in range(calls):
        used = meter.seconds()
        started = time.perf_counter()
        claimed = await system.claim(0, batch)
        milliseconds.append((time.perf_counter() - started) * 1000)
        processor.append((meter.seconds() - used) * 1000)
        assert len(claimed) == (batch if refill else 0)
        if refill:
            await system.complete(0, claimed)
            await system.enqueue(0, batch)
    return {"wall": milliseconds, "server": processor}


async def relay(system: System, url: str, jobs: int, batch: int, clients: int) -> dict[str, float]:
    """As `rate`, with what is done handed over for the next; the seconds of both count as claiming."""
    calls = max(1, jobs // batch // clients)
    taken = 0

    async def enqueue(client: int) -> None:
        for _ in range(calls):
            await system.enqueue(client, batch)

    async def work(client: int) -> None:
        nonlocal taken
        claimed = await system.claim(client, batch)
        while claimed:
            taken += len(claimed)
            claimed = await system.hand_over(client, claimed, batch)

    meter = Meter(url)
    used = meter.seconds()
    started = time.perf_counter()
    await asyncio.gather(*(enqueue(client) for client in range(clients)))
    ready = time.perf_counter()
    await asyncio.gather(*(work(client) for client in range(clients)))
    ended = time.perf_counter()
    assert taken == calls * batch * clients, f"{taken} of {calls * batch * clients} claimed"
    seconds = {"enqueue": ready - started, "claim": ended - ready, "complete": 0.0}
    return {**seconds, "jobs": taken, "server": meter.seconds() - used}


def raw(system: System, url: str, jobs: int) -> dict[str, float]:
    """Seconds of the prepared statements of `jobs` jobs, one by one: the server and the socket, next to no Python."""
    texts = system.statements()
    seconds: dict[str, float] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        session = connection.pgconn
        own = Path(f"/proc/{session.backend_pid}/schedstat")
        for name, text in (("e", texts.enqueue), ("c", texts.claim), ("d", texts.complete)):
            check(session.prepare(name.encode(), text.encode()))
        # A new session loads catalogs and makes plans for its first calls: not what a worker pays for each job.
        for n in range(20):
            check(session.exec_prepared(b"e", texts.enqueue_values(jobs + n)))
            answer = session.exec_prepared(b"c", texts.claim_values)
            check(answer)
            row = [answer.get_value(0, column) or b"" for column in range(texts.claimed_columns)]
            check(session.exec_prepared(b"d", texts.complete_values(row)))
        work = [texts.enqueue_values(n) for n in range(jobs)]
        used = int(own.read_text().split()[0]) if own.exists() else 0
        started = time.perf_counter()
        for values in work:
            check(session.exec_prepared(b"e", values))
        seconds["enqueue"] = time.perf_counter() - started
        seconds["claim"] = seconds["complete"] = 0.0
        for _ in range(jobs):
            started = time.perf_counter()
            answer = session.exec_prepared(b"c", texts.claim_values)
            ready = time.perf_counter()
            check(answer)
            row = [answer.get_value(0, column) or b"" for column in range(texts.claimed_columns)]
            values = texts.complete_values(row)
            began = time.perf_counter()
            check(session.exec_prepared(b"d", values))
            seconds["claim"] += ready - started
            seconds["complete"] += time.perf_counter() - began
        spent = (int(own.read_text().split()[0]) if own.exists() else 0) - used
    return {**seconds, "jobs": jobs, "server": spent / 1e9}


def check(answer: Any) -> None:
    """Raise what the server said, where it said no."""
    if answer.error_message:
        raise RuntimeError(answer.error_message.decode())


def fill(system: System, url: str, count: int, history: int, analyze: bool) -> None:
    """Empty the queue, then that many waiting jobs and ended ones."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in system.tables:
            connection.execute(f"TRUNCATE {table} CASCADE")
        connection.execute("VACUUM ANALYZE")
        for statements, rows in ((system.fill_history, history), (system.fill, count)):
            for statement in statements if rows else ():
                connection.execute(
                    statement if "count" in statement else sql.SQL(statement),
                    {"count": rows} if "count" in statement else None,
                )
        if analyze:
            connection.execute("VACUUM ANALYZE")


async def serve(name: str, url: str, clients: int) -> None:
    system = find_system(name)
    await system.open(url, clients)
    print(json.dumps({"version": system.version, "driver": system.driver}), flush=True)
    try:
        for line in sys.stdin:  # Blocking is right: nothing else happens in this process.
            request = json.loads(line)
            answer: Any = None
            match request.pop("do"):
                case "fill":
                    fill(system, url, **request)
                case "analyze":
                    with psycopg.connect(url, autocommit=True) as connection:
                        connection.execute("VACUUM ANALYZE")
                case "rate":
                    answer = await rate(system, url, **request)
                case "relay":
                    answer = await relay(system, url, **request)
                case "raw":
                    answer = raw(system, url, **request)
                case "claims":
                    answer = await claims(system, url, **request)
            print(json.dumps(answer), flush=True)
    finally:
        await system.close()


def main() -> None:
    name, url, clients = sys.argv[1:]
    if name == "pgqueuer":
        import uvloop

        uvloop.run(serve(name, url, int(clients)))
    else:
        asyncio.run(serve(name, url, int(clients)))


if __name__ == "__main__":
    main()
