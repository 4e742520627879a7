"""The page of tables, types, functions and views, read from the SQL that makes them and from its comments.

Owns the reading of database/migrations and database/functions; used by generate_reference.py. It understands
CREATE TABLE and TYPE and a column added or dropped; any other change of a table stops it, so that the page can
not fall behind without a word. What a column means stands beside it in the SQL or in reference_words.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_TYPE = re.compile(r"^CREATE TYPE embedmill\.(\w+) AS ENUM\s*\((.*?)\);", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(
    r"^(?P<said>(?:--[^\n]*\n)*)CREATE TABLE embedmill\.(?P<name>\w+) \((?P<body>.*?)^\)(?P<rest>[^;]*);",
    re.MULTILINE | re.DOTALL,
)
_LIKE = re.compile(
    r"^(?P<said>(?:--[^\n]*\n)*)CREATE TABLE embedmill\.(?P<name>\w+) \(LIKE embedmill\.(?P<other>\w+)\b",
    re.MULTILINE,
)
_ALTERED = re.compile(r"^ALTER TABLE embedmill\.(\w+)\s+([^;]*);([^\n]*)", re.MULTILINE)
_COLUMN = re.compile(
    r"^\s+(?P<name>[a-z_]+)\s+(?P<type>(?:embedmill\.)?\w+(?: precision)?(?:\[\])?)(?P<rest>[^\n]*)$"
)
FUNCTION = re.compile(
    r"^(?P<said>(?:--[^\n]*\n)*)CREATE OR REPLACE FUNCTION embedmill\.(?P<name>\w+)\s*"
    r"\((?P<takes>(?:(?!LANGUAGE).)*?)\)\s*(?:RETURNS (?P<gives>(?:(?!LANGUAGE).)*?)\s*)?LANGUAGE",
    re.MULTILINE | re.DOTALL,
)
_VIEW = re.compile(r"^(?P<said>(?:--[^\n]*\n)*)CREATE OR REPLACE VIEW embedmill\.(?P<name>\w+)", re.MULTILINE)
_CONSTRAINT = re.compile(r"^\s*(CHECK|UNIQUE|PRIMARY KEY|FOREIGN KEY|CONSTRAINT)\b")
_ACTION = re.compile(r"^(ADD|ALTER|ATTACH|DETACH|DROP|ENABLE|FORCE|OWNER|RENAME|SET)\b")
_HARMLESS = re.compile(
    r"^(ADD (FOREIGN KEY|CONSTRAINT|CHECK|UNIQUE)|SET \(|ENABLE |FORCE |DROP CONSTRAINT|"
    r"ALTER COLUMN \w+ (DROP NOT NULL|SET NOT NULL|SET STORAGE)|ADD PRIMARY KEY)"
)


_WORDS = Path(__file__).with_name("reference_words.toml")


@dataclass
class Column:
    """`said` is the comment beside or above it; `points_to` the table that its values stand in."""

    name: str
    type: str
    points_to: str
    said: str


@dataclass
class Table:
    name: str
    said: str
    columns: list[Column] = field(default_factory=list)


def tables_page(database: Path, note: str) -> str:
    """The page in Markdown. `database` is the folder of migrations and functions."""
    migrations = [_read(path) for path in sorted((database / "migrations").glob("*.sql"))]
    functions = [(path.name, _read(path)) for path in sorted((database / "functions").glob("*.sql"))]
    tables = read_tables(migrations)
    words = tomllib.loads(_read(_WORDS))
    lines = [
        "# Tables, views and functions",
        "",
        note,
        "",
        "All of it stands in the schema `embedmill`. Tables belong to embedmill: read them as you like, and write",
        "through the functions. For your own queries use the view of a pipeline (below).",
        "",
        "## What you read",
        "",
        *_made_while_running(functions, tables, words),
        "## Tables",
        "",
    ]
    for table in tables.values():
        lines += [f"### {table.name}", ""]
        lines += [table.said, ""] if table.said else []
        lines += ["| Column | Type | Meaning |", "|---|---|---|"]
        lines += [_row(column, _meaning(table.name, column, words)) for column in table.columns] + [""]
    lines += ["## Types", "", "| Type | Values |", "|---|---|"]
    lines += [
        f"| {name} | {', '.join(f'`{value}`' for value in re.findall(chr(39) + '(.*?)' + chr(39), values))} |"
        for text in migrations
        for name, values in _TYPE.findall(text)
    ]
    lines += ["", "## Functions", ""]
    for file, text in functions:
        lines += _functions_of(file, text)
    return "\n".join(lines)


def read_tables(migrations: list[str]) -> dict[str, Table]:
    """The tables as they stand after all migrations, by name, in the order of their making."""
    tables: dict[str, Table] = {}
    for text in migrations:
        for found in _TABLE.finditer(text):
            said = sentence(found["said"])
            tables[found["name"]] = Table(found["name"], said, list(_columns(found["body"])))
        for found in _LIKE.finditer(text):
            other = tables[found["other"]]
            said = sentence(found["said"]) or f"Columns as of {other.name}."
            tables[found["name"]] = Table(found["name"], said, list(other.columns))
        for name, change, comment in _ALTERED.findall(text):
            for action in f"{change}{comment}".splitlines():
                _alter(tables[name], action.strip())
    return tables


def _columns(body: str) -> Iterator[Column]:
    above: list[str] = []
    for line in body.splitlines():
        if line.strip().startswith("--"):
            above.append(line)
            continue
        found = None if _CONSTRAINT.match(line) else _COLUMN.match(line)
        if found:
            beside = found["rest"].partition("--")[2]
            said = " ".join(part for part in (sentence("\n".join(above)), beside.strip()) if part)
            yield Column(found["name"], found["type"], _target(found["rest"]), said)
        above = []


def _alter(table: Table, action: str) -> None:
    """One action of an ALTER TABLE: each begins a line of its own, with its comment; other lines go on with one."""
    added = re.match(r"ADD COLUMN (?:IF NOT EXISTS )?(.*)", action)
    dropped = re.match(r"DROP COLUMN (?:IF EXISTS )?(\w+),?$", action)
    if added:
        table.columns += _columns(f"    {added[1]}")
    elif dropped:
        table.columns = [column for column in table.columns if column.name != dropped[1]]
    elif _ACTION.match(action) and not _HARMLESS.match(action):
        raise SystemExit(
            f"reference_tables.py does not understand: ALTER TABLE embedmill.{table.name} {action}"
        )


def _made_while_running(
    functions: list[tuple[str, str]], tables: dict[str, Table], words: dict[str, dict[str, str]]
) -> list[str]:
    """The view of a pipeline and the table of a generation: their SQL stands in a function, as text for format()."""
    text = "".join(text for _, text in functions)
    statement = "".join(re.findall(r"'([^']*)'", text[text.index("'VIEW embedmill.%I WITH") :])[:12])
    selected = statement[statement.index("SELECT ") + 7 : statement.index(" FROM ")].split(",")
    columns = {
        f"{alias}.{column.name}": (name, column)
        for alias, name in (("c", "knowledge_chunks"), ("d", "knowledge_documents"))
        for column in tables[name].columns
    }
    columns["v.input_hash"] = ("view", Column("input_hash", "bytea", "", ""))
    columns["v.embedding"] = ("view", Column("embedding", "vector or halfvec", "", ""))
    rows = []
    for expression in (part.strip() for part in selected):
        source, _, alias = expression.partition(" AS ")
        table, column = columns[source]
        shown = Column(alias or column.name, column.type, "", column.said)
        meaning = words["view"].get(shown.name) or _meaning(table, shown, words)
        rows.append(_row(shown, meaning))
    return [
        "### embeddings_PIPELINE",
        "",
        "A view for each pipeline, of every chunk with its document and its vector in the current generation.",
        "A `-` in the pipeline's name becomes `_`; `embedmill pipeline show NAME` prints the view's name. Another",
        "tenant than `default` has `tenantN_` before it.",
        "",
        "| Column | Type | Meaning |",
        "|---|---|---|",
        *rows,
        "",
        "### vectors_GENERATION",
        "",
        "A table for each generation: `chunk_id`, `input_hash`, `embedding`. `embedmill pipeline show NAME` prints the",
        "name of the current one. Search this table, and join what you show with the view:",
        "",
        "```sql",
        "SELECT p.name, p.place_first, p.text",
        "  FROM (SELECT chunk_id, embedding <=> $1 AS distance FROM embedmill.vectors_1 ORDER BY 2 LIMIT 10) nearest",
        "  JOIN embedmill.embeddings_default p USING (chunk_id)",
        " ORDER BY nearest.distance;",
        "```",
        "",
        "Where a table source has its vectors in a column of its own, `embedding` is NULL here: it is in the row.",
        "",
        "### TABLE_embedded",
        "",
        "A view for each table source, `public_jobs_embedded` of `public.jobs`: the table's own columns, and",
        "`embedmill_chunk_id`, `embedmill_ordinal`, `embedmill_chunk`, `embedmill_embedding`, a row for each chunk",
        "([how to use it](../how-to/use-with-an-orm.md)). It stands on a function, `source_rows_ID`.",
        "",
    ]


def _meaning(table: str, column: Column, words: dict[str, dict[str, str]]) -> str:
    meaning = column.said or words.get(table, {}).get(column.name) or words["every"].get(column.name)
    if not meaning:
        raise SystemExit(
            f"{table}.{column.name} is explained nowhere: put a comment beside it in the SQL, or, where the "
            f"migration is frozen, a line into scripts/{_WORDS.name}"
        )
    return meaning


def _functions_of(file: str, text: str) -> list[str]:
    head = re.match(r"(?:--[^\n]*\n)+(?!CREATE)", text)
    lines = [f"### {file}", ""]
    lines += [sentence(head[0]), ""] if head else []
    rows = [
        (
            found["name"],
            " ".join(found["takes"].split()),
            " ".join((found["gives"] or "record").split()),
            found["said"],
        )
        for found in FUNCTION.finditer(text)
    ]
    for name, takes, gives, said in rows:
        lines += [f"- `{name}({takes})` returns `{gives}`." + (f" {sentence(said)}" if said else "")]
    for found in _VIEW.finditer(text):
        lines += [f"- View `{found['name']}`. {sentence(found['said'])}"]
    return [*lines, ""] if rows or _VIEW.search(text) else lines


def _row(column: Column, meaning: str) -> str:
    kind = column.type.removeprefix("embedmill.") + (f", of {column.points_to}" if column.points_to else "")
    return f"| {column.name} | {kind} | {meaning.replace('|', chr(92) + '|')} |"


def _target(rest: str) -> str:
    found = re.search(r"REFERENCES embedmill\.(\w+)", rest)
    return found[1] if found else ""


def sentence(comment: str) -> str:
    """Comment lines as running text."""
    words = " ".join(line.strip().removeprefix("--") for line in comment.splitlines()).split()
    return " ".join(words).replace("<", "\\<")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
