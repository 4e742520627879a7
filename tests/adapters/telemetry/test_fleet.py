"""What the fleet's metrics are read from: counters that outlive retention, names within bounds, indexes."""

from __future__ import annotations

import time

import pytest

from embedmill.adapters.telemetry.fleet import Fleet, Reading
from embedmill.adapters.telemetry.opening import serve_processes
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConfigurationError
from tests.support.queue_rows import enqueue
from tests.support.work import unanswered_pipeline

_CALLS = """
INSERT INTO embedmill.llm_usage_log
    (tenant_id, pipeline_id, call_id, usage_type, action, provider, model, inputs, input_tokens, latency_ms, cost_usd)
SELECT p.tenant_id, p.id, gen_random_uuid(), %(usage_type)s, 'embed', 'openai', 'm' || n, 1, 10, 5, 0.5
  FROM embedmill.pipelines p, generate_series(%(first)s::integer, %(last)s::integer) n WHERE p.name = 'standin'
"""
_FOLD = "SELECT embedmill.fold_queue_changes() + embedmill.fold_usage()"


async def read(app: App) -> Reading:
    await app.database.fetch(_FOLD)
    return await Fleet(app.database, kept_seconds=0.0).read()


def values(reading: Reading, name: str) -> dict[tuple[str, ...], float]:
    return {labels: value for metric, labels, value in reading.rows if metric == f"embedmill_{name}"}


@pytest.fixture
async def pipeline(app: App) -> Pipeline:
    return await unanswered_pipeline(app)


async def test_what_was_used_stays_counted_when_the_ledger_is_cut(app: App, pipeline: Pipeline) -> None:
    await app.database.fetch(_CALLS, {"usage_type": "internal_ingestion", "first": 1, "last": 2})
    before = values(await read(app), "usage_cost_usd_total")
    assert before[("default", "standin", "internal_ingestion", "openai", "m1")] == 0.5
    await app.database.fetch("DELETE FROM embedmill.llm_usage_log")
    await app.database.fetch(_CALLS, {"usage_type": "internal_ingestion", "first": 1, "last": 1})
    after = values(await read(app), "usage_cost_usd_total")
    assert after[("default", "standin", "internal_ingestion", "openai", "m1")] == 1.0
    assert after[("default", "standin", "internal_ingestion", "openai", "m2")] == 0.5


async def test_what_ended_stays_counted_when_its_day_is_dropped(app: App, pipeline: Pipeline) -> None:
    ids = await enqueue(app.database, pipeline.generation.id, 3)
    await app.database.fetch("SELECT embedmill.cancel_items(%s, 'no more')", [ids])
    assert values(await read(app), "items_ended_total")[("cancelled",)] == 3
    await app.database.fetch("DELETE FROM embedmill.queue_counts WHERE status = 'cancelled'")
    assert values(await read(app), "items_ended_total")[("cancelled",)] == 3


async def test_backfills_of_all_sources_are_one_usage_type(app: App, pipeline: Pipeline) -> None:
    for source in ("articles", "jobs"):
        await app.database.fetch(_CALLS, {"usage_type": f"backfill:{source}", "first": 1, "last": 1})
    assert values(await read(app), "usage_calls_total") == {
        ("default", "standin", "backfill", "openai", "m1"): 2.0
    }


async def test_what_comes_after_three_hundred_sets_of_labels_is_summed_and_none_goes_back(
    app: App, pipeline: Pipeline
) -> None:
    await app.database.fetch(_CALLS, {"usage_type": "query", "first": 1, "last": 299})
    first = values(await read(app), "usage_calls_total")
    await app.database.fetch(_CALLS, {"usage_type": "query", "first": 200, "last": 500})
    second = values(await read(app), "usage_calls_total")
    assert len(second) == 301
    assert second[("other",) * 5] == 200
    assert all(second[labels] >= number for labels, number in first.items())
    assert sum(second.values()) == 299 + 301


async def test_the_largest_tenants_are_named_and_the_rest_is_summed(app: App, pipeline: Pipeline) -> None:
    await app.database.fetch(
        "INSERT INTO embedmill.tenants (slug) SELECT 'small-' || n FROM generate_series(1, 60) n"
    )
    await enqueue(app.database, pipeline.generation.id, 7)
    found = values(await read(app), "queue_items")
    assert len({tenant for tenant, _ in found}) == 21
    assert found[("default", "pending")] == 7
    assert found[("other", "pending")] == 0


async def test_a_paused_pipeline_does_not_look_stuck(app: App, pipeline: Pipeline) -> None:
    await enqueue(app.database, pipeline.generation.id, 1, priority="high", available_in=-500)
    assert values(await read(app), "queue_oldest_waiting_seconds")[("high",)] >= 500
    await app.database.fetch("UPDATE embedmill.pipelines SET paused_at = now()")
    assert values(await read(app), "queue_oldest_waiting_seconds")[("high",)] == 0


async def test_what_is_read_looks_at_no_queue_history_or_ledger_row_by_row(
    app: App, pipeline: Pipeline
) -> None:
    await enqueue(app.database, pipeline.generation.id, 5000)
    await app.database.fetch(_CALLS, {"usage_type": "query", "first": 1, "last": 50})
    await app.database.fetch(_FOLD)
    await app.database.fetch("ANALYZE")
    await app.database.fetch("SELECT pg_stat_reset()")
    await Fleet(app.database).read()
    started = time.monotonic()
    while time.monotonic() - started < 30:
        rows = await app.database.fetch(
            "SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables "
            "WHERE schemaname = 'embedmill'"
        )
        read_rows = {name: int(number) for name, number in rows}
        if read_rows.get("usage_totals"):  # statistics come a moment later
            break
        await app.database.fetch("SELECT pg_stat_force_next_flush()")
    assert read_rows["usage_totals"] >= 50
    assert read_rows["llm_usage_log"] == 0
    assert read_rows["embedding_queue"] < 100
    assert (
        sum(number for name, number in read_rows.items() if name.startswith("embedding_queue_history")) == 0
    )


def test_a_port_that_is_taken_is_said_and_not_a_traceback(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    with (
        serve_processes(folder, "127.0.0.1", 0) as port,
        pytest.raises(ConfigurationError, match="the port is taken"),
        serve_processes(folder, "127.0.0.1", port),
    ):
        pass
    with (
        pytest.raises(ConfigurationError, match="metrics cannot be served"),
        serve_processes(folder, "no.such.host.invalid", 0),
    ):
        pass
