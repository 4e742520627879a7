-- name: claim_source
-- A source that has something to read, leased.
SELECT record_source_id, reader_token
  FROM embedmill.claim_record_source(%(worker_id)s, %(lease_seconds)s, %(source_ids)s::integer[]);

-- name: release_source
SELECT embedmill.release_record_source(%(record_source_id)s, %(reader_token)s, %(rest_seconds)s);

-- name: next_changes
-- The oldest change rows of a source, but for edits of rows that were read a moment ago: those wait until the oldest has
-- waited for a moment, and edit after edit of a row is read once. A row is always read as it stands, so nothing is lost by
-- the order.
SELECT r.id, r.operation::text, r.keys FROM embedmill.record_changes r
 WHERE r.record_source_id = %(record_source_id)s
   AND (r.operation <> 'U'
        OR (SELECT o.changed_at FROM embedmill.record_changes o
             WHERE o.record_source_id = %(record_source_id)s ORDER BY o.id LIMIT 1)
           < clock_timestamp() - make_interval(secs => %(steady_seconds)s)
        OR NOT EXISTS (
        SELECT FROM unnest(r.keys) AS k (key)
         CROSS JOIN LATERAL (
            -- By the index whose order it asks for (saving.sql: standing_documents).
            SELECT d.updated_at FROM embedmill.knowledge_documents d
             WHERE d.pipeline_id = %(pipeline_id)s AND d.source_type = %(source_type)s
               AND d.source_id >= k.key AND d.source_id <= k.key
             ORDER BY d.source_id LIMIT 1) d
         WHERE d.updated_at > clock_timestamp() - make_interval(secs => %(steady_seconds)s)))
 ORDER BY r.id LIMIT %(limit)s;

-- name: take_truncation
SELECT embedmill.take_truncation(%(record_source_id)s, %(change_id)s);

-- name: take_blind_change
SELECT embedmill.take_blind_change(%(record_source_id)s, %(change_id)s);

-- name: documents_after
-- The source's documents, one after another.
SELECT id, source_id FROM embedmill.knowledge_documents
 WHERE record_source_id = %(record_source_id)s AND id > %(after)s ORDER BY id LIMIT %(limit)s;

-- name: count_waiting
-- How much the live generation has waiting, counted up to a bound.
SELECT embedmill.count_waiting(%(generation_id)s, %(most)s);

-- name: note_changed
-- Rows that changed while they were looked at, perhaps without a trigger that heeds it.
INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
SELECT id, tenant_id, 'U', %(keys)s::text[] FROM embedmill.record_sources WHERE id = %(record_source_id)s;
