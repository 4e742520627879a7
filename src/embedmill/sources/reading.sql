-- name: claim_source
-- A source that has something to read, leased.
SELECT record_source_id, reader_token
  FROM embedmill.claim_record_source(%(worker_id)s, %(lease_seconds)s, %(source_ids)s::integer[]);

-- name: release_source
SELECT embedmill.release_record_source(%(record_source_id)s, %(reader_token)s, %(rest_seconds)s);

-- name: next_changes
-- The oldest change rows of a source.
SELECT id, operation::text, keys FROM embedmill.record_changes
 WHERE record_source_id = %(record_source_id)s ORDER BY id LIMIT %(limit)s;

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
