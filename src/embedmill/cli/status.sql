-- name: pipelines
-- Coverage of each pipeline, from counters.
SELECT p.name, k.chunks, k.embedded, k.unembeddable,
       (SELECT i.indisvalid FROM pg_index i
         WHERE i.indexrelid = to_regclass('embedmill.vectors_' || g.id || '_hnsw')),
       (SELECT count(*) FROM embedmill.knowledge_documents d WHERE d.pipeline_id = p.id),
       (SELECT count(*) FROM embedmill.knowledge_documents d
         WHERE d.pipeline_id = p.id AND d.error_reason IS NOT NULL)
  FROM embedmill.pipelines p
  JOIN embedmill.generations g ON g.id = p.current_generation_id
  JOIN embedmill.coverage_counters k ON k.generation_id = g.id
 WHERE p.tenant_id = %(tenant_id)s
 ORDER BY p.id;

-- name: queue
-- Live items by status, and how long the oldest ready one waits.
SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'processing'),
       count(*) FILTER (WHERE status = 'rate_limited'),
       extract(epoch FROM now() - min(created_at) FILTER (WHERE status = 'pending' AND available_at <= now()))::float8
  FROM embedmill.embedding_queue WHERE tenant_id = %(tenant_id)s;

-- name: workers
-- Workers that are at work, or were within the last hour.
SELECT worker_id, hostname, pid,
       CASE WHEN status IN ('active', 'idle')
             AND heartbeat_at < now() - make_interval(secs => heartbeat_interval_ms * 2 / 1000.0)
            THEN 'error' ELSE status::text END,
       extract(epoch FROM now() - heartbeat_at)::float8, chunks_embedded, errors, rate_limits_hit, last_error
  FROM embedmill.embedding_queue_workers
 WHERE status IN ('active', 'idle') OR heartbeat_at > now() - interval '1 hour'
 ORDER BY heartbeat_at DESC LIMIT 20;

-- name: last_errors
-- The latest things that a person should look at: dead letters and documents that cannot be read.
SELECT e.at, e.what, e.reason, e.message
  FROM ((SELECT l.created_at AS at, coalesce(d.name, 'item ' || l.item_id) AS what, l.reason, l.error_message AS message
           FROM embedmill.dead_letters l LEFT JOIN embedmill.knowledge_documents d ON d.id = l.document_id
          WHERE l.tenant_id = %(tenant_id)s ORDER BY l.created_at DESC LIMIT 10)
        UNION ALL
        (SELECT updated_at, name, error_reason, error_message FROM embedmill.knowledge_documents
          WHERE tenant_id = %(tenant_id)s AND error_reason IS NOT NULL ORDER BY updated_at DESC LIMIT 10)) e
 ORDER BY e.at DESC LIMIT 10;

-- name: spent
-- What was paid today and this month (UTC), from the ledger.
SELECT coalesce(sum(total_tokens) FILTER (WHERE created_at >= date_trunc('day', now())), 0)::bigint,
       sum(cost_usd) FILTER (WHERE created_at >= date_trunc('day', now())),
       coalesce(sum(total_tokens), 0)::bigint, sum(cost_usd), count(*) FILTER (WHERE cost_usd IS NULL)
  FROM embedmill.llm_usage_log
 WHERE tenant_id = %(tenant_id)s AND created_at >= date_trunc('month', now());
