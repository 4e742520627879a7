-- name: passages
-- What a hit shows: the passage, its document and its place in it.
SELECT c.id, d.id, d.source_type, d.source_id, d.name, d.title, c.ordinal, c.start_offset, c.end_offset,
       c.place_kind, c.place_first, c.place_last, c.heading_path, c.text, d.metadata
  FROM embedmill.knowledge_chunks c
  JOIN embedmill.knowledge_documents d ON d.id = c.document_id
 WHERE c.id = ANY (%(chunk_ids)s);

-- name: is_there
-- Whether a generation stands; chunks of a plan that none has go only after it.
SELECT id FROM embedmill.generations WHERE id = %(generation_id)s;

-- name: record_query
-- A query's call in the ledger.
INSERT INTO embedmill.llm_usage_log
    (tenant_id, pipeline_id, generation_id, call_id, user_id, usage_type, action, provider, model, inputs,
     input_tokens, latency_ms, cost_usd, error)
VALUES (%(tenant_id)s, %(pipeline_id)s, %(generation_id)s, %(call_id)s, %(user_id)s, 'query', 'search', %(provider)s,
        %(model)s, 1, %(input_tokens)s, %(latency_ms)s, %(cost_usd)s, %(error)s);

-- name: reserve_budget
-- Puts aside what a query may cost, where its tenant has a budget; a row says why it may not be asked.
SELECT r.verdict, r.limit_usd, r.spent_usd
  FROM (SELECT WHERE EXISTS (SELECT FROM embedmill.budgets b WHERE b.tenant_id = %(tenant_id)s AND b.job_id IS NULL)) AS has
 CROSS JOIN LATERAL embedmill.reserve_budget(
       %(tenant_id)s, %(asker_id)s, %(call_id)s, %(amount_usd)s, '{}'::uuid[], '{}'::numeric[]) AS r;

-- name: settle_budget
-- What it did cost takes the place of what was put aside.
SELECT embedmill.settle_budget(%(tenant_id)s, %(call_id)s, %(cost_usd)s, '{}'::uuid[], '{}'::numeric[])
 WHERE EXISTS (SELECT FROM embedmill.budget_reservations WHERE call_id = %(call_id)s);
