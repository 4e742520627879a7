"""What protects each table, read from PostgreSQL's catalogue, and what of alpha a session sees. Owns the list of tables
that hold nothing of a tenant; must not assert."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg import sql

from tests.api.two_tenants import Secrets, TwoTenants

OF_NO_TENANT = {
    "schema_migrations": "what was installed",
    "schema_functions": "what was installed",
    "embedding_queue_config": "the settings of the whole queue",
    "embedding_queue_workers": "processes, which serve all tenants; of their row the service reads what names none",
    "turn_clock": "one number: where the fairness between the tenants stands",
    "sweep_leader": "which worker leads",
    "sweeps": "when the leader did what",
}
"""Base tables without a tenant, and why."""
_BY_ANOTHER_TABLE = {"coverage_counters": "generations", "quotas": "pipelines"}
"""Whose policy asks for the tenant: what they hold is seen by whoever sees a row there."""
RUNS_AS_ITS_OWNER = re.compile(
    r"authenticate_key|search_columns|oldest_waiting_seconds|advance_record|record_source_[0-9]+"
    r"|waiting_items|oldest_items|source_coverage|average_tokens|items_before|search_vectors|search_text"
    r"|similarity_of_chance|passing_documents"
)
"""Functions that may: the service asks whose a key is before it knows the tenant; vectors that stand in users'
tables are read for the tenant whose generation it is; an age of all tenants together is told to whoever scales
workers; what waits of a tenant is read by the lanes, and what matches a search by its index, for whoever sees that
tenant; triggers on users' tables
note what others write."""
_VIEWERS = ("embedmill_service", "embedmill_reader")


def faults_of_protection(connection: psycopg.Connection[Any]) -> list[str]:
    """Tables, views and functions of the schema that show, or may show, more than one tenant's rows."""
    faults = []
    for name, kind, is_part, on, forced, options in connection.execute(
        "SELECT relname, relkind::text, relispartition, relrowsecurity, relforcerowsecurity, reloptions::text "
        "FROM pg_class WHERE relnamespace = 'embedmill'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f') "
        "ORDER BY 1"
    ).fetchall():
        if kind == "v":
            if "security_invoker=true" not in (options or ""):
                faults.append(f"view {name}: sees with the eyes of its owner")
        elif kind in "mf":
            faults.append(f"{name}: row-level security does not reach it")
        elif is_part:
            # It is read through its parent, whose policies hold then; by itself nobody may.
            faults += [f"partition {name}: {who} may read it" for who in _readers(connection, name)]
        elif not (on and forced) and name not in OF_NO_TENANT:
            faults.append(f"table {name}: row-level security is not {'forced' if on else 'on'}")
        elif name not in OF_NO_TENANT:
            faults += _faults_of_policies(connection, name)
    for (name,) in connection.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'embedmill'::regnamespace AND prosecdef"
    ).fetchall():
        if not RUNS_AS_ITS_OWNER.fullmatch(name):
            faults.append(f"function {name}: runs as its owner")
    return faults


def _faults_of_policies(connection: psycopg.Connection[Any], name: str) -> list[str]:
    """The owner may see all; for everybody else one policy holds, which asks for the tenant, read and written."""
    policies = {
        row[0]: row[1:]
        for row in connection.execute(
            "SELECT p.polname, p.polcmd::text, p.polpermissive, p.polroles = ARRAY[c.relowner], p.polroles = '{0}', "
            "pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid) "
            "FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid "
            "WHERE c.oid = %s::regclass",
            (f"embedmill.{name}",),
        )
    }
    if set(policies) != {"own_tenant", "operator"}:
        return [f"table {name}: its policies are {sorted(policies)}"]
    command, permissive, _, for_all, condition, check = policies["own_tenant"]
    asks = "current_tenant_id()" in condition or _BY_ANOTHER_TABLE.get(name, "?") in condition
    if (command, permissive, for_all, check) != ("*", True, True, None) or not asks:
        return [f"table {name}: own_tenant is not what it should be"]
    if not policies["operator"][2]:
        return [f"table {name}: operator is not the owner's alone"]
    return []


def _readers(connection: psycopg.Connection[Any], name: str) -> list[str]:
    return [
        role
        for role in (*_VIEWERS, "public")
        for allowed in connection.execute(
            "SELECT has_table_privilege(%s, %s, 'SELECT, INSERT, UPDATE, DELETE')",
            (role, f"embedmill.{name}"),
        )
        if allowed[0]
    ]


def readable(connection: psycopg.Connection[Any]) -> list[str]:
    """The tables and views of the schema that this session may read at all."""
    return [
        row[0]
        for row in connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'embedmill'::regnamespace "
            "AND relkind IN ('r', 'p', 'v', 'm') AND has_any_column_privilege(oid, 'SELECT') ORDER BY 1"
        )
    ]


def seen_of_alpha(connection: psycopg.Connection[Any], two: TwoTenants) -> dict[str, list[str]]:
    """What of alpha this session sees, by table; a view or table that shows any row of its vectors counts as well."""
    secrets = Secrets(two)
    seen = {}
    for name in readable(connection):
        columns = [
            row[0]
            for row in connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
                "AND has_column_privilege(attrelid, attnum, 'SELECT')",
                (f"embedmill.{name}",),
            )
        ]
        query = sql.SQL("SELECT ROW({})::text FROM embedmill.{}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(name)
        )
        found = set()
        for row in connection.execute(query).fetchall():
            found |= set(secrets.in_text(row[0]))
        if found:
            seen[name] = sorted(found)
    return seen
