-- name: known_documents
-- What is known of these sources: the document, and its newest job.
SELECT d.source_id, d.id, d.content_hash, d.chunk_count, d.error_reason, d.error_message, j.id, j.status::text
  FROM embedmill.knowledge_documents d
  LEFT JOIN LATERAL (
        SELECT id, status FROM embedmill.ingestion_jobs
         WHERE document_id = d.id ORDER BY created_at DESC LIMIT 1) j ON true
 WHERE d.pipeline_id = %(pipeline_id)s AND d.source_type = %(source_type)s AND d.source_id = ANY (%(source_ids)s);

-- name: sources_under
-- The sources that lie under a folder, by the literal beginning of their id.
SELECT id, source_id
  FROM embedmill.knowledge_documents
 WHERE pipeline_id = %(pipeline_id)s AND source_type = %(source_type)s AND starts_with(source_id, %(beginning)s);

-- name: same_document
-- The document and its newest job, where exactly this content was saved meanwhile: by another run, or by
-- ourselves before the answer to COMMIT was lost. Locks the row.
SELECT d.id, (SELECT j.id FROM embedmill.ingestion_jobs j
               WHERE j.document_id = d.id ORDER BY j.created_at DESC LIMIT 1)
  FROM embedmill.knowledge_documents d
 WHERE d.pipeline_id = %(pipeline_id)s AND d.source_type = %(source_type)s AND d.source_id = %(source_id)s
   AND d.content_hash = %(content_hash)s AND d.error_reason IS NULL
   FOR UPDATE;

-- name: save_document
-- A document's new content; its version rises with each change. Locks the row to the end of the transaction.
INSERT INTO embedmill.knowledge_documents AS d
    (tenant_id, pipeline_id, source_type, source_id, name, title, media_type, size_bytes, content_hash,
     chunk_count, error_reason, error_message, metadata)
VALUES (%(tenant_id)s, %(pipeline_id)s, %(source_type)s, %(source_id)s, %(name)s, %(title)s, %(media_type)s,
        %(size_bytes)s, %(content_hash)s, %(chunk_count)s, %(error_reason)s, %(error_message)s, %(metadata)s::jsonb)
ON CONFLICT (pipeline_id, source_type, source_id) DO UPDATE
   SET name = excluded.name, title = excluded.title, media_type = excluded.media_type,
       size_bytes = excluded.size_bytes, content_hash = excluded.content_hash,
       chunk_count = excluded.chunk_count, error_reason = excluded.error_reason,
       error_message = excluded.error_message, metadata = excluded.metadata,
       version = d.version + 1, updated_at = now()
RETURNING id, version;

-- name: cancel_document_items
-- What was under way for the older content stops here.
SELECT embedmill.cancel_document_items(%(document_id)s, 'superseded by newer content');

-- name: note_recut
-- Other plans of chunks of this document are to be cut anew; false: this plan is not the live one any more.
SELECT embedmill.note_recut(ARRAY[%(document_id)s::bigint], %(chunk_set)s);

-- name: delete_all_chunks
-- The chunks of a document that can no longer be read, by every plan, and that it was to be cut by one.
WITH cuts AS (DELETE FROM embedmill.stale_cuts WHERE document_id = %(document_id)s)
DELETE FROM embedmill.knowledge_chunks WHERE document_id = %(document_id)s;

-- name: save_text
-- The text that the offsets point into.
INSERT INTO embedmill.knowledge_document_texts (document_id, tenant_id, text, is_markdown, places)
VALUES (%(document_id)s, %(tenant_id)s, %(text)s, %(is_markdown)s, %(places)s::jsonb)
ON CONFLICT (document_id) DO UPDATE
   SET text = excluded.text, is_markdown = excluded.is_markdown, places = excluded.places;

-- name: delete_text
-- A document that can no longer be read has no text.
DELETE FROM embedmill.knowledge_document_texts WHERE document_id = %(document_id)s;

-- name: create_job
-- The run of one document; it is launched or failed within the same transaction. Its time is that of this
-- statement, which runs with the document locked: the newest job is the one whose content stands.
INSERT INTO embedmill.ingestion_jobs
    (tenant_id, pipeline_id, document_id, batch_id, status, priority, total_chunks, total_tokens, cost_usd,
     error_stage, error_message, created_at, completed_at)
VALUES (%(tenant_id)s, %(pipeline_id)s, %(document_id)s, %(batch_id)s, %(status)s::embedmill.job_status, %(priority)s, %(total_chunks)s,
        %(total_tokens)s, %(cost_usd)s, %(error_stage)s, %(error_message)s, clock_timestamp(),
        CASE WHEN %(status)s::embedmill.job_status = 'failed' THEN now() END)
RETURNING id;

-- name: launch_document
-- Enqueues what lacks a vector, for this run; a job that lacks none is completed. A reason: it was not enqueued.
SELECT chunks, tokens, reason
  FROM embedmill.launch_or_start(%(document_id)s, %(job_id)s, %(batch_id)s, %(priority)s, %(usage_type)s);

-- name: lock_document
-- Whoever changes a document's chunks or items holds its row.
SELECT id FROM embedmill.knowledge_documents WHERE id = %(document_id)s FOR UPDATE;

-- name: newest_job
-- The job that a document is launched for. Asked with its row locked.
SELECT id FROM embedmill.ingestion_jobs
 WHERE document_id = %(document_id)s ORDER BY created_at DESC LIMIT 1;

-- name: delete_document
-- The document with its chunks, vectors, text and jobs.
DELETE FROM embedmill.knowledge_documents WHERE id = %(document_id)s;

-- name: batch_progress
-- The jobs of one run, summed.
SELECT count(*) FILTER (WHERE status NOT IN ('completed', 'cancelled', 'failed')),
       coalesce(sum(total_chunks), 0)::bigint, coalesce(sum(embedded_chunks), 0)::bigint,
       coalesce(sum(reused_chunks), 0)::bigint, coalesce(sum(failed_chunks), 0)::bigint,
       coalesce(sum(total_tokens), 0)::bigint
  FROM embedmill.ingestion_jobs WHERE batch_id = %(batch_id)s;

-- name: batch_failures
-- The documents of a run whose embedding failed, or some of whose chunks were refused, with the reason.
SELECT d.source_id, j.status::text, j.failed_chunks,
       coalesce(j.error_message,
                (SELECT l.error_message FROM embedmill.dead_letters l
                  WHERE l.document_id = d.id AND l.chunk_id IS NOT NULL ORDER BY l.id DESC LIMIT 1))
  FROM embedmill.ingestion_jobs j
  JOIN embedmill.knowledge_documents d ON d.id = j.document_id
 WHERE j.batch_id = %(batch_id)s AND (j.status = 'failed' AND j.error_stage = 'embedding' OR j.failed_chunks > 0)
 ORDER BY d.source_id;

-- name: batch_spent
-- What a run paid, from the ledger: the calls that its worker made since it began.
SELECT count(*), coalesce(sum(inputs), 0)::bigint, coalesce(sum(input_tokens), 0)::bigint, sum(cost_usd),
       bool_or(cost_usd IS NULL)
  FROM embedmill.llm_usage_log
 WHERE tenant_id = %(tenant_id)s AND worker_id = %(worker_id)s
   AND created_at >= (SELECT started_at FROM embedmill.embedding_queue_workers WHERE worker_id = %(worker_id)s);

-- name: coverage
-- Chunks, embedded, unembeddable, of a generation.
SELECT chunks, embedded, unembeddable FROM embedmill.generation_coverage WHERE generation_id = %(generation_id)s;

-- name: waits_for_budget
-- Whether all that is left of a run is parked, and so waits for a budget (functions/52_budgets.sql).
SELECT CASE WHEN EXISTS (SELECT FROM embedmill.embedding_queue q
                          WHERE q.batch_id = %(batch_id)s AND NOT (q.status = 'pending' AND q.available_at = 'infinity'))
            THEN false
            ELSE EXISTS (SELECT FROM embedmill.embedding_queue q WHERE q.batch_id = %(batch_id)s) END;

-- name: is_settled
-- Whether a run has ended: no live job, and no live item of a document whose job failed early.
SELECT NOT EXISTS (SELECT FROM embedmill.ingestion_jobs
                    WHERE batch_id = %(batch_id)s AND status NOT IN ('completed', 'cancelled', 'failed'))
   AND NOT EXISTS (SELECT FROM embedmill.ingestion_jobs j
                     JOIN embedmill.embedding_queue q ON q.document_id = j.document_id
                    WHERE j.batch_id = %(batch_id)s AND j.status = 'failed');
