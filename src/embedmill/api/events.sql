-- name: head
-- Where the log of events ends now, for a reader that wants only what comes.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text;

-- name: of_tenant
-- Events behind a position, in order; none of a transaction that another could still come before.
SELECT xact::text, id, type, payload::text FROM embedmill.events
 WHERE tenant_id = %(tenant_id)s AND (xact, id) > (%(xact)s::xid8, %(id)s)
   AND xact < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY xact, id LIMIT %(limit)s;

-- name: of_job
-- The same, of one job.
SELECT xact::text, id, type, payload::text FROM embedmill.events
 WHERE tenant_id = %(tenant_id)s AND job_id = %(subject)s AND (xact, id) > (%(xact)s::xid8, %(id)s)
   AND xact < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY xact, id LIMIT %(limit)s;

-- name: of_batch
-- The same, of one batch and its jobs.
SELECT xact::text, id, type, payload::text FROM embedmill.events
 WHERE tenant_id = %(tenant_id)s AND batch_id = %(subject)s AND (xact, id) > (%(xact)s::xid8, %(id)s)
   AND xact < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY xact, id LIMIT %(limit)s;
