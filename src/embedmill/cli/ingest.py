"""`embedmill ingest`: files in, vectors beside them. Owns what a person sees of a run and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import click

from embedmill.cli.options import as_json, pipeline_name

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.cli.ingest_report import IngestReport
    from embedmill.cli.ingest_screen import SpentSoFar
    from embedmill.database.pipelines import Pipeline
    from embedmill.events import Event
    from embedmill.ingest.discovery import Found
    from embedmill.worker.loop import Worker

_POLL_SECONDS = 0.2


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@pipeline_name
@click.option("--recursive", "-r", is_flag=True, help="Folders within folders too.")
@click.option("--glob", help="Only files like this: '*.pdf', or 'docs/*.md'.")
@click.option(
    "--delete-missing", is_flag=True, help="Remove documents whose file is gone from these folders."
)
@click.option(
    "--priority",
    type=click.Choice(["high", "medium", "low"]),
    default="medium",
    show_default=True,
    help="How soon its chunks are embedded, beside others.",
)
@as_json
def ingest(
    paths: tuple[Path, ...],
    pipeline: str,
    recursive: bool,
    glob: str | None,
    delete_missing: bool,
    priority: str,
    as_json: bool,
) -> None:
    """Parse, chunk and embed files. Running it again does only what changed; Ctrl-C keeps what is done.

    Exit status: 0 all files embedded, 1 some failed (each with its reason), 130 interrupted."""
    from embedmill.cli.ingest_report import show_report
    from embedmill.cli.running import print_json, run_with_app, start
    from embedmill.ingest.discovery import find_files

    found = find_files(paths, recursive=recursive, pattern=glob)

    async def story(app: App) -> IngestReport:
        run = _Run(app, found, quiet=as_json)
        return await run.tell(
            pipeline, priority=priority, delete_missing=delete_missing, recursive=recursive, glob=glob
        )

    report = run_with_app(start(), story)
    if as_json:
        print_json(report)
    else:
        show_report(report, found)
    if report.interrupted:
        sys.exit(130)
    if report.failed_files or report.failed_embeddings or report.error:
        sys.exit(1)


class _Run:
    """One run: the files go in at one end, a worker embeds at the other, a screen shows both."""

    def __init__(self, app: App, found: Found, *, quiet: bool) -> None:
        from embedmill.ingest.folder import FolderRun

        self._app = app
        self._found = found
        self._quiet = quiet
        self._batch_id = uuid4()
        self._files = FolderRun(total=len(found.files))
        self._interrupted = asyncio.Event()
        self._fatal: str | None = None
        self._note_of_the_moment: str | None = None
        self._spent: SpentSoFar | None = None
        self._started = time.monotonic()

    async def tell(
        self, name: str, *, priority: str, delete_missing: bool, recursive: bool, glob: str | None
    ) -> IngestReport:
        from embedmill.cli.ingest_report import build_report
        from embedmill.embed.generations import loading

        pipeline = await self._app.pipeline(name)
        worker = self._app.worker(on_event=self._note)
        self._listen_to_signals(worker)
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(worker.run())
            showing = tasks.create_task(self._show(pipeline))
            async with (
                self._app.parsers() as parsers,
                self._app.direct_embedder(
                    pipeline, worker_id=worker.identity.worker_id, on_event=self._note
                ) as direct,
            ):
                ingestion = self._app.folder_ingestion(
                    pipeline,
                    parsers,
                    batch_id=self._batch_id,
                    priority=priority,
                    embed_directly=direct.embed,
                    on_launched=worker.look,
                )
                async with loading(self._app.database, pipeline):
                    feeding = asyncio.create_task(ingestion.run(self._found.files, self._files))
                    await self._until_interrupted(feeding)
            if delete_missing and not self._interrupted.is_set():
                await ingestion.delete_missing(self._found, self._files, recursive=recursive, pattern=glob)
            await self._until_embedded(name)
            if not self._interrupted.is_set():
                await self._until_interrupted(asyncio.create_task(self._index(worker, pipeline)))
            worker.stop()
            await working
            showing.cancel()
        return await build_report(
            self._app.database,
            pipeline,
            self._files,
            batch_id=self._batch_id,
            worker_id=worker.identity.worker_id,
            seconds=time.monotonic() - self._started,
            interrupted=self._interrupted.is_set(),
            error=self._fatal,
            unreadable_folders=self._found.unreadable_folders,
        )

    async def _until_interrupted(self, work: asyncio.Task[None]) -> None:
        """Wait for the files, or the index, or for the person to have enough; what was committed stays."""
        interrupted = asyncio.create_task(self._interrupted.wait())
        try:
            await asyncio.wait({work, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work
            else:
                await work
        finally:
            interrupted.cancel()
            work.cancel()

    async def _index(self, worker: Worker, pipeline: Pipeline) -> None:
        """Now that all has come: while files were read, nothing was built."""
        from embedmill.database.patience import AWAY
        from embedmill.embed.generations import keep_index

        self._note_of_the_moment = (
            "building the index of vectors, if need be; Ctrl-C leaves it to the next worker"
        )
        await worker.settle_indexes()
        with contextlib.suppress(*AWAY):
            await keep_index(self._app.database, pipeline)

    async def _until_embedded(self, name: str) -> None:
        """Until every document of this run has ended, whoever embeds it; a paused pipeline and a budget are not waited
        for."""
        from embedmill.database.patience import patiently
        from embedmill.ingest.progress import is_settled, waits_for_budget

        while not self._interrupted.is_set() and self._fatal is None:
            if await patiently(lambda: is_settled(self._app.database, self._batch_id)):
                return
            if (await patiently(lambda: self._app.pipeline(name))).paused_at is not None:
                self._fatal = (
                    f"pipeline {name!r} is paused: `embedmill queue resume --pipeline {name}` goes on"
                )
                return
            if await patiently(lambda: waits_for_budget(self._app.database, self._batch_id)):
                self._fatal = (
                    "the budget is used up, and the rest waits: `embedmill budget set AMOUNT` raises it"
                )
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._interrupted.wait(), _POLL_SECONDS)

    async def _show(self, pipeline: Pipeline) -> None:
        from embedmill.cli.ingest_screen import SpentSoFar, show_progress

        self._spent = SpentSoFar(pipeline.price_per_million_tokens)

        await show_progress(
            self._app.database,
            self._files,
            batch_id=self._batch_id,
            spent=self._spent,
            quiet=self._quiet,
            note=lambda: self._note_of_the_moment,
        )

    def _listen_to_signals(self, worker: Worker) -> None:
        """The first Ctrl-C ends in order, the second at once."""

        def interrupt() -> None:
            if self._interrupted.is_set():
                sys.exit(130)
            self._interrupted.set()
            worker.stop()
            if not self._quiet:
                print("\nending: calls under way are written, the rest stays queued", file=sys.stderr)

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupt)

    def _note(self, event: Event) -> None:
        from embedmill.events import CallFailed, CallSucceeded

        if isinstance(event, CallFailed):
            self._note_of_the_moment = event.message
            if event.fatal:
                self._fatal = event.message
        elif isinstance(event, CallSucceeded):
            self._note_of_the_moment = None
            if self._spent is not None:
                self._spent.tokens += event.tokens
