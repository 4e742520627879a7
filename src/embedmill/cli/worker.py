"""`embedmill worker`: a process that embeds whatever is ready."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from embedmill.app import App


@click.command()
@click.option("--until-empty", is_flag=True, help="End when nothing waits any more.")
def worker(until_empty: bool) -> None:
    """Work on the queue until interrupted. A first Ctrl-C (or SIGTERM) ends in order: calls under way are
    written, the rest goes back to the queue."""
    from embedmill.cli.running import run_with_app, start

    async def story(app: App) -> None:
        from embedmill.queue.items import live_items

        working = app.worker()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, working.stop)
        print(f"worker {working.identity.worker_id} is at work; Ctrl-C ends it", flush=True)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(working.run())
            while until_empty and not running.done():
                if await live_items(app.database) == 0:
                    await working.settle_indexes()
                    working.stop()
                    break
                await asyncio.wait([running], timeout=0.5)
        print("worker stopped", flush=True)

    run_with_app(start(), story)
