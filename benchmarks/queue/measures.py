"""What is measured and in which turns. Owns the order of the measurements and their summary; must not know a queue."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import psycopg

OURS = "embedmill"
STEPS = ("enqueue", "claim", "complete")
# How the work is cut: name, request, factor on the number of jobs, jobs in a call, clients.
RATES = (
    ("one by one, statements only", "raw", 1, 1, 1),
    ("one by one, 1 client", "rate", 1, 1, 1),
    ("one by one, 4 clients", "rate", 2, 1, 4),
    ("one by one, done and next in one call, 1 client", "relay", 1, 1, 1),
    ("one by one, done and next in one call, 4 clients", "relay", 2, 1, 4),
    ("batches of 100, 1 client", "rate", 10, 100, 1),
    ("batches of 500, 1 client", "rate", 10, 500, 1),
    ("batches of 100, 4 clients", "rate", 20, 100, 4),
)
SINGLE_FETCH = frozenset({"procrastinate"})


class Asked(Protocol):
    """A queue's process."""

    name: str
    url: str

    def ask(self, do: str, **request: Any) -> Any: ...


def rates(drivers: Sequence[Asked], url: str, rounds: int, jobs: int) -> list[dict[str, Any]]:
    """Jobs a second for each way to cut the work and each step."""
    rows = []
    for driver in drivers:
        driver.ask("fill", count=0, history=0, analyze=True)
        driver.ask("rate", jobs=200, batch=1, clients=4)
    for title, request, factor, batch, clients in RATES:
        seen: dict[str, list[dict[str, float]]] = {driver.name: [] for driver in drivers}
        for _ in range(rounds):
            checkpoint(url)
            for driver in drivers:
                if driver.name in SINGLE_FETCH and batch > 1 and seen[driver.name]:
                    # Its one round stands for all: it works one by one here too, and this takes many seconds.
                    seen[driver.name].append(seen[driver.name][0])
                    continue
                some = jobs if driver.name in SINGLE_FETCH else jobs * factor
                shape = {} if request == "raw" else {"batch": batch, "clients": clients}
                seen[driver.name].append(driver.ask(request, jobs=max(some, batch * clients), **shape))
        steps = ("all three",) if request == "relay" else (*STEPS, "all three")
        rows += [{"measure": title, "step": step, **compare(seen, step)} for step in steps]
        tell(rows[-1])
        rows.append({"measure": title, "step": "server, us a job", **server_cost(seen)})
        tell(rows[-1])
    return rows


def compare(seen: dict[str, list[dict[str, float]]], step: str) -> dict[str, Any]:
    """Median jobs a second of each queue, and of the rounds' ratios of ours to the fastest peer of that round."""
    speeds = {
        name: [
            round_["jobs"] / sum(round_[s] for s in (STEPS if step == "all three" else (step,)))
            for round_ in many
        ]
        for name, many in seen.items()
    }
    figures: dict[str, Any] = {name: round(statistics.median(many)) for name, many in speeds.items()}
    peers = [many for name, many in speeds.items() if name != OURS]
    if OURS in speeds and peers:
        best = [max(others) for others in zip(*peers, strict=True)]
        ratios = [ours / other for ours, other in zip(speeds[OURS], best, strict=True)]
        figures["ratio"] = round(statistics.median(ratios), 2)
    return figures


def server_cost(seen: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Microseconds of the server's processor for a job, from enqueueing to completion: medians, and peers over ours."""
    costs = {
        name: [round_["server"] / round_["jobs"] * 1e6 for round_ in many] for name, many in seen.items()
    }
    figures: dict[str, Any] = {name: round(statistics.median(many)) for name, many in costs.items()}
    peers = [cost for name, cost in figures.items() if name != OURS]
    if peers and figures.get(OURS):
        figures["ratio"] = round(min(peers) / figures[OURS], 2)
    return figures


def claims(drivers: Sequence[Asked], url: str, waiting: int) -> list[dict[str, Any]]:
    """Median and 99th percentile of a claim, by what waits, what has ended and what the planner knows."""
    rows: list[dict[str, Any]] = []
    with psycopg.connect(url, autocommit=True) as connection:
        autovacuum(connection, on=False)
        for title, count, history, fresh in (
            ("nothing waiting", 0, 0, True),
            ("1,000 waiting", 1_000, 0, True),
            ("10,000 waiting", 10_000, 0, True),
            (f"{waiting:,} waiting, never analyzed", waiting, 0, False),
            (f"{waiting:,} waiting", None, 0, True),
            (f"1,000 waiting, {waiting:,} ended", 1_000, waiting, True),
        ):
            for driver in drivers:
                if count is None:
                    driver.ask("analyze")
                else:
                    driver.ask("fill", count=count, history=history, analyze=fresh)
            rows += latencies(drivers, url, title, refill=count != 0)
        autovacuum(connection, on=True)
    rows += latencies_under_snapshot(drivers, url)
    return rows


def latencies(drivers: Sequence[Asked], url: str, title: str, *, refill: bool) -> list[dict[str, Any]]:
    """Claims of one and of a hundred, in four turns."""
    rows = []
    checkpoint(url)
    for batch, calls in ((1, 75), (100, 25)):
        seen: dict[str, dict[str, list[float]]] = {d.name: {"wall": [], "server": []} for d in drivers}
        for _ in range(4):
            for driver in drivers:
                # A hundred fetches of one, where there is no batch: some seconds each.
                some = 2 if driver.name in SINGLE_FETCH and batch > 1 and refill else calls
                answer = driver.ask("claims", batch=batch, calls=some, refill=refill)
                for kind, many in answer.items():
                    seen[driver.name][kind] += many
        for share, kind, name in ((0.5, "wall", "p50"), (0.99, "wall", "p99"), (0.5, "server", "server p50")):
            figures = {driver: round(percentile(kinds[kind], share), 2) for driver, kinds in seen.items()}
            rows.append({"measure": title, "step": f"claim of {batch}, {name}", **figures})
            tell(rows[-1])
    return rows


def latencies_under_snapshot(drivers: Sequence[Asked], url: str) -> list[dict[str, Any]]:
    """The same while another session's snapshot keeps every dead row of the run, after 20,000 jobs came and went."""
    snapshots: list[AbstractContextManager[Any]] = []
    try:
        for driver in drivers:
            driver.ask("fill", count=1_000, history=0, analyze=True)
            connection = psycopg.connect(driver.url)
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.execute("SELECT count(*) FROM pg_class")
            snapshots.append(connection)
            driver.ask("rate", jobs=20_000, batch=100, clients=1)
        return latencies(drivers, url, "1,000 waiting, snapshot held over 20,000 jobs", refill=True)
    finally:
        for snapshot in snapshots:
            with snapshot:
                pass


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def autovacuum(connection: psycopg.Connection[Any], *, on: bool) -> None:
    """Off while stale statistics are the point: it would refresh them at a time of its own."""
    connection.execute("ALTER SYSTEM SET autovacuum = on" if on else "ALTER SYSTEM SET autovacuum = off")
    connection.execute("SELECT pg_reload_conf()")


def checkpoint(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")


def tell(row: dict[str, Any]) -> None:
    """What was just measured, so that a long run is not silent."""
    figures = [f"{key} {value:,}" for key, value in row.items() if key not in {"measure", "step"}]
    print(f"   {row['measure']}, {row['step']}: {', '.join(figures)}", flush=True)
