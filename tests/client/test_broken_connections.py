"""A network that cuts, loses and holds back, between a client and a real service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from embedmill import AsyncClient, Client
from embedmill.client import ServiceUnreachableError, WaitTimeoutError
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
    job = await far.upload(
        paragraphs(60).encode(), name="a.txt", pipeline="standin", chunk_tokens=140, chunk_overlap=0
    )
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
            return (
                client.upload(content, name="a.txt", pipeline="standin")
                .wait(until="preview", timeout=12)
                .status
            )

    async def asynchronous() -> str:
        async with AsyncClient(network.address) as client:
            job = await client.upload(content, name="a.txt", pipeline="standin")
            return (await job.wait(until="preview", timeout=12)).status

    status = await asyncio.to_thread(blocking) if kind == "blocking" else await asynchronous()
    assert status == "chunk_preview_ready"


async def test_streams_that_are_cut_at_once_are_not_asked_for_without_a_pause(
    network: Cutting, far: AsyncClient, pipeline: Pipeline
) -> None:
    job = await far.upload(b"words", name="a.txt", pipeline="standin")
    network.drops_streams = True
    with pytest.raises(WaitTimeoutError):
        await job.wait(timeout=4)  # nobody launches it
    assert 1 <= network.streams <= 4


async def test_events_of_the_tenant_go_on_behind_the_last_one_after_a_cut(
    network: Cutting, far: AsyncClient, client: AsyncClient, pipeline: Pipeline
) -> None:
    first = await client.upload(b"first words", name="a.txt", pipeline="standin", auto_launch=True)
    kinds: list[str] = []
    async for event in far.events(last_event_id="0-0"):
        kinds.append(event.type)
        if event.type == "job.completed" and event.payload["jobId"] != str(first.job_id):
            break
        if event.type == "job.completed":
            network.cut_all()
            second = await client.upload(b"more words", name="b.txt", pipeline="standin", auto_launch=True)
            await second.wait(timeout=60)  # all of it happens while nobody listens
    story = ["staged", "parsing", "chunk_preview_ready", "embedding_in_progress", "completed"]
    assert kinds == 2 * [f"job.{status}" for status in story]
    assert network.streams == 2


async def test_events_end_with_an_error_when_the_service_stays_away(
    network: Cutting, pipeline: Pipeline
) -> None:
    def listen(client: Client) -> None:
        job = client.upload(b"words", name="a.txt", pipeline="standin")
        for event in job.events(until_ended=False):
            seen.append(event.type)
            network.is_away = True
            asyncio.run_coroutine_threadsafe(cut(network), loop).result(10)

    def story() -> None:
        with Client(network.address, retries=1) as client, pytest.raises(ServiceUnreachableError):
            listen(client)

    seen: list[str] = []
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(story)
    assert seen


async def cut(network: Cutting) -> None:
    network.cut_all()


async def test_a_loop_over_events_that_is_left_lets_go_of_its_connection(
    network: Cutting, pipeline: Pipeline
) -> None:
    left = asyncio.Event()
    loop = asyncio.get_running_loop()
    may_close = threading.Event()

    def story() -> None:
        with Client(network.address) as client:
            job = client.upload(b"words", name="a.txt", pipeline="standin")
            for _ in range(5):
                for _event in job.events(until_ended=False):
                    break
            loop.call_soon_threadsafe(left.set)
            may_close.wait(60)

    running = asyncio.create_task(asyncio.to_thread(story))
    await left.wait()
    assert network.streams == 5
    async with asyncio.timeout(30):
        while network.open_connections > 1:  # one waits for the next request
            await asyncio.sleep(0.02)
    may_close.set()
    await running
