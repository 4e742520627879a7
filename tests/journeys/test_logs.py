"""What a service and its workers log, at `debug` and as JSON: whose it is stands in the line, no word of a document, no
secret."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from embedmill.access.keys import Role, create_key
from embedmill.access.pepper import read_pepper
from embedmill.app import App
from embedmill.ports import ProviderSpec
from tests.support.commands import EMBEDMILL, CommandLine
from tests.support.provider import RunningProvider
from tests.support.serving import client_at
from tests.support.work import DIMENSIONS, app_on

_TEXT = "canary-of-the-document"
_POISON = "POISON canary-of-the-poison with more than twenty letters"
_QUERY = "canary-of-the-query"
_KEY = "sk-canary-of-the-provider-key"
_URL_PASSWORD = "canary-of-the-url"  # noqa: S105 - that is what it is for
_DATABASE_PASSWORD = "canary-of-the-database"  # noqa: S105 - likewise
_WRONG_KEY = "em_canary-of-the-wrong-key"


@pytest.fixture
async def app(database: str, tmp_path: Path) -> AsyncIterator[App]:
    async with app_on(database, tmp_path / "data") as app:
        yield app


async def test_logs_say_whose_it_is_and_nothing_that_is_secret(
    app: App, database: str, tmp_path: Path, provider: RunningProvider
) -> None:
    provider.configure(
        api_key=_KEY,
        poison="POISON",
        poison_names_input=True,
        faults=["429", "429"],
        retry_after_seconds=0.05,
    )
    url, database_password = database, conninfo_to_dict(database).get("password")
    if not database_password:  # a server of one's own asks for its own
        database_password = _DATABASE_PASSWORD
        url += f"{'&' if '?' in database else '?'}password={database_password}"
    settings = {
        "EMBEDMILL_LOG_LEVEL": "debug",
        "EMBEDMILL_LOG_FORMAT": "json",
        "EMBEDMILL_CANARY_API_KEY": _KEY,
        "EMBEDMILL_ALLOWED_HOSTS": "127.0.0.1",
    }
    environment = CommandLine(tmp_path / "data", url).environment | settings
    spec = ProviderSpec(
        provider="openai",
        model="stand-in",
        dimensions=DIMENSIONS,
        base_url=provider.base_url,
        api_key_env="EMBEDMILL_CANARY_API_KEY",
        max_tokens_per_input=8000,
    )
    await _make_pipeline(app, spec)
    key = (
        await create_key(
            app.database,
            read_pepper(tmp_path / "data"),
            tenant="default",
            role=Role.ADMIN,
            name="test",
            expires_in_seconds=None,
            actor="test",
        )
    ).secret

    log, said = (tmp_path / "log").open("wb"), tmp_path / "said"
    with log, said.open("wb") as out:
        running = subprocess.Popen(
            [EMBEDMILL, "up", "--port", "0", "--processes", "1"],
            env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                while "answers on" not in (words := said.read_text()):
                    assert running.poll() is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.05)
            address = words.partition("answers on ")[2].partition(";")[0]
            secret, job = await _live(address, key)
        finally:
            running.terminate()
            await asyncio.to_thread(running.wait, 60)

    text = (tmp_path / "log").read_text()
    secrets = (
        _TEXT,
        "canary-of-the-poison",
        _QUERY,
        _KEY,
        _URL_PASSWORD,
        database_password,
        _WRONG_KEY,
        key,
        secret,
    )
    assert [canary for canary in secrets if canary in text] == []

    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    calls = [line for line in lines if line["event"] == "provider called"]
    assert {line["outcome"] for line in calls} >= {"ok", "rejected", "rate_limited"}
    assert [line for line in lines if line["event"] in _OF_A_TENANT and "tenant_id" not in line] == []
    assert any(job in line.get("job_ids", ()) for line in calls)
    parsed = [line for line in lines if line["event"] == "parser is done"]
    assert {line["outcome"] for line in parsed} == {"ok", "failed"}
    assert all("job_id" in line for line in parsed)
    requests = [line for line in lines if line["event"] == "request"]
    assert {line["status"] for line in requests} >= {200, 202, 401}
    assert all({"method", "route", "milliseconds", "timestamp", "level"} <= line.keys() for line in requests)
    assert all("tenant_id" in line for line in requests if line["status"] < 400)
    assert {line["job_id"] for line in requests if line["route"].endswith("/{jobId}")} >= {job}


_OF_A_TENANT = {"provider called", "parser is done", "webhook called", "generation paused"}


async def _make_pipeline(app: App, spec: ProviderSpec) -> None:
    from embedmill.core.documents import ChunkPlan

    await app.create_pipeline(
        "standin",
        spec,
        explicit=frozenset(),
        storage="vector",
        chunk_plan=ChunkPlan(64, 0),
        text_search_config="simple",
        price_per_million_tokens=None,
        calls_per_minute=None,
        tokens_per_minute=None,
    )


async def _live(address: str, key: str) -> tuple[str, str]:
    """Uploads that succeed, are refused by the provider, cannot be read and cannot be fetched; a webhook, a search, a
    stranger. The webhook's secret, and the job that succeeded."""
    async with client_at(f"{address}/api/v1", {"Authorization": f"Bearer {key}"}) as client:
        hook = await client.post(
            "/webhooks", json={"url": f"http://127.0.0.1:59999/hook?token={_URL_PASSWORD}"}
        )
        assert hook.status_code == 201, hook.text
        jobs = []
        for name, content in (
            (f"{_TEXT}.txt", f"A text with a {_TEXT} in it."),
            ("poison.txt", f"A text with {_POISON}."),
            ("broken.pdf", f"%PDF-1.4 {_TEXT} broken"),
        ):
            answer = await client.post(
                "/ingestion-jobs",
                files={"file": (name, content.encode())},
                data={"pipeline": "standin", "autoLaunch": "true"},
            )
            assert answer.status_code == 202, answer.text
            jobs.append(answer.json()["jobId"])
        await client.post(
            "/ingestion-jobs",
            json={"url": f"http://reader:{_URL_PASSWORD}@127.0.0.1:59999/x.txt", "pipeline": "standin"},
        )
        async with asyncio.timeout(90):
            for job in jobs:
                while (await client.get(f"/ingestion-jobs/{job}")).json()["status"] not in (
                    "completed",
                    "failed",
                ):
                    await asyncio.sleep(0.05)
        found = await client.post("/search", json={"query": _QUERY, "pipeline": "standin"})
        assert found.status_code == 200, found.text
        await client.get(f"/pipelines?q={_QUERY}")
    async with client_at(address, {"Authorization": f"Bearer {_WRONG_KEY}"}) as stranger:
        assert (await stranger.get("/api/v1/pipelines")).status_code == 401
    return str(hook.json()["secret"]), jobs[0]
