# ruff: noqa: A005 - named as the issue names it; imported as benchmarks.queue only
"""Enqueue, claim and complete of embedmill's queue beside procrastinate, PgQueuer and a pgmq-style queue: one embedded
server, one run, turn by turn (a b c d, a b c d, ...), medians and ratios.

    python -m benchmarks.queue [--rounds 5] [--jobs 1000] [--waiting 1000000] [--only rates|claims] [--install]

The peers live in .peers/queue (`--install` makes it). One that is not there is left out, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql

from benchmarks.queue import measures
from benchmarks.queue.systems import PEER_ENVIRONMENT, PLACES
from benchmarks.results import save_result, show_table
from benchmarks.servers import benchmark_database

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".peers" / "queue"
CLIENTS = 4


class Driver:
    """A queue's process. Requests go to it one at a time."""

    def __init__(self, name: str, url: str, program: str) -> None:
        self.name = name
        self.url = url
        self._process = subprocess.Popen(
            [program, "-m", "benchmarks.queue.driver", name, url, str(CLIENTS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts: dict[str, str] = self._answer()

    def ask(self, do: str, **request: Any) -> Any:
        """The answer of the process; RuntimeError where it ended (its own words are on standard error)."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._process.communicate(timeout=30)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}: see above")
        return json.loads(line)


def install_peers() -> None:
    """The peers' environment, with the versions of peers.txt."""
    subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    program = PEERS / "bin" / "python"
    requirements = Path(__file__).with_name("peers.txt")
    subprocess.run(
        [program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements],
        check=True,
    )


@contextmanager
def drivers_on(url: str, names: list[str]) -> Iterator[tuple[list[Driver], dict[str, str]]]:
    """A process and a database of the server for each queue, and why others were left out."""
    drivers, left_out = [], {}
    try:
        for name in names:
            program = str(PEERS / "bin" / "python") if name in PEER_ENVIRONMENT else sys.executable
            if not Path(program).exists():
                left_out[name] = "not installed: python -m benchmarks.queue --install"
                continue
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"bench_{name}")))
            drivers.append(Driver(name, with_database(url, f"bench_{name}"), program))
        yield drivers, left_out
    finally:
        for driver in drivers:
            driver.close()


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    base, mark, rest = url.partition("?")
    if "dbname" in conninfo.conninfo_to_dict(url):
        return base.rpartition("/")[0] + f"/{name}" + mark + rest
    return base + f"/{name}" + mark + rest


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--jobs", type=int, default=1000, help="jobs of one round, one by one; ten times in batches"
    )
    parser.add_argument("--waiting", type=int, default=1_000_000, help="the longest backlog, and the history")
    parser.add_argument("--only", choices=("rates", "claims"))
    parser.add_argument("--systems", nargs="*", default=list(PLACES))
    parser.add_argument("--install", action="store_true", help="make the peers' environment first")
    options = parser.parse_args()
    # So that the server is stopped and its files go, also where somebody ends the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.install:
        install_peers()
    load = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    with benchmark_database() as url, drivers_on(url, options.systems) as (drivers, left_out):
        facts = {driver.name: driver.facts for driver in drivers}
        print(f"load {load:.2f}; {facts}; left out: {left_out}", flush=True)
        if options.only != "claims":
            rates = measures.rates(drivers, url, options.rounds, options.jobs)
            show_table("Jobs a second (median of rounds; ratio: ours to the fastest peer)", rates)
            rows += rates
        if options.only != "rates":
            waits = measures.claims(drivers, url, options.waiting)
            show_table("Milliseconds of a claim", waits)
            rows += waits
    if not options.only:
        save_result(
            "queue",
            rows,
            {
                "rounds": options.rounds,
                "jobs": options.jobs,
                "waiting": options.waiting,
                "systems": facts,
                "left_out": left_out,
                # Where every disk is slow, TMPDIR=/dev/shm shows what the queues themselves cost.
                "files": "in memory" if tempfile.gettempdir().startswith("/dev/shm") else "on disk",  # noqa: S108
                "load": [round(load, 2), round(os.getloadavg()[0], 2)],
            },
        )


if __name__ == "__main__":
    main()
