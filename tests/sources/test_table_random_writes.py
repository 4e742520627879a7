"""Whatever is written to a followed table, its triggers say which rows to look at: neither more nor fewer."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sources.following import Changes, FollowedTable, connected, follow, noted


@dataclass(frozen=True)
class Kind:
    """A shape of table. Rows are numbered: `key` makes a number into the key's columns, in SQL."""

    name: str
    made: str
    key_columns: str
    key: str
    key_text: str
    targets: tuple[str, ...] = ()  # tables to which one writes directly
    match: str = ""


PLAIN = 'body text, "Is ""wanted""" boolean DEFAULT true, views integer NOT NULL DEFAULT 0, n integer'
KINDS = {
    "bigint": Kind(
        "public.plain", f"CREATE TABLE public.plain (id bigint PRIMARY KEY, {PLAIN})", "id", "{n}", "id::text"
    ),
    "uuid": Kind(
        "public.by_uuid",
        f"CREATE TABLE public.by_uuid (id uuid PRIMARY KEY, {PLAIN})",
        "id", "md5({n}::text)::uuid", "id::text",
    ),
    "odd names and a text key": Kind(
        '"Odd %s Schema"."My ""Table"""',
        'CREATE SCHEMA "Odd %s Schema"; CREATE TABLE "Odd %s Schema"."My ""Table""" '
        f'("K%s" text COLLATE "C" PRIMARY KEY, {PLAIN})',
        '"K%s"', """'{{"' || {n} || ''', %s ä'""", '"K%s"',
    ),
    "composite": Kind(
        "public.pairs",
        f"CREATE TABLE public.pairs (a text, b integer, {PLAIN}, PRIMARY KEY (a, b))",
        "a, b", "'x\"' || {n} % 3, {n}", "jsonb_build_array(a, b::text)::text",
    ),
    "timestamps": Kind(
        "public.moments",
        f"CREATE TABLE public.moments (at timestamptz PRIMARY KEY, {PLAIN})",
        "at", "timestamptz '2026-01-01 UTC' + {n} * interval '90 minutes'",
        "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS+00')",
    ),
    "partitioned": Kind(
        "public.parts",
        f"CREATE TABLE public.parts (a integer, b integer, {PLAIN}, PRIMARY KEY (a, b)) PARTITION BY LIST (a);"
        "CREATE TABLE public.parts_0 PARTITION OF public.parts FOR VALUES IN (0);"
        "CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES IN (1) PARTITION BY RANGE (b);"
        "CREATE TABLE public.parts_1_all PARTITION OF public.parts_1 DEFAULT;"
        "CREATE TABLE public.parts_rest PARTITION OF public.parts DEFAULT",
        "a, b", "{n} % 3, {n}", "jsonb_build_array(a::text, b::text)::text",
        ("public.parts_0", "public.parts_1", "public.parts_1_all", "public.parts_rest"),
    ),
}  # fmt: skip

WANTED = '"Is ""wanted"""'
numbers = st.lists(st.integers(0, 12), min_size=0, max_size=5, unique=True)
bodies = st.sampled_from(["'a'", "'A'", "'100%'", "NULL", "''", "body", "body || 'x'", "upper(body)"])
new_bodies = st.sampled_from(["'a'", "'A'", "'100%'", "NULL", "''"])
wishes = st.sampled_from(["true", "false", "NULL", WANTED, f"NOT {WANTED}"])
writes = st.one_of(
    st.tuples(st.just("insert"), numbers, new_bodies, st.sampled_from(["true", "false", "NULL"])),
    st.tuples(st.just("upsert"), numbers, bodies, wishes),
    st.tuples(st.just("merge"), numbers, bodies, wishes),
    st.tuples(st.just("update"), numbers, bodies, wishes),
    st.tuples(st.just("unrelated"), numbers, bodies, wishes),
    st.tuples(st.just("rekey"), numbers, bodies, wishes),
    st.tuples(st.just("delete"), numbers, bodies, wishes),
)
# What happens around a write: nothing, or it ends in a rollback of itself, of the savepoint or of everything.
steps = st.lists(
    st.tuples(writes, st.integers(0, 4), st.sampled_from(["", "", "", "undo", "savepoint", "back", "abort", "commit"])),
    min_size=1, max_size=10,
)  # fmt: skip


def statement(kind: Kind, write: tuple[Any, ...], choice: int) -> str:  # noqa: PLR0911 - one for each
    """SQL for a write, sometimes to a partition itself."""
    what, chosen, body, wish = write
    target = (kind.name, *kind.targets)[choice % (len(kind.targets) + 1)]
    within = f"n IN ({', '.join(map(str, chosen)) or 'NULL'})"
    fresh = f"FROM unnest(ARRAY[{', '.join(map(str, chosen))}]::integer[]) AS u (x)"
    key = kind.key.format(n="x")
    columns = f"{kind.key_columns}, body, {WANTED}, n"
    row = body if "body" not in body else "'new'"
    new_wish = wish if "wanted" not in wish else "true"
    inserted = f"INSERT INTO {target} AS t ({columns}) SELECT {key}, {row}, {new_wish}, x {fresh}"
    set_both = f"body = {body.replace('body', 't.body')}, {WANTED} = {wish.replace(WANTED, 't.' + WANTED)}"
    match what:
        case "insert":
            return f"{inserted} ON CONFLICT DO NOTHING"
        case "upsert":
            return f"{inserted} ON CONFLICT ({kind.key_columns}) DO UPDATE SET {set_both}"
        case "merge":
            named = [f"k{i}" for i in range(kind.key_columns.count(",") + 1)]
            source = f"(SELECT {key}, x {fresh}) AS s ({', '.join(named)}, x)"
            same = " AND ".join(
                f"t.{column} = s.{name}"
                for column, name in zip(kind.key_columns.split(", "), named, strict=True)
            )
            return (
                f"MERGE INTO {target} AS t USING {source} ON {same} WHEN MATCHED AND s.x % 3 = 0 THEN DELETE "
                f"WHEN MATCHED THEN UPDATE SET {set_both} WHEN NOT MATCHED THEN "
                f"INSERT ({columns}) VALUES ({', '.join('s.' + name for name in named)}, {row}, {new_wish}, s.x)"
            )
        case "update":
            return f"UPDATE {target} AS t SET {set_both} WHERE {within}"
        case "unrelated":
            return f"UPDATE {target} AS t SET views = views + 1, body = body"
        case "rekey":
            # Each to the next free hundred: the row leaves its partition, too.
            moved = kind.key.format(n="(n + 101)")
            assigned = f"({kind.key_columns}) = ROW({moved}), n = n + 101"
            return f"UPDATE {target} AS t SET {assigned} WHERE {within} AND n < 50"
    return f"DELETE FROM {target} AS t WHERE {within}"


def play(table: FollowedTable, kind: Kind, story: list[tuple[tuple[Any, ...], int, str]]) -> Changes:
    """Carry out a story in transactions with savepoints; what is to be written down in the end."""
    connection = table.connection
    kept: Changes = Counter()
    stack: list[Changes] = [Counter()]
    connection.execute("BEGIN")
    for write, choice, around in story:
        text = statement(kind, write, choice)
        changed: Changes = Counter()
        # What violates a constraint or a partition's bounds is undone by itself, and nothing is to be noted.
        with suppress(psycopg.errors.IntegrityError), connection.transaction(force_rollback=around == "undo"):
            changed = table.difference(text)
        if around != "undo":
            stack[-1] += changed
        if around == "savepoint":
            connection.execute(f"SAVEPOINT s{len(stack)}".encode())
            stack.append(Counter())
        elif around == "back" and len(stack) > 1:
            connection.execute(f"ROLLBACK TO s{len(stack) - 1}; RELEASE s{len(stack) - 1}".encode())
            stack.pop()
        elif around in ("abort", "commit"):
            connection.execute(b"ROLLBACK" if around == "abort" else b"COMMIT")
            kept += sum(stack, Counter()) if around == "commit" else Counter()
            stack = [Counter()]
            connection.execute("BEGIN")
    connection.execute("COMMIT")
    return kept + sum(stack, Counter())


@pytest.mark.parametrize("with_condition", [False, True])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
async def test_notes_are_what_changed(database: str, kind: Kind, with_condition: bool) -> None:
    # The user's session writes dates, and thinks of times, in its own way.
    with connected(
        database, DateStyle="German, DMY", TimeZone="America/New_York", work_mem="64kB"
    ) as connection:
        connection.execute(kind.made.encode())
        await follow(
            database, kind.name, condition=f"{WANTED} AND body NOT LIKE '1%'" if with_condition else None
        )
        where = f"WHERE {WANTED} AND body NOT LIKE '1%'" if with_condition else ""
        table = FollowedTable(connection, f"SELECT {kind.key_text}, body FROM {kind.name} {where}")

        @settings(
            max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
        )
        @given(steps)
        def examined(story: list[tuple[tuple[Any, ...], int, str]]) -> None:
            connection.execute(f"DELETE FROM {kind.name}".encode())
            noted(connection)
            assert play(table, kind, story) == noted(connection)

        examined()
