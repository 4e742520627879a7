-- name: by_index
-- For the transaction of the next statement: statistics of a time when the queue was tiny must not make it a scan.
SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_seqscan', 'enable_bitmapscan', 'enable_sort']) AS name;

-- name: fleet_facts
-- What the autoscaler looks at, in one statement: how many of our processes hold items, and for each quota key the
-- items that could be claimed now (counted up to a bound in each lane), how long the oldest waits, whether they are
-- all embedded on this machine, and whether the quota binds. One row at least; without ready work its rest is NULL.
--
-- Reads by index whatever waits: a probe of embedding_queue_ready for each generation and lane, as in
-- ready_generations (database/functions/30_claiming.sql), and one of embedding_queue_leased for each process; the
-- order and the limit of each keep the index where statistics say that everything matches. Left out is what no
-- process of ours could claim: paused pipelines, tenants at their cap, generations that one of our own leaves alone
-- because their provider refuses it, and everything while the queue is off.
WITH own AS MATERIALIZED (
    SELECT w.worker_id, w.troubles
      FROM embedmill.embedding_queue_workers w
     WHERE w.host_id = %(host_id)s AND w.pid = ANY (%(pids)s) AND w.status IN ('active', 'idle')
), busy AS MATERIALIZED (
    SELECT count(*) AS processes
      FROM own
     WHERE EXISTS (
        SELECT FROM (SELECT FROM embedmill.embedding_queue q
                      WHERE q.worker_id = own.worker_id AND q.status = 'processing'
                      ORDER BY q.worker_id, q.lease_deadline
                      LIMIT 1) held)
), ready AS MATERIALIZED (
    SELECT p.quota_key, g.spec ->> 'provider' = 'local' AS is_local, lanes.items, lanes.oldest
      FROM embedmill.generations g
      JOIN embedmill.pipelines p ON p.id = g.pipeline_id
      JOIN embedmill.tenants t ON t.id = g.tenant_id
     CROSS JOIN LATERAL (
        SELECT count(*) AS items, min(head.available_at) AS oldest
          FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
         CROSS JOIN LATERAL (
            SELECT q.available_at
              FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at <= now()
             ORDER BY q.available_at, q.id
             LIMIT %(enough)s) head) lanes
     WHERE embedmill.queue_enabled() AND p.paused_at IS NULL AND lanes.items > 0
       AND NOT EXISTS (SELECT FROM own WHERE own.troubles ? g.id::text)
       AND (t.max_processing_items IS NULL
            OR t.max_processing_items > (
                SELECT count(*)
                  FROM (SELECT FROM embedmill.embedding_queue q
                         WHERE q.status = 'processing' AND q.tenant_id = t.id
                         ORDER BY q.worker_id, q.lease_deadline
                         LIMIT t.max_processing_items) held))
), keys AS (
    SELECT r.quota_key, bool_and(r.is_local) AS is_local, sum(r.items)::integer AS items, min(r.oldest) AS oldest
      FROM ready r
     GROUP BY r.quota_key
)
SELECT busy.processes, k.quota_key, k.items, extract(epoch FROM now() - k.oldest)::double precision,
       k.is_local,
       CASE WHEN k.quota_key IS NOT NULL THEN (SELECT s.binds FROM embedmill.quota_state(k.quota_key) AS s) END
  FROM busy
  LEFT JOIN keys k ON true;
