"""`embedmill table`: tables of one's own whose rows are kept embedded. Owns how they are shown and what is typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import Text, as_json, pipeline_name
from embedmill.cli.table_showing import (
    fields,
    number,
    show_source,
    state,
    tell,
    tell_column,
)

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.sources.column_facts import ColumnFacts
    from embedmill.sources.coverage import SourceCoverage
    from embedmill.sources.table_changes import RemovedTable
    from embedmill.sources.tables import AddedTable, TableSource

_PRIORITIES = click.Choice(["high", "medium", "low"])
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
table_name = click.argument("table", type=Text())
target_column = click.argument("target_column", metavar="[COLUMN]", type=Text(), required=False)
in_pipeline = click.option(
    "--pipeline", "-p", type=Text(), help="Which pipeline, where several hold the table."
)


class Columns(click.ParamType[tuple[str, ...]]):
    """Names of columns: a,b or "Odd Name",b."""

    name = "a,b"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        import csv

        if isinstance(value, tuple):
            return value
        try:
            names = next(csv.reader([str(value)], skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            self.fail(f"{value!r} is no list of columns: {error}", param, ctx)
        return tuple(name.strip() for name in names if name.strip())


class Content(Text):
    r"""A template; \n is a new line, \t a tab, \\ a backslash, as one writes them in a shell."""

    name = "template"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        import re

        text = super().convert(value, param, ctx)
        return re.sub(r"\\([nt\\])", lambda found: _ESCAPES[found[1]], text)


@click.group()
def table() -> None:
    """Tables of your own, whose rows are kept embedded as they change."""


@table.command()
@table_name
@click.option(
    "--content",
    type=Content(),
    required=True,
    help=r"What is embedded of a row: '$title\n\n$description'; ${Odd Name}, $$ for a dollar. Use single quotes.",
)
@click.option(
    "--columns", type=Columns(), help="Heed changes of these columns.  [default: those of --content]"
)
@click.option("--where", "condition", type=Text(), help="Only rows like this: SQL, such as 'is_active'.")
@click.option("--metadata", type=Columns(), help="Columns that searches can filter by.")
@click.option("--key", type=Columns(), help="What tells rows apart.  [default: the primary key]")
@click.option(
    "--into",
    type=click.Choice(["chunks", "column"]),
    default="chunks",
    show_default=True,
    help="Vectors stand beside their chunks, or in a column of the row: --into column COLUMN.",
)
@target_column
@click.option("--adopt", is_flag=True, help="Believe the vectors that stand in that column already.")
@pipeline_name
@click.option("--priority", type=_PRIORITIES, default="medium", show_default=True, help="Of changes.")
@click.option("--no-backfill", is_flag=True, help="Leave the rows that stand there already.")
@as_json
def add(
    table: str,
    content: str,
    columns: tuple[str, ...] | None,
    condition: str | None,
    metadata: tuple[str, ...] | None,
    key: tuple[str, ...] | None,
    into: str,
    target_column: str | None,
    adopt: bool,
    pipeline: str,
    priority: str,
    no_backfill: bool,
    as_json: bool,
) -> None:
    """Keep the rows of a table embedded: puts triggers on it, counts its rows, changes none of them."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.sources.column_facts import column_facts
    from embedmill.sources.table_plans import TablePlan
    from embedmill.sources.tables import add_table

    if (into == "column") != (target_column is not None):
        raise click.UsageError(
            "a column is named with --into column, and nowhere else: --into column embedding."
        )
    if adopt and target_column is None:
        raise click.UsageError("--adopt is for --into column.")
    plan = TablePlan(content, columns, condition, metadata or (), key, target_column, adopt, priority)

    async def story(app: App) -> tuple[AddedTable, SourceCoverage, ColumnFacts | None]:
        added = await add_table(
            app.database, await app.pipeline(pipeline), table, plan,
            backfills=not no_backfill, actor=local_actor(),
        )  # fmt: skip
        ((_, coverage),) = await _with_coverage(app, [added.source])
        return added, coverage, await column_facts(app.database, added.source)

    added, coverage, column = run_with_app(read_settings(), story)
    if as_json:
        print_json({**fields(added.source, coverage, column), "notes": added.notes})
        return
    source = added.source
    where = f" and {source.tables - 1:,} partitions or children" if source.tables > 1 else ""
    print(
        f"{source.name}: triggers attached to the table{where}; {source.rows or 0:,} rows are to be embedded"
    )
    tell(added)
    tell_column(column, adopts=adopt)
    if no_backfill:
        print(
            f"Changes are embedded by `embedmill worker`; the rows there are by `embedmill backfill {source.name}`"
        )
    else:
        print(
            "`embedmill worker` embeds them and follows every change; `embedmill table show` says how far it is"
        )


@table.command("list")
@in_pipeline
@as_json
def list_(pipeline: str | None, as_json: bool) -> None:
    """List the tables that were added."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.cli.tables import print_table
    from embedmill.sources.tables import list_tables

    async def story(app: App) -> list[tuple[TableSource, SourceCoverage]]:
        tables = await list_tables(app.database, await app.tenant_id(), pipeline=pipeline)
        return await _with_coverage(app, tables)

    found = run_with_app(read_settings(), story)
    if as_json:
        print_json([fields(*each) for each in found])
    elif not found:
        print("no tables: `embedmill table add TABLE --content '$column'` adds one")
    else:
        print_table(
            ("TABLE", "PIPELINE", "ROWS", "DOCUMENTS", "COVERAGE", "STATE"),
            [
                (
                    source.name, source.pipeline, number(source.rows), f"{source.documents:,}",
                    f"{coverage.percent:g}%", state(source),
                )
                for source, coverage in found
            ],
            right="ROWS DOCUMENTS COVERAGE",
        )  # fmt: skip


@table.command()
@table_name
@in_pipeline
@as_json
def show(table: str, pipeline: str | None, as_json: bool) -> None:
    """Show how a table is read, how complete its vectors are, and what is wrong with it."""
    _act(table, pipeline, as_json, "show")


@table.command()
@table_name
@in_pipeline
@as_json
def pause(table: str, pipeline: str | None, as_json: bool) -> None:
    """Stop reading a table; its changes are noted meanwhile."""
    _act(table, pipeline, as_json, "pause")


@table.command()
@table_name
@in_pipeline
@as_json
def resume(table: str, pipeline: str | None, as_json: bool) -> None:
    """Read on; also completes an `add` that was interrupted."""
    _act(table, pipeline, as_json, "resume")


@table.command()
@table_name
@in_pipeline
@click.option("--content", type=Content(), help="Another template.")
@click.option("--columns", type=Columns(), help="Heed changes of these; '' those of the template.")
@click.option("--where", "condition", type=Text(), help="Another condition; '' for none.")
@click.option("--metadata", type=Columns(), help="Other columns for filters; '' for none.")
@click.option("--key", type=Columns(), help="Another key.  [default: the primary key]")
@click.option("--into", type=click.Choice(["column"]), help="Another column: --into column COLUMN.")
@target_column
@click.option("--priority", type=_PRIORITIES, help="Of changes.")
@click.option("--reread", is_flag=True, help="Look at all rows anew in any case.")
@as_json
def alter(
    table: str,
    pipeline: str | None,
    content: str | None,
    columns: tuple[str, ...] | None,
    condition: str | None,
    metadata: tuple[str, ...] | None,
    key: tuple[str, ...] | None,
    into: str | None,
    target_column: str | None,
    priority: str | None,
    reread: bool,
    as_json: bool,
) -> None:
    """Change how a table is read; what is left out stays. Texts that come out the same are not paid for again."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.sources.table_changes import TableAlteration, alter_table
    from embedmill.sources.tables import find_table

    if (into is None) != (target_column is None):
        raise click.UsageError(
            "a column is named with --into column, and nowhere else: --into column embedding."
        )
    change = TableAlteration(content, columns, condition, metadata, key, target_column, priority, reread)
    if change == TableAlteration():
        raise click.UsageError(
            "say what to change: --content, --where, --metadata, --key, --priority, --reread."
        )

    async def story(app: App) -> tuple[AddedTable, SourceCoverage]:
        source = await find_table(app.database, await app.tenant_id(), table, pipeline=pipeline)
        altered = await alter_table(
            app.database, await app.pipeline(source.pipeline), source, change, actor=local_actor()
        )
        ((_, coverage),) = await _with_coverage(app, [altered.source])
        return altered, coverage

    altered, coverage = run_with_app(read_settings(), story)
    if as_json:
        print_json({**fields(altered.source, coverage), "notes": altered.notes})
        return
    tell(altered)
    show_source(altered.source, coverage)


@table.command()
@table_name
@in_pipeline
@click.option("--with-vectors", is_flag=True, help="Delete what was embedded of it as well.")
@as_json
def remove(table: str, pipeline: str | None, with_vectors: bool, as_json: bool) -> None:
    """Take the triggers off a table and stop following it; what was embedded stays unless told otherwise."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.sources.table_changes import remove_table
    from embedmill.sources.tables import find_table

    async def story(app: App) -> tuple[TableSource, RemovedTable]:
        source = await find_table(app.database, await app.tenant_id(), table, pipeline=pipeline)
        removed = await remove_table(app.database, source, with_vectors=with_vectors, actor=local_actor())
        return source, removed

    source, removed = run_with_app(read_settings(), story)
    if as_json:
        print_json(removed)
    elif source.target_column is not None:
        print(
            f"removed; {removed.documents_deleted:,} documents deleted; the column {source.target_column} of "
            f"{source.name} was left as it is: its vectors are yours"
        )
    elif with_vectors:
        print(f"removed; {removed.documents_deleted:,} documents deleted with their vectors")
    else:
        print(
            f"removed; {removed.documents_kept:,} documents stay searchable with their vectors, and are taken up "
            "again if the table is added again"
        )


def _act(table: str, pipeline: str | None, as_json: bool, what: str) -> None:
    """Find a table, do something simple with it, show it."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.sources.column_facts import column_facts
    from embedmill.sources.tables import find_table, pause_table, resume_table

    async def story(app: App) -> tuple[TableSource, SourceCoverage, ColumnFacts | None]:
        source = await find_table(app.database, await app.tenant_id(), table, pipeline=pipeline)
        if what != "show":
            act = pause_table if what == "pause" else resume_table
            source = await act(app.database, source, actor=local_actor())
        ((_, coverage),) = await _with_coverage(app, [source])
        return source, coverage, await column_facts(app.database, source)

    found = run_with_app(read_settings(), story)
    if as_json:
        print_json(fields(*found))
    else:
        show_source(*found)


async def _with_coverage(app: App, tables: list[TableSource]) -> list[tuple[TableSource, SourceCoverage]]:
    from embedmill.sources.coverage import source_coverage

    sources = await source_coverage(app.database, await app.tenant_id())
    by_id = {each.record_source_id: each for each in sources if each.record_source_id}
    return [(source, by_id[source.id]) for source in tables if source.id in by_id]
