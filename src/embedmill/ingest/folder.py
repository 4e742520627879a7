"""Ingests files from disk: hash, compare, parse and chunk in a limited process, commit, launch. Owns the story
of one run; must not embed. Each file stands alone: what is wrong with one is said on its document and harms
no other. Running again does only what changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from embedmill.database.patience import patiently
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import DocumentError
from embedmill.ingest.discovery import Found, missing_sources
from embedmill.ingest.parsing import ParserPool
from embedmill.ingest.parsing_protocol import ParseRequest, TokenizerSpec
from embedmill.ingest.storing import Launched, PipelineSwitchedError, SourceContent, Storing
from embedmill.ports import ProviderSpec

_SQL = load_queries("embedmill.ingest", "ingest.sql")
SOURCE_TYPE = "file"
_LOOKUP = 500
_HASH_BLOCK = 1024 * 1024


class Verdict(StrEnum):
    """What this run did with a file."""

    ADDED = "added"
    CHANGED = "changed"
    RESUMED = "resumed"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    DELETED = "deleted"


class FileReport(msgspec.Struct, frozen=True):
    """One file of a run; `reason` and `message` where it failed, now or before."""

    path: str
    verdict: Verdict
    reason: str | None = None
    message: str | None = None
    chunks: int = 0


class FolderRun(msgspec.Struct):
    """What a run has seen so far; read by whoever shows it."""

    total: int
    reports: list[FileReport] = []
    bytes_read: int = 0
    direct_documents: int = 0
    """Documents that this process embedded itself, because the queue did not take them."""
    direct_reason: str | None = None


class _Known(msgspec.Struct, frozen=True):
    document_id: int
    content_hash: bytes | None
    chunk_count: int
    error_reason: str | None
    error_message: str | None
    job_id: UUID | None
    job_status: str | None


class FolderIngestion:
    """One run over files that were found, for one pipeline."""

    def __init__(
        self,
        database: Database,
        pipeline: Pipeline,
        parsers: ParserPool,
        storing: Storing,
        *,
        tokenizer: Callable[[ProviderSpec], TokenizerSpec],
        max_file_bytes: int,
        files_at_once: int,
        embed_directly: Callable[[int, UUID], Awaitable[None]],
    ) -> None:
        self._embed_directly = embed_directly
        self._database = database
        self._pipeline = pipeline
        self._parsers = parsers
        self._storing = storing
        self._tokenizer = tokenizer
        self._max_file_bytes = max_file_bytes
        self._files_at_once = files_at_once

    async def run(self, files: Sequence[Path], run: FolderRun) -> None:
        """Bring every file's document up to date and launch it; reports appear in `run` as they come."""
        for start in range(0, len(files), _LOOKUP):
            some = files[start : start + _LOOKUP]
            known = await self._look_up(some)
            queue = asyncio.Queue[Path]()
            for path in some:
                queue.put_nowait(path)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self._files_at_once, len(some))):
                    tasks.create_task(self._work_off(queue, known, run))

    async def delete_missing(
        self, found: Found, run: FolderRun, *, recursive: bool, pattern: str | None
    ) -> None:
        """Remove the documents of files that are gone from the folders that were looked through."""
        for folder in found.folders:
            rows = await self._database.fetch(
                _SQL["sources_under"],
                {"pipeline_id": self._pipeline.id, "source_type": SOURCE_TYPE, "beginning": folder},
            )
            known = [(int(row[0]), str(row[1])) for row in rows]
            for document_id, path in missing_sources(known, found, recursive=recursive, pattern=pattern):
                await patiently(partial(self._storing.delete, document_id))
                run.reports.append(FileReport(path, Verdict.DELETED))

    async def _work_off(self, queue: asyncio.Queue[Path], known: dict[str, _Known], run: FolderRun) -> None:
        while not queue.empty():
            path = queue.get_nowait()
            run.reports.append(await self._ingest(path, known.get(str(path)), run))

    async def _ingest(self, path: Path, known: _Known | None, run: FolderRun) -> FileReport:
        """One file, from its bytes to its items in the queue."""
        content = SourceContent(SOURCE_TYPE, str(path), path.name, None, None)
        try:
            _assert_nameable(path)
            content = await asyncio.to_thread(_fingerprint, content, path, self._max_file_bytes)
            run.bytes_read += content.size_bytes or 0
            if known is not None and _is_done(known, content):
                return await self._go_on(path, known, run)
            launched = await self._parse(path, content)
        except DocumentError as error:
            return await self._fail(path, content, known, error)
        await self._see_to(launched, run)
        verdict = Verdict.ADDED if known is None else Verdict.CHANGED
        return FileReport(str(path), verdict, chunks=launched.chunks)

    async def _parse(self, path: Path, content: SourceContent) -> Launched:
        """Read, cut and saved; again, where the pipeline was switched to another plan of chunks meanwhile."""
        while True:
            reply = await self._parsers.parse(self._request(path))
            try:
                return await patiently(partial(self._storing.save, content, reply.document, reply.chunks))
            except PipelineSwitchedError:
                await patiently(self._storing.refresh)

    async def _see_to(self, launched: Launched, run: FolderRun) -> None:
        """What the queue did not take is embedded here and now."""
        if launched.direct_reason is not None:
            run.direct_documents += 1
            run.direct_reason = launched.direct_reason
            await self._embed_directly(launched.document_id, launched.job_id)

    async def _go_on(self, path: Path, known: _Known, run: FolderRun) -> FileReport:
        """The bytes are those of last time: nothing to parse, but perhaps something to embed still."""
        if known.error_reason is not None:
            return FileReport(str(path), Verdict.FAILED, known.error_reason, known.error_message)
        if known.job_status == "completed" or known.job_id is None:
            return FileReport(str(path), Verdict.UNCHANGED, chunks=known.chunk_count)
        launched = await patiently(partial(self._storing.relaunch, known.document_id, known.job_id))
        await self._see_to(launched, run)
        return FileReport(str(path), Verdict.RESUMED, chunks=known.chunk_count)

    async def _fail(
        self, path: Path, content: SourceContent, known: _Known | None, error: DocumentError
    ) -> FileReport:
        report = FileReport(_printable(path), Verdict.FAILED, error.reason, str(error))
        same = known is not None and (known.error_reason, known.error_message) == (error.reason, str(error))
        if not same and _is_nameable(path):
            await patiently(partial(self._storing.save_failure, content, error.reason, str(error)))
        return report

    def _request(self, path: Path) -> ParseRequest:
        return ParseRequest(
            name=path.name,
            path=str(path),
            max_bytes=self._max_file_bytes,
            plan=self._storing.pipeline.chunk_plan,
            tokenizer=self._tokenizer(self._storing.pipeline.generation.spec),
        )

    async def _look_up(self, files: Sequence[Path]) -> dict[str, _Known]:
        rows: list[tuple[Any, ...]] = await self._database.fetch(
            _SQL["known_documents"],
            {
                "pipeline_id": self._pipeline.id,
                "source_type": SOURCE_TYPE,
                "source_ids": [str(path) for path in files if _is_nameable(path)],
            },
        )
        return {row[0]: _Known(*row[1:8]) for row in rows}


def _is_done(known: _Known, content: SourceContent) -> bool:
    """Whether these bytes need no parsing: they were read, or will never be. What ran into a limit of time or
    memory is tried again, since the limit may have been raised."""
    return known.content_hash == content.content_hash and known.error_reason not in {"timeout", "memory"}


def _fingerprint(content: SourceContent, path: Path, max_bytes: int) -> SourceContent:
    """Size and SHA-256 of a file, read in blocks. DocumentError where it cannot or should not be read."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise DocumentError("unreadable", "this is no regular file: only files are read")
        if facts.st_size > max_bytes:
            raise DocumentError(
                "too_large",
                f"the file is {facts.st_size / 1024**2:,.0f} MiB and the limit {max_bytes / 1024**2:,.0f} MiB: "
                "split it, or raise EMBEDMILL_MAX_FILE_MB",
            )
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DocumentError(
            "unreadable", f"the file cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    return msgspec.structs.replace(content, size_bytes=facts.st_size, content_hash=digest.digest())


def _is_nameable(path: Path) -> bool:
    """Whether the path can stand in the database: valid Unicode, and not longer than an index entry."""
    try:
        return len(str(path).encode("utf-8")) <= 2000
    except UnicodeEncodeError:
        return False


def _assert_nameable(path: Path) -> None:
    if not _is_nameable(path):
        raise DocumentError("unreadable", "the file's path is no valid UTF-8 or over 2,000 bytes: rename it")


def _printable(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
