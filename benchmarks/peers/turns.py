"""A turn: one system embeds everything once, in a database of its own. Owns its process, its clock's start and what is
checked afterwards; must not know whose turn comes next."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from tests.support.provider import RunningProvider, vector_for

from benchmarks.peers.processors import Work, server_pid, work_so_far
from benchmarks.peers.protocol import DIMENSIONS, Job
from benchmarks.peers.systems import ROOT, System

_SAMPLE = 20
_TURN_SECONDS = 300


@dataclass(frozen=True)
class Stage:
    """What all turns share: the server, the provider, the texts and the files that they come from."""

    url: str
    provider: RunningProvider
    texts: list[str]
    folder: Path


@dataclass(frozen=True)
class Turn:
    """What came of it. `calls` that the provider answered; `work` of the processors for each text, in milliseconds."""

    system: System
    latency_ms: int
    settings: str
    start_seconds: float
    seconds: float
    rows_per_second: float
    calls: int
    work: Work


class TurnError(Exception):
    """A system that did not embed what it was given."""


def take_turn(system: System, stage: Stage, latency_ms: int) -> Turn:
    """Start, embed, check, stop. TurnError where something is lacking or wrong."""
    stage.provider.reset(dimensions=DIMENSIONS, latency_ms=latency_ms)
    with database_of(stage, system.driver) as url, tempfile.TemporaryDirectory() as scratch:
        job = Job(url, stage.provider.base_url, stage.texts, str(stage.folder), scratch)
        path = Path(scratch) / "job.json"
        path.write_text(json.dumps(asdict(job)), "utf-8")
        started = time.perf_counter()
        with process_of(system, path) as process:
            settings = _answer(system, process)["settings"]
            start_seconds = time.perf_counter() - started
            pids = (process.pid, server_pid(stage.url), stage.provider.pid)
            before = work_so_far(*pids)
            _tell(process)
            seconds = float(_answer(system, process)["seconds"])
            work = work_so_far(*pids).since(before)
            calls = int(stage.provider.stats()["calls_paid"])
            check(system, stage, url)
            _tell(process)
            process.wait(timeout=60)
    texts = len(stage.texts)
    of_text = Work(*(1000 * one / texts for one in (work.system, work.server, work.provider)))
    return Turn(system, latency_ms, settings, start_seconds, seconds, texts / seconds, calls, of_text)


@contextmanager
def database_of(stage: Stage, driver: str) -> Iterator[str]:
    """A database with pgvector and the texts as a table; dropped with the block, and the server at rest."""
    name = sql.Identifier(f"peers_{driver}")
    url = _with_database(stage.url, f"peers_{driver}")
    with psycopg.connect(stage.url, autocommit=True) as server:
        server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        server.execute(sql.SQL("CREATE DATABASE {}").format(name))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute("CREATE TABLE public.texts (id bigint PRIMARY KEY, body text NOT NULL)")
            with connection.cursor().copy("COPY public.texts FROM STDIN") as copy:
                for number, text in enumerate(stage.texts):
                    copy.write_row((number, text))
            connection.execute("VACUUM ANALYZE public.texts")
        server.execute("CHECKPOINT")
        try:
            yield url
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@contextmanager
def process_of(system: System, job: Path) -> Iterator[subprocess.Popen[str]]:
    command = [str(system.program), "-m", "benchmarks.peers.protocol", system.driver, str(job)]
    environment = {**os.environ, **dict(system.variables)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(_TURN_SECONDS, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def check(system: System, stage: Stage, url: str) -> None:
    """As many vectors as texts, and some of them those that the provider serves."""
    paid = int(stage.provider.stats()["distinct_inputs_paid"])
    if paid != len(stage.texts):
        raise TurnError(f"{system.name}: the provider saw {paid} of {len(stage.texts)} texts")
    if system.stands is None:
        return
    stands = sql.SQL("({}) AS stands").format(sql.SQL(system.stands))
    with psycopg.connect(url) as connection:
        counted = connection.execute(
            sql.SQL("SELECT count(embedding), count(DISTINCT text) FROM {}").format(stands)
        ).fetchone()
        if counted != (len(stage.texts), len(stage.texts)):
            raise TurnError(f"{system.name}: {counted} vectors and texts of {len(stage.texts)}")
        sample = connection.execute(
            sql.SQL("SELECT text, embedding::text FROM {} ORDER BY md5(text) LIMIT %s").format(stands),
            (_SAMPLE,),
        ).fetchall()
    for text, vector in sample:
        if not np.allclose(json.loads(vector), vector_for(text, DIMENSIONS), atol=1e-6):
            raise TurnError(f"{system.name}: a vector is not that of its text {text[:60]!r}")


def _answer(system: System, process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise TurnError(f"{system.name} ended with {process.wait()}; what it said stands above")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _with_database(url: str, name: str) -> str:
    base, mark, rest = url.partition("?")
    return base.rpartition("/")[0] + f"/{name}" + mark + rest
