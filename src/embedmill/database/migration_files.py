"""Reads migrations and functions from their folders: names, order, hashes, statements.

Touches no database. The splitter does not know SQL-standard bodies (BEGIN ATOMIC): write bodies in $$.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources.abc import Traversable

from embedmill.errors import SchemaVersionError

_DIRECTIVE = re.compile(r"-- embedmill:\s*(?P<word>[^\s]+)(?:\s+(?P<value>\S.*?))?\s*")
_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_TRANSACTION_CONTROL = re.compile(
    r"(begin|start\s+transaction|commit|end|rollback|abort|savepoint)\b", re.IGNORECASE
)
# What may hold a semicolon that ends no statement, and the semicolon that does. Strings of the form E'..\'..'
# come before plain ones, dollar quotes by their tag.
_TOKEN = re.compile(
    r"""--[^\n]*
      | (?P<comment>/\*)
      | \b[eE]'(?:[^'\\]|\\.|'')*'
      | '(?:[^']|'')*'
      | "(?:[^"]|"")*"
      | (?<![\w$])\$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][\w]*)?)\$.*?\$(?P=tag)\$
      | (?P<end>;)""",
    re.VERBOSE | re.DOTALL,
)
_LEADING_COMMENT = re.compile(r"\A(?:\s+|--[^\n]*(?:\n|\Z))+")


@dataclass(frozen=True)
class Migration:
    """One numbered file. `sha256` is of its text with Unix line ends, so that a checkout cannot change it."""

    version: int
    name: str
    text: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.version:04}_{self.name}.sql"

    @property
    def transactional(self) -> bool:
        return "no-transaction" not in self._directives

    @property
    def compatible_since(self) -> int:
        """The oldest release, by the number of its newest migration, that goes on working on a schema with this one.
        Not declared: none but those that know this migration."""
        declared = self._directives.get("compatible-since")
        return self.version if declared is None else int(declared)

    @property
    def is_compatible(self) -> bool:
        """Whether processes of an older release may be at work while it is applied."""
        return self.compatible_since < self.version

    @cached_property
    def _directives(self) -> dict[str, str | None]:
        """What the lines `-- embedmill: ...` at the head of the file say."""
        return dict(_read_directives(self.file_name, self.text))


@dataclass(frozen=True)
class Functions:
    """All function files in the order of their names, as (file name, text), and one hash over them all."""

    texts: tuple[tuple[str, str], ...]
    sha256: str


def read_migrations(folder: Traversable) -> list[Migration]:
    """The migrations in order. Raises SchemaVersionError for a wrong name, a gap, or a number used twice."""
    found = []
    for name, text in _sql_files(folder):
        parts = _NAME.fullmatch(name)
        if parts is None:
            raise SchemaVersionError(f"{name} is no name for a migration: 0001_what_it_does.sql is one.")
        found.append(Migration(int(parts["version"]), parts["name"], text, _sha256(text)))
    found.sort(key=lambda migration: migration.version)
    for expected, migration in enumerate(found, start=1):
        if migration.version != expected:
            raise SchemaVersionError(
                f"Migrations are numbered without a gap or a repetition: {migration.file_name} should be "
                f"number {expected:04}."
            )
        _assert_no_transaction_control(migration)
        if not 1 <= migration.compatible_since <= migration.version:
            raise SchemaVersionError(
                f"{migration.file_name} says compatible-since {migration.compatible_since:04}: name a migration from "
                f"0001 to {migration.version:04}."
            )
    return found


def read_functions(folder: Traversable) -> Functions:
    """The function files, in the order of their names."""
    texts = tuple(_sql_files(folder))
    return Functions(texts, _sha256("".join(f"{name}\0{text}\0" for name, text in texts)))


def split_statements(text: str) -> Iterator[str]:
    """The statements of a script, without the semicolons that end them; nothing for mere comments."""
    start = position = 0
    while token := _TOKEN.search(text, position):
        position = _comment_end(text, token.start()) if token["comment"] else token.end()
        if token["end"]:
            yield from _not_empty(text[start : token.start()])
            start = position
    yield from _not_empty(text[start:])


def _read_directives(file_name: str, text: str) -> Iterator[tuple[str, str | None]]:
    for line in text.split("\n"):
        if not line.startswith("-- embedmill:"):
            return
        found = _DIRECTIVE.fullmatch(line)
        word, value = (found["word"], found["value"]) if found else ("", None)
        is_known = (word == "no-transaction" and value is None) or (
            word == "compatible-since" and re.fullmatch(r"\d{4}", value or "")
        )
        if not is_known:
            raise SchemaVersionError(
                f"{file_name} begins with {line.strip()!r}: `-- embedmill: no-transaction` and "
                "`-- embedmill: compatible-since 0007` are what may stand there."
            )
        yield word, value


def _assert_no_transaction_control(migration: Migration) -> None:
    for statement in split_statements(migration.text):
        if _TRANSACTION_CONTROL.match(_without_leading_comments(statement)):
            raise SchemaVersionError(
                f"{migration.file_name} holds {statement.strip()[:20]!r}: "
                "the migrator opens and ends the transaction."
            )


def _not_empty(statement: str) -> Iterator[str]:
    if _without_leading_comments(statement):
        yield statement.strip()


def _without_leading_comments(statement: str) -> str:
    while True:
        shorter = _LEADING_COMMENT.sub("", statement)
        if shorter.startswith("/*"):
            shorter = shorter[_comment_end(shorter, 0) :]
        if shorter == statement:
            return shorter
        statement = shorter


def _comment_end(text: str, start: int) -> int:
    """Where a block comment ends; PostgreSQL nests them."""
    depth, position = 0, start
    for mark in re.finditer(r"/\*|\*/", text[start:]):
        depth += 1 if mark.group() == "/*" else -1
        position = start + mark.end()
        if depth == 0:
            return position
    return len(text)


def _sql_files(folder: Traversable) -> Iterator[tuple[str, str]]:
    entries = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    for entry in sorted(entries, key=lambda entry: entry.name):
        yield entry.name, entry.read_text(encoding="utf-8").replace("\r\n", "\n")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
