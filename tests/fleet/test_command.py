"""`embedmill worker --processes` as its user meets it: a terminal's Ctrl-C, kills, and runs that end by themselves."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import EmbedmillError
from embedmill.fleet.events import WorkerDied
from embedmill.fleet.seat import SeatOptions
from tests.fleet.scenes import (
    Fleet,
    add_backlog,
    alive,
    configure,
    is_empty,
    live_workers,
    processing,
    running,
    until,
    worker_statuses,
)
from tests.support.commands import EMBEDMILL, CommandLine
from tests.support.provider import RunningProvider
from tests.support.queue_rows import grow_older
from tests.support.work import missing_chunks


@pytest.fixture
def command(app: App, database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database, EMBEDMILL_CALLS_IN_FLIGHT="1")


@contextmanager
def started(command: CommandLine, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs; killed at the end, and its workers with it."""
    process = command.start("worker", *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


@pytest.mark.parametrize("nonsense", ["0", "-1", "two", "1.5", "", "1001", "99999999999999999999", "٣"])
def test_a_number_that_is_none_is_refused_with_what_is_allowed(command: CommandLine, nonsense: str) -> None:
    done = command.run("worker", f"--processes={nonsense}", status=2)
    assert f"auto, or a whole number from 1 to 1000, not '{nonsense}'" in done.stderr


@pytest.mark.parametrize("processes", ["auto", "2"])
async def test_it_ends_by_itself_when_nothing_waits_any_more(
    command: CommandLine, app: App, pipeline: Pipeline, processes: str
) -> None:
    await add_backlog(app, pipeline, 20)
    done = command.run("worker", "--processes", processes, "--until-empty")
    number = {"auto": "1 worker: the minimum", "2": "2 workers: as asked"}[processes]
    assert done.stdout.splitlines() == [
        "supervising the workers of this machine; Ctrl-C ends them",
        number,
        "all workers stopped",
    ]
    assert await missing_chunks(app, pipeline) == 0
    assert set(await worker_statuses(app)) == {"stopped"}


async def test_workers_that_die_at_their_start_are_no_reason_to_wait_for_ever(app: App) -> None:
    seat = SeatOptions(first_delay_seconds=0.01, longest_delay_seconds=0.02, ends_by_itself=True)
    fleet = Fleet(app, 2, (sys.executable, "-c", "raise SystemExit(3)"), seat=seat)
    with pytest.raises(ExceptionGroup) as caught:
        await fleet.supervisor.run()
    assert isinstance(caught.value.exceptions[0], EmbedmillError)
    assert "every worker process died 5 times in a row (status 3)" in str(caught.value.exceptions[0])
    assert fleet.pids == []


async def test_workers_that_die_at_their_start_are_not_joined_by_more_and_stop_at_once(
    app: App, pipeline: Pipeline
) -> None:
    await configure(app, scale_up_after_seconds=2)
    await add_backlog(app, pipeline, 10)
    await grow_older(app.database, 3600)
    seat = SeatOptions(first_delay_seconds=0.3, longest_delay_seconds=0.3)
    fleet = Fleet(app, None, (sys.executable, "-c", "raise SystemExit(3)"), seat=seat)
    async with running(fleet):
        await until(lambda: len(fleet.events) >= 12)
    assert fleet.sizes == [1]
    assert fleet.supervisor.decision.reason == "workers die: more of them would not help"
    assert all(event.how == "status 3" for event in fleet.events if isinstance(event, WorkerDied))


async def test_when_the_supervisor_is_killed_its_workers_end_in_order_within_seconds(
    command: CommandLine, app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_backlog(app, pipeline, 60)
    provider.configure(latency_ms=300)
    with started(command, "--processes", "2") as process:
        await until(lambda: provider.stats()["in_flight"] == 2)
        workers = children(process.pid)
        assert len(workers) == 2
        process.send_signal(signal.SIGKILL)
        await until(lambda: alive(workers) == [], seconds=10)
    assert await worker_statuses(app) == ["stopped", "stopped"]
    assert await processing(app) == 0
    assert await missing_chunks(app, pipeline) > 0


async def test_sigterm_to_the_whole_service_is_one_stop_in_order(
    command: CommandLine, app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """As systemd does it: every process of the service gets the signal, and then it comes once more."""
    await add_backlog(app, pipeline, 60)
    provider.configure(latency_ms=300)
    with started(command, "--processes", "2") as process:
        await until(lambda: provider.stats()["in_flight"] == 2)
        workers = children(process.pid)
        for pid in (process.pid, *workers, process.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said.splitlines()[-2:] == [
        "stopping: calls under way are written first; Ctrl-C ends at once",
        "all workers stopped",
    ]
    assert await worker_statuses(app) == ["stopped", "stopped"]
    assert await processing(app) == 0


class Terminal:
    """A command in the foreground of a terminal of its own, whose keys are pressed."""

    def __init__(self, command: CommandLine, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, EMBEDMILL, *arguments],
            env=command.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.said = ""

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def has_said(self, words: str) -> bool:
        """Read what there is; whether the words were among it so far."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self.said += os.read(self._ours, 4096).decode()
            except OSError:  # the other end is closed
                break
        return words in self.said

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


# Where the tests themselves run under nohup, its deafness to SIGHUP is not handed on.
TAKE_TERMINAL = f"""
import fcntl, os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
fcntl.ioctl(0, {termios.TIOCSCTTY}, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
CTRL_C = b"\x03"


async def test_a_first_ctrl_c_stops_in_order_and_reaches_each_worker_once(
    command: CommandLine, app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_backlog(app, pipeline, 60)
    provider.configure(latency_ms=300)
    terminal = Terminal(command, "worker", "--processes", "2")
    try:
        await until(lambda: provider.stats()["in_flight"] == 2)
        terminal.press(CTRL_C)
        await until(lambda: terminal.has_said("all workers stopped"))
        assert terminal.process.wait(60) == 0
    finally:
        terminal.close()
    assert "Traceback" not in terminal.said
    assert await worker_statuses(app) == ["stopped", "stopped"]
    assert await processing(app) == 0


@pytest.mark.parametrize(("arguments", "calling"), [(("--processes", "2"), 2), ((), 1)])
async def test_a_second_ctrl_c_ends_at_once(
    command: CommandLine,
    app: App,
    pipeline: Pipeline,
    provider: RunningProvider,
    arguments: tuple[str, ...],
    calling: int,
) -> None:
    await add_backlog(app, pipeline, 60)
    provider.configure(latency_ms=60_000)
    terminal = Terminal(command, "worker", *arguments)
    try:
        # Each in a call, so that none ends at the first Ctrl-C. (Calls in flight count those that another test left.)
        await until(lambda: provider.stats()["calls"] == calling)
        workers = children(terminal.process.pid)
        terminal.press(CTRL_C)
        await until(lambda: terminal.has_said("stopping: calls under way are written first"))
        assert alive([terminal.process.pid, *workers]) == [terminal.process.pid, *workers]
        terminal.press(CTRL_C)
        assert terminal.process.wait(60) in {130, -signal.SIGINT}
        assert alive(workers) == []
    finally:
        terminal.close()
    assert "Traceback" not in terminal.said


async def test_a_terminal_that_closes_stops_in_order(
    command: CommandLine, app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_backlog(app, pipeline, 60)
    provider.configure(latency_ms=300)
    terminal = Terminal(command, "worker", "--processes", "2")
    await until(lambda: provider.stats()["in_flight"] == 2)
    workers = children(terminal.process.pid)
    os.close(terminal._ours)
    assert terminal.process.wait(60) == 0
    assert alive(workers) == []
    assert await worker_statuses(app) == ["stopped", "stopped"]
    assert await processing(app) == 0


async def test_a_single_worker_has_no_supervisor(command: CommandLine, app: App, pipeline: Pipeline) -> None:
    await add_backlog(app, pipeline, 3)
    with started(command) as process:
        await until(lambda: is_empty(app))
        assert children(process.pid) == []
        assert await live_workers(app) == 1
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said.splitlines()[-1] == "worker stopped"
