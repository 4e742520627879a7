-- name: pipelines
-- The tenant's pipelines with what waits in each, from counts.
SELECT p.name, p.paused_at, coalesce(sum(embedmill.live_items(g.id)), 0)::bigint
  FROM embedmill.pipelines p
  LEFT JOIN embedmill.generations g ON g.pipeline_id = p.id
 WHERE p.tenant_id = %(tenant_id)s
 GROUP BY p.id ORDER BY p.name;

-- name: troubles
-- Why workers that live leave pipelines of the tenant alone for now.
SELECT DISTINCT p.name, w.troubles ->> g.id::text
  FROM embedmill.embedding_queue_workers w
 CROSS JOIN embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id
 WHERE w.status IN ('active', 'idle') AND w.troubles <> '{}' AND w.troubles ? g.id::text AND p.tenant_id = %(tenant_id)s
 ORDER BY 1, 2 LIMIT 10;

-- name: cap
-- How many of the tenant's items may be worked on at a time.
SELECT max_processing_items FROM embedmill.tenants WHERE id = %(tenant_id)s;

-- name: batches
-- Batches under way: their index is leapt through, one probe for each, among the first 2,000 of all; whose a batch is, a
-- few of its items say. What is counted of each is bounded: `most` of what waits and of what has ended. For the owner:
-- under row-level security a planner takes the index of tenants, and reads all that ever ended; so does one that may use
-- `tenant_id` (thus + 0).
WITH RECURSIVE leap AS (
    (SELECT batch_id, 1 AS n FROM embedmill.embedding_queue WHERE batch_id IS NOT NULL ORDER BY batch_id LIMIT 1)
    UNION ALL
    SELECT (SELECT q.batch_id FROM embedmill.embedding_queue q
             WHERE q.batch_id > u.batch_id ORDER BY q.batch_id LIMIT 1), u.n + 1
      FROM leap u WHERE u.batch_id IS NOT NULL AND u.n < 2000
), first AS MATERIALIZED (
    SELECT l.batch_id, f.created_at FROM leap l CROSS JOIN LATERAL (
        SELECT s.created_at FROM (
            SELECT q.created_at, q.tenant_id FROM embedmill.embedding_queue q
             WHERE q.batch_id = l.batch_id LIMIT 20) s
         WHERE s.tenant_id = %(tenant_id)s LIMIT 1) f
     WHERE l.batch_id IS NOT NULL
     ORDER BY f.created_at DESC LIMIT %(limit)s
)
SELECT f.batch_id, f.created_at, live.items, ended.items, ended.failed
  FROM first f
 CROSS JOIN LATERAL (
        SELECT count(*) AS items FROM (
            SELECT FROM embedmill.embedding_queue q
             WHERE q.batch_id = f.batch_id AND q.tenant_id + 0 = %(tenant_id)s LIMIT %(most)s) w) live
 CROSS JOIN LATERAL (
        SELECT count(*) AS items, count(*) FILTER (WHERE e.status = 'failed') AS failed FROM (
            SELECT h.status FROM embedmill.embedding_queue_history h
             WHERE h.batch_id = f.batch_id AND h.tenant_id + 0 = %(tenant_id)s LIMIT %(most)s) e) ended
 ORDER BY f.created_at DESC;

-- name: document
-- Of which source a document is: items are found by it.
SELECT source_type, source_id FROM embedmill.knowledge_documents WHERE id = %(document_id)s AND tenant_id = %(tenant_id)s;

-- name: by_kept_plan
-- For the transaction of the next statement: by index, and planned once for a connection. To plan for the partition of
-- each day costs more than to read.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('plan_cache_mode', 'force_generic_plan', true);

-- name: tokens
-- What items were charged, live or ended.
SELECT id, actual_tokens FROM embedmill.embedding_queue
 WHERE id = ANY (%(ids)s::bigint[]) AND tenant_id = %(tenant_id)s::integer
UNION ALL
-- One by one: for any number of them a plan takes another index, and reads all of it.
SELECT h.id, h.actual_tokens
  FROM unnest(%(ids)s::bigint[]) AS w (id)
 CROSS JOIN LATERAL (
        SELECT e.id, e.actual_tokens FROM embedmill.embedding_queue_history e
         WHERE e.id = w.id AND e.tenant_id = %(tenant_id)s::integer OFFSET 0) h;

-- name: names
-- What the documents of a page are called.
SELECT id, name FROM embedmill.knowledge_documents WHERE id = ANY (%(ids)s) AND tenant_id = %(tenant_id)s;
