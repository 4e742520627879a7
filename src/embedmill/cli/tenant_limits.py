"""The service's limits of a tenant, as `embedmill tenant` reads and changes them. Owns these columns alone; keeping to
them is the service's (access/limits.py, api/uploading.py)."""

from __future__ import annotations

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError
from embedmill.queue.acting import record_action

_SQL = load_queries("embedmill.cli", "tenant_limits.sql")


class ServiceLimits(msgspec.Struct, frozen=True):
    """Requests a minute, the largest file in bytes, jobs that may wait for a parser; None: as the settings say."""

    requests_per_minute: int | None = None
    max_file_bytes: int | None = None
    max_staged_jobs: int | None = None


async def read_limits(database: Database, slug: str | None = None) -> dict[str, ServiceLimits]:
    """Of one tenant, or of all, by slug."""
    rows = await database.fetch(_SQL["read"], {"slug": slug})
    return {row[0]: ServiceLimits(*row[1:]) for row in rows}


async def set_limits(database: Database, slug: str, changes: dict[str, int | None], *, actor: str) -> None:
    """Change some of them (None: as the settings say), and write that to the audit log. Raises NotFoundError."""
    async with database.transaction() as connection:
        row = await (await connection.execute(_SQL["lock"], {"slug": slug})).fetchone()
        if row is None:
            names = ", ".join(sorted(await read_limits(database)))
            raise NotFoundError(f"there is no tenant {slug!r}; there are: {names}")
        old = msgspec.structs.asdict(ServiceLimits(*row))
        new = {**old, **changes}
        if new == old:
            return
        await connection.execute(_SQL["set"], {"slug": slug, **new})
        await record_action(
            connection,
            None,
            actor=actor,
            action="tenant.set",
            subject=slug,
            old_value=msgspec.json.encode(old).decode(),
            new_value=msgspec.json.encode(new).decode(),
        )
