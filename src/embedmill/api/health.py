"""/healthz and /readyz: whether the process lives, and whether it can work. Open to everybody; tells no secret."""

from __future__ import annotations

from fastapi import APIRouter, Response

from embedmill.api.service import Service
from embedmill.api.wire import Wire
from embedmill.database.patience import AWAY

router = APIRouter(tags=["health"])


class Health(Wire):
    status: str


class Readiness(Wire):
    """`ready` where both the database and the store of originals answer."""

    status: str
    database: str
    originals: str


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Something is away."}})
async def readyz(service: Service, response: Response) -> Readiness:
    """It can take work in."""
    database = "ok"
    try:
        await service.database.fetch_one("SELECT 1")
    except AWAY:
        database = "away"
    originals = await service.originals_state()
    is_ready = database == originals == "ok"
    response.status_code = 200 if is_ready else 503
    return Readiness(status="ready" if is_ready else "not ready", database=database, originals=originals)
