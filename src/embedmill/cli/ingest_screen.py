"""The live screen of `embedmill ingest`: files, chunks, tokens, cost, rate, ETA. Owns the drawing only."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from uuid import UUID

import msgspec
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from embedmill.core.pricing import cost_usd, format_usd
from embedmill.database.patience import AWAY
from embedmill.database.pool import Database
from embedmill.ingest.folder import FolderRun
from embedmill.ingest.progress import BatchProgress, batch_progress

_REFRESH_SECONDS = 0.5
_PLAIN_SECONDS = 5.0
_RATE_WINDOW_SECONDS = 10.0


class SpentSoFar(msgspec.Struct):
    """Tokens that this process paid for, at a price for a million (None: unknown)."""

    price: Decimal | None
    tokens: int = 0


async def show_progress(
    database: Database,
    files: FolderRun,
    *,
    batch_id: UUID,
    spent: SpentSoFar,
    quiet: bool,
    note: Callable[[], str | None],
) -> None:
    """Draw until cancelled: a live table on a terminal, a line now and then elsewhere, nothing when quiet. `note`: what
    else there is to say at the moment."""
    if quiet:
        return
    console = Console(stderr=True)
    rate = _Rate()
    if not console.is_terminal:
        await _print_lines(database, files, batch_id, spent, rate, note)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            try:
                progress = await batch_progress(database, batch_id)
                live.update(_draw(files, progress, spent, rate, note()), refresh=True)
            except AWAY as error:
                live.update(f"waiting for the database: {error}", refresh=True)
            await asyncio.sleep(_REFRESH_SECONDS)


async def _print_lines(
    database: Database,
    files: FolderRun,
    batch_id: UUID,
    spent: SpentSoFar,
    rate: _Rate,
    note: Callable[[], str | None],
) -> None:
    """For logs and pipes: the same figures in one line, every few seconds."""
    while True:
        await asyncio.sleep(_PLAIN_SECONDS)
        try:
            progress = await batch_progress(database, batch_id)
        except AWAY:
            continue
        rate.note(progress.embedded_chunks)
        cost = format_usd(cost_usd(spent.tokens, spent.price))
        print(
            f"{len(files.reports)}/{files.total} files, {progress.embedded_chunks}/{progress.total_chunks} chunks, "
            f"{spent.tokens} tokens, {cost}, {rate.per_second:.0f} chunks/s, "
            f"ETA {_eta(files, progress, rate)}" + _behind(note()),
            file=sys.stderr,
            flush=True,
        )


def _behind(note: str | None) -> str:
    return f"; {note[:200]}" if note else ""


class _Rate:
    """Chunks a second over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, embedded: int) -> None:
        now = time.monotonic()
        self._seen.append((now, embedded))
        while now - self._seen[0][0] > _RATE_WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else 0.0


def _draw(
    files: FolderRun, progress: BatchProgress, spent: SpentSoFar, rate: _Rate, note: str | None
) -> Table:
    rate.note(progress.embedded_chunks)
    done = len(files.reports)
    grid = Table.grid(padding=(0, 2))
    grid.add_row("files", _bar(done, files.total), f"{done:,} of {files.total:,}")
    ended = progress.embedded_chunks + progress.failed_chunks
    chunks = f"{ended:,} of {progress.total_chunks:,}" + (" so far" if done < files.total else "")
    grid.add_row("chunks", _bar(ended, progress.total_chunks), chunks)
    grid.add_row(
        "paid",
        f"{spent.tokens:,} tokens, {format_usd(cost_usd(spent.tokens, spent.price))}",
        f"{rate.per_second:,.0f} chunks/s, ETA {_eta(files, progress, rate)}",
    )
    if note:
        grid.add_row("note", note[:200], "")
    return grid


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=done, width=40)


def _eta(files: FolderRun, progress: BatchProgress, rate: _Rate) -> str:
    """From the chunks that are known and, for files not read yet, as many as their neighbours had."""
    known = progress.total_chunks - progress.embedded_chunks - progress.failed_chunks
    done = len(files.reports)
    to_come = (files.total - done) * progress.total_chunks / done if done else 0
    if known + to_come <= 0:
        return "now"
    if rate.per_second <= 0:
        return "unknown"
    seconds = int((known + to_come) / rate.per_second)
    return f"{seconds // 60}:{seconds % 60:02d}"
