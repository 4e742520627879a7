"""What the server's sessions do: those that are active are looked at every 10 ms, from a session of its own.
This takes the place of pg_stat_statements and auto_explain, which the embedded server does not have. Owns the looking
and the names of statements; a statement is seen as often as it is long."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event

import psutil
import psycopg

from benchmarks.profiles.shares import Seen
from benchmarks.scaling.processes import seconds_of
from embedmill.database.queries import load_queries

_SQL = load_queries("benchmarks.profiles", "sessions.sql")
_SECONDS_BETWEEN = 0.01
_LONGEST = 60

_NAME = r"(?:ONLY )?(?P<{}>[\w.]+)"
_COPY = re.compile(rf"COPY {_NAME.format('table')}", re.IGNORECASE)
_CHANGE = re.compile(
    rf"\b(?P<verb>INSERT INTO|DELETE FROM|MERGE INTO|(?<!FOR )(?<!NO KEY )(?<!DO )UPDATE) {_NAME.format('table')}",
    re.IGNORECASE,
)
_FUNCTION = re.compile(r"(?<!INTO )\bembedmill\.(?P<function>\w+)\(", re.IGNORECASE)
_SOURCE = re.compile(rf"\bFROM {_NAME.format('table')}", re.IGNORECASE)
_READS_OR_CHANGES = re.compile(r"SELECT|WITH|INSERT|UPDATE|DELETE|MERGE", re.IGNORECASE)


class Sessions:
    """What was seen in how many looks: statements beside what they waited for. `cost_seconds` is the looking's own, of
    the server's processor."""

    def __init__(self) -> None:
        self.seen: Seen = Counter()
        self.looks = 0
        self.cost_seconds = 0.0

    def watch(self, url: str, onlooker: str, ended: Event) -> None:
        """Until it has ended."""
        texts: Counter[tuple[str, str]] = Counter()
        with psycopg.connect(url, autocommit=True) as connection:
            while not ended.wait(_SECONDS_BETWEEN):
                texts.update(connection.execute(_SQL["active"], {"onlooker": onlooker}).fetchall())
                self.looks += 1
            self.cost_seconds = seconds_of(psutil.Process(connection.info.backend_pid))
        for (text, wait), times in texts.items():
            self.seen[label_of(text), wait] += times


@asynccontextmanager
async def sampled_sessions(url: str, onlooker: str) -> AsyncIterator[Sessions]:
    """While the block lasts, in a thread; sessions of the name `onlooker` belong to whoever looks, and do not count."""
    sessions, ended = Sessions(), Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(sessions.watch, url, onlooker, ended))
        try:
            yield sessions
        finally:
            ended.set()


def label_of(statement: str) -> str:
    """Short and readable: what is done to which table, or which function is asked; numbers in names are N."""
    text = " ".join(re.sub(r"--[^\n]*", "", statement).replace('"', "").split())
    if copied := _COPY.match(text):
        label = f"COPY {copied['table']}"
    elif not _READS_OR_CHANGES.match(text):
        label = text
    elif changed := _CHANGE.search(text):
        label = f"{changed['verb'].partition(' ')[0].upper()} {changed['table']}"
    elif asked := _FUNCTION.search(text):
        label = f"SELECT {asked['function']}()"
    elif source := _SOURCE.search(text):
        label = f"SELECT {source['table']}"
    else:
        label = text
    return re.sub(r"\d+", "N", label.replace("embedmill.", ""))[:_LONGEST].rstrip()
