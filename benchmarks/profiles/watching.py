"""One workload, looked at from three sides while it runs: the processors, our Python, the server's sessions. Owns how
these are read together; must not know what the workload is."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import psutil

from benchmarks.peers.processors import Work, server_pid, work_so_far
from benchmarks.profiles.sessions import sampled_sessions
from benchmarks.profiles.shares import percent, shares, turned
from benchmarks.profiles.stacks import SAMPLES_A_SECOND, sampled_stacks


class Scene(NamedTuple):
    """A workload that stands ready. `pid` is our process, from which the others of ours descend, `onlooker` the name of
    the sessions that only look how far it is; `work` ends with it, and says how many of `unit` were done."""

    url: str
    pid: int
    provider_pid: int | None
    onlooker: str
    unit: str
    work: Callable[[], Awaitable[int]]


class Clocks(NamedTuple):
    """Seconds so far: of the clock, of our processors' work, of all processors, and of those that were idle."""

    clock: float
    work: Work
    machine: float
    idle: float


async def watched(scene: Scene) -> list[dict[str, Any]]:
    """A row of the processors, then what was seen most of our Python, of the server's statements, of their waits."""
    pids = (scene.pid, server_pid(scene.url), scene.provider_pid)
    with sampled_stacks(scene.pid) as stacks:
        async with sampled_sessions(scene.url, scene.onlooker) as sessions:
            before = clocks(pids)
            done = await scene.work()
            after = clocks(pids)
    seconds = after.clock - before.clock
    return [
        {"part": "cores", "what": scene.unit, "done": done, "seconds": round(seconds, 1)}
        | {"per_second": round(done / seconds, 1)}
        | cores(before, after, sessions.cost_seconds),
        *shares("own", stacks, seconds * SAMPLES_A_SECOND),
        *shares("server", sessions.seen, sessions.looks),
        *shares("waits", turned(sessions.seen), sessions.looks),
    ]


def clocks(pids: tuple[int, int, int | None]) -> Clocks:
    machine = psutil.cpu_times()
    # Linux counts guests' time in the users' as well.
    whole = sum(machine) - machine.guest - machine.guest_nice
    return Clocks(time.monotonic(), work_so_far(*pids), whole, machine.idle + machine.iowait)


def cores(before: Clocks, after: Clocks, looking_seconds: float) -> dict[str, float]:
    """How many each took; `other_cores` is the looking itself, who brings the work, and whatever else runs."""
    seconds, whole = after.clock - before.clock, after.machine - before.machine
    idle, work = after.idle - before.idle, after.work.since(before.work)
    server = work.server - looking_seconds
    other = whole - idle - work.system - server - work.provider
    return {
        "own_cores": round(work.system / seconds, 2),
        "server_cores": round(server / seconds, 2),
        "provider_cores": round(work.provider / seconds, 2),
        "other_cores": round(other / seconds, 2),
        "idle_percent": percent(idle, whole),
    }
