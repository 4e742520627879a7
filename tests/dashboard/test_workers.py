"""Workers in a real browser: at work, lost, drained and replaced; the scale refused and accepted; the queue off."""

from __future__ import annotations

import os
import signal

import pytest
from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.fleet.roster import list_workers
from embedmill.queue.administration import read_audit_log
from embedmill.queue.config import read_config
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.visiting import key_of, log_in, token_in
from tests.fleet.scenes import Fleet, add_backlog, running, until
from tests.support.provider import RunningProvider
from tests.support.queue_rows import claim, enqueue, register_worker
from tests.support.serving import Serving


@pytest.fixture
def environment(database: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes that are started here find this test's database."""
    monkeypatch.setenv("EMBEDMILL_DATABASE_URL", database)
    monkeypatch.setenv("EMBEDMILL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EMBEDMILL_CALLS_IN_FLIGHT", "1")


@pytest.mark.usefixtures("environment")
async def test_a_worker_that_is_killed_shows_as_lost_and_one_that_is_drained_is_replaced_when_asked(
    idle_service: Serving, app: App, pipeline: Pipeline, provider: RunningProvider, page: Page
) -> None:
    await add_backlog(app, pipeline, 30)
    provider.configure(latency_ms=300)
    async with running(Fleet(app, 2), seconds=120) as fleet:
        await page.goto(idle_service.address + "/workers")
        await expect(page.get_by_text("of default/standin").first).to_be_visible(timeout=30_000)
        await until(lambda: len(fleet.pids) == 2)
        killed, drained = fleet.pids
        await until(lambda: known(app, {killed, drained}))
        ids = {worker.pid: worker.id for worker in await list_workers(app.database)}
        os.kill(killed, signal.SIGKILL)
        await expect(page.locator(f"#worker-{ids[killed]}")).to_contain_text("lost", timeout=30_000)
        await expect(page.locator(f"#worker-{ids[killed]}")).to_contain_text("the process is gone")
        row = page.locator(f"#worker-{ids[drained]}")
        await row.get_by_role("button", name="Drain").click()
        await page.get_by_role("button", name="Go on").click()
        await expect(page.get_by_role("status").first).to_contain_text("is asked to stop")
        await expect(row).to_contain_text("drained", timeout=30_000)
        await row.get_by_role("button", name="Fill its place").click()
        await expect(page.get_by_role("status").first).to_contain_text("starts another worker within seconds")
        await until(lambda: len(fleet.pids) == 2 and drained not in fleet.pids)
        await assert_accessible(page)
    actions = [record.action for record in await read_audit_log(app.database, 1, limit=2)]
    assert actions == ["worker.replace", "worker.drain"]


async def known(app: App, pids: set[int]) -> bool:
    return pids <= {worker.pid for worker in await list_workers(app.database)}


async def test_the_scale_is_refused_with_what_was_typed_and_accepted(
    idle_service: Serving, app: App, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    assert await transferred_bytes(page, idle_service.address + "/workers") < MOST_BYTES
    await expect(page.get_by_role("heading", name="No worker is at work")).to_be_visible()
    for least, most, said in (
        ("many", "3", "a whole number from 1 to 1,000"),
        ("", "3", "how many?"),
        ("5", "3", "the least cannot be more than the most"),
    ):
        await page.get_by_label("At least").fill(least)
        await page.get_by_label("At most").fill(most)
        await page.get_by_role("button", name="Set the scale").click()
        await expect(page.get_by_role("alert")).to_contain_text(said)
        await expect(page.get_by_label("At least")).to_have_value(least)
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_label("At least").fill("2")
    await page.get_by_label("At most").fill("1,000")
    await page.get_by_role("button", name="Set the scale").click()
    await expect(page.get_by_role("status").first).to_contain_text(
        "From 2 to 1,000 processes on each machine"
    )
    config = await read_config(app.database)
    assert (config.min_concurrent_workers, config.max_concurrent_workers) == (2, 1000)


async def test_what_a_worker_holds_its_errors_and_the_switch_of_the_queue_are_followed(
    idle_service: Serving, app: App, pipeline: Pipeline, page: Page
) -> None:
    await page.goto(idle_service.address + "/workers")
    worker_id = await register_worker(app.database, pid=4711)
    row = page.locator(f"#worker-{worker_id}")
    await expect(row).to_contain_text("working")
    await enqueue(app.database, pipeline.generation.id, 7)
    await claim(app.database, pipeline.generation.id, worker_id=worker_id, items=5)
    await expect(row).to_contain_text("5 items of default/standin")
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_workers SET errors = 12, rate_limits_hit = 34, "
        "last_error = '<script>401</script>', troubles = '{\"2\": \"answers 401\"}'; "
        "INSERT INTO embedmill.llm_usage_log (tenant_id, call_id, usage_type, action, provider, model, inputs, "
        "    input_tokens, latency_ms, worker_id) "
        "SELECT 1, gen_random_uuid(), 'internal_ingestion', 'embed', 'openai', 'm', 500, 1, 1, worker_id "
        "  FROM embedmill.embedding_queue_workers; "
        "INSERT INTO embedmill.sweeps (task, tick, term, worker_id, outcome) "
        "VALUES ('fold_counts', 1, 1, gen_random_uuid(), '77 changes')"
    )
    await expect(row).to_contain_text("last error: <script>401</script>")
    for text in ("answers 401", "100/min", "12", "34"):
        await expect(row).to_contain_text(text)
    await expect(page.locator("#sweep-fold_counts")).to_contain_text("77 changes")
    await page.get_by_role("button", name="Switch the queue off").click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page.get_by_role("heading", name="The queue is off")).to_be_visible()
    assert not (await read_config(app.database)).queue_enabled
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_role("button", name="Switch the queue on").click()
    await expect(page.get_by_role("heading", name="The queue is off")).to_have_count(0)


async def test_whoever_is_no_operator_sees_how_many_are_at_work_and_changes_nothing(
    idle_service: Serving, app: App
) -> None:
    worker_id = await register_worker(app.database)
    await app.database.fetch("UPDATE embedmill.embedding_queue_workers SET hostname = 'private-host'")
    admin, _ = await key_of(idle_service, Role.ADMIN)
    async with log_in(idle_service, admin) as client:
        shown = await client.get("/workers")
        assert shown.status_code == 200
        assert "private-host" not in shown.text
        assert "see to all tenants" in shown.text
        assert "Drain" not in shown.text
        sent = {
            "form_token": token_in(shown.text),
            "on": "false",
            "min_concurrent_workers": "1",
            "max_concurrent_workers": "9",
        }
        for path in ("scale", "queue", f"{worker_id}/drain", f"{worker_id}/replace"):
            assert (await client.post(f"/workers/{path}", data=sent)).status_code == 403, path
    operator, _ = await key_of(idle_service, Role.OPERATOR)
    async with log_in(idle_service, operator) as client:
        shown = await client.get("/workers")
        assert "private-host" in shown.text
        token = {"form_token": token_in(shown.text)}
        answer = await client.post(f"/workers/{worker_id}/replace", data=token)
        assert (answer.status_code, answer.headers["location"]) == (303, "/workers")
        assert "no place to be filled" in (await client.get("/workers")).text
        assert (await client.post("/workers/nobody/drain", data=token)).status_code in {404, 405}
        assert (await client.post("/workers/queue", data={**token, "on": "perhaps"})).status_code == 422
        assert (await client.post(f"/workers/{worker_id}/drain", data={})).status_code == 403
    config = await read_config(app.database)
    assert config.queue_enabled
    assert config.max_concurrent_workers == 3
