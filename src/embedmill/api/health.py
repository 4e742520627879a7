"""/healthz and /readyz: whether the process lives, and whether it can work. Open to everybody; tells no secret."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter, Response

from embedmill.api.service import Service
from embedmill.api.wire import Wire
from embedmill.database.migrator import newest_migration
from embedmill.database.patience import AWAY
from embedmill.database.schema_records import NEEDED_VERSION
from embedmill.service import ServiceApp

router = APIRouter(tags=["health"])
_newest_migration = cache(newest_migration)


class Health(Wire):
    status: str


class Readiness(Wire):
    """`ready` where database and store of originals answer, and the schema is one that this release works on."""

    status: str
    database: str
    migrations: str
    originals: str


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Something is away."}})
async def readyz(service: Service, response: Response) -> Readiness:
    """It can take work in."""
    database, migrations = await _database_and_migrations(service)
    originals = await service.originals_state()
    is_ready = database == migrations == originals == "ok"
    response.status_code = 200 if is_ready else 503
    return Readiness(
        status="ready" if is_ready else "not ready",
        database=database,
        migrations=migrations,
        originals=originals,
    )


async def _database_and_migrations(service: ServiceApp) -> tuple[str, str]:
    """What each is. A schema is never too old: the service would not have started."""
    try:
        await service.database.fetch_one("SELECT 1")
        needed = await service.operator.fetch_one(NEEDED_VERSION)
    except AWAY:
        return "away", "unknown"
    if needed is None or needed[0] is None:
        return "ok", "gone: run `embedmill db migrate`"
    if needed[0] > _newest_migration():
        return "ok", "newer than this embedmill bears: upgrade it"
    return "ok", "ok"
