"""Writes the schema `embedmill` as text (src/embedmill/database/schema.txt), or compares it with that file.

    python scripts/snapshot_schema.py            write the file from a fresh install
    python scripts/snapshot_schema.py --check    fail, with a diff, where a fresh install differs from it
    python scripts/snapshot_schema.py --check --database URL    compare that database, as it is

A change of the schema shows up in a review as a change of this file. Made by SQL from the catalogs
(snapshot_schema.sql), since pg_dump's words change with its version.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import tempfile
from pathlib import Path

import psycopg

from embedmill.database import embedded, migrator

QUERIES = Path(__file__).with_suffix(".sql")
SNAPSHOT = Path(__file__).parent.parent / "src" / "embedmill" / "database" / "schema.txt"
HEADER = "Written by scripts/snapshot_schema.py from a fresh install; do not edit.\n"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    found = HEADER + (_snapshot_of(options.database) if options.database else _snapshot_of_fresh_install())
    if not options.check:
        options.file.write_text(found, encoding="utf-8")
        print(f"{options.file}: {len(found.splitlines())} lines")
        return 0
    expected = options.file.read_text(encoding="utf-8") if options.file.exists() else ""
    if found == expected:
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(
            expected.splitlines(keepends=True),
            found.splitlines(keepends=True),
            fromfile=str(options.file),
            tofile="the database" if options.database else "a fresh install",
        )
    )
    print("The schema differs from its snapshot. If that is meant: python scripts/snapshot_schema.py")
    return 1


def snapshot(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    """Every object of the schema with its lines, sorted, the same for the same schema on every server."""
    objects: dict[str, set[str]] = {}
    with connection.transaction():
        # Names are written out in full, whatever this role's search path finds.
        connection.execute("SET LOCAL search_path = pg_catalog")
        for query in _queries():
            for name, line in connection.execute(query.encode()).fetchall():
                objects.setdefault(str(name), set()).add(str(line))
    return "".join(f"\n{name}\n{_indented(objects[name])}" for name in sorted(objects))


def _snapshot_of(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        return snapshot(connection)


def _snapshot_of_fresh_install() -> str:
    with tempfile.TemporaryDirectory(prefix="embedmill-snapshot-") as folder:
        url = embedded.ensure_running(Path(folder))
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                migrator.migrate(connection)
                return snapshot(connection)
        finally:
            embedded.stop(Path(folder))


def _queries() -> list[str]:
    return re.split(r"^-- name: \w+\n", QUERIES.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def _indented(lines: set[str]) -> str:
    """The relation's own line (it begins with a blank) comes first, then the rest by kind and name."""
    return "".join(
        f"    {line.strip()}\n".replace("\n", "\n        ").rstrip(" ")
        for line in sorted(lines)
        if line.strip()
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--database", metavar="URL", help="look at this database, not at a fresh install")
    parser.add_argument("--file", type=Path, default=SNAPSHOT, help="where the snapshot lies")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
