"""Loads the named SQL blocks that stand in .sql files beside their modules. Owns nothing but the format:

    -- name: claim_items
    -- One or more lines that say what it is for.
    SELECT ...;

The only names that are ever put into such text are those of vector tables, as quoted identifiers.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import cast

from psycopg import sql

_BLOCK = re.compile(r"^-- name: (?P<name>\w+)\n(?P<body>.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)


@cache
def load_queries(package: str, file: str) -> dict[str, sql.SQL]:
    """Return the named blocks of `file` in `package`; raises ValueError where a name stands twice."""
    text = resources.files(package).joinpath(file).read_text("utf-8")
    queries: dict[str, sql.SQL] = {}
    for block in _BLOCK.finditer(text):
        name = block["name"]
        if name in queries:
            raise ValueError(f"{package}/{file}: the query {name} stands twice")
        # The text comes from the package, never from a caller: this is what LiteralString is for.
        queries[name] = sql.SQL(cast("str", block["body"].strip().rstrip(";")))
    return queries


def vectors_table(generation_id: int) -> sql.Identifier:
    """The quoted name of a generation's table of vectors."""
    return sql.Identifier("embedmill", f"vectors_{int(generation_id)}")
