"""How a command runs: settings, logs, the event loop, signals. Owns the border between a synchronous command
and the asynchronous program."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from embedmill.errors import EmbedmillError

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.settings import Settings

T = TypeVar("T")


def read_settings() -> Settings:
    """Settings for a command that logs nothing."""
    from embedmill.settings import load_settings

    return load_settings()


def start() -> Settings:
    """Settings for a command that works: with logs set up, whose library takes a while to import."""
    from embedmill.logs import configure_logs

    collect_garbage_seldom()
    settings = read_settings()
    configure_logs(settings)
    return settings


def collect_garbage_seldom() -> None:
    """A batch is thousands of objects that live for a moment and hold no cycles: to look through them at every
    700th, as is the default, took a twelfth of a worker's time."""
    gc.set_threshold(20_000)
    gc.enable()


def run_with_app(
    settings: Settings,
    story: Callable[[App], Awaitable[T]],
    *,
    connections: int = 0,
    meanwhile: Callable[[], None] = lambda: None,
) -> T:
    """Open the app, run the story, close. `meanwhile` is done while the database is waited for."""
    from embedmill.app import open_app, prepare_database

    async def told() -> T:
        preparing = asyncio.create_task(asyncio.to_thread(prepare_database, settings))
        await asyncio.sleep(0)
        meanwhile()
        async with open_app(settings, await preparing, max_connections=connections) as app:
            return await story(app)

    try:
        return asyncio.run(told())
    except BaseExceptionGroup as group:
        raise _first_told(group) from group


def _first_told(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of what failed together, the error that is meant for the user; else the first."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, BaseExceptionGroup):
            waiting += found.exceptions
        else:
            leaves.append(found)
    return next((leaf for leaf in leaves if isinstance(leaf, EmbedmillError)), leaves[0])


def print_json(value: Any) -> None:
    """One JSON document on standard output, for programs."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()
