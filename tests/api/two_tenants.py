"""Two tenants, each with everything that a tenant can have: alpha, whose rows nobody else may see, and beta, who tries.
Owns what they are, and what of alpha must not be seen; two_tenants_making.py makes them. Must not assert.

All numbers of alpha begin at 900,000,000 and all its texts hold its name, so that whatever leaks is known when it is
seen. The database belongs to an account that is no superuser, whom row-level security binds as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

ALPHA, BETA = "alpha", "beta"
FIRST_OF_ALPHA = 900_000_000
_NUMBER = re.compile(r"(?<![0-9])9000[0-9]{5}(?![0-9])")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Tenant:
    """`jobs` by their state; `keys` by their role."""

    slug: str
    keys: dict[str, str] = field(default_factory=dict)
    key_ids: list[str] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_id: str = ""
    webhook_id: str = ""
    delivery_id: str = ""
    item_id: int = 0
    alert_id: int = 0
    shard_type_id: str = ""
    shard_id: str = ""
    cursor: str = ""
    """A cursor of its list of jobs."""
    event_id: str = ""
    """The id of an event, as its stream tells it."""

    def headers(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[role]}"}


@dataclass(frozen=True)
class TwoTenants:
    """The database that they stand in, as its owner and as the server's administrator; the service's folder with its
    originals and its pepper."""

    url: str
    admin_url: str
    folder: Path
    alpha: Tenant
    beta: Tenant


def tables_of_tenants(connection: psycopg.Connection[Any]) -> list[str]:
    """The tables, but for partitions, that have a tenant_id."""
    return [
        row[0]
        for row in connection.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE c.relnamespace = 'embedmill'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition "
            "AND a.attname = 'tenant_id' AND NOT a.attisdropped ORDER BY 1"
        )
    ]


def rows_of(two: TwoTenants, slug: str) -> dict[str, list[str]]:
    """Every row of a tenant, as JSON, by its table; the vectors of its generations as well."""
    found = {}
    with psycopg.connect(two.admin_url, autocommit=True) as connection:
        tenant = connection.execute("SELECT id FROM embedmill.tenants WHERE slug = %s", (slug,)).fetchone()
        assert tenant is not None
        queries = {
            name: sql.SQL(
                "SELECT (to_jsonb(t) - 'last_used_at')::text FROM embedmill.{} t WHERE tenant_id = %s"
            ).format(sql.Identifier(name))
            for name in tables_of_tenants(connection)
        }
        queries["tenants"] = sql.SQL("SELECT to_jsonb(t)::text FROM embedmill.tenants t WHERE id = %s")
        for (generation,) in connection.execute(
            "SELECT id FROM embedmill.generations WHERE tenant_id = %s", tenant
        ).fetchall():
            name = f"vectors_{generation}"
            queries[name] = sql.SQL("SELECT to_jsonb(t)::text FROM embedmill.{} t WHERE %s > 0").format(
                sql.Identifier(name)
            )
        for name, query in queries.items():
            found[name] = sorted(row[0] for row in connection.execute(query, tenant))
    return found


def originals_of(two: TwoTenants, slug: str) -> list[str]:
    """The files of a tenant's originals."""
    with psycopg.connect(two.admin_url, autocommit=True) as connection:
        row = connection.execute("SELECT id FROM embedmill.tenants WHERE slug = %s", (slug,)).fetchone()
    assert row is not None
    folder = two.folder / "originals" / "tenants" / str(row[0])
    return sorted(f"{path} {path.stat().st_size}" for path in folder.rglob("*") if path.is_file())


class Secrets:
    """What of a tenant nobody else may see: its name, its numbers, its ids."""

    def __init__(self, two: TwoTenants) -> None:
        ids = set(_UUID.findall(str(rows_of(two, ALPHA))))
        # Workers serve both of them.
        self._ids = ids - set(_UUID.findall(str(rows_of(two, BETA))))

    def in_text(self, text: str, *, said: str = "") -> list[str]:
        """What of it stands in a text, but for what the asker `said` himself."""
        found = {ALPHA} if ALPHA in text.lower() else set()
        found |= set(_NUMBER.findall(text)) | (self._ids & set(_UUID.findall(text.lower())))
        return sorted(each for each in found if each not in said)
