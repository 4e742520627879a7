"""`embedmill up`: the service, and a fleet of workers beside it."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import click

from embedmill.cli.worker import Processes, say, stop_on_signals, tell

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.settings import Settings


@click.command()
@click.option("--host", metavar="ADDRESS", help="Where to listen (EMBEDMILL_HOST; 127.0.0.1).")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="The port (EMBEDMILL_PORT; 8080); 0: any that is free."
)
@click.option("--no-workers", is_flag=True, help="The service alone: workers run elsewhere.")
@click.option(
    "--processes",
    type=Processes(),
    metavar="auto|NUMBER",
    default="auto",
    show_default=True,
    help="How many worker processes; auto: as many as the backlog needs.",
)
def up(host: str | None, port: int | None, no_workers: bool, processes: int) -> None:
    """Run the service: the dashboard, the REST API, and workers that parse and embed. Ctrl-C ends both in order."""
    from embedmill.app import has_service_parts
    from embedmill.cli.running import run_with_app, start
    from embedmill.errors import ConfigurationError

    settings = start()
    if not has_service_parts():
        raise ConfigurationError("the service is not installed: pip install 'embedmill[service]'")

    async def story(app: App) -> int:
        chosen = (host or settings.host, settings.port if port is None else port)
        return await _serve(app, settings, *chosen, workers=None if no_workers else processes)

    sys.exit(run_with_app(settings, story, connections=2))


async def _serve(app: App, settings: Settings, host: str, port: int, *, workers: int | None) -> int:
    """Until a signal; the exit status. `workers`: how many processes, 0 for as many as are needed, None for none."""
    from embedmill.api.server import listen
    from embedmill.dashboard.application import add_dashboard
    from embedmill.service import open_service

    async with open_service(settings, app.database.url) as service:
        listener = await listen(service, host, port, furnish=add_dashboard)
        supervisor = None
        if workers is not None:
            supervisor = app.supervisor(workers or None, until_empty=False, on_event=tell)
        cut_short = asyncio.Event()

        chores = service.chores()

        def stop() -> None:
            listener.stop()
            for chore in chores:
                chore.stop()
            if supervisor is not None:
                supervisor.stop()

        def end_at_once() -> None:
            cut_short.set()
            listener.end_at_once()
            if supervisor is not None:
                supervisor.kill()

        stop_on_signals(stop, end_at_once, say)
        say(f"embedmill answers on {listener.address}; Ctrl-C ends it")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listener.run())
            if supervisor is not None:
                tasks.create_task(supervisor.run())
            for chore in chores:
                tasks.create_task(chore.run())
        say("stopped")
    return 128 + signal.SIGINT if cut_short.is_set() else 0
