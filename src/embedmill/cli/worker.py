"""`embedmill worker`: a process that embeds whatever is ready, or a fleet of them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.fleet.events import FleetEvent

MOST_PROCESSES = 1000
_GRACE_SECONDS = 120.0


class Processes(click.ParamType[int]):
    """`auto` (0 here), or how many."""

    name = "processes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        if text.lower() == "auto":
            return 0
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_PROCESSES):
            self.fail(f"auto, or a whole number from 1 to {MOST_PROCESSES}, not {text!r}", param, ctx)
        return int(text)


@click.command()
@click.option("--until-empty", is_flag=True, help="End when nothing waits any more.")
@click.option(
    "--processes",
    type=Processes(),
    metavar="auto|NUMBER",
    help="Keep so many worker processes running; auto: as many as the backlog needs, "
    "from min_concurrent_workers to max_concurrent_workers.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve the metrics of this machine's workers there, for Prometheus; 0: any port that is free.",
)
@click.option(
    "--metrics-host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Where the metrics are served; whoever reaches it reads them without a key.",
)
@click.option("--supervised", is_flag=True, hidden=True, help="Of a fleet: quiet, ends with standard input.")
def worker(
    until_empty: bool, processes: int | None, metrics_port: int | None, metrics_host: str, supervised: bool
) -> None:
    """Work on the queue until interrupted. A first Ctrl-C (or SIGTERM) ends in order: calls under way are
    written, the rest goes back to the queue; a second Ctrl-C ends at once."""
    from embedmill.app import serve_metrics
    from embedmill.cli.running import run_with_app, start

    async def story(app: App) -> int:
        if metrics_port is None:
            return await work(app)
        with serve_metrics(app.settings, metrics_host, metrics_port) as port:
            say(f"metrics on http://{metrics_host}:{port}/metrics")
            return await work(app)

    async def work(app: App) -> int:
        if processes is not None:
            return await _supervise(app, processes or None, until_empty=until_empty)
        return await _work(app, until_empty=until_empty, supervised=supervised)

    sys.exit(run_with_app(start(), story, connections=2 if processes is not None else 0))


async def _work(app: App, *, until_empty: bool, supervised: bool) -> int:
    """One worker, in this process; the exit status. A fleet's is stopped by its supervisor alone, and says nothing."""
    from embedmill.database.patience import patiently
    from embedmill.fleet.lifeline import DRAINED_STATUS
    from embedmill.queue.items import live_items

    working, columns = app.worker(parses=True), app.column_writer()

    def stop() -> None:
        columns.stop()
        working.stop()

    if supervised:
        from embedmill.fleet.lifeline import follow_supervisor

        follow_supervisor(stop, grace_seconds=_GRACE_SECONDS)
    tell_user = _say_nothing if supervised else say
    stop_on_signals(stop, _die, tell_user)
    tell_user(f"worker {working.identity.worker_id} is at work; Ctrl-C ends it")
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(working.run())
        while until_empty and not running.done():
            if await patiently(partial(live_items, app.database)) == 0:
                await columns.settle_due()  # items end before a column is emptied
                await working.settle_indexes()
                working.stop()
                break
            await asyncio.wait([running], timeout=0.5)
    tell_user("worker stopped: it was drained" if working.was_drained else "worker stopped")
    return DRAINED_STATUS if supervised and working.was_drained else 0


async def _supervise(app: App, processes: int | None, *, until_empty: bool) -> int:
    """A fleet, until it is stopped or has nothing left to do; the exit status."""
    cut_short = asyncio.Event()

    def end_at_once() -> None:
        cut_short.set()
        supervisor.kill()

    supervisor = app.supervisor(processes, until_empty=until_empty, on_event=tell)
    stop_on_signals(supervisor.stop, end_at_once, say)
    say("supervising the workers of this machine; Ctrl-C ends them")
    await supervisor.run()
    say("all workers stopped")
    if cut_short.is_set():
        return 128 + signal.SIGINT
    return 1 if supervisor.killed else 0


def tell(event: FleetEvent) -> None:
    """One line for each thing that happens to the fleet."""
    from embedmill.fleet import events

    match event:
        case events.FleetResized(number, reason):
            say(f"{number} worker{'' if number == 1 else 's'}: {reason}")
        case events.WorkerDied(pid, how, _, again):
            say(f"worker {pid} died ({how}), again in {again:.1f} s")
        case events.WorkerNotStarted(message, again):
            say(f"no worker could be started ({message}), again in {again:.1f} s")
        case events.WorkerKilled(pid, waited):
            say(f"worker {pid} did not stop within {waited:.0f} s and was killed; others take over its items")
        case events.WorkerDrained(pid):
            say(f"worker {pid} was drained; its place stays empty until `embedmill fleet replace`")
        case events.DatabaseAway(message):
            say(
                f"the database is away ({message.splitlines()[0] if message else 'no reason given'}); waiting"
            )
        case events.DatabaseBack():
            say("the database is back")


def stop_on_signals(
    stop: Callable[[], None], end_at_once: Callable[[], None], say: Callable[[str], None]
) -> None:
    """A first signal stops in order, a Ctrl-C after it at once. Other repetitions change nothing: service managers
    send SIGTERM to every process of a service, and a supervisor sends its own as well."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def handle(number: signal.Signals) -> None:
        if not stopping.is_set():
            stopping.set()
            stop()
            say("stopping: calls under way are written first; Ctrl-C ends at once")
        elif number is signal.SIGINT:
            end_at_once()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup a terminal that closes means nothing.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, handle, number)


def _die() -> None:
    """As Ctrl-C ends a program that does not handle it; others recover the leases."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


def say(text: str) -> None:
    # Where the terminal or the reader of a pipe has gone, the work goes on.
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _say_nothing(text: str) -> None:
    del text
