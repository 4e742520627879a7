"""`embedmill doctor`: checks what embedmill stands on, and says what to do."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from embedmill.cli.options import as_json

if TYPE_CHECKING:
    from embedmill.settings import Settings

_LEAST_DISK_GB = 1.0


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Check settings, disk, database, parsers, and the provider of each pipeline (one tiny call each).

    Exit status 1 where something needs a hand."""
    from embedmill.cli.running import print_json, start

    results = asyncio.run(_examine(start()))
    if as_json:
        print_json([{"check": name, "ok": ok, "finding": finding} for name, ok, finding in results])
    else:
        for name, ok, finding in results:
            print(f"{'ok  ' if ok else 'FAIL'}  {name}: {finding}")
    if not all(ok for _, ok, _ in results):
        sys.exit(1)


async def _examine(settings: Settings) -> list[tuple[str, bool, str]]:
    from embedmill.errors import EmbedmillError

    results: list[tuple[str, bool, str]] = []

    async def check(name: str, examination: Callable[[], Awaitable[str]]) -> bool:
        try:
            results.append((name, True, await examination()))
        except (EmbedmillError, OSError) as error:
            results.append((name, False, str(error)))
        return results[-1][1]

    await check("settings", _settings)
    await check("disk", lambda: _disk(settings))
    await check("parsers", lambda: _parsers(settings))
    if await check("database", lambda: _database(settings)):
        await _check_pipelines(settings, check)
    return results


async def _settings() -> str:
    from embedmill.errors import ConfigurationError
    from embedmill.settings import unknown_variables

    unknown = unknown_variables()
    if unknown:
        raise ConfigurationError(
            f"{', '.join(unknown)}: no such setting; docs/reference/settings.md lists them all"
        )
    return f"Python {sys.version.split()[0]}, no unknown variable"


async def _disk(settings: Settings) -> str:
    from embedmill.errors import ConfigurationError

    folder = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1024**3
    if free < _LEAST_DISK_GB:
        raise ConfigurationError(
            f"only {free:.2f} GiB are free at {settings.data_dir}: free some, or set EMBEDMILL_DATA_DIR elsewhere"
        )
    return f"{free:.1f} GiB free at {settings.data_dir}"


async def _parsers(settings: Settings) -> str:
    """A real document through the real, limited process."""
    import tempfile
    from pathlib import Path

    from embedmill.app import open_parsers
    from embedmill.ingest.parsing_protocol import ParseRequest

    page = b"<html><body><h1>Doctor</h1><p>All is well.</p></body></html>"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "doctor.html"
        await asyncio.to_thread(path.write_bytes, page)
        async with open_parsers(settings) as parsers:
            reply = await parsers.parse(ParseRequest(name=path.name, path=str(path)))
    return f"read {len(reply.document.text)} characters of HTML in a limited process"


async def _database(settings: Settings) -> str:
    from embedmill.app import prepare_database
    from embedmill.database.pool import connect
    from embedmill.database.server import check_server

    url = await asyncio.to_thread(prepare_database, settings)
    with connect(url) as connection:
        facts = check_server(connection)
    kind = "your own" if settings.database_url else "embedded"
    return f"{kind} PostgreSQL {facts.version}, pgvector {facts.pgvector_installed}, schema current"


async def _check_pipelines(
    settings: Settings, check: Callable[[str, Callable[[], Awaitable[str]]], Awaitable[bool]]
) -> None:
    from embedmill.app import App, open_app, prepare_database
    from embedmill.database.pipelines import Pipeline, list_pipelines
    from embedmill.ports import Purpose

    async def ask(app: App, pipeline: Pipeline) -> str:
        spec = pipeline.generation.spec
        provider = app.provider(spec)
        try:
            await provider.embed(["embedmill doctor"], Purpose.QUERY)
        finally:
            await provider.aclose()
        return f"{spec.model} answers with {pipeline.generation.dimensions} dimensions"

    async with open_app(settings, prepare_database(settings)) as app:
        for pipeline in await list_pipelines(app.database, await app.tenant_id()):
            await check(f"provider of {pipeline.name}", partial(ask, app, pipeline))
