"""Search in a real browser and over HTTP: three modes side by side, what is marked, what fails alone, what
others have."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.database.pipelines import Pipeline
from embedmill.queue.sharing import create_tenant
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.visiting import key_of, log_in
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, client_at
from tests.support.work import set_price

NASTY = (
    "# Wheels\n\nReturn a mill wheel within thirty days.\n\n## Rye\n\n<script>document.title = 'stolen'</script> & "
    "<b>wheel</b> \ue000not a mark\ue001 of rye, \"quoted\" &amp; 'so'.\n"
)
MODES = ("hybrid", "vector", "text")


@pytest.fixture
async def filled(service: Serving, pipeline: Pipeline) -> Serving:
    """Two documents, embedded."""
    await set_price(service.app, 20)
    for name, content in (("wheels.md", NASTY), ("prices.txt", "Prices of wheat at the mill. " * 60)):
        job = await service.upload(name, content.encode(), pipeline=pipeline.name, autoLaunch="true")
        assert (await service.until(job["jobId"]))["status"] == "completed"
    return service


async def queries_paid(one: Serving) -> int:
    rows = await one.service.operator.fetch(
        "SELECT count(*) FROM embedmill.llm_usage_log WHERE usage_type = 'query'"
    )
    return int(rows[0][0])


async def test_one_query_answers_in_three_modes_and_is_paid_for_once(
    filled: Serving, pipeline: Pipeline, page: Page
) -> None:
    await page.goto(f"{filled.address}/search?pipeline={pipeline.name}")
    await expect(page.get_by_text("Type a query")).to_be_visible()
    await page.locator("body").click()
    await page.keyboard.press("/")
    box = page.get_by_role("searchbox", name="Query")
    await expect(box).to_be_focused()
    await page.keyboard.type("return wheel / rye")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(r"q=return\+wheel\+%2F\+rye"))
    for mode in MODES:
        best = page.locator(f"#mode-{mode} .hit").first
        await expect(best).to_be_visible()
    words = page.locator("#mode-text .hit").first
    await expect(words.get_by_role("link", name="wheels.md")).to_be_visible()
    await expect(words.locator(".hit-excerpt mark").first).to_have_text("Return")
    await expect(words).to_contain_text("Wheels")
    assert await page.title() != "stolen"
    await expect(words).to_contain_text("<script>document.title = 'stolen'</script> & <b>wheel</b>")
    assert await page.locator("main script, .hit b").count() == 0
    await expect(
        page.get_by_text(re.compile(r"which cost \$0\.00\d+; hybrid and by meaning share it"))
    ).to_be_visible()
    assert await queries_paid(filled) == 1
    async with client_at(filled.address) as client:
        home = await words.get_by_role("link", name="wheels.md").get_attribute("href")
        assert "wheels.md" in (await client.get(str(home))).text
    # The stream of the page asks nothing.
    async with (
        client_at(filled.address) as client,
        client.stream(
            "GET", f"/search?q=wheel&pipeline={pipeline.name}", headers={"Accept": "text/event-stream"}
        ) as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for _ in stream.aiter_bytes():
            break
    assert await queries_paid(filled) == 1
    await assert_accessible(page)
    await assert_fits(page)
    address = f"{filled.address}/search?q=wheel&pipeline={pipeline.name}&k=50"
    assert await transferred_bytes(page, address) < MOST_BYTES
    # The passage is shown in its document.
    await words.get_by_role("link", name="wheels.md").click()
    await expect(page.locator("#preview .preview-chunk[aria-current=true]")).to_contain_text(
        "Return a mill wheel"
    )


async def test_a_mode_that_fails_says_so_and_the_others_answer(
    filled: Serving, pipeline: Pipeline, provider: RunningProvider, page: Page
) -> None:
    provider.configure(faults=["400"] * 3)
    await page.goto(f"{filled.address}/search?q=mill&pipeline={pipeline.name}")
    for mode in ("hybrid", "vector"):
        await expect(page.locator(f"#mode-{mode}").get_by_role("alert")).to_be_visible()
    await expect(page.locator("#mode-text .hit").first).to_be_visible()
    assert await queries_paid(filled) <= 1, "what was refused is not asked again"
    await assert_accessible(page)


async def test_filters_hold_in_every_mode_and_wrong_ones_are_refused_at_the_field(
    filled: Serving, pipeline: Pipeline, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    base = f"{filled.address}/search?pipeline={pipeline.name}"
    await page.goto(f"{base}&q=mill&metadata=" + quote('{"team": "x"}'))
    for mode in MODES:
        await expect(page.locator(f"#mode-{mode} .hit")).to_have_count(0)
    await expect(page.get_by_text("No passage has these words.")).to_be_visible()
    await page.goto(f"{base}&q=mill&k=1")
    for mode in MODES:
        await expect(page.locator(f"#mode-{mode} .hit")).to_have_count(1)
    paid = await queries_paid(filled)
    for query, field in (
        ("k=0", "k"),
        ("k=51", "k"),
        ("k=-1", "k"),
        ("k=x", "k"),
        ("k=%D9%A3", "k"),
        ("metadata=nope", "metadata"),
        ("metadata=[1]", "metadata"),
        ("metadata=" + "[" * 3000, "metadata"),
        ("metadata=" + quote('{"a": "\\u0000"}'), "metadata"),
        ("source=%00", "source"),
        ("pipeline=other", "pipeline"),
        ("q=%00", "q"),
        ("q=" + "a" * 4001, "q"),
    ):
        chosen = f"{filled.address}/search?" + query + ("" if query.startswith("q=") else "&q=mill")
        response = await page.goto(chosen)
        assert response is not None
        assert response.status == 422, query
        await expect(page.locator(f"#wrong-{field}")).to_be_visible()
        await expect(page.locator(f"#{field}")).to_have_attribute("aria-invalid", "true")
    await assert_accessible(page)
    assert await queries_paid(filled) == paid


async def test_queries_that_are_hard_to_read_are_answered(filled: Serving, pipeline: Pipeline) -> None:
    async with client_at(filled.address) as client:
        for query in (
            "&|!():*",
            '"',
            "-mill",
            "the",
            "<script>alert(1)</script>",
            "\u202e",
            "' OR 1=1 --",
            "\\",
            "%",
            "磨坊",
        ):
            answer = await client.get("/search", params={"q": query, "pipeline": pipeline.name})
            assert answer.status_code == 200, query
            assert "<script>alert" not in answer.text
        blank = await client.get("/search", params={"q": " \n ", "pipeline": pipeline.name})
        assert "Type a query" in blank.text


async def test_a_page_of_another_site_makes_nobody_pay(filled: Serving, pipeline: Pipeline) -> None:
    async with client_at(filled.address) as client:
        asked = {"q": "mill", "pipeline": pipeline.name}
        for site in ("cross-site", "same-site"):
            answer = await client.get("/search", params=asked, headers={"Sec-Fetch-Site": site})
            assert answer.status_code == 200
            assert "Another site has led here" in answer.text
        assert await queries_paid(filled) == 0
        await client.get("/search", params=asked, headers={"Sec-Fetch-Site": "same-origin"})
        assert await queries_paid(filled) == 1


async def test_without_a_pipeline_or_a_passage_the_page_says_what_to_do(
    idle_service: Serving, page: Page
) -> None:
    await page.goto(f"{idle_service.address}/search?q=mill")
    await expect(page.get_by_text("stands in default yet, so nothing can be found")).to_be_visible()
    await assert_accessible(page)
    await idle_service.service.operator.fetch("DELETE FROM embedmill.pipelines")
    await page.goto(f"{idle_service.address}/search?q=mill")
    await expect(page.get_by_text("has no pipeline yet")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)


async def test_another_tenants_passages_are_never_found_and_a_reader_may_search(
    filled: Serving, pipeline: Pipeline
) -> None:
    await create_tenant(filled.service.operator, "acme", weight=1, max_processing_items=None, actor="test")
    own, _ = await key_of(filled, Role.READER)
    others, _ = await key_of(filled, Role.ADMIN, "acme")
    asked = {"q": "mill wheel", "pipeline": pipeline.name}
    async with log_in(filled, own) as client:
        assert "wheels.md" in (await client.get("/search", params=asked)).text
    async with log_in(filled, others) as client:
        answer = await client.get("/search", params=asked)
        assert "wheels.md" not in answer.text
        assert "no pipeline" in answer.text or answer.status_code == 422
        assert "wheels.md" not in (await client.get("/search", params={"q": "mill wheel"})).text
