"""Taking uploads in: what fails is told in its job and disturbs nothing else, nothing is lost between the store and the
database, and what is sent again is known."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedmill.adapters.blobs.local import LocalOriginals
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.ingest import upload
from embedmill.ingest.upload import Kept, Uploads, Wishes
from tests.support.serving import Serving, serving
from tests.support.work import stand_in_pipeline


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[Serving]:
    """Without workers, and with the pipeline `standin`."""
    async with serving(database, tmp_path / "data", works=False) as one:
        await stand_in_pipeline(one.app, "http://127.0.0.1:9/v1", dimensions=16)
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "originals"


def files_in(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def stand_in_the_way_of(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.rmdir()
    folder.write_bytes(b"not a folder")


async def stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


@contextmanager
def full_disk(largest_file_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    deaf = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, deaf)


async def jobs_of(service: Serving) -> list[dict[str, Any]]:
    return list((await service.client.get("/ingestion-jobs")).json()["jobs"])


async def test_where_the_store_is_full_that_file_s_job_has_failed_and_the_others_are_fine(
    service: Serving, folder: Path
) -> None:
    files = [("file", (name, content)) for name, content in
             (("a.txt", b"small"), ("large.txt", b"x" * 6_000_000), ("b.txt", b"small too"))]  # fmt: skip
    with full_disk(4_000_000):
        response = await service.client.post(
            "/ingestion-jobs", files=files, data={"pipeline": "standin", "autoLaunch": "true"}
        )
    assert response.status_code == 202
    jobs = response.json()["jobs"]
    assert [(job["name"], job["status"], job["isResumable"]) for job in jobs] == [
        ("a.txt", "staged", True),
        ("large.txt", "failed", False),
        ("b.txt", "staged", True),
    ]
    assert "no room for originals" in jobs[1]["errorMessage"]
    assert (await service.job(jobs[1]["jobId"]))["errorStage"] == "staging"
    assert len(files_in(folder)) == 2
    again = await service.upload("large.txt", b"x" * 6_000_000, pipeline="standin")
    assert (again["status"], again["isKnown"]) == ("staged", False)


async def test_where_the_store_is_away_the_job_says_so_and_the_file_can_be_sent_again(
    service: Serving, folder: Path
) -> None:
    stand_in_the_way_of(folder)
    lost = await service.upload("a.txt", b"text", pipeline="standin")
    assert (lost["status"], lost["isResumable"]) == ("failed", False)
    job = await service.job(lost["jobId"])
    assert job["errorStage"] == "staging"
    assert "store of originals" in job["errorMessage"]
    refused = await service.client.post(f"/ingestion-jobs/{lost['jobId']}/resume")
    assert refused.status_code == 409
    await asyncio.to_thread(folder.unlink)
    again = await service.upload("a.txt", b"text", pipeline="standin")
    assert again["status"] == "staged"
    assert again["jobId"] != lost["jobId"]


async def test_where_dispatch_fails_the_job_has_failed_and_can_be_resumed(
    service: Serving, folder: Path
) -> None:
    await service.app.database.fetch(
        "CREATE FUNCTION pg_temp_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the parsers take nothing'; END $$"
    )
    await service.app.database.fetch(
        "CREATE TRIGGER refuse BEFORE INSERT ON embedmill.parse_queue EXECUTE FUNCTION pg_temp_refuse()"
    )
    failed = await service.upload("a.txt", b"text", pipeline="standin")
    assert (failed["status"], failed["isResumable"]) == ("failed", True)
    job = await service.job(failed["jobId"])
    assert (job["errorStage"], job["errorMessage"]) == ("dispatch", "the parsers take nothing")
    assert len(files_in(folder)) == 1
    await service.app.database.fetch("DROP TRIGGER refuse ON embedmill.parse_queue")
    resumed = await service.client.post(f"/ingestion-jobs/{failed['jobId']}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (202, "staged")
    waiting = await service.app.database.fetch("SELECT job_id::text FROM embedmill.parse_queue")
    assert waiting == [(failed["jobId"],)]


async def test_the_same_bytes_sent_by_many_at_once_are_one_document_one_job_and_one_original(
    service: Serving, folder: Path
) -> None:
    taken = await asyncio.gather(
        *(service.upload(f"{number}.txt", b"the same", pipeline="standin") for number in range(12))
    )
    assert len({one["jobId"] for one in taken}) == 1
    assert sorted(one["isKnown"] for one in taken) == [False] + [True] * 11
    assert len(files_in(folder)) == len(await jobs_of(service)) == 1


async def test_a_request_that_breaks_off_leaves_nothing(service: Serving, folder: Path) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    head = (
        "POST /api/v1/ingestion-jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="pipeline"\r\n\r\nstandin\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nwhole\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="b.txt"\r\n\r\n'
    )
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + b"half of it" * 100_000)
    await writer.drain()
    async with asyncio.timeout(20):
        while len(files_in(folder)) < 2:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while files_in(folder):
            await asyncio.sleep(0.01)
    assert await jobs_of(service) == []


async def forget_answer(service: Serving) -> None:
    """As a kill leaves it between the job and its answer, a minute later."""
    await service.app.database.fetch(
        "UPDATE embedmill.idempotency_keys SET status_code = NULL, response = NULL, "
        "created_at = created_at - interval '2 minutes'"
    )


async def test_a_request_killed_before_its_answer_and_sent_again_finds_its_jobs(service: Serving) -> None:
    async def send(key: str) -> dict[str, Any]:
        files = [("file", (name, name.encode())) for name in ("a.txt", "b.txt")]
        response = await service.client.post(
            "/ingestion-jobs", files=files, data={"pipeline": "standin"}, headers={"Idempotency-Key": key}
        )
        assert response.status_code == 202, response.text
        return dict(response.json())

    first = await send("one")
    await forget_answer(service)
    second = await send("one")
    assert [job["jobId"] for job in second["jobs"]] == [job["jobId"] for job in first["jobs"]]
    assert len(await jobs_of(service)) == 2


async def test_a_url_asked_for_again_under_its_key_is_one_job(service: Serving) -> None:
    async def send(key: str) -> str:
        response = await service.client.post(
            "/ingestion-jobs",
            json={"url": "https://example.org/a.txt", "pipeline": "standin"},
            headers={"Idempotency-Key": key},
        )
        assert response.status_code == 202, response.text
        return str(response.json()["jobId"])

    first = await send("one")
    await forget_answer(service)
    assert await send("one") == first
    assert len(await jobs_of(service)) == 1
    assert await send("two") != first


class LostAnswers(Database):
    """Every statement is committed, and its answer lost on the way."""

    async def fetch_one(self, query: Any, parameters: Any = None) -> tuple[Any, ...] | None:
        await super().fetch_one(query, parameters)
        raise psycopg.OperationalError("server closed the connection unexpectedly")


class LateAnswers(LostAnswers):
    """Only the first answer is lost; meanwhile the job has failed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._lost = 0

    async def fetch_one(self, query: Any, parameters: Any = None) -> tuple[Any, ...] | None:
        self._lost += 1
        if self._lost == 1:
            try:
                return await super().fetch_one(query, parameters)
            finally:
                await self.fetch(
                    "UPDATE embedmill.ingestion_jobs SET status = 'failed', error_stage = 'parsing'"
                )
        return await Database.fetch_one(self, query, parameters)


async def keep(uploads: Uploads) -> Kept:
    return await uploads.keep("a.txt", None, stream(b"text"), max_bytes=1000)


async def test_a_job_that_may_be_committed_keeps_its_original(
    app: App, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "_TRIES", 3)
    async with LostAnswers(app.database.url) as unlucky:
        uploads = Uploads(unlucky, LocalOriginals(tmp_path / "originals"), pipeline.tenant_id)
        kept = await keep(uploads)
        with pytest.raises(psycopg.OperationalError):
            await uploads.stage(pipeline, kept, Wishes())
    rows = await app.database.fetch("SELECT id, original_key FROM embedmill.ingestion_jobs")
    assert [row[0] for row in rows] == [kept.job_id]
    assert (tmp_path / "originals" / rows[0][1]).read_bytes() == b"text"


@pytest.mark.parametrize("by_url", [False, True])
async def test_an_answer_that_was_lost_is_no_second_job_whatever_became_of_the_first(
    app: App, pipeline: Pipeline, tmp_path: Path, by_url: bool
) -> None:
    async with LateAnswers(app.database.url) as unlucky:
        uploads = Uploads(unlucky, LocalOriginals(tmp_path / "originals"), pipeline.tenant_id)
        if by_url:
            staged = await uploads.stage_url(pipeline, "https://example.org/a.txt", Wishes())
        else:
            staged = await uploads.stage(pipeline, await keep(uploads), Wishes())
            assert len(files_in(tmp_path / "originals")) == 1
    assert (staged.status, staged.is_known) == ("failed", False)
    assert await app.database.fetch("SELECT id FROM embedmill.ingestion_jobs") == [(staged.job_id,)]


async def test_what_the_database_refuses_leaves_no_original(
    app: App, pipeline: Pipeline, tmp_path: Path
) -> None:
    uploads = Uploads(app.database, LocalOriginals(tmp_path / "originals"), pipeline.tenant_id)
    kept = await keep(uploads)
    with pytest.raises(psycopg.DataError):
        await uploads.stage(pipeline, kept, Wishes(user_id="a\0b"))
    assert files_in(tmp_path / "originals") == []
