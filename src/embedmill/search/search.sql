-- name: by_vector
-- Nearest vectors first. With the HNSW index the scan goes on past what the filter rejects (iterative scan).
SELECT c.id, 1 - (v.embedding <=> %(query)s::{type})
  FROM {vectors} v
  JOIN embedmill.knowledge_chunks c ON c.id = v.chunk_id
  JOIN embedmill.knowledge_documents d ON d.id = c.document_id
 WHERE (%(document_id)s::bigint IS NULL OR c.document_id = %(document_id)s)
   AND (%(source)s::text IS NULL OR d.source_id LIKE %(source)s)
   AND (%(metadata)s::jsonb IS NULL OR d.metadata @> %(metadata)s)
   AND v.embedding IS NOT NULL
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
-- Best full-text rank first. Passages with every word come before those with some: a question in plain
-- words rarely stands in one passage as a whole.
WITH question AS (
    SELECT every.q AS every_word,
           -- The text of a tsquery is already lexed and quoted; only its operators are replaced. With a word
           -- excluded ("-word") nothing is loosened: "or anything without it" would match everything.
           CASE WHEN every.q::text LIKE '%%!%%' THEN every.q
                ELSE replace(every.q::text, ' & ', ' | ')::tsquery END AS some_words
      FROM (SELECT websearch_to_tsquery(%(config)s::regconfig, %(words)s) AS q) every
)
SELECT c.id, ts_rank_cd(c.tsv, question.some_words, 1) + (c.tsv @@ question.every_word)::integer
  FROM question, embedmill.knowledge_chunks c
  JOIN embedmill.knowledge_documents d ON d.id = c.document_id
 WHERE c.pipeline_id = %(pipeline_id)s AND c.chunk_set = %(chunk_set)s AND c.tsv @@ question.some_words
   AND (%(document_id)s::bigint IS NULL OR c.document_id = %(document_id)s)
   AND (%(source)s::text IS NULL OR d.source_id LIKE %(source)s)
   AND (%(metadata)s::jsonb IS NULL OR d.metadata @> %(metadata)s)
 ORDER BY 2 DESC, c.id
 LIMIT %(candidates)s;

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
-- For this transaction: enough candidates from the index, and a scan that goes on past the filter.
SELECT set_config('hnsw.ef_search', least(1000, greatest(100, %(candidates)s * 2))::text, true),
       set_config('hnsw.iterative_scan', 'strict_order', true);

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
