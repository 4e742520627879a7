"""What every attack on uploads needs: the pieces of a form as bytes, what an answer must never tell, and whether
anything was left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.support.serving import Serving

LEAKS = ("Traceback", "/tmp/", "/originals/", "site-packages", ".py", "SELECT ", "psycopg", "tenants/")  # noqa: S108
MIB = 1024 * 1024
BOUNDARY = b"----enemy"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
OPENING = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
CLOSING = b"\r\n--" + BOUNDARY + b"--\r\n"


def originals(service: Serving) -> list[Path]:
    folder = service.service.settings.data_dir / "originals"
    return [path for path in folder.rglob("*") if path.is_file()]


async def jobs(service: Serving) -> list[dict[str, Any]]:
    return list((await service.client.get("/ingestion-jobs?limit=500")).json()["jobs"])


async def assert_untouched(service: Serving) -> None:
    """Nothing was taken in, and the next upload is."""
    assert await jobs(service) == []
    async with asyncio.timeout(30):
        while originals(service):
            await asyncio.sleep(0.02)
    taken = await service.client.post("/ingestion-jobs", files={"file": ("good.txt", b"good words")})
    assert taken.status_code == 202
    assert len(originals(service)) == 1
