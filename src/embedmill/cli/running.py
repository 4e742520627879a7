"""How a command runs: settings, logs, the event loop, signals. Owns the border between a synchronous command
and the asynchronous program."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.settings import Settings

T = TypeVar("T")


def start() -> Settings:
    """Settings read, logs set up."""
    from embedmill.app import configure_logs
    from embedmill.settings import load_settings

    settings = load_settings()
    configure_logs(settings)
    return settings


def run_with_app(story: Callable[[App], Awaitable[T]]) -> T:
    """Open the app, run the story, close."""
    from embedmill.app import open_app

    settings = start()

    async def told() -> T:
        async with open_app(settings) as app:
            return await story(app)

    return asyncio.run(told())


def print_json(value: Any) -> None:
    """One JSON document on standard output, for programs."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()
