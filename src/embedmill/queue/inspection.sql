-- name: live_item
-- All of a live item but its lease token, which is a proof and no information; with who works on it.
SELECT to_jsonb(q) - '{lease_token,tenant_id,generation_id}'::text[]
       || jsonb_build_object('pipeline', p.name, 'document', d.name, 'worker_host', w.hostname, 'worker_pid', w.pid,
                             'worker_heartbeat_at', w.heartbeat_at)
  FROM embedmill.embedding_queue q
  LEFT JOIN embedmill.generations g ON g.id = q.generation_id
  LEFT JOIN embedmill.pipelines p ON p.id = g.pipeline_id
  LEFT JOIN embedmill.knowledge_documents d ON d.id = q.document_id
  LEFT JOIN embedmill.embedding_queue_workers w ON w.worker_id = q.worker_id
 WHERE q.id = %(item_id)s AND q.tenant_id = %(tenant_id)s;

-- name: ended_item
-- All of an ended item.
SELECT to_jsonb(q) - '{tenant_id,generation_id}'::text[]
       || jsonb_build_object('pipeline', p.name, 'document', d.name, 'worker_host', w.hostname, 'worker_pid', w.pid)
  FROM embedmill.embedding_queue_history q
  LEFT JOIN embedmill.generations g ON g.id = q.generation_id
  LEFT JOIN embedmill.pipelines p ON p.id = g.pipeline_id
  LEFT JOIN embedmill.knowledge_documents d ON d.id = q.document_id
  LEFT JOIN embedmill.embedding_queue_workers w ON w.worker_id = q.worker_id
 WHERE q.id = %(item_id)s AND q.tenant_id = %(tenant_id)s;

-- name: item_letters
-- The dead letters of an item, those of its chunks included; not more of them than a person reads.
WITH found AS MATERIALIZED (    -- by their index, and not in the order of ids until they are found
    SELECT l.* FROM embedmill.dead_letters l WHERE l.item_id = %(item_id)s AND l.tenant_id = %(tenant_id)s
)
SELECT id, reason, error_message, chunk_id, created_at, resolved_at, resolution FROM found ORDER BY id LIMIT 100;

-- name: explain_item
-- Why it waits.
SELECT reason, explanation, until, extract(epoch FROM until - now())::float8 FROM embedmill.explain_item(%(item_id)s);

-- name: batch_progress
-- A batch's progress.
SELECT total, pending, processing, rate_limited, completed, failed, cancelled, percent, tokens_left, items_per_minute,
       eta_seconds, first_enqueued_at, last_ended_at
  FROM embedmill.batch_progress(%(batch_id)s);

-- name: is_batch_of
-- Whether a batch is the tenant's.
SELECT EXISTS (SELECT FROM embedmill.embedding_queue WHERE batch_id = %(batch_id)s AND tenant_id = %(tenant_id)s)
    OR EXISTS (SELECT FROM embedmill.embedding_queue_history
                WHERE batch_id = %(batch_id)s AND tenant_id = %(tenant_id)s)
    OR EXISTS (SELECT FROM embedmill.ingestion_jobs WHERE batch_id = %(batch_id)s AND tenant_id = %(tenant_id)s);

-- name: recent_batches
-- Batches that are under way (their index is leapt through, one probe for each batch), and those of the newest
-- jobs and of the newest ended items.
WITH RECURSIVE under_way AS (
    (SELECT batch_id FROM embedmill.embedding_queue WHERE batch_id IS NOT NULL ORDER BY batch_id LIMIT 1)
    UNION ALL
    SELECT (SELECT q.batch_id FROM embedmill.embedding_queue q
             WHERE q.batch_id > u.batch_id ORDER BY q.batch_id LIMIT 1)
      FROM under_way u WHERE u.batch_id IS NOT NULL
), known AS (
    (SELECT batch_id FROM under_way WHERE batch_id IS NOT NULL LIMIT 2000)
    UNION
    SELECT j.batch_id FROM (
        SELECT batch_id FROM embedmill.ingestion_jobs
         WHERE tenant_id = %(tenant_id)s ORDER BY created_at DESC LIMIT 2000) j WHERE j.batch_id IS NOT NULL
    UNION
    SELECT h.batch_id FROM (
        SELECT batch_id FROM embedmill.embedding_queue_history
         WHERE tenant_id = %(tenant_id)s ORDER BY id DESC LIMIT 2000) h WHERE h.batch_id IS NOT NULL
), started AS (
    SELECT k.batch_id, least(
               (SELECT min(q.created_at) FROM (
                   SELECT created_at FROM embedmill.embedding_queue
                    WHERE batch_id = k.batch_id AND tenant_id = %(tenant_id)s LIMIT 100) q),
               (SELECT min(h.created_at) FROM (
                   SELECT created_at FROM embedmill.embedding_queue_history
                    WHERE batch_id = k.batch_id AND tenant_id = %(tenant_id)s LIMIT 100) h)) AS at
      FROM known k
)
SELECT s.batch_id, b.total, b.pending, b.processing, b.rate_limited, b.completed, b.failed, b.cancelled, b.percent,
       b.tokens_left, b.items_per_minute, b.eta_seconds, b.first_enqueued_at, b.last_ended_at
  FROM (SELECT batch_id, at FROM started WHERE at IS NOT NULL ORDER BY at DESC LIMIT %(limit)s) s
 CROSS JOIN LATERAL embedmill.batch_progress(s.batch_id) AS b
 ORDER BY s.at DESC;
