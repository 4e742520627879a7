"""How table sources are shown: as lines for people, as fields for programs. Owns the words; asks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from embedmill.sources.column_facts import ColumnFacts
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


def show_source(source: TableSource, column: ColumnFacts | None = None) -> None:
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
        "chunks": f"{source.chunks:,}, {source.embedded:,} embedded, {source.unembeddable:,} cannot be",
        "embedded": f"{percent(source):.2f}%",
        "changes waiting": f"{source.changes:,} rows",
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


def percent(source: TableSource) -> float:
    """Embedded of what can be: rows that were not read yet count as not embedded, whatever their length."""
    embeddable = source.chunks - source.unembeddable
    read = source.embedded / embeddable if embeddable > 0 else 1.0
    rows = max(source.rows or 0, source.documents)
    return 100.0 * read * (source.documents / rows if rows else 1.0)


def number(value: int | None) -> str:
    return "not counted" if value is None else f"{value:,}"


def fields(source: TableSource, column: ColumnFacts | None = None) -> dict[str, Any]:
    import msgspec

    facts = {} if column is None else {"column": msgspec.structs.asdict(column)}
    return {**msgspec.structs.asdict(source), "embedded_percent": round(percent(source), 2), **facts}
