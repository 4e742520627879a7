"""Documents named by a URL, through the whole service: fetched, kept, read, embedded; and what servers do instead."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from embedmill.queue.config import set_value
from tests.adapters.outbound.server import Answer, Server
from tests.adapters.outbound.server import serving as http_server
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, serving
from tests.support.work import DIMENSIONS, stand_in_pipeline

BODY = paragraphs(3).encode()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


GOOD = answer(BODY, "Content-Type: text/plain", 'Content-Disposition: attachment; filename="report.txt"')


@pytest.fixture
async def service(database: str, tmp_path: Path, provider: RunningProvider) -> AsyncIterator[Serving]:
    """May fetch from this machine; takes files of up to 100 KB."""
    async with serving(database, tmp_path / "data", allowed_hosts="127.0.0.1", max_file_mb=0.1) as one:
        await stand_in_pipeline(one.app, provider.base_url, dimensions=DIMENSIONS)
        yield one


async def staged(service: Serving, url: str, **fields: object) -> dict[str, Any]:
    response = await service.client.post(
        "/ingestion-jobs", json={"url": url, "pipeline": "standin", **fields}
    )
    assert response.status_code == 202, response.text
    return dict(response.json())


async def outcome(service: Serving, answers: dict[str, bytes | Answer], target: str = "/a") -> dict[str, Any]:
    """The job of a URL when it has its preview, or has ended."""
    async with http_server(answers) as server:
        job = await staged(service, server.url(target))
        return await service.until(job["jobId"], "chunk_preview_ready")


async def hurry(service: Serving) -> None:
    await service.app.database.fetch(
        "UPDATE embedmill.parse_queue SET available_at = now() WHERE lease_token IS NULL"
    )


async def test_a_document_is_fetched_kept_read_and_embedded(service: Serving, tmp_path: Path) -> None:
    async with http_server({"/a": GOOD}) as server:
        taken = await staged(service, server.url("/a"), autoLaunch=True)
        assert taken["status"] in {"staged", "parsing"}  # the worker may be quicker than the answer
        assert taken["isResumable"] is True
        job = await service.until(taken["jobId"])
        assert len(server.requests) == 1
    assert (job["status"], job["name"], job["sizeBytes"]) == ("completed", "report.txt", len(BODY))
    ((key, content_hash),) = await service.app.database.fetch(
        "SELECT original_key, content_hash FROM embedmill.ingestion_jobs"
    )
    assert (tmp_path / "data" / "originals" / key).read_bytes() == BODY
    assert bytes(content_hash) == hashlib.sha256(BODY).digest()


async def test_redirects_are_followed_to_the_document(service: Serving) -> None:
    moved = answer(b"", "Location: /b?c=d", status="302 Found")
    job = await outcome(service, {"/a": moved, "/b": GOOD})
    assert (job["status"], job["sizeBytes"]) == ("chunk_preview_ready", len(BODY))


async def test_a_redirect_to_a_private_address_fails_and_nothing_is_asked_there(service: Serving) -> None:
    async with http_server({"/secret": GOOD}) as inner:
        moved = answer(b"", f"Location: http://127.0.0.2:{inner.port}/secret", status="302 Found")
        job = await outcome(service, {"/a": moved})
        assert inner.requests == []
    assert (job["status"], job["errorStage"], job["totalChunks"]) == ("failed", "fetching", 0)


async def test_what_is_not_there_fails_at_once_and_can_be_resumed_when_it_is(service: Serving) -> None:
    answers: dict[str, bytes | Answer] = {"/a": answer(b"no", status="404 Not Found")}
    async with http_server(answers) as server:
        taken = await staged(service, server.url("/a"))
        job = await service.until(taken["jobId"])
        assert (job["status"], job["errorStage"], job["isResumable"]) == ("failed", "fetching", True)
        assert "404" in job["errorMessage"]
        answers["/a"] = GOOD
        resumed = await service.client.post(f"/ingestion-jobs/{job['jobId']}/resume")
        assert resumed.status_code == 202
        assert (await service.until(job["jobId"], "chunk_preview_ready"))["status"] == "chunk_preview_ready"


@pytest.mark.parametrize("is_announced", [True, False])
async def test_what_is_too_large_fails_and_nothing_of_it_is_kept(
    service: Serving, tmp_path: Path, is_announced: bool
) -> None:
    body = b"x" * 200_000
    unannounced = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
    reply = answer(body) if is_announced else unannounced
    job = await outcome(service, {"/a": reply})
    assert (job["status"], job["errorStage"]) == ("failed", "fetching")
    assert "larger" in job["errorMessage"]
    assert [file for file in (tmp_path / "data" / "originals").rglob("*") if file.is_file()] == []


async def test_a_server_that_is_busy_is_asked_again(service: Serving) -> None:
    answers: dict[str, bytes | Answer] = {"/a": answer(b"", status="503 Service Unavailable")}
    async with http_server(answers) as server:
        taken = await staged(service, server.url("/a"))
        await until_asked(server, 2, service)
        answers["/a"] = GOOD
        async with asyncio.timeout(30):
            while (job := await service.job(taken["jobId"]))["status"] != "chunk_preview_ready":
                await hurry(service)
                await asyncio.sleep(0.05)
    assert job["errorMessage"] is None


async def test_a_server_that_stays_away_is_given_up_with_its_stage(service: Serving) -> None:
    async with http_server({"/a": answer(b"", status="503 Service Unavailable")}) as server:
        taken = await staged(service, server.url("/a"))
        await until_asked(server, 5, service)
        job = await service.until(taken["jobId"])
        assert len(server.requests) == 5
    assert (job["status"], job["errorStage"], job["isResumable"]) == ("failed", "fetching", True)


async def until_asked(server: Server, times: int, service: Serving) -> None:
    async with asyncio.timeout(30):
        while len(server.requests) < times:
            await hurry(service)
            await asyncio.sleep(0.02)


async def test_with_the_queue_off_a_launched_job_is_embedded_all_the_same(
    service: Serving, provider: RunningProvider
) -> None:
    await set_value(service.app.database, "queue_enabled", "false", actor="the test")
    taken = await service.upload("a.txt", BODY, pipeline="standin", autoLaunch="true")
    job = await service.until(taken["jobId"])
    assert (job["status"], job["progress"]) == ("completed", 100)
    assert job["cost"]["paidTokens"] == provider.stats()["tokens_paid"] > 0
    waiting = await service.app.database.fetch(
        "SELECT (SELECT count(*) FROM embedmill.parse_queue), (SELECT count(*) FROM embedmill.embedding_queue)"
    )
    assert waiting == [(0, 0)]
