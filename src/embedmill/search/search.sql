-- name: few_by_vector
-- Nearest first, exactly, where a filter leaves no more chunks than `most`; else one row of NULLs. Distances are kept
-- apart from the order, for which the planner would take the HNSW index: that stops before it has seen all.
WITH few AS MATERIALIZED (
    SELECT embedmill.matching_chunks(%(generation_id)s, %(document_id)s, %(source)s, %(metadata)s::jsonb, %(most)s) AS ids
), measured AS MATERIALIZED (
    SELECT v.chunk_id, v.embedding <=> %(query)s::{type} AS distance
      FROM {vectors} v
     WHERE v.chunk_id = ANY ((SELECT ids FROM few)::bigint[]) AND v.embedding IS NOT NULL
)
SELECT NULL::bigint, NULL::double precision FROM few WHERE ids IS NULL
UNION ALL
(SELECT chunk_id, 1 - distance FROM measured ORDER BY distance LIMIT %(candidates)s);

-- name: by_vector
-- Nearest vectors first, by the HNSW index: the scan goes on past what the filter rejects (iterative scan), up to
-- hnsw.max_scan_tuples. The filter is a sub-select for each vector and no join, or else the planner, who may not know
-- under row-level security how many it leaves, begins with the filter and sorts all of them.
SELECT v.chunk_id, 1 - (v.embedding <=> %(query)s::{type})
  FROM {vectors} v
 WHERE v.embedding IS NOT NULL
   AND (SELECT (%(document_id)s::bigint IS NULL OR c.document_id = %(document_id)s)
               AND (%(source)s::text IS NULL OR d.source_id LIKE %(source)s)
               AND (%(metadata)s::jsonb IS NULL OR d.metadata @> %(metadata)s)
          FROM embedmill.knowledge_chunks c JOIN embedmill.knowledge_documents d ON d.id = c.document_id
         WHERE c.id = v.chunk_id)
 ORDER BY v.embedding <=> %(query)s::{type}
 LIMIT %(candidates)s;

-- name: by_vector_unfiltered
-- The same without a filter: the plainest shape for the index.
SELECT v.chunk_id, 1 - (v.embedding <=> %(query)s::{type})
  FROM {vectors} v
 WHERE v.embedding IS NOT NULL
 ORDER BY v.embedding <=> %(query)s::{type}
 LIMIT %(candidates)s;

-- name: in_columns
-- The same among vectors that stand in columns of users' tables.
SELECT chunk_id, similarity
  FROM embedmill.search_columns(%(generation_id)s, %(query)s, %(candidates)s, %(document_id)s, %(source)s,
                                %(metadata)s::jsonb);

-- name: by_text
-- Best full-text rank first (functions/61_searching.sql).
SELECT chunk_id, rank
  FROM embedmill.search_text(%(generation_id)s, %(words)s, %(candidates)s, %(document_id)s, %(source)s,
                             %(metadata)s::jsonb);

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

-- name: tune
-- For this transaction: enough candidates from the index, and a scan that goes on past the filter. Returns its reach,
-- NULL without an index.
SELECT set_config('hnsw.max_scan_tuples', coalesce(r.reach, 20000)::text, true),
       set_config('hnsw.scan_mem_multiplier', '8', true),
       set_config('hnsw.ef_search', least(1000, greatest(100, %(candidates)s * 2))::text, true),
       set_config('hnsw.iterative_scan', 'strict_order', true), r.reach
  FROM (SELECT embedmill.scan_reach(max(c.reltuples), %(candidates)s) AS reach
          FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
         WHERE i.indexrelid = to_regclass(%(index)s) AND i.indisvalid) r;

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
