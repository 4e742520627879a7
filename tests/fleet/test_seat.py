"""A seat keeps its process running: restarted with a growing delay, stopped in order, killed when it stays, and gone
when the supervisor is."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from embedmill.fleet.events import FleetEvent, WorkerDied, WorkerKilled, WorkerNotStarted
from embedmill.fleet.seat import Seat, SeatOptions, describe_end
from tests.fleet.scenes import alive, until

QUICK = SeatOptions(stop_seconds=10, first_delay_seconds=0.05, longest_delay_seconds=0.4)
# Writes "ready" where it is told to, then waits to be stopped, and says so.
ORDERLY = """
import pathlib, signal, sys
log = pathlib.Path(sys.argv[1])
def stop(*_):
    log.write_text(log.read_text() + "stopped ")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
log.write_text("ready ")
while True:
    signal.pause()
"""
STUBBORN = ORDERLY.replace("    sys.exit(0)\n", "")


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def seat(
    command: list[str], note: Callable[[FleetEvent], None], options: SeatOptions = QUICK
) -> tuple[Seat, asyncio.Task[None]]:
    taken = Seat(command, options, on_event=note, chance=random.Random(7))
    return taken, asyncio.create_task(taken.run())


async def test_what_dies_at_once_is_started_again_after_a_delay_that_doubles_up_to_its_longest() -> None:
    events: list[FleetEvent] = []
    taken, task = seat(python("raise SystemExit(3)"), events.append)
    await until(lambda: len(events) == 6)
    assert taken.is_failing
    taken.stop()
    await task
    deaths = [event for event in events if isinstance(event, WorkerDied)]
    assert {death.how for death in deaths} == {"status 3"}
    for death, ceiling in zip(deaths, [0.05, 0.1, 0.2, 0.4, 0.4, 0.4], strict=True):
        assert ceiling / 2 <= death.again_in_seconds <= ceiling
    assert len({death.pid for death in deaths}) == 6


async def test_a_death_after_a_while_of_work_is_the_first_of_a_new_series() -> None:
    events: list[FleetEvent] = []
    options = SeatOptions(first_delay_seconds=0.05, longest_delay_seconds=5, settled_seconds=0)
    taken, task = seat(python("raise SystemExit(3)"), events.append, options)
    await until(lambda: len(events) == 4)
    taken.stop()
    await task
    assert all(isinstance(event, WorkerDied) and event.again_in_seconds <= 0.05 for event in events)


async def test_a_stop_does_not_wait_for_the_next_start() -> None:
    events: list[FleetEvent] = []
    options = SeatOptions(first_delay_seconds=3600, longest_delay_seconds=3600)
    taken, task = seat(python("raise SystemExit(3)"), events.append, options)
    await until(lambda: len(events) == 1)
    taken.stop()
    await asyncio.wait_for(task, 5)


async def test_a_program_that_is_not_there_is_told_and_tried_again() -> None:
    events: list[FleetEvent] = []
    taken, task = seat(["/no/such/program"], events.append)
    await until(lambda: len(events) == 3)
    taken.stop()
    await task
    assert all(isinstance(event, WorkerNotStarted) for event in events)
    assert "No such file" in taken.last_failure


async def test_a_stop_is_one_sigterm_and_the_end_is_waited_for(tmp_path: Path) -> None:
    events: list[FleetEvent] = []
    taken, task = seat(python(ORDERLY, tmp_path / "log"), events.append)
    await until(lambda: said(tmp_path / "log") == "ready ")
    pid = taken.pid
    assert pid is not None
    taken.stop()
    taken.stop()
    await task
    assert said(tmp_path / "log") == "ready stopped "
    assert alive([pid]) == []
    assert events == []
    assert taken.pid is None


async def test_what_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    events: list[FleetEvent] = []
    taken, task = seat(python(STUBBORN, tmp_path / "log"), events.append, SeatOptions(stop_seconds=0.5))
    await until(lambda: said(tmp_path / "log") == "ready ")
    pid = taken.pid
    assert pid is not None
    taken.stop()
    await task
    assert said(tmp_path / "log") == "ready stopped "
    assert events == [WorkerKilled(pid, 0.5)]
    assert taken.was_killed
    assert alive([pid]) == []


async def test_a_kill_waits_for_nothing(tmp_path: Path) -> None:
    taken, task = seat(python(STUBBORN, tmp_path / "log"), lambda event: None, SeatOptions(stop_seconds=3600))
    await until(lambda: said(tmp_path / "log") == "ready ")
    taken.stop()
    await until(lambda: said(tmp_path / "log") == "ready stopped ")
    taken.kill()
    await asyncio.wait_for(task, 5)


async def test_a_kill_before_the_process_stands_ends_it_as_well(tmp_path: Path) -> None:
    taken, task = seat(python(STUBBORN, tmp_path / "log"), lambda event: None, SeatOptions(stop_seconds=3600))
    await asyncio.sleep(0)  # its start has begun
    taken.kill()
    await asyncio.wait_for(task, 10)
    assert taken.pid is None


@pytest.mark.parametrize("ends_by_itself", [True, False])
async def test_an_end_in_order_is_a_death_unless_it_was_to_be_expected(ends_by_itself: bool) -> None:
    events: list[FleetEvent] = []
    options = SeatOptions(first_delay_seconds=0.05, ends_by_itself=ends_by_itself)
    taken, task = seat(python("pass"), events.append, options)
    if ends_by_itself:
        await asyncio.wait_for(task, 10)
        assert taken.is_finished
        assert events == []
        return
    await until(lambda: len(events) == 2)
    assert {event.how for event in events if isinstance(event, WorkerDied)} == {"status 0"}
    taken.stop()
    await task


SUPERVISOR = """
import asyncio, random, sys
from embedmill.fleet.seat import Seat, SeatOptions
taken = [Seat(sys.argv[1:], SeatOptions(), on_event=print, chance=random.Random(1)) for _ in range(2)]
async def main():
    await asyncio.gather(*(one.run() for one in taken))
asyncio.run(main())
"""
FOLLOWER = """
import asyncio, sys, time
from embedmill.fleet.lifeline import follow_supervisor
async def main():
    stop = asyncio.Event()
    follow_supervisor(stop.set, grace_seconds=0.5)
    if sys.argv[1] == "hangs":
        time.sleep(3600)
    await stop.wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["listens", "hangs"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_processes_end_with_a_supervisor_that_is_killed_also_where_their_loop_hangs(
    how: str, number: signal.Signals
) -> None:
    """Each has only the reading end of its own pipe: two of them do not keep each other alive."""
    process = subprocess.Popen(python(SUPERVISOR, *python(FOLLOWER, how)))
    children: list[psutil.Process] = []

    def have_started() -> bool:
        children[:] = psutil.Process(process.pid).children()
        return len(children) == 2 and all(child.num_threads() >= 2 for child in children)

    try:
        await until(have_started)
        os.kill(process.pid, number)
        process.wait()
        await until(lambda: alive([child.pid for child in children]) == [])
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "status 1"), (-9, "signal 9, SIGKILL"), (-11, "signal 11, SIGSEGV"), (-63, "signal 63")],
)
def test_an_end_is_told_in_a_person_s_words(code: int, words: str) -> None:
    assert describe_end(code) == words


def said(log: Path) -> str:
    return log.read_text() if log.exists() else ""
