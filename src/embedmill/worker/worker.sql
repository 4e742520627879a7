-- name: register
-- A worker's row: one for each process start.
INSERT INTO embedmill.embedding_queue_workers
    (worker_id, hostname, host_id, pid, pid_started_at, heartbeat_interval_ms, version)
VALUES (%(worker_id)s, %(hostname)s, %(host_id)s, %(pid)s, %(pid_started_at)s, %(heartbeat_interval_ms)s, %(version)s);

-- name: beat
-- The heartbeat, with what the worker did so far. A worker that was given up comes back by it: its old
-- leases are void all the same, their tokens have changed.
UPDATE embedmill.embedding_queue_workers
   SET heartbeat_at = clock_timestamp(), status = %(status)s, stopped_at = NULL, current_work = %(current_work)s,
       tasks_processed = %(tasks_processed)s, chunks_embedded = %(chunks_embedded)s,
       total_processing_ms = %(total_processing_ms)s, errors = %(errors)s,
       rate_limits_hit = %(rate_limits_hit)s, last_error = %(last_error)s
 WHERE worker_id = %(worker_id)s;

-- name: deregister
-- A worker that stopped in order; it holds nothing any more.
UPDATE embedmill.embedding_queue_workers
   SET status = 'stopped', stopped_at = now(), current_work = NULL
 WHERE worker_id = %(worker_id)s;

-- name: neighbours
-- Workers that should be alive on this host (its boot and pid namespace).
SELECT worker_id, pid, pid_started_at
  FROM embedmill.embedding_queue_workers
 WHERE host_id = %(host_id)s AND status IN ('active', 'idle');

-- name: ensure_partitions
-- The history's partitions, a week ahead.
SELECT embedmill.ensure_history_partitions();
