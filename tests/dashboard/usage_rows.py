"""Rows of the ledger in bulk, as calls write them: tests/dashboard/test_usage*.py. Must not assert."""

from __future__ import annotations

from embedmill.database.pool import Database

_CALLS = """
INSERT INTO embedmill.llm_usage_log
    (tenant_id, created_at, pipeline_id, call_id, session_id, user_id, usage_type, action, provider, model, inputs,
     input_tokens, latency_ms, cost_usd, error)
SELECT %(tenant_id)s, now() - (n - 1) * %(seconds)s * interval '1 second', %(pipeline_id)s, gen_random_uuid(), NULL,
       CASE WHEN n %% 3 = 0 THEN %(user)s END,
       (ARRAY['internal_ingestion', 'query', 'generation_build'])[n %% 3 + 1], 'embed', 'openai', 'model-' || n %% 2,
       10, 1000, 100, CASE WHEN n %% %(unknown_each)s > 0 THEN 0.002 END, CASE WHEN n %% 10 = 0 THEN 'dropped' END
  FROM generate_series(1, %(calls)s) AS n
"""


async def make_calls(
    owner: Database,
    tenant_id: int,
    calls: int,
    *,
    pipeline_id: int | None = None,
    seconds: float = 60.0,
    user: str = "ann",
    unknown_each: int = 1_000_000_000,
) -> None:
    """So many calls, the latest now and each `seconds` before the next; every `unknown_each`-th has no known cost,
    every tenth failed, a third are for the user."""
    await owner.fetch(
        _CALLS,
        {
            "tenant_id": tenant_id,
            "calls": calls,
            "pipeline_id": pipeline_id,
            "seconds": seconds,
            "user": user,
            "unknown_each": unknown_each,
        },
    )
