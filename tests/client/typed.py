"""What a type checker sees of both clients. Never run: test_types.py has mypy read it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import assert_type
from uuid import UUID

from embedmill import AsyncClient, Client
from embedmill.client import AsyncJob, Event, Job
from embedmill.client.records.access import Whoami
from embedmill.client.records.jobs import Chunk, JobCost
from embedmill.client.records.knowledge import Passage
from embedmill.client.records.webhooks import WebhookWithSecret


def blocking(client: Client) -> None:
    assert_type(client.whoami(), Whoami)
    assert_type(client.upload("a.pdf", pipeline="p", auto_launch=True), Job)
    assert_type(client.upload_files(["a.pdf", ("b", b"x")]), list[Job])
    assert_type(client.job("x").launch().wait(progress=True), Job)
    assert_type(client.jobs(status="failed"), Generator[Job, None, None])
    assert_type(client.search("x"), tuple[Passage, ...])
    assert_type(client.create_webhook("u"), WebhookWithSecret)
    assert_type(client.events(), Generator[Event, None, None])
    for job in client.jobs():
        assert_type(job.chunks(), Generator[Chunk, None, None])
        assert_type(job.cost, JobCost)
        assert_type(job.job_id, UUID)


async def awaiting(client: AsyncClient) -> None:
    assert_type(await client.whoami(), Whoami)
    assert_type(await client.upload("a.pdf"), AsyncJob)
    assert_type(await client.upload_files(["a.pdf"]), list[AsyncJob])
    assert_type(await (await client.job("x")).launch(), AsyncJob)
    assert_type(client.jobs(), AsyncGenerator[AsyncJob, None])
    assert_type(client.events(), AsyncGenerator[Event, None])
    async for job in client.jobs():
        assert_type(await job.wait(until="preview"), AsyncJob)


def wrong(client: Client, job: Job) -> None:
    client.jobs(status="exploded")  # WRONG
    client.upload("a.pdf", pipline="p")  # WRONG
    client.upload("a.pdf", priority="urgent")  # WRONG
    client.search()  # WRONG
    job.set_budget("much")  # WRONG
    job.status = "completed"  # WRONG
    assert client.whoami().nobody  # WRONG
