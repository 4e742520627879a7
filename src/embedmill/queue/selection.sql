-- name: pipelines
-- The tenant's generations with their pipelines' names; of one pipeline, or of all (NULL).
SELECT g.id, p.name
  FROM embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id
 WHERE p.tenant_id = %(tenant_id)s AND (%(pipeline)s::text IS NULL OR p.name = %(pipeline)s);

-- name: job_document
-- The document of an ingestion job: items have an index by document, not by job.
SELECT document_id FROM embedmill.ingestion_jobs WHERE id = %(job_id)s AND tenant_id = %(tenant_id)s;

-- name: matching
-- A part of the statements below, never a statement: what a person asks for, of q, a live or an ended item.
-- Always planned with the values at hand (prepare=False), so that what is NULL vanishes and each of the
-- indexes by batch, document or worker serves where it can; else the order by id with its LIMIT does.
q.tenant_id = %(tenant_id)s
   AND (%(ids)s::bigint[] IS NULL OR q.id = ANY (%(ids)s::bigint[]))
   AND (%(statuses)s::embedmill.queue_status[] IS NULL OR q.status = ANY (%(statuses)s::embedmill.queue_status[]))
   AND (%(generation_ids)s::integer[] IS NULL OR q.generation_id = ANY (%(generation_ids)s::integer[]))
   AND (%(batch_id)s::uuid IS NULL OR q.batch_id = %(batch_id)s::uuid)
   AND (%(source_type)s::text IS NULL OR q.source_type = %(source_type)s::text)
   AND (%(source_id)s::text IS NULL OR q.source_id = %(source_id)s::text)
   AND (%(source_beginning)s::text IS NULL OR starts_with(q.source_id, %(source_beginning)s::text))
   AND (%(priority)s::embedmill.queue_priority IS NULL OR q.priority = %(priority)s::embedmill.queue_priority)
   AND (%(job_id)s::uuid IS NULL OR q.job_id = %(job_id)s::uuid AND q.document_id = %(job_document_id)s::bigint)
   AND (%(worker_id)s::uuid IS NULL OR q.worker_id = %(worker_id)s::uuid)
   AND (%(error)s::text IS NULL OR strpos(lower(q.error_message), lower(%(error)s::text)) > 0)
   AND (%(older_than_seconds)s::float8 IS NULL
        OR q.created_at < now() - make_interval(secs => %(older_than_seconds)s::float8));

-- name: live_oldest
-- A page of live items, oldest first, after an id.
SELECT q.id, q.status::text, q.priority::text, q.operation::text, q.generation_id, q.source_type, q.source_id, q.part,
       q.retry_count, q.max_retries, q.estimated_tokens, q.created_at,
       nullif(q.available_at, 'infinity'), q.processing_started_at,
       NULL::timestamptz, q.worker_id, q.document_id, q.job_id, q.batch_id, q.error_message
  FROM embedmill.embedding_queue q
 WHERE {matching} AND (%(worker_id)s::uuid IS NULL OR q.status = 'processing') AND q.id > %(after)s
 ORDER BY q.id LIMIT %(limit)s;

-- name: live_newest
-- A page of live items, newest first, before an id.
SELECT q.id, q.status::text, q.priority::text, q.operation::text, q.generation_id, q.source_type, q.source_id, q.part,
       q.retry_count, q.max_retries, q.estimated_tokens, q.created_at,
       nullif(q.available_at, 'infinity'), q.processing_started_at,
       NULL::timestamptz, q.worker_id, q.document_id, q.job_id, q.batch_id, q.error_message
  FROM embedmill.embedding_queue q
 WHERE {matching} AND (%(worker_id)s::uuid IS NULL OR q.status = 'processing') AND q.id < %(after)s
 ORDER BY q.id DESC LIMIT %(limit)s;

-- name: ended_newest
-- A page of ended items, newest first, before an id.
SELECT q.id, q.status::text, q.priority::text, q.operation::text, q.generation_id, q.source_type, q.source_id, q.part,
       q.retry_count, q.max_retries, q.estimated_tokens, q.created_at, NULL::timestamptz, q.processing_started_at,
       q.processing_completed_at, q.worker_id, q.document_id, q.job_id, q.batch_id, q.error_message
  FROM embedmill.embedding_queue_history q
 WHERE q.tenant_id = %(tenant_id)s AND {matching} AND q.id < %(after)s
 ORDER BY q.id DESC LIMIT %(limit)s;

-- name: unfinished_newest
-- The same where only failed and cancelled ones are asked for: few among many, with an index of their own.
SELECT q.id, q.status::text, q.priority::text, q.operation::text, q.generation_id, q.source_type, q.source_id, q.part,
       q.retry_count, q.max_retries, q.estimated_tokens, q.created_at, NULL::timestamptz, q.processing_started_at,
       q.processing_completed_at, q.worker_id, q.document_id, q.job_id, q.batch_id, q.error_message
  FROM embedmill.embedding_queue_history q
 WHERE q.status IN ('failed', 'cancelled') AND {matching} AND q.id < %(after)s
 ORDER BY q.id DESC LIMIT %(limit)s;
