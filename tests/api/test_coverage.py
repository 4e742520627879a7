"""/coverage and /activity as the service answers them, under the role that sees one tenant."""

from __future__ import annotations

import pytest

from embedmill.access.keys import Role
from embedmill.database.pipelines import Pipeline
from tests.support.provider import RunningProvider
from tests.support.serving import Serving
from tests.support.walks import add_notes, order
from tests.support.work import DIMENSIONS, stand_in_pipeline


@pytest.fixture
async def pipeline(idle_service: Serving, provider: RunningProvider) -> Pipeline:
    return await stand_in_pipeline(idle_service.app, provider.base_url, dimensions=DIMENSIONS)


async def test_each_source_and_each_minute_is_told_to_its_tenant_alone(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    source = await add_notes(idle_service.app, pipeline, 8)
    await order(idle_service.app, source)
    await idle_service.client.post("/process-embedding-queue", json={"maxItems": 6})
    report = (await idle_service.client.get("/coverage", params={"pipeline": "standin"})).json()
    assert report["percent"] == 75
    uploads, notes = report["sources"]
    assert (uploads["kind"], uploads["rows"], uploads["percent"]) == ("uploads", None, 100)
    assert (notes["kind"], notes["name"], notes["rows"]) == ("table", "public.notes", 8)
    assert (notes["embedded"], notes["unreadRows"], notes["percent"]) == (6, 2, 75)
    assert notes["unembeddable"] == {}

    minutes = (await idle_service.client.get("/activity", params={"minutes": 5})).json()
    assert sum(each["embedded"] for each in minutes["activity"]) == 6
    assert {each["source"] for each in minutes["activity"]} == {"public.notes"}

    await idle_service.app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('acme')")
    stranger = await idle_service.client_of(Role.READER, "acme")
    assert (await stranger.get("/coverage")).json() == {"percent": 100.0, "sources": []}
    assert (await stranger.get("/activity")).json()["activity"] == []


async def test_a_pipeline_may_be_named_and_nonsense_is_refused(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    named = (await idle_service.client.get("/coverage", params={"pipeline": "standin"})).json()
    assert [each["pipeline"] for each in named["sources"]] == ["standin"]
    for minutes in ("0", "-5", "x", "100000"):
        answer = await idle_service.client.get("/activity", params={"minutes": minutes})
        assert answer.status_code == 422
