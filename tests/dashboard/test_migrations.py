"""A pipeline's next generation in a real browser: estimated, built while one looks, compared, switched to and back;
what is refused, and to whom."""

from __future__ import annotations

from uuid import uuid4

import pytest
from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.source_tables import REFUSED, send
from tests.dashboard.visiting import key_of, log_in
from tests.embed.generation_work import working
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, client_at
from tests.support.work import DIMENSIONS, add_document, run_worker_until_settled, stand_in_pipeline

ADDRESS = "/sources/pipelines/standin/migration"
ANOTHER = {"model": "another", "dimensions": str(DIMENSIONS)}


@pytest.fixture
async def pipeline(app: App, provider: RunningProvider) -> Pipeline:
    """Thirty documents of three chunks each, embedded; a million tokens cost a thousand dollars."""
    provider.configure(salt_by_model=True)
    made = await stand_in_pipeline(
        app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10, price_per_million_tokens=1000
    )
    batch = uuid4()
    for number in range(30):
        await add_document(app, made, f"d{number}", [f"text {part} of {number}" for part in range(3)], batch)
    await run_worker_until_settled(app, batch)
    return made


async def live_model(app: App) -> str:
    return (await app.pipeline("standin")).generation.spec.model


async def test_another_model_is_built_switched_to_and_back(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page, watch: Watch
) -> None:
    watch.excused = [REFUSED]
    assert await transferred_bytes(page, idle_service.address + ADDRESS) < MOST_BYTES
    await _estimate(page)
    await page.get_by_role("button", name="Start the build").click()
    await expect(page.get_by_text("The build has begun")).to_be_visible()
    await expect(page.get_by_text("No worker is at work")).to_be_visible()
    await page.evaluate("window.isTheSamePage = true")
    async with working(app):
        bar = page.get_by_role("progressbar", name="generation 2")
        await expect(bar).to_have_attribute("value", "100.0")
        await expect(page.get_by_role("button", name="Switch to it", exact=True)).to_be_visible()
    assert await page.evaluate("window.isTheSamePage"), "the page was loaded again"
    await page.get_by_role("button", name="Compare with the live one").click()
    await expect(page.get_by_text("Of the ten nearest chunks")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_role("button", name="Switch to it", exact=True).click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page.get_by_text("Generation 2 (another) is live")).to_be_visible()
    assert await live_model(app) == "another"
    await page.get_by_role("button", name="Go back to generation 1").click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page.get_by_text("Back to generation 1 (stand-in).")).to_be_visible()
    assert await live_model(app) == "stand-in"
    await page.get_by_role("button", name="Drop all but the live one").click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page.get_by_text("Dropped: generation 2.")).to_be_visible()
    await page.goto(f"{idle_service.address}/sources/migrations")
    await expect(page.get_by_role("row", name="standin")).to_contain_text("stand-in")
    await assert_accessible(page)
    await assert_fits(page)


async def _estimate(page: Page) -> None:
    """First refused for what is not known, then told."""
    await page.get_by_label("Model", exact=True).fill("another")
    await page.get_by_role("button", name="What would it take?").click()
    await expect(page.locator("#dimensions-error")).to_contain_text("is not known here: say the dimensions")
    await expect(page.get_by_label("Model", exact=True)).to_have_value("another")
    await page.get_by_label("Dimensions").fill(str(DIMENSIONS))
    await page.get_by_label("US dollars a million tokens").fill("2000")
    await page.get_by_role("button", name="What would it take?").click()
    estimate = page.locator("#estimate")
    await expect(estimate).to_contain_text("about 90")
    await expect(estimate).to_contain_text("answers")
    await expect(estimate).to_contain_text("about $")
    await assert_accessible(page)
    await assert_fits(page)


async def test_a_build_that_its_budget_stops_goes_on_with_more_and_can_be_cancelled(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    async with client_at(idle_service.address) as client:
        answer = await send(client, ADDRESS, ADDRESS, act="start", price="1000", budget_usd="0.2", **ANOTHER)
        assert answer.status_code == 303, answer.text
    await page.goto(idle_service.address + ADDRESS)
    async with working(app):
        await expect(page.get_by_text("Why it stopped:")).to_be_visible()
        await page.get_by_label("Budget in US dollars for the whole build").fill("100")
        await page.get_by_role("button", name="Go on", exact=True).first.click()
        await expect(page.get_by_text("The build goes on.")).to_be_visible()
        await expect(page.get_by_role("button", name="Switch to it", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Cancel it").click()
    await page.get_by_role("dialog").get_by_role("button", name="Go on").click()
    await expect(page.get_by_text("Generation 2 is dropped with its 90 vectors.")).to_be_visible()
    assert await app.database.fetch("SELECT count(*) FROM embedmill.generations g JOIN embedmill.pipelines p "
                                    "ON p.id = g.pipeline_id WHERE p.name = 'standin'") == [(1,)]  # fmt: skip


async def test_what_cannot_be_is_refused_in_words_at_its_field(
    idle_service: Serving, app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async with client_at(idle_service.address) as client:

        async def told(**fields: str) -> str:
            answer = await send(client, ADDRESS, ADDRESS, **{"act": "start", **fields})
            assert answer.status_code == 422, answer.text
            return answer.text

        assert "say what is to be otherwise" in await told()
        assert 'id="model-error">pipeline &#39;standin&#39; is that already' in await told(model="stand-in")
        assert 'id="chunk_tokens-error">' in await told(chunk_tokens="100000")
        assert 'id="dimensions-error">a whole number' in await told(model="another", dimensions="lots")
        assert 'id="budget_usd-error">a budget needs a price' in await told(budget_usd="5", **ANOTHER)
        assert 'id="dimensions-error">' in await told(model="another", dimensions="9000")
        nobody = {"base_url": "http://127.0.0.1:9/v1", "act": "estimate", **ANOTHER}
        answer = await send(client, ADDRESS, ADDRESS, **nobody)
        assert answer.status_code == 200
        assert "does not embed: " in answer.text
        await send(client, ADDRESS, f"{ADDRESS}/rollback")
        assert "there is no generation to go back to" in (await client.get(ADDRESS)).text
        await send(client, ADDRESS, f"{ADDRESS}/switch", number="7")
        assert "there is no generation 7" in (await client.get(ADDRESS)).text
        await send(client, ADDRESS, f"{ADDRESS}/cancel")
        assert "nothing is being built" in (await client.get(ADDRESS)).text
        await send(client, ADDRESS, f"{ADDRESS}/compare")
        assert "nothing to compare it with" in (await client.get(ADDRESS)).text
        for name in ("nope", "%00", "%27"):
            assert (await client.get(f"/sources/pipelines/{name}/migration")).status_code == 404, name


async def test_vectors_in_a_column_need_another_column_for_the_next_ones(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    await app.database.fetch(
        f"CREATE TABLE public.jobs (id int PRIMARY KEY, title text,"
        f" now vector({DIMENSIONS}), next vector({DIMENSIONS}))"
    )
    plan = TablePlan("$title", target_column="now")
    added = await add_table(app.database, pipeline, "public.jobs", plan, actor="test")
    async with client_at(idle_service.address) as client:
        answer = await send(client, ADDRESS, ADDRESS, act="start", **ANOTHER)
        assert answer.status_code == 422
        assert "ALTER TABLE public.jobs ADD COLUMN now_v2" in answer.text
        field = f"column-{added.source.id}"
        assert field in answer.text
        answer = await send(client, ADDRESS, ADDRESS, **{"act": "start", field: "next", **ANOTHER})
        assert answer.status_code == 303, answer.text
    assert await app.database.fetch("SELECT column_name FROM embedmill.target_columns ORDER BY generation_id") == [
        ("now",), ("next",)
    ]  # fmt: skip


async def test_who_may_migrate_and_what_only_an_operator_says(
    idle_service: Serving, app: App, pipeline: Pipeline
) -> None:
    reader, _ = await key_of(idle_service, Role.READER)
    admin, _ = await key_of(idle_service, Role.ADMIN)
    async with log_in(idle_service, reader) as client:
        html = (await client.get(ADDRESS)).text
        assert "stand-in" in html
        assert "What would it take?" not in html
        for act in ("", "/go-on", "/compare", "/switch", "/rollback", "/cancel", "/prune"):
            assert (await send(client, ADDRESS, ADDRESS + act, **ANOTHER)).status_code == 403, act
    async with log_in(idle_service, admin) as client:
        assert 'name="base_url"' not in (await client.get(ADDRESS)).text
        for field in ("base_url", "api_key_env", "price", "provider"):
            fields = {"act": "estimate", field: "local" if field == "provider" else "1", **ANOTHER}
            assert (await send(client, ADDRESS, ADDRESS, **fields)).status_code == 422, field
        answer = await send(client, ADDRESS, ADDRESS, act="start", **ANOTHER)
        assert answer.status_code == 303, answer.text
    states = await app.migrations(pipeline).states()
    assert [each.spec.model for each in states] == ["stand-in", "another"]
    assert states[1].price_per_million_tokens is None
