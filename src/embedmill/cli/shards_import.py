"""`embedmill shards import`: a change feed, one JSON object a line, from a pipe or a file. Owns what is shown of it and
how it ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.sources.shard_stream import ShardStream, StreamCounts

_PROGRESS_SECONDS = 1.0
_QUIET_PROGRESS_SECONDS = 30.0


@click.command("import")
@click.option(
    "--jsonl",
    "source",
    type=click.File("rb"),
    required=True,
    help="The file to read; - is standard input.",
)
@click.option("--type", "shard_type", type=Text(), help="The shard type of lines that name none.")
@click.option(
    "--pipeline", "-p", type=Text(), help="Where the feeds are, or are to be made.  [default: default]"
)
@as_json
def import_(source: Any, shard_type: str | None, pipeline: str | None, as_json: bool) -> None:
    """Write the shards of a stream, one JSON object a line:

    {"shardTypeId": "articles", "shardId": "1", "content": "...", "version": 7}

    Besides content: fields, metadata, and operation (upsert or delete). A line that cannot be taken is told with its
    number and the others go on. What came is written after a second at most. Ctrl-C writes what was read and ends."""
    from embedmill.cli.running import print_json, run_with_app, start

    settings = start()
    interrupted: list[int] = []

    async def story(app: App) -> StreamCounts:
        from embedmill.sources.shard_entries import read_type
        from embedmill.sources.shard_stream import ShardStream
        from embedmill.sources.shards import Shards

        progress = _Progress()
        stream = ShardStream(
            Shards(app.database, await app.tenant_id()),
            shard_type_id=None if shard_type is None else read_type(shard_type),
            pipeline=pipeline if pipeline is None else (await app.pipeline(pipeline)).name,
            most_bytes=settings.max_file_bytes,
            on_trouble=progress.tell_trouble,
            on_batch=progress.tell,
        )
        _stop_at_signals(stream, interrupted)
        counts = await stream.run(source.fileno())
        progress.end()
        return counts

    counts = run_with_app(settings, story)
    if as_json:
        print_json(counts)
    else:
        print(_sentence(counts))
    if interrupted:
        print(f"stopped: everything up to line {counts.lines:,} is written", file=sys.stderr)
        sys.exit(128 + interrupted[0])
    if counts.bad or counts.rejected:
        sys.exit(1)


def _stop_at_signals(stream: ShardStream, interrupted: list[int]) -> None:
    """The first signal writes what was read; a second one ends at once."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        interrupted.append(number)
        stream.stop()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)


class _Progress:
    """On a terminal one line that changes, else a line now and then."""

    def __init__(self) -> None:
        import time

        self._now = time.monotonic
        self._is_terminal = sys.stderr.isatty()
        self._told_at = self._now()
        self._has_line = False

    def tell(self, counts: StreamCounts) -> None:
        seconds = _PROGRESS_SECONDS if self._is_terminal else _QUIET_PROGRESS_SECONDS
        if self._now() - self._told_at < seconds:
            return
        self._told_at = self._now()
        if self._is_terminal:
            print(f"\r\033[K{_sentence(counts)}", end="", file=sys.stderr, flush=True)
            self._has_line = True
        else:
            print(_sentence(counts), file=sys.stderr, flush=True)

    def tell_trouble(self, line: int, message: str) -> None:
        self.end()
        print(f"line {line:,}: {message}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._has_line:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._has_line = False


def _sentence(counts: StreamCounts) -> str:
    from embedmill.cli.tables import count

    parts = [f"{counts.applied:,} applied"]
    if counts.ignored:
        parts.append(f"{counts.ignored:,} ignored (a newer version stands)")
    if counts.rejected:
        parts.append(f"{counts.rejected:,} rejected")
    if counts.bad:
        parts.append(f"{counts.bad:,} not understood")
    return f"{count(counts.lines, 'line')}: {', '.join(parts)}"
