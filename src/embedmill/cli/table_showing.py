"""How table sources are shown: as lines for people, as fields for programs. Owns the words; asks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from embedmill.sources.column_facts import ColumnFacts
    from embedmill.sources.coverage import SourceCoverage
    from embedmill.sources.tables import AddedTable, TableSource


def tell(added: AddedTable) -> None:
    for note in added.notes:
        click.echo(f"note: {note}", err=True)


def tell_column(facts: ColumnFacts | None, *, adopts: bool) -> None:
    """Before anything is embedded: what stands in the column that was named."""
    if facts is None or facts.rows_with_vector == 0:
        return
    said = f"rows with a vector in the column {facts.column} already: {facts.counted}"
    believed = "they are believed (--adopt)"
    overwritten = "they are embedded anew and overwritten; `table add` with --adopt would believe them"
    click.echo(f"note: {said}; {believed if adopts else overwritten}", err=True)


def show_source(source: TableSource, coverage: SourceCoverage, column: ColumnFacts | None = None) -> None:
    reasons = sorted(coverage.unembeddable.items())
    facts = {
        "table": source.name,
        "pipeline": source.pipeline,
        "state": state(source),
        "content": source.template.replace("\n", "\\n"),
        "columns": ", ".join(source.columns),
        "where": source.condition,
        "metadata": ", ".join(source.metadata_columns),
        "key": ", ".join(source.key_columns),
        "into": f"the column {source.target_column}" if source.target_column else None,
        "with a vector": f"{column.counted} rows" if column else None,
        "index": f"none; searches are quicker with: {column.index_statement}"
        if column and column.index_statement
        else None,
        "priority": source.priority,
        "partitions": f"{source.tables - 1:,}" if source.tables > 1 else None,
        "rows": number(source.rows),
        "documents": f"{source.documents:,}",
        "chunks": f"{coverage.chunks:,}, {coverage.embedded:,} embedded",
        "coverage": f"{coverage.percent:g}%",
        "not embeddable": ", ".join(f"{number:,} {reason}" for reason, number in reasons),
        "waiting": f"{coverage.waiting_rows:,} changed rows, {coverage.waiting_chunks:,} chunks",
        "backfill": f"{source.backfill}; {source.backfill_rows_walked:,} rows passed, "
        f"{source.backfill_rows_read:,} of them read",
    }
    for name, value in facts.items():
        if value:
            print(f"{name:<16} {value}")


def state(source: TableSource) -> str:
    if source.trouble:
        return f"trouble: {source.trouble}"
    return "paused" if source.paused_at else "followed"


def number(value: int | None) -> str:
    return "not counted" if value is None else f"{value:,}"


def fields(
    source: TableSource, coverage: SourceCoverage, column: ColumnFacts | None = None
) -> dict[str, Any]:
    import msgspec

    facts = {} if column is None else {"column": msgspec.structs.asdict(column)}
    return {**msgspec.structs.asdict(source), "coverage": msgspec.structs.asdict(coverage), **facts}
