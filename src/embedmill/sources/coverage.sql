-- name: coverage
-- How complete each source is, or the one, from counters.
SELECT pipeline, record_source_id, kind, name, rows, unread_rows, documents, chunks, embedded, unembeddable, failed,
       waiting_rows, waiting_chunks, unlaunched_chunks, stale_seconds, percent, chunks_per_minute, eta_seconds, binds, trouble
  FROM embedmill.source_coverage(%(tenant_id)s, %(source_id)s);

-- name: activity
-- What was embedded in each minute.
SELECT minute, pipeline, record_source_id, name, embedded, unembeddable
  FROM embedmill.embedding_activity(%(tenant_id)s, %(minutes)s);
