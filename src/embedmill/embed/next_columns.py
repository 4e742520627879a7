"""The columns of users' tables that a generation's vectors are for: which ones a new generation needs, and naming them.
Must not write into them: that is columns.py's and the database's."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import psycopg

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, ConflictError

_SQL = load_queries("embedmill.embed", "next_columns.sql")


class ColumnSource(msgspec.Struct, frozen=True):
    """A table whose vectors stand in a column of it: the live generation's, and that of the generation that was asked
    for, if it has one already."""

    id: int
    name: str
    live_column: str
    column: str | None


async def choose_columns(
    database: Database,
    pipeline_id: int,
    wanted: Mapping[str, str],
    *,
    type_name: str,
    generation_id: int | None = None,
) -> dict[int, str]:
    """Which columns are to be set, by the id of their source; `wanted` is by the name of the table, `type_name` what
    they must be, such as vector(384).

    Raises ConfigurationError where a table is named that has no vectors in a column; for a new generation (None) also
    where a table that has is not named. ConflictError where the generation's column is another already.
    """
    rows = await database.fetch(
        _SQL["column_sources"], {"pipeline_id": pipeline_id, "generation_id": generation_id}
    )
    sources = [ColumnSource(*row) for row in rows]
    chosen: dict[int, str] = {}
    for name, column in wanted.items():
        source = _find(sources, name)
        if source.column not in (None, column):
            raise ConflictError(
                f"the vectors of {source.name} are written into its column {source.column} already: go on with that, "
                "or begin again behind `embedmill pipeline migrate ... --cancel`"
            )
        if chosen.setdefault(source.id, column) != column:
            raise ConfigurationError(
                f"--column names two columns of {source.name}: {chosen[source.id]}, {column}"
            )
    lacking = [source for source in sources if source.id not in chosen]
    if generation_id is None and lacking:
        said = " ".join(f"--column {source.name}={source.live_column}_v2" for source in lacking)
        first = lacking[0]
        raise ConfigurationError(
            f"the vectors of {first.name} stand in its column {first.live_column}, and the next generation needs a "
            f"column of its own there: ALTER TABLE {first.name} ADD COLUMN {first.live_column}_v2 {type_name}, then "
            f"say {said}"
        )
    return chosen


async def set_columns(connection: Connection, generation_id: int, columns: Mapping[int, str]) -> None:
    """A generation's vectors go there from now on, with those that stand beside the chunks already. Raises
    ConfigurationError where a column cannot hold them."""
    for source_id, column in sorted(columns.items()):
        try:
            await connection.execute(
                _SQL["set_target_column"],
                {"record_source_id": source_id, "generation_id": generation_id, "column": column},
            )
        except psycopg.errors.InvalidParameterValue as error:
            hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
            raise ConfigurationError(f"{error.diag.message_primary}{hint}") from error


def _find(sources: list[ColumnSource], name: str) -> ColumnSource:
    """By its whole name, or the part behind the schema where that is the only one."""
    for found in (
        [source for source in sources if source.name == name],
        [source for source in sources if source.name.endswith(f".{name}")],
    ):
        if len(found) == 1:
            return found[0]
    there = ", ".join(source.name for source in sources)
    raise ConfigurationError(
        f"--column {name}=...: no table of that name has its vectors in a column; "
        + (f"there are: {there}" if there else "in this pipeline none has")
    )
