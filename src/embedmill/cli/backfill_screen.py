"""The live screen of `embedmill backfill`: coverage, rate, ETA, cost. Owns the drawing only."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from embedmill.core.pricing import format_usd
from embedmill.sources.backfill_orders import BackfillState

_REFRESH_SECONDS = 0.5
_PLAIN_SECONDS = 5.0
_RATE_WINDOW_SECONDS = 15.0


class Pace:
    """Rows read and chunks embedded a second of late, by a clock in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int, int, int]] = deque()

    def note(self, state: BackfillState) -> None:
        now = self._clock()
        self._seen.append((now, state.rows_read, state.embedded, state.rows_walked))
        while now - self._seen[0][0] > _RATE_WINDOW_SECONDS:
            self._seen.popleft()

    def _per_second(self, which: int) -> float:
        first, last = self._seen[0], self._seen[-1]
        return (last[which] - first[which]) / (last[0] - first[0]) if last[0] > first[0] else 0.0

    @property
    def rows_per_second(self) -> float:
        return self._per_second(1)

    @property
    def chunks_per_second(self) -> float:
        return self._per_second(2)

    def eta_seconds(self, state: BackfillState) -> float | None:
        """From whichever binds: reading rows, or embedding what waits. None: nothing moves."""
        missing = max(0, state.chunks - state.embedded - state.unembeddable)
        rows = state.rows_left if state.is_running else 0
        if rows is None:
            return None
        if not missing and not rows:
            return 0.0
        reading = self._per_second(3 if state.rereads else 1)
        if (rows and reading <= 0) or (missing and self.chunks_per_second <= 0):
            return None
        per_row = state.chunks / state.documents if state.documents else 1.0
        embedding = (missing + rows * per_row) / self.chunks_per_second if self.chunks_per_second > 0 else 0.0
        return max(rows / reading if rows else 0.0, embedding)


async def show_backfill(
    look: Callable[[], Awaitable[BackfillState]], *, as_json: bool, trouble: Callable[[], str | None]
) -> None:
    """Draw until cancelled: a live block on a terminal, a line now and then elsewhere, as JSON if wanted."""
    pace = Pace()
    console = Console(stderr=True)
    if as_json or not console.is_terminal:
        while True:
            state = await look()
            pace.note(state)
            if as_json:
                sys.stdout.buffer.write(msgspec.json.encode(figures(state, pace, trouble())) + b"\n")
                sys.stdout.flush()
            else:
                print(line(state, pace, trouble()), file=sys.stderr, flush=True)
            await asyncio.sleep(_PLAIN_SECONDS)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            state = await look()
            pace.note(state)
            live.update(_draw(state, pace, trouble()), refresh=True)
            await asyncio.sleep(_REFRESH_SECONDS)


def figures(state: BackfillState, pace: Pace, trouble: str | None) -> dict[str, object]:
    """For programs."""
    return {
        "done": False,
        "source": state.name,
        "rows": state.rows,
        "rows_walked": state.rows_walked,
        "rows_read": state.rows_read,
        "rows_left": state.rows_left,
        "waiting_items": state.waiting,
        "chunks": state.chunks,
        "embedded_chunks": state.embedded,
        "coverage_percent": state.coverage_percent,
        "rows_per_second": round(pace.rows_per_second, 2),
        "chunks_per_second": round(pace.chunks_per_second, 2),
        "eta_seconds": pace.eta_seconds(state),
        "tokens": state.tokens,
        "cost_usd": state.cost_usd if state.is_priced else None,
        "trouble": trouble or state.trouble,
    }


def line(state: BackfillState, pace: Pace, trouble: str | None) -> str:
    """For logs and pipes."""
    said = (
        f"{state.name}: {state.coverage_percent:.4g}%, {state.rows_read} rows read, {_left(state)}, "
        f"{state.embedded}/{state.chunks} chunks, {pace.rows_per_second:.0f} rows/s, "
        f"{pace.chunks_per_second:.0f} chunks/s, {_cost(state)}, ETA {_eta(state, pace)}"
    )
    return f"{said} ({trouble or state.trouble})" if trouble or state.trouble else said


def _draw(state: BackfillState, pace: Pace, trouble: str | None) -> Table:
    grid = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=100.0, completed=state.coverage_percent, width=40)
    grid.add_row(state.name, bar, f"{state.coverage_percent:.2f}%")
    grid.add_row("rows", f"{state.rows_read:,} read", _left(state))
    grid.add_row("chunks", f"{state.embedded:,} of {state.chunks:,} so far", f"{state.waiting:,} items wait")
    grid.add_row(
        "pace",
        f"{pace.rows_per_second:,.0f} rows/s, {pace.chunks_per_second:,.0f} chunks/s",
        f"ETA {_eta(state, pace)}",
    )
    grid.add_row("paid", f"{state.tokens:,} tokens", _cost(state))
    if trouble or state.trouble:
        grid.add_row("note", (trouble or state.trouble or "")[:200], "")
    return grid


def _left(state: BackfillState) -> str:
    return "rows not counted yet" if state.rows_left is None else f"{state.rows_left:,} left"


def _cost(state: BackfillState) -> str:
    return format_usd(state.cost_usd if state.is_priced else None)


def _eta(state: BackfillState, pace: Pace) -> str:
    seconds = pace.eta_seconds(state)
    if seconds is None:
        return "unknown"
    if seconds <= 0:
        return "now"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
