"""What a driver is and how it runs: a process that gets ready (start-up), waits for a word, embeds everything once and
says how long that took. Runs in environments that hold neither embedmill nor its tests: standard library only.

python -m benchmarks.peers.protocol DRIVER JOB
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

DIMENSIONS = 1536
MODEL = "stand-in"


@dataclass(frozen=True)
class Job:
    """What is to be embedded: the texts, which stand in public.texts (id, body) of the database at `url` as well, and
    in files of `folder` that embedmill cuts into just these texts. `scratch` is for a driver's own files."""

    url: str
    base_url: str
    texts: list[str]
    folder: str
    scratch: str


class Ready(Protocol):
    """A system that has started."""

    async def embed(self) -> float | None:
        """Until every vector stands in the database; the seconds, where it must time itself."""
        ...


class Driver(Protocol):
    """A module of benchmarks/peers/drivers. `SETTINGS` says which were chosen."""

    SETTINGS: str

    def ready(self, job: Job) -> AbstractAsyncContextManager[Ready]:
        """The system, started; stopped with the block."""
        ...


def sqlalchemy_url(url: str, scheme: str) -> str:
    """The same address for SQLAlchemy, with the driver that is to be used."""
    return f"{scheme}://" + url.partition("://")[2]


async def run(driver: Driver, job: Job) -> None:
    async with driver.ready(job) as system:
        _say({"settings": driver.SETTINGS})
        if not sys.stdin.readline():
            return  # whoever started us is gone
        started = time.perf_counter()
        own_seconds = await system.embed()
        seconds = time.perf_counter() - started
        _say({"seconds": seconds if own_seconds is None else own_seconds})
        sys.stdin.readline()  # what stands is looked at before anything stops


def _say(answer: dict[str, object]) -> None:
    """A line for whoever started us, whatever the system prints meanwhile."""
    os.write(_ANSWERS, json.dumps(answer).encode() + b"\n")


def main() -> None:
    name, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - standard library only, and shorter
        job = Job(**json.load(file))
    asyncio.run(run(import_module(f"benchmarks.peers.drivers.{name}"), job))


if __name__ == "__main__":
    _ANSWERS = os.dup(1)
    os.dup2(2, 1)  # what systems print belongs to standard error
    main()
