"""Every page of the dashboard, beside a million jobs that have ended, 100,000 that wait, a million calls, 300 sources,
20,000 ingestion jobs and 10,000 dead letters: how much work the service has with the whole page and with a look of its
live stream, what of it is the database's, and how many bytes travel. For the tenant who has nearly all of it, as its
admin and as an operator, and for one who has little. At most 100 ms of work (median) for each.

    python -m benchmarks.dashboard [--ended 1000000] [--live 100000] [--rounds 20] [--only /queue]

The service is a process of its own (`embedmill up --no-workers`) and answers over its socket. `work_ms` is the time of
the processor, of the service and of its database sessions together: what a visitor waits for on a machine that has
nothing else to do. `median_ms` is what he waited, with all else that the machine did meanwhile (Linux). Not counted are
the first looks at each page after a start, for which each connection plans its statements.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from tests.dashboard.crowd import DIMENSIONS, LARGE, SMALL, Sizes, make_crowd
from tests.dashboard.every_page import addresses, later_page, routers, unlisted
from tests.support.provider import start_provider
from tests.support.serving import client_at

from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database
from embedmill.access.keys import Role, create_key
from embedmill.access.pepper import read_pepper
from embedmill.database.pipelines import tenant_id
from embedmill.database.pool import Database

BOUND_MS = 100.0
# The service's few connections take turns, and each plans a statement at its first uses.
WARM_UP = 8
VISITORS = (("operator", LARGE, Role.OPERATOR), ("large", LARGE, Role.ADMIN), ("small", SMALL, Role.ADMIN))


class Clocks:
    """The processors' time of the service and of its sessions of the database, in milliseconds."""

    def __init__(self, service_pid: int, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._service_pid = service_pid
        self._connection = connection

    def read(self) -> tuple[float, float]:
        rows = self._connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name ~ '^embedmill ' AND pid <> pg_backend_pid()"
        ).fetchall()
        return _worked_ms(self._service_pid), sum(_worked_ms(pid) for (pid,) in rows)


def _worked_ms(pid: int) -> float:
    """All threads of a process; nothing of one that has gone."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((each / "schedstat").read_text("ascii").split()[0]) for each in threads) / 1e6
    except FileNotFoundError:
        return 0.0


@asynccontextmanager
async def running_service(url: str, folder: Path) -> AsyncIterator[tuple[str, int]]:
    """(address, process id) of a service without workers."""
    environment = {
        **os.environ,
        "EMBEDMILL_DATABASE_URL": url,
        "EMBEDMILL_DATA_DIR": str(folder),
        "EMBEDMILL_REQUESTS_PER_MINUTE": "1000000",
    }
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else is to be done meanwhile
        [sys.executable, "-m", "embedmill", "up", "--no-workers", "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0], process.pid
                return
        raise RuntimeError(f"the service did not start: {''.join(said)}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@asynccontextmanager
async def visiting(
    address: str, owner: Database, folder: Path, tenant: str, role: Role
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that has logged in by a key of this role."""
    made = await create_key(
        owner,
        read_pepper(folder),
        tenant=tenant,
        role=role,
        name="benchmark",
        expires_in_seconds=None,
        actor="benchmark",
    )
    async with client_at(address) as client:
        answer = await client.post("/login", data={"key": made.secret, "next": "/"})
        assert answer.status_code == 303, answer.text
        yield client


async def whole_page(client: httpx2.AsyncClient, address: str) -> tuple[int, int, str]:
    """(status, bytes transferred, HTML)."""
    async with client.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as answer:
        await answer.aread()
        return answer.status_code, answer.num_bytes_downloaded, answer.text


async def first_look(client: httpx2.AsyncClient, address: str) -> tuple[int, int, str]:
    """As `whole_page`, of the first event of the page's stream."""
    async with client.stream("GET", address, headers={"Accept": "text/event-stream"}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                return answer.status_code, answer.num_bytes_downloaded, ""
        return answer.status_code, 0, ""


async def has_looks(client: httpx2.AsyncClient, address: str) -> bool:
    """Whether anything of the page changes by itself: the stream of one that is a form says nothing."""
    try:
        async with asyncio.timeout(3):
            await first_look(client, address)
    except TimeoutError:
        return False
    return True


async def measure_one(
    clocks: Clocks, ask: Callable[[], Awaitable[tuple[int, int, str]]], rounds: int
) -> dict[str, Any]:
    """Medians of `rounds`, after those that warm up."""
    walls, services, databases, size = [], [], [], 0
    for turn in range(WARM_UP + rounds):
        before = clocks.read()
        began = time.perf_counter()
        _, size, _ = await ask()
        wall = (time.perf_counter() - began) * 1000
        after = clocks.read()
        if turn >= WARM_UP:
            walls.append(wall)
            services.append(after[0] - before[0])
            databases.append(after[1] - before[1])
    return {
        "work_ms": round(statistics.median(map(sum, zip(services, databases, strict=True))), 1),
        "median_ms": round(statistics.median(walls), 1),
        "max_ms": round(max(walls), 1),
        "service_cpu_ms": round(statistics.median(services), 1),
        "database_cpu_ms": round(statistics.median(databases), 1),
        "bytes": size,
    }


async def measure_visitor(
    name: str,
    client: httpx2.AsyncClient,
    clocks: Clocks,
    of_routes: dict[str, list[str]],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    rows = []
    for route, listed in of_routes.items():
        waiting = list(listed)
        followed = False
        while waiting and route.startswith(options.only):
            address = waiting.pop(0)
            status, _, html = await whole_page(client, address)
            if status == 403:
                continue
            if status != 200:
                raise RuntimeError(f"{address} as {name}: {status} {html[:2000]}")
            later = later_page(html)
            if later is not None and not followed and route != "/documents/jobs/{job_id}":
                followed = True
                waiting.append(later)
            page = await measure_one(clocks, lambda at=address: whole_page(client, at), options.rounds)  # type: ignore[misc]
            look = (
                await measure_one(clocks, partial(first_look, client, address), max(options.rounds // 2, 3))
                if await has_looks(client, address)
                else {}
            )
            rows.append(
                {
                    "visitor": name,
                    "route": route,
                    "address": address,
                    **page,
                    **{f"look_{key}": value for key, value in look.items() if key != "max_ms"},
                }
            )
            print(f"{name} {address[:70]} {page} look {look.get('work_ms')}", flush=True)
    return rows


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    missing = unlisted(routers())
    if missing:
        raise RuntimeError(f"not measured: {sorted(missing)}; add them to tests/dashboard/every_page.py")
    rows: list[dict[str, Any]] = []
    async with (
        installation(options) as (url, folder),
        Database(url, max_connections=2) as owner,
        running_service(url, folder) as (address, pid),
    ):
        with psycopg.connect(url, autocommit=True) as connection:
            clocks = Clocks(pid, connection)
            for name, tenant, role in VISITORS:
                of_routes = await addresses(owner, await tenant_id(owner, tenant))
                async with visiting(address, owner, folder, tenant, role) as client:
                    rows += await measure_visitor(name, client, clocks, of_routes, options)
    return rows


@asynccontextmanager
async def installation(options: argparse.Namespace) -> AsyncIterator[tuple[str, Path]]:
    """(URL, folder) of an installation that is full: the one that was named, or one that is made and thrown away."""
    if options.filled is not None:
        yield options.filled[0], Path(options.filled[1])
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        benchmark_database() as url,
        start_provider(dimensions=DIMENSIONS) as provider,
    ):
        began = time.perf_counter()
        sizes = Sizes(ended=options.ended, live=options.live, calls=options.ended)
        await make_crowd(url, Path(folder), sizes, provider.base_url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
        yield url, Path(folder)
        if options.keep:
            await asyncio.to_thread(input, f"--filled {url} {folder}  (Enter throws it away)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="/", help="pages whose route begins so; the result is not kept")
    parser.add_argument(
        "--filled", nargs=2, metavar=("URL", "FOLDER"), help="an installation that is full already"
    )
    parser.add_argument("--keep", action="store_true", help="wait for Enter before all is thrown away")
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    show_table(f"Pages of the dashboard: at most {BOUND_MS:g} ms each", rows)
    over = [row["address"] for row in rows if max(row["work_ms"], row.get("look_work_ms", 0.0)) > BOUND_MS]
    print(f"{len(rows)} pages, {len(over)} over {BOUND_MS:g} ms: {over}")
    if options.only == "/" and options.filled is None:
        save_result("dashboard", rows, vars(options))


if __name__ == "__main__":
    main()
