"""What a run of `embedmill ingest` did, for people and for programs. Owns the report's shape and its words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from uuid import UUID

import msgspec

from embedmill.core.pricing import format_usd
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.ingest.discovery import Found
from embedmill.ingest.folder import FileReport, FolderRun, Verdict
from embedmill.ingest.progress import (
    EmbeddingFailure,
    batch_failures,
    batch_progress,
    coverage,
    spent_by,
)


class IngestReport(msgspec.Struct, frozen=True):
    """The end of a run. Counts of files by verdict; chunks of the documents that this run launched; calls,
    tokens and cost that this process paid; coverage of the whole pipeline."""

    pipeline: str
    seconds: float
    interrupted: bool
    error: str | None
    files: int
    verdicts: dict[str, int]
    chunks: int
    embedded_chunks: int
    reused_chunks: int
    failed_chunks: int
    calls: int
    tokens: int
    cost_usd: float | None
    coverage_percent: float
    coverage_chunks: int
    coverage_embedded: int
    coverage_unembeddable: int
    direct_documents: int
    direct_reason: str | None
    failed_files: list[FileReport]
    failed_embeddings: list[EmbeddingFailure]


async def build_report(
    database: Database,
    pipeline: Pipeline,
    run: FolderRun,
    *,
    batch_id: UUID,
    worker_id: UUID,
    seconds: float,
    interrupted: bool,
    error: str | None,
    unreadable_folders: list[tuple[Path, str]],
) -> IngestReport:
    """Read how it ended: from the database, not from what this process believes."""
    progress = await batch_progress(database, batch_id)
    spent = await spent_by(database, pipeline.tenant_id, worker_id)
    covered = await coverage(database, pipeline.generation.id)
    failed = [report for report in run.reports if report.verdict is Verdict.FAILED]
    failed += [
        FileReport(str(folder), Verdict.FAILED, "unreadable", f"the folder cannot be read: {why.lower()}")
        for folder, why in unreadable_folders
    ]
    return IngestReport(
        pipeline=pipeline.name,
        seconds=round(seconds, 2),
        interrupted=interrupted,
        error=error,
        files=run.total,
        verdicts=dict(Counter(report.verdict.value for report in run.reports)),
        chunks=progress.total_chunks,
        embedded_chunks=progress.embedded_chunks,
        reused_chunks=progress.reused_chunks,
        failed_chunks=progress.failed_chunks,
        calls=spent.calls,
        tokens=spent.tokens,
        cost_usd=None if spent.cost_usd is None else float(spent.cost_usd),
        coverage_percent=covered.percent,
        coverage_chunks=covered.chunks,
        coverage_embedded=covered.embedded,
        coverage_unembeddable=covered.unembeddable,
        direct_documents=run.direct_documents,
        direct_reason=run.direct_reason,
        failed_files=sorted(failed, key=lambda report: report.path),
        failed_embeddings=await batch_failures(database, batch_id),
    )


def show_report(report: IngestReport, found: Found) -> None:
    """For people: one line for each thing worth knowing."""
    for failure in report.failed_files:
        print(f"failed   {failure.path}: {failure.message} [{failure.reason}]")
    for trouble in report.failed_embeddings:
        what = f"{trouble.failed_chunks} chunks refused" if trouble.failed_chunks else "not embedded"
        print(f"failed   {trouble.path}: {what}: {trouble.message}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(report.verdicts.items())) or "none"
    print(f"files     {report.files}: {counts}")
    print(
        f"embedded  {report.embedded_chunks} of {report.chunks} chunks in {report.seconds:.1f} s "
        f"({report.reused_chunks} reused)"
    )
    cost = "unknown (set --price-per-million-tokens)" if report.cost_usd is None else _money(report.cost_usd)
    print(f"paid      {report.calls} calls, {report.tokens} tokens, cost {cost}")
    print(
        f"coverage  {report.coverage_percent:.4g}%: {report.coverage_embedded} of "
        f"{report.coverage_chunks - report.coverage_unembeddable} chunks in pipeline {report.pipeline!r}"
        + (f", {report.coverage_unembeddable} cannot be embedded" if report.coverage_unembeddable else "")
    )
    if report.direct_documents:
        print(
            f"note      {report.direct_documents} documents were embedded by this command itself, "
            f"without the queue: {report.direct_reason}"
        )
    if found.skipped_folders:
        print(f"note      {found.skipped_folders} folders were not entered: --recursive does")
    if report.error:
        print(f"stopped   {report.error}\n          what is done is kept; run it again when this is mended")
    elif report.interrupted:
        print("stopped   what is done is kept; run it again to go on")


def _money(amount: float) -> str:
    from decimal import Decimal

    return format_usd(Decimal(str(amount)))
