-- name: register
-- A worker's row: one for each process start, also where the answer to a first try was lost.
INSERT INTO embedmill.embedding_queue_workers
    (worker_id, hostname, host_id, pid, pid_started_at, heartbeat_interval_ms, version, session_name)
VALUES (%(worker_id)s, %(hostname)s, %(host_id)s, %(pid)s, %(pid_started_at)s, %(heartbeat_interval_ms)s, %(version)s,
        %(session_name)s)
ON CONFLICT (worker_id) DO NOTHING;

-- name: beat
-- The heartbeat, with what the worker did so far. A worker that was given up comes back by it: its old
-- leases are void all the same, their tokens have changed.
UPDATE embedmill.embedding_queue_workers
   SET heartbeat_at = clock_timestamp(), status = %(status)s, stopped_at = NULL, current_work = %(current_work)s,
       tasks_processed = %(tasks_processed)s, chunks_embedded = %(chunks_embedded)s,
       total_processing_ms = %(total_processing_ms)s, errors = %(errors)s,
       rate_limits_hit = %(rate_limits_hit)s, last_error = %(last_error)s, troubles = %(troubles)s::jsonb,
       heartbeat_interval_ms = %(heartbeat_interval_ms)s
 WHERE worker_id = %(worker_id)s;

-- name: deregister
-- A worker that stopped in order; it holds nothing any more.
UPDATE embedmill.embedding_queue_workers
   SET status = 'stopped', stopped_at = now(), current_work = NULL, troubles = '{}'
 WHERE worker_id = %(worker_id)s;

-- name: neighbours
-- Workers that should be alive on this host (its boot and pid namespace).
SELECT worker_id, pid, pid_started_at
  FROM embedmill.embedding_queue_workers
 WHERE host_id = %(host_id)s AND status IN ('active', 'idle');

-- name: lead_sweeps
-- Takes or keeps the lead; the term, NULL where another leads.
SELECT embedmill.lead_sweeps(%(worker_id)s, %(seconds)s);

-- name: run_sweep
-- Runs a task if it is due; what came of it.
SELECT embedmill.run_sweep(%(task)s, %(period_seconds)s, %(worker_id)s, %(term)s);

-- name: resign_sweeps
-- Gives the lead back.
SELECT embedmill.resign_sweeps(%(worker_id)s);

-- name: look
-- What a worker has to heed: whether somebody asked it to stop, which of its items are of jobs that were cancelled,
-- and which of these tenants have a budget.
SELECT w.drain_requested_at IS NOT NULL,
       ARRAY(SELECT q.id FROM embedmill.embedding_queue q
              WHERE q.worker_id = w.worker_id AND q.status = 'processing' AND q.cancel_requested_at IS NOT NULL),
       ARRAY(SELECT t FROM unnest(%(tenants)s::integer[]) AS t
              WHERE EXISTS (SELECT FROM embedmill.budgets b WHERE b.tenant_id = t))
  FROM embedmill.embedding_queue_workers w WHERE w.worker_id = %(worker_id)s;
