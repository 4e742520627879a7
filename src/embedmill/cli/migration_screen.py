"""The live screen of `embedmill pipeline migrate`: coverage, rate, ETA, cost. Owns the drawing only."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from embedmill.core.pricing import format_usd
from embedmill.database.patience import AWAY
from embedmill.embed.generation_states import GenerationState
from embedmill.errors import ConflictError

_REFRESH_SECONDS = 0.5
_PLAIN_SECONDS = 5.0
_RATE_WINDOW_SECONDS = 15.0


class _Pace:
    """Chunks, and the share of the whole, that were done a second of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, float]] = deque()

    def note(self, state: GenerationState) -> None:
        now = time.monotonic()
        self._seen.append((now, state.embedded, state.coverage))
        while now - self._seen[0][0] > _RATE_WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def chunks_per_second(self) -> float:
        (first, before, _), (last, after, _) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def eta(self) -> str:
        (first, _, before), (last, _, after) = self._seen[0], self._seen[-1]
        if after >= 1:
            return "now"
        if last <= first or after <= before:
            return "unknown"
        seconds = int((1 - after) * (last - first) / (after - before))
        return f"{seconds // 60}:{seconds % 60:02d}"


async def show_build(
    look: Callable[[], Awaitable[GenerationState]], *, quiet: bool, trouble: Callable[[], str | None]
) -> None:
    """Draw until cancelled: a live table on a terminal, a line now and then elsewhere, nothing when quiet."""
    if quiet:
        return
    console = Console(stderr=True)
    pace = _Pace()
    if not console.is_terminal:
        while True:
            await asyncio.sleep(_PLAIN_SECONDS)
            try:
                print(_line(await look(), pace), file=sys.stderr, flush=True)
            except (*AWAY, ConflictError):
                continue
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            try:
                live.update(_draw(await look(), pace, trouble()), refresh=True)
            except AWAY as error:
                live.update(f"waiting for the database: {error}", refresh=True)
            except ConflictError:
                return
            await asyncio.sleep(_REFRESH_SECONDS)


def _line(state: GenerationState, pace: _Pace) -> str:
    pace.note(state)
    return (
        f"generation {state.number}: {state.coverage:.1%}, {state.embedded}/{state.chunks} chunks, "
        f"{state.tokens} tokens, {format_usd(state.cost_usd)}, {pace.chunks_per_second:.0f} chunks/s, ETA {pace.eta()}"
    )


def _draw(state: GenerationState, pace: _Pace, trouble: str | None) -> Table:
    pace.note(state)
    grid = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=1.0, completed=state.coverage, width=40)
    grid.add_row(f"generation {state.number}", bar, f"{state.coverage:.1%}")
    grid.add_row(
        "chunks",
        f"{state.embedded:,} of {state.chunks:,}" + ("" if state.walked >= 1 else " so far"),
        state.spec.model,
    )
    budget = "" if state.budget_usd is None else f" of {format_usd(state.budget_usd)}"
    grid.add_row(
        "paid",
        f"{state.tokens:,} tokens, {format_usd(state.cost_usd)}{budget}",
        f"{pace.chunks_per_second:,.0f} chunks/s, ETA {pace.eta()}",
    )
    if trouble:
        grid.add_row("note", trouble[:200], "")
    return grid
