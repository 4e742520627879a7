"""`embedmill up` as a process that may be killed, and uploads that live through it. Owns starting, killing and sending;
must not assert what becomes of a job."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx2
import msgspec
import psutil

from embedmill.app import App
from tests.support.commands import EMBEDMILL, CommandLine

_SAYS_ADDRESS = "embedmill answers on "
_START_SECONDS = 60.0


class ServiceProcess:
    """The service of one database and data folder; `address` changes with each start."""

    def __init__(self, url: str, data_dir: Path, *arguments: str, **settings: str) -> None:
        self._environment = CommandLine(data_dir, url, **settings).environment
        self._arguments = arguments
        self._log = data_dir.with_name("service.log")
        self._running: subprocess.Popen[bytes] | None = None
        self.address: str | None = None

    async def start(self) -> None:
        """Until it answers. Raises AssertionError with what it said where it does not come to that."""
        said_before = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                [EMBEDMILL, "up", "--port", "0", *self._arguments],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        async with asyncio.timeout(_START_SECONDS):
            while True:
                said = self._log.read_bytes()[said_before:].decode()
                if _SAYS_ADDRESS in said and "\n" in said.partition(_SAYS_ADDRESS)[2]:
                    break
                assert self._running.poll() is None, said
                await asyncio.sleep(0.05)
        self.address = said.partition(_SAYS_ADDRESS)[2].partition(";")[0]

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    @property
    def lives(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def workers(self) -> list[psutil.Process]:
        """The worker processes, without their parsers."""
        return psutil.Process(self.pid).children()

    def kill(self, *, service: bool, workers: bool) -> None:
        """kill -9, of whatever lives at this moment; parsers die with the workers."""
        victims = [psutil.Process(self.pid)] if service else []
        if workers:
            victims += psutil.Process(self.pid).children(recursive=True)
        if service:
            self.address = None
        for victim in victims:
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
        if service and self._running is not None:
            self._running.wait(timeout=30)

    def stop(self) -> int:
        """As Ctrl-C does it; the exit status."""
        assert self._running is not None
        self._running.terminate()
        return self._running.wait(timeout=60)


class Upload(msgspec.Struct):
    """One file that somebody wants to have taken in, whatever happens. `jobs` are those that answers named, `broken`
    counts requests that ended without an answer."""

    name: str
    content: bytes
    key: str = msgspec.field(default_factory=lambda: str(uuid4()))
    jobs: list[str] = []
    broken: int = 0
    statuses: list[int] = []

    async def send(self, service: ServiceProcess, pipeline: str, chance: random.Random) -> None:
        """Again and again under the same key, until it is accepted."""
        while not self.jobs:
            if service.address is None:
                await asyncio.sleep(0.05)
                continue
            try:
                await self._send_once(service.address, pipeline, chance)
            except httpx2.TransportError:
                self.broken += 1
                await asyncio.sleep(0.1)

    async def _send_once(self, address: str, pipeline: str, chance: random.Random) -> None:
        boundary = uuid4().hex
        async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
            response = await client.post(
                f"{address}/api/v1/ingestion-jobs",
                content=self._body(boundary, pipeline, chance),
                headers={
                    "Content-Type": f"multipart/form-data; boundary={boundary}",
                    "Idempotency-Key": self.key,
                },
            )
        self.statuses.append(response.status_code)
        if response.status_code == 202:
            self.jobs.append(response.json()["jobId"])
            return
        assert response.status_code in {409, 503}, response.text
        assert "Retry-After" in response.headers, response.text
        await asyncio.sleep(0.2)

    async def _body(self, boundary: str, pipeline: str, chance: random.Random) -> AsyncIterator[bytes]:
        """Slowly, so that it can be cut off in the middle."""
        for name, value in (("pipeline", pipeline), ("autoLaunch", "true")):
            yield f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        yield (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{self.name}"\r\n\r\n'
        ).encode()
        step = len(self.content) // 4 + 1
        for start in range(0, len(self.content), step):
            yield self.content[start : start + step]
            await asyncio.sleep(chance.uniform(0.0, 0.15))
        yield f"\r\n--{boundary}--\r\n".encode()


async def free_keys(app: App) -> None:
    """As if a minute had gone by: keys of requests that a kill ended may be used again."""
    await app.database.fetch(
        "UPDATE embedmill.idempotency_keys SET created_at = created_at - interval '2 minutes' "
        "WHERE status_code IS NULL"
    )


def make_old(folder: Path, days: float) -> None:
    """As if all that stands there had been written so long ago."""
    for file in folder.rglob("*"):
        if file.is_file():
            moment = file.stat().st_mtime - days * 86_400
            os.utime(file, (moment, moment))
