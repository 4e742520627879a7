-- name: roster
-- Workers that are at work or were within a day, those at work first, with what each holds by lease: items by pipeline,
-- documents it parses, sources it reads. What they hold is found by the indexes of leases; a worker's chunks of the last
-- minutes come from the ledger, by the index of tenant and time.
WITH chosen AS MATERIALIZED (
    SELECT w.*, CASE WHEN w.status = 'stopped' THEN CASE WHEN w.drain_requested_at IS NULL THEN 'stopped' ELSE 'drained' END
                     WHEN w.status = 'error' OR w.heartbeat_at < now() - make_interval(secs => w.heartbeat_interval_ms * 2 / 1000.0)
                     THEN 'lost'
                     WHEN w.drain_requested_at IS NOT NULL THEN 'draining'
                     WHEN w.status = 'active' THEN 'working' ELSE 'idle' END AS state
      FROM embedmill.embedding_queue_workers w
     WHERE w.status IN ('active', 'idle') OR w.heartbeat_at > now() - interval '1 day'
     ORDER BY w.status IN ('active', 'idle') DESC, w.heartbeat_at DESC
     LIMIT %(limit)s
), parsed AS MATERIALIZED (
    SELECT p.worker_id, t.slug, d.name
      FROM (SELECT worker_id, tenant_id, job_id FROM embedmill.parse_queue
             WHERE lease_token IS NOT NULL ORDER BY lease_deadline LIMIT 1000) p
      JOIN embedmill.tenants t ON t.id = p.tenant_id
      JOIN embedmill.ingestion_jobs j ON j.id = p.job_id
      JOIN embedmill.knowledge_documents d ON d.id = j.document_id
), done AS MATERIALIZED (
    SELECT u.worker_id, sum(u.inputs)::bigint AS chunks
      FROM embedmill.tenants t
     CROSS JOIN LATERAL (
        SELECT l.worker_id, l.inputs FROM embedmill.llm_usage_log l
         WHERE l.tenant_id = t.id AND l.created_at > now() - make_interval(secs => %(rate_seconds)s) AND l.error IS NULL) u
     GROUP BY u.worker_id
)
SELECT w.worker_id, w.hostname, w.pid, w.state, w.version, w.started_at, w.heartbeat_at, w.stopped_at,
       w.drain_requested_at, w.chunks_embedded, w.tasks_processed, w.errors, w.rate_limits_hit, w.last_error,
       ARRAY(SELECT v.value FROM jsonb_each_text(w.troubles) v ORDER BY v.key),
       coalesce((SELECT jsonb_object_agg(h.pipeline, h.items) FROM (
            SELECT t.slug || '/' || p.name AS pipeline, count(*) AS items
              FROM (SELECT q.generation_id FROM embedmill.embedding_queue q
                     WHERE q.worker_id = w.worker_id AND q.status = 'processing'
                     ORDER BY q.worker_id, q.lease_deadline LIMIT 10000) q
              JOIN embedmill.generations g ON g.id = q.generation_id
              JOIN embedmill.pipelines p ON p.id = g.pipeline_id
              JOIN embedmill.tenants t ON t.id = p.tenant_id
             GROUP BY 1) h), '{}'),
       ARRAY(SELECT p.slug || '/' || p.name FROM parsed p WHERE p.worker_id = w.worker_id ORDER BY 1),
       ARRAY(SELECT t.slug || '/' || r.name FROM embedmill.record_sources r JOIN embedmill.tenants t ON t.id = r.tenant_id
              WHERE r.reader_id = w.worker_id AND r.reader_deadline > now() ORDER BY 1),
       coalesce((SELECT d.chunks FROM done d WHERE d.worker_id = w.worker_id), 0),
       EXISTS (SELECT FROM embedmill.sweep_leader l WHERE l.worker_id = w.worker_id AND l.expires_at > clock_timestamp())
  FROM chosen w
 ORDER BY w.state IN ('stopped', 'drained'), w.state = 'lost', w.hostname, w.started_at, w.worker_id;

-- name: sweeps
-- The last run of each periodic task.
SELECT DISTINCT ON (task) task, ran_at, outcome, worker_id FROM embedmill.sweeps ORDER BY task, tick DESC;

-- name: builds
-- Generations that are being built: any worker takes the next step.
SELECT t.slug || '/' || p.name, g.id, g.build_started_at
  FROM embedmill.generations g
  JOIN embedmill.pipelines p ON p.id = g.pipeline_id
  JOIN embedmill.tenants t ON t.id = g.tenant_id
 WHERE g.build_started_at IS NOT NULL AND g.build_ended_at IS NULL AND g.build_stopped_reason IS NULL
 ORDER BY g.build_started_at LIMIT 20;

-- name: find
-- Workers whose id begins so, those that live first.
SELECT worker_id, hostname, pid, status IN ('active', 'idle'), drain_requested_at IS NOT NULL
  FROM embedmill.embedding_queue_workers
 WHERE starts_with(worker_id::text, %(beginning)s)
 ORDER BY status IN ('active', 'idle') DESC, heartbeat_at DESC LIMIT 2;

-- name: drain
-- Ask a worker to stop in order; none where it has ended meanwhile, or was asked before.
UPDATE embedmill.embedding_queue_workers SET drain_requested_at = now()
 WHERE worker_id = %(worker_id)s AND status IN ('active', 'idle') AND drain_requested_at IS NULL
RETURNING worker_id;

-- name: replace
-- The place of a drained worker may be filled again.
UPDATE embedmill.embedding_queue_workers SET drain_requested_at = NULL
 WHERE worker_id = %(worker_id)s AND drain_requested_at IS NOT NULL
RETURNING worker_id;

-- name: is_place_kept
-- Whether the place of a process that was drained is to stay empty. One whose row is gone, after days, is nobody's.
SELECT drain_requested_at IS NOT NULL FROM embedmill.embedding_queue_workers
 WHERE host_id = %(host_id)s AND pid = %(pid)s ORDER BY started_at DESC LIMIT 1;
