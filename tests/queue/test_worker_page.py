"""docs/how-to/write-a-worker-in-any-language.md is true: its blocks run in psql as they stand, and it names every
function of the public interface with every argument."""

from __future__ import annotations

import asyncio
import re

import pytest

from embedmill.app import App
from tests.support import audit
from tests.support.psql import ROOT, run_psql
from tests.support.work import add_document, stand_in_pipeline

PAGE = (ROOT / "docs" / "how-to" / "write-a-worker-in-any-language.md").read_text(encoding="utf-8")
PUBLIC = [
    "heartbeat",
    "enqueue_embedding",
    "get_next_embedding_batch",
    "get_embedding_inputs",
    "grant_quota",
    "settle_quota",
    "store_embeddings",
    "complete_embedding_queue_item",
    "handle_rate_limit",
    "stop_worker",
]
SHOWN = r"\echo :written :outcome :refused :given_back :wait_ms"


async def test_its_blocks_run_as_they_stand(app: App) -> None:
    pipeline = await stand_in_pipeline(app, "http://127.0.0.1:9/v1", "papers", dimensions=3)
    for name in ("handbook.md", "notes.md"):
        await add_document(app, pipeline, name, [f"first of {name}", f"second of {name}"])
    # As an ingest of files would have left them.
    await app.database.fetch("UPDATE embedmill.knowledge_documents SET source_type = 'file'")
    await app.database.fetch("DELETE FROM embedmill.embedding_queue")
    blocks = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 7
    script = "\\set ON_ERROR_STOP on\n" + "\n".join(blocks) + SHOWN + "\n"
    done = await asyncio.to_thread(run_psql, app.database.url, script=script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 completed rate_limited 0 0"
    assert "second of handbook.md" in done.stdout
    rows = await app.database.fetch(
        "SELECT source_id, status::text, priority::text, actual_tokens, vector_count FROM embedmill.embedding_jobs "
        " ORDER BY id"
    )
    assert rows == [
        ("handbook.md", "completed", "high", 12, 2),
        ("notes.md", "rate_limited", "medium", 0, None),
    ]
    assert await app.database.fetch("SELECT input_tokens FROM embedmill.llm_usage_log") == [(12,)]
    workers = await app.database.fetch(
        "SELECT status::text, tasks_processed, rate_limits_hit FROM embedmill.embedding_queue_workers"
    )
    assert workers == [("stopped", 1, 1)]
    assert [row[1:] for row in await audit.live_items(app)] == [("rate_limited", 0, 0)]


@pytest.mark.parametrize("function", PUBLIC)
async def test_it_tells_every_argument(app: App, function: str) -> None:
    (row,) = await app.database.fetch(
        "SELECT proargnames[1:pronargs], proretset, "
        "       (SELECT array_agg(n) FROM unnest(proargnames, proargmodes) AS a (n, m) WHERE m = 't') "
        "  FROM pg_proc WHERE oid = to_regproc(%s)",
        (f"embedmill.{function}",),
    )
    table = (
        PAGE.partition(f"| `{function}` | |")[2].partition("\n\n")[0] or PAGE.partition(f"`{function}(")[2]
    )
    for argument in [*row[0], *(row[2] or [])]:
        if argument != "p_now":  # of the tests
            assert argument in table, f"{function}: {argument} is told nowhere"
