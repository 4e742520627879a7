"""Shows how far a job or a batch has come: a line with a bar on a terminal, nothing anywhere else. Must not wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from embedmill.client.records.jobs import Batch, IngestionJob

_DOING = {
    "staged": "waits for a parser",
    "parsing": "is read",
    "chunk_preview_ready": "waits for its launch",
    "embedding_in_progress": "is embedded",
}


@contextmanager
def shown(wanted: bool) -> Iterator[Callable[[IngestionJob | Batch], None]]:
    """What to tell each state to. On stderr, so that a program's output stays its own."""
    if not wanted:
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - costs a tenth of a second, for those who want it

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with _bar(console) as bar:
        line = bar.add_task("", total=100)
        yield lambda state: bar.update(line, description=describe(state), completed=state.progress)


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn  # noqa: PLC0415

    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), console=console
    )


def describe(state: IngestionJob | Batch) -> str:
    """One line: what it is, what happens to it, how much of it is done."""
    done = state.embedded_chunks + state.failed_chunks
    chunks = f", {done:,} of {state.total_chunks:,} chunks" if state.total_chunks else ""
    if isinstance(state, Batch):
        ended = state.completed + state.failed + state.cancelled
        return f"{ended} of {state.jobs} documents{chunks}"
    doing = (
        f"is paused ({state.paused_reason})"
        if state.paused_reason
        else _DOING.get(state.status, state.status)
    )
    eta = f", {state.eta_seconds:,.0f} s left" if state.eta_seconds and not state.has_ended else ""
    return f"{state.name} {doing}{chunks}{eta}"
