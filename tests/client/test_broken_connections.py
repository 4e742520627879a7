"""A network that cuts, loses and holds back, between a client and a real service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from embedmill import AsyncClient, Client
from embedmill.client import ServiceUnreachableError
from embedmill.client.records.jobs import IngestionJob
from embedmill.database.pipelines import Pipeline
from tests.client.cutting import Cutting, cutting
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider
from tests.support.serving import Serving


@pytest.fixture
async def network(service: Serving) -> AsyncIterator[Cutting]:
    async with cutting(service.address) as one:
        yield one


@pytest.fixture
async def far(network: Cutting) -> AsyncIterator[AsyncClient]:
    """A client beyond the network that cuts."""
    async with AsyncClient(network.address) as client:
        yield client


async def jobs_made(service: Serving) -> int:
    row = await service.app.database.fetch_one("SELECT count(*) FROM embedmill.ingestion_jobs")
    return int(row[0]) if row else -1


async def test_an_upload_whose_answer_is_lost_is_made_once(
    service: Serving, network: Cutting, far: AsyncClient, pipeline: Pipeline
) -> None:
    network.answers_to_lose = 2
    job = await far.upload(b"a few words", name="a.txt", pipeline="standin", source_id="a")
    assert network.cuts == 2
    assert job.is_known is False
    assert await jobs_made(service) == 1


async def test_an_upload_that_is_cut_in_the_middle_is_sent_again_whole(
    service: Serving, network: Cutting, pipeline: Pipeline, tmp_path: Path
) -> None:
    path = tmp_path / "book.txt"
    path.write_text(paragraphs(4000))

    def story() -> None:
        with Client(network.address) as client:
            network.cut_requests_after = path.stat().st_size // 2
            job = client.upload(path, pipeline="standin")
            assert job.size_bytes == path.stat().st_size
            network.cut_requests_after = path.stat().st_size // 2
            with path.open("rb") as file:
                assert client.upload(file, pipeline="standin").is_known

    await asyncio.to_thread(story)
    assert network.cuts == 2
    assert await jobs_made(service) == 1


async def test_waiting_survives_cuts_of_its_stream_and_a_service_that_is_away(
    network: Cutting, far: AsyncClient, pipeline: Pipeline, provider: RunningProvider
) -> None:
    job = await far.upload(paragraphs(60).encode(), name="a.txt", pipeline="standin")
    await job.set_plan(chunk_tokens=140, chunk_overlap=0)
    await job.wait(until="preview", timeout=60)
    provider.configure(answers_before_hang=2)
    await job.launch()
    waiting = asyncio.create_task(job.wait(timeout=120))
    await until_streams(network, 2)
    network.cut_all()
    await until_streams(network, 3)
    network.is_away = True
    seen = network.connections
    network.cut_all()
    while network.connections < seen + 2:
        await asyncio.sleep(0.02)
    network.is_away = False
    provider.configure(answers_before_hang=None)
    assert (await waiting).status == "completed"


async def until_streams(network: Cutting, count: int) -> None:
    async with asyncio.timeout(60):
        while network.streams < count:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["blocking", "asynchronous"])
async def test_behind_a_proxy_that_holds_streams_back_waiting_looks_by_itself(
    network: Cutting, pipeline: Pipeline, kind: str
) -> None:
    network.holds_streams = True
    content = paragraphs(3).encode()

    def blocking() -> str:
        with Client(network.address) as client:
            return client.upload(content, name="a.txt", pipeline="standin").wait(until="preview", timeout=6).status

    async def asynchronous() -> str:
        async with AsyncClient(network.address) as client:
            job = await client.upload(content, name="a.txt", pipeline="standin")
            return (await job.wait(until="preview", timeout=6)).status

    status = await asyncio.to_thread(blocking) if kind == "blocking" else await asynchronous()
    assert status == "chunk_preview_ready"


async def test_events_of_the_tenant_go_on_behind_the_last_one_after_a_cut(
    network: Cutting, far: AsyncClient, client: AsyncClient, pipeline: Pipeline
) -> None:
    first = await client.upload(b"first words", name="a.txt", pipeline="standin", auto_launch=True)
    await first.wait(timeout=60)
    kinds: list[str] = []
    async for event in far.events(last_event_id="0-0"):
        kinds.append(event.type)
        if event.type == "job.parsing":
            network.cut_all()
        if event.type == "job.completed":
            break
    assert kinds == [f"job.{status}" for status in STORY]
    assert network.streams >= 1


STORY = ["staged", "parsing", "chunk_preview_ready", "embedding_in_progress", "completed"]


async def test_events_end_with_an_error_when_the_service_stays_away(
    network: Cutting, pipeline: Pipeline
) -> None:
    def story() -> int:
        seen = 0
        with Client(network.address, retries=1) as client:
            job = client.upload(b"words", name="a.txt", pipeline="standin")
            with pytest.raises(ServiceUnreachableError):
                for event in job.events():
                    assert event.decode(IngestionJob).job_id == job.job_id if event.type == "progress" else event.id
                    seen += 1
                    network.is_away = True
                    asyncio.run_coroutine_threadsafe(cut(network), loop).result(10)
        return seen

    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(story) >= 1


async def cut(network: Cutting) -> None:
    network.cut_all()


async def test_a_loop_over_events_that_is_left_lets_go_of_its_connection(
    service: Serving, network: Cutting, pipeline: Pipeline
) -> None:
    def story() -> None:
        with Client(network.address) as client:
            job = client.upload(b"words", name="a.txt", pipeline="standin")
            for _ in range(5):
                for _event in job.events(until_ended=False):
                    break

    await asyncio.to_thread(story)
    streams = service.service
    assert streams is not None
