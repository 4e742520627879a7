"""Uploads without a script, over plain HTTP: the token, what is refused and told at its field, who may, whose."""

from __future__ import annotations

from pathlib import Path

import httpx2

from embedmill.access.keys import Role
from embedmill.database.pipelines import Pipeline
from tests.dashboard.uploads import EXAMPLES, priced_pipeline, send_form
from tests.dashboard.visiting import key_of, log_in, token_in
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, client_at

FILE = (EXAMPLES / "gettysburg-address.txt").read_bytes()


async def visit(client: httpx2.AsyncClient) -> str:
    return token_in((await client.get("/documents")).text)


async def jobs_of(one: Serving) -> list[tuple[object, ...]]:
    return await one.service.operator.fetch(
        "SELECT original_name, status::text, metadata, batch_id, priority::text, auto_launch"
        " FROM embedmill.ingestion_jobs ORDER BY original_name"
    )


def originals(one: Serving) -> list[Path]:
    return [path for path in (one.service.settings.data_dir / "originals").rglob("*") if path.is_file()]


async def test_files_of_a_plain_form_are_taken_in_with_what_was_chosen(
    idle_service: Serving, provider: RunningProvider
) -> None:
    await priced_pipeline(idle_service, provider)
    async with client_at(idle_service.address) as client:
        token = await visit(client)
        fields = {"pipeline": "standin", "priority": "high", "autoLaunch": "true", "budgetUsd": "$1,000.50"}
        one = await send_form(
            client, token, [("a.txt", FILE)], metadata="team = mill\r\n\r\nurl=a=b", **fields
        )
        assert one.status_code == 303
        several = await send_form(
            client, token, [("b.txt", FILE + b"b"), ("c.txt", FILE + b"c")], url="", **fields
        )
        assert several.headers["location"].startswith("/documents/batches/")
        page = (await client.get(one.headers["location"])).text
        assert "$1,000.50" in page
        assert "No worker is running" in page
    found = await jobs_of(idle_service)
    assert [row[0] for row in found] == ["a.txt", "b.txt", "c.txt"]
    assert found[0][2] == {"team": "mill", "url": "a=b"}
    assert found[1][3] == found[2][3] is not None
    assert {row[4:] for row in found} == {("high", True)}


async def test_a_form_without_our_token_stages_nothing_and_keeps_nothing(
    idle_service: Serving, provider: RunningProvider
) -> None:
    await priced_pipeline(idle_service, provider)
    async with client_at(idle_service.address) as client:
        token = await visit(client)
        for wrong in ("", "x" * len(token)):
            answer = await send_form(client, wrong, [("a.txt", FILE)], pipeline="standin")
            assert answer.status_code == 403
        headers = {"X-Form-Token": "wrong"}
        refused = await client.post("/documents", files={"file": FILE}, headers=headers)
        assert refused.status_code == 403
        foreign = await client.post(
            "/documents",
            data={"form_token": token},
            files={"file": FILE},
            headers={"Origin": "http://evil.example"},
        )
        assert foreign.status_code == 403
    assert await jobs_of(idle_service) == []
    assert originals(idle_service) == []


async def test_what_is_refused_is_told_at_its_field_with_what_was_typed(
    idle_service: Serving, provider: RunningProvider
) -> None:
    await priced_pipeline(idle_service, provider)
    async with client_at(idle_service.address) as client:
        token = await visit(client)
        good = {"pipeline": "standin"}
        for fields, told in (
            ({"metadata": "no sign"}, "line 1 is not of the form key=value"),
            ({"metadata": "a=1\na=2"}, "a is given twice"),
            ({"budgetUsd": "much"}, "valid number"),
            ({"budgetUsd": "-1"}, "greater than or equal to 0"),
            ({"pipeline": "<i>none</i>"}, "&lt;i&gt;none&lt;/i&gt;"),
            ({"priority": "urgent"}, "priority"),
        ):
            answer = await send_form(client, token, [("a.txt", FILE)], **{**good, **fields})
            assert answer.status_code in {404, 422}, fields
            assert told in answer.text, fields
            typed = next(iter(fields.values())).splitlines()[0]
            assert typed in answer.text or "&lt;" in answer.text or typed == "urgent"
        empty = await send_form(client, token, [("", b"")], **good)  # a box in which nothing was chosen
        assert empty.status_code == 422
        assert "the form has no file" in empty.text
    assert await jobs_of(idle_service) == []
    assert originals(idle_service) == []


async def test_a_url_becomes_a_job_or_is_refused_at_its_field(
    idle_service: Serving, provider: RunningProvider
) -> None:
    await priced_pipeline(idle_service, provider)
    async with client_at(idle_service.address) as client:
        form = {"form_token": await visit(client), "pipeline": "standin", "metadata": "a=b"}
        missing = await client.post("/documents/from-url", data={**form, "url": " "})
        assert missing.status_code == 422
        assert "say which" in missing.text
        taken = await client.post(
            "/documents/from-url", data={**form, "url": "https://example.com/a/handbook.pdf"}
        )
        assert taken.status_code == 303
        assert "handbook.pdf" in (await client.get(taken.headers["location"])).text
    assert [row[:3] for row in await jobs_of(idle_service)] == [("handbook.pdf", "staged", {"a": "b"})]


async def test_a_reader_sees_no_form_and_is_refused_and_another_tenant_sees_nothing(
    idle_service: Serving, provider: RunningProvider, pipeline: Pipeline
) -> None:
    await idle_service.service.operator.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('other')")
    reader, _ = await key_of(idle_service, Role.READER)
    stranger, _ = await key_of(idle_service, Role.ADMIN, "other")
    writer, _ = await key_of(idle_service, Role.WRITER)
    async with log_in(idle_service, writer) as client:
        token = await visit(client)
        job = (await send_form(client, token, [("secret.txt", FILE)], pipeline="standin")).headers["location"]
        assert "data-upload" in (await client.get("/documents")).text
        for act in ("launch", "fly"):
            assert (await client.post(f"{job}/{act}", data={"form_token": "no"})).status_code == 403
        assert (await client.post(f"{job}/fly", data={"form_token": token})).status_code == 404
    async with log_in(idle_service, reader) as client:
        page = (await client.get("/documents")).text
        assert "secret.txt" in page
        assert "data-upload" not in page
        shown = (await client.get(job)).text
        assert "secret.txt" in shown
        assert '<form method="post" action="/documents' not in shown
        token = token_in(page)
        assert (await send_form(client, token, [("b.txt", FILE)], pipeline="standin")).status_code == 403
        for act in ("cancel", "delete", "plan", "change"):
            assert (await client.post(f"{job}/{act}", data={"form_token": token})).status_code == 403
    async with log_in(idle_service, stranger) as client:
        page = (await client.get("/documents")).text
        assert "secret.txt" not in page
        assert "EMBEDMILL_TENANT=other embedmill pipeline create" in page
        token = token_in(page)
        for path in (job, f"{job}/preview"):
            assert (await client.get(path)).status_code == 404
        for act in ("launch", "cancel", "resume", "retry", "delete", "change"):
            answer = await client.post(f"{job}/{act}", data={"form_token": token})
            assert answer.status_code == 404, act
        batch = "/documents/batches/00000000-0000-0000-0000-000000000001"
        assert (await client.get(batch)).status_code == 404
        assert (await client.post(f"{batch}/cancel", data={"form_token": token})).status_code == 404
    assert [row[:2] for row in await jobs_of(idle_service)] == [("secret.txt", "staged")]
