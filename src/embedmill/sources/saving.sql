-- name: standing_documents
-- What is known of rows: their documents. A probe of the index for each, whatever the plan is made for: a plan for lists
-- of any length would compare each document with each of 5,000 keys. By a range of one key, whose order only that index
-- has: a plan that is kept from when the table was empty would read all documents of the pipeline for each key.
SELECT d.source_id, d.id, d.version, d.content_hash, d.error_reason, d.metadata
  FROM unnest(%(keys)s::text[]) AS w (key)
 CROSS JOIN LATERAL (
    SELECT k.source_id, k.id, k.version, k.content_hash, k.error_reason, k.metadata::text AS metadata
      FROM embedmill.knowledge_documents k
     WHERE k.pipeline_id = %(pipeline_id)s AND k.source_type = %(source_type)s AND k.source_id >= w.key AND k.source_id <= w.key
     ORDER BY k.source_id LIMIT 1) d;

-- name: hold_source
-- False: the lease is over, nothing may be written.
SELECT embedmill.hold_record_source(%(record_source_id)s, %(reader_token)s, %(lease_seconds)s);

-- name: take_changes
-- These change rows were read.
SELECT embedmill.take_record_changes(%(record_source_id)s, %(change_ids)s::bigint[]);

-- name: lock_documents
-- Whoever changes a document's chunks or items holds its row.
SELECT id, version FROM embedmill.knowledge_documents WHERE id = ANY (%(document_ids)s) ORDER BY id FOR UPDATE;

-- name: add_documents
-- Documents of rows that had none; one that somebody has made meanwhile is not returned.
INSERT INTO embedmill.knowledge_documents
    (tenant_id, pipeline_id, record_source_id, source_type, source_id, name, media_type, size_bytes, content_hash,
     chunk_count, error_reason, error_message, metadata)
SELECT %(tenant_id)s, %(pipeline_id)s, %(record_source_id)s, %(source_type)s, r.key, r.name, 'text/plain', r.size_bytes,
       r.content_hash, r.chunk_count, r.error_reason, r.error_message, r.metadata
  FROM unnest(%(keys)s::text[], %(names)s::text[], %(sizes)s::bigint[], %(hashes)s::bytea[], %(chunk_counts)s::integer[],
              %(error_reasons)s::text[], %(error_messages)s::text[], %(metadata)s::jsonb[])
       AS r (key, name, size_bytes, content_hash, chunk_count, error_reason, error_message, metadata)
ON CONFLICT (pipeline_id, source_type, source_id) DO NOTHING
RETURNING source_id, id;

-- name: change_documents
-- Another content: another version.
UPDATE embedmill.knowledge_documents d
   SET size_bytes = r.size_bytes, content_hash = r.content_hash, chunk_count = r.chunk_count,
       error_reason = r.error_reason, error_message = r.error_message, metadata = r.metadata,
       version = d.version + 1, updated_at = now()
  FROM unnest(%(document_ids)s::bigint[], %(sizes)s::bigint[], %(hashes)s::bytea[], %(chunk_counts)s::integer[],
              %(error_reasons)s::text[], %(error_messages)s::text[], %(metadata)s::jsonb[])
       AS r (id, size_bytes, content_hash, chunk_count, error_reason, error_message, metadata)
 WHERE d.id = r.id;

-- name: change_metadata
-- What is said of a row changed, not its text: nothing is to be embedded.
UPDATE embedmill.knowledge_documents d SET metadata = r.metadata, updated_at = now()
  FROM unnest(%(document_ids)s::bigint[], %(metadata)s::jsonb[]) AS r (id, metadata)
 WHERE d.id = r.id;

-- name: save_texts
-- The texts that the offsets of chunks point into.
INSERT INTO embedmill.knowledge_document_texts (document_id, tenant_id, text, is_markdown, places)
SELECT r.id, %(tenant_id)s, r.text, false, '[]'
  FROM unnest(%(document_ids)s::bigint[], %(texts)s::text[]) AS r (id, text)
ON CONFLICT (document_id) DO UPDATE SET text = excluded.text, is_markdown = false, places = '[]';

-- name: delete_texts
DELETE FROM embedmill.knowledge_document_texts WHERE document_id = ANY (%(document_ids)s);

-- name: reclaim_items
-- Workers that hold these documents' items write nothing more of them.
SELECT embedmill.reclaim_items(%(document_ids)s::bigint[]);

-- name: delete_records
-- Documents of rows that are gone, or no longer satisfy the condition.
SELECT embedmill.delete_records(%(document_ids)s::bigint[], %(message)s);

-- name: bury_documents
-- A dead letter for each row that cannot be embedded; the older ones of these documents are dealt with.
WITH resolved AS (
    UPDATE embedmill.dead_letters SET resolved_at = now(), resolution = 'retried'
     WHERE document_id = ANY (%(read_ids)s::bigint[]) AND chunk_id IS NULL AND resolved_at IS NULL
)
INSERT INTO embedmill.dead_letters (tenant_id, generation_id, document_id, reason, error_message)
SELECT %(tenant_id)s, %(generation_id)s, r.id, r.reason, r.message
  FROM unnest(%(document_ids)s::bigint[], %(reasons)s::text[], %(messages)s::text[]) AS r (id, reason, message);

-- name: end_unreadable_items
SELECT embedmill.end_unreadable_items(%(document_ids)s::bigint[], %(messages)s::text[]);

-- name: enqueue_documents
-- What lacks a vector, in each generation; how many chunks.
SELECT coalesce(sum(e.chunks), 0)::bigint
  FROM embedmill.enqueue_documents(%(document_ids)s::bigint[], %(batch_id)s::uuid,
                                   %(priority)s::embedmill.queue_priority, %(usage_type)s) AS e;

-- name: count_documents
-- How many documents a source has now.
UPDATE embedmill.record_sources SET documents = documents + %(added)s WHERE id = %(record_source_id)s;

-- name: note_recut
-- Other plans of chunks of these documents are to be cut anew; false: this plan is not the live one any more.
SELECT embedmill.note_recut(%(document_ids)s::bigint[], %(chunk_set)s);
