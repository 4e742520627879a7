-- name: select_jobs
-- Ingestion jobs of a tenant, newest first, by those of the parts below that were asked for: each wish has the plan of
-- its own index. The page is found first, or joins would decide how many jobs are read.
SELECT j.id, j.document_id, j.batch_id, p.name, d.source_type, d.source_id, coalesce(j.original_name, d.name),
       coalesce(d.media_type, j.media_type), coalesce(j.size_bytes, d.size_bytes), j.status::text, j.priority::text,
       j.total_chunks, j.embedded_chunks, j.reused_chunks, j.failed_chunks, j.total_tokens, j.paid_tokens, j.cost_usd,
       j.error_stage, j.error_message, j.paused_reason, j.metadata, j.user_id, j.auto_launch,
       coalesce(j.chunk_tokens, p.chunk_tokens), coalesce(j.chunk_overlap, least(p.chunk_overlap, j.chunk_tokens / 2), p.chunk_overlap),
       j.created_at, j.parsing_started_at, j.preview_ready_at, j.launched_at, j.updated_at, j.completed_at,
       j.original_dropped_at,
       -- It can go on without a new upload.
       j.status <> 'completed' AND (j.total_chunks > 0 OR j.original_key IS NOT NULL OR j.original_url IS NOT NULL)
           AND NOT EXISTS (SELECT FROM embedmill.ingestion_jobs n
                            WHERE n.document_id = j.document_id AND n.created_at > j.created_at),
       CASE WHEN j.status = 'embedding_in_progress' AND j.paused_reason IS NULL AND j.embedded_chunks > j.launched_chunks
            THEN extract(epoch FROM clock_timestamp() - j.launched_at)
                 * (j.total_chunks - j.embedded_chunks - j.failed_chunks) / (j.embedded_chunks - j.launched_chunks)
            END::double precision,
       (SELECT b.limit_usd FROM embedmill.budgets b WHERE b.job_id = j.id)
  FROM (SELECT * FROM embedmill.ingestion_jobs j WHERE j.tenant_id = %(tenant_id)s AND {which}
         ORDER BY j.created_at DESC, j.id DESC LIMIT %(limit)s) j
  JOIN embedmill.knowledge_documents d ON d.id = j.document_id
  JOIN embedmill.pipelines p ON p.id = j.pipeline_id
 ORDER BY j.created_at DESC, j.id DESC;

-- name: pipeline_id
-- The number of a pipeline.
SELECT id FROM embedmill.pipelines WHERE tenant_id = %(tenant_id)s AND name = %(pipeline)s;

-- name: all_jobs
-- A part.
true

-- name: by_job
-- A part.
j.id = %(job_id)s

-- name: by_status
-- A part; the status is a word of ours and no parameter, or no plan that is kept would use the index of this status.
j.status = {status}

-- name: by_batch
-- A part.
j.batch_id = %(batch_id)s

-- name: by_pipeline
-- A part; the number is none of the parameters either: how much a pipeline has decides which index finds the page.
j.pipeline_id = {pipeline_id}

-- name: by_document
-- A part.
j.document_id = %(document_id)s

-- name: behind
-- A part: older than the last of the page before.
(j.created_at, j.id) < (%(before)s::timestamptz, %(before_id)s::uuid)

-- name: select_chunks
-- The chunks of a job's document, from an ordinal on: those of the live generation.
SELECT c.id, c.ordinal, c.text, c.token_count, c.start_offset, c.end_offset, c.place_kind, c.place_first, c.place_last,
       c.heading_path, c.error_reason
  FROM embedmill.knowledge_chunks c
 WHERE c.document_id = %(document_id)s AND c.ordinal >= %(first_ordinal)s
   AND c.chunk_set = (SELECT g.chunk_set FROM embedmill.knowledge_documents d
                        JOIN embedmill.pipelines p ON p.id = d.pipeline_id
                        JOIN embedmill.generations g ON g.id = p.current_generation_id
                       WHERE d.id = %(document_id)s)
 ORDER BY c.ordinal LIMIT %(limit)s;

-- name: select_text
-- The text of a document, a part of it.
SELECT substr(text, %(start)s + 1, %(length)s), length(text)
  FROM embedmill.knowledge_document_texts WHERE document_id = %(document_id)s;

-- name: estimate_job
-- What launching costs, net of what is reused.
SELECT lacking_chunks, reusable_chunks, tokens, cost_usd FROM embedmill.estimate_job(%(job_id)s);

-- name: launch_job
-- Launches a job that is at its preview.
SELECT status::text, chunks, reason FROM embedmill.launch_job(%(job_id)s);

-- name: cancel_job
-- Stops a job; what is done is kept.
SELECT embedmill.cancel_job(%(job_id)s, %(message)s)::text;

-- name: resume_job
-- Goes on with a job that was cancelled or failed.
SELECT * FROM embedmill.resume_job(%(job_id)s);

-- name: retry_job
-- As resume, and what was refused is tried again.
SELECT * FROM embedmill.retry_job(%(job_id)s);

-- name: recut_job
-- Another chunking plan, before the launch.
SELECT embedmill.recut_job(%(job_id)s, %(chunk_tokens)s, %(chunk_overlap)s);

-- name: delete_job
-- Removes a job, and with the newest one its document; the originals that are left over.
SELECT embedmill.delete_job(%(job_id)s);

-- name: change_job
-- What may be changed at any time.
UPDATE embedmill.ingestion_jobs
   SET priority = coalesce(%(priority)s::embedmill.queue_priority, priority),
       metadata = coalesce(%(metadata)s::jsonb, metadata), updated_at = now()
 WHERE id = %(job_id)s;

-- name: change_priority
-- The job's waiting items, and its place before the parser, follow.
WITH waiting AS (
    UPDATE embedmill.parse_queue SET priority = %(priority)s::embedmill.queue_priority WHERE job_id = %(job_id)s
)
UPDATE embedmill.embedding_queue q SET priority = %(priority)s::embedmill.queue_priority
  FROM embedmill.ingestion_jobs j
 WHERE j.id = %(job_id)s AND q.document_id = j.document_id AND q.job_id = j.id AND q.status <> 'processing';

-- name: select_batch
-- The jobs of a batch, summed. The cost is unknown where tokens were paid for at a price that is; a job that never came
-- so far costs nothing.
SELECT count(*), count(*) FILTER (WHERE status IN ('staged', 'parsing')),
       count(*) FILTER (WHERE status = 'chunk_preview_ready'),
       count(*) FILTER (WHERE status = 'embedding_in_progress'), count(*) FILTER (WHERE status = 'completed'),
       count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'cancelled'),
       coalesce(sum(total_chunks), 0)::bigint, coalesce(sum(embedded_chunks), 0)::bigint,
       coalesce(sum(failed_chunks), 0)::bigint, coalesce(sum(paid_tokens), 0)::bigint,
       CASE WHEN NOT bool_or(paid_tokens > 0 AND cost_usd IS NULL) THEN coalesce(sum(cost_usd), 0) END, min(created_at), max(completed_at)
  FROM embedmill.ingestion_jobs WHERE tenant_id = %(tenant_id)s AND batch_id = %(batch_id)s;

-- name: batch_jobs
-- The jobs of a batch that are in one of these states.
SELECT id FROM embedmill.ingestion_jobs
 WHERE tenant_id = %(tenant_id)s AND batch_id = %(batch_id)s AND status = ANY (%(statuses)s::embedmill.job_status[])
 ORDER BY created_at, id;

-- name: count_staged
-- How many jobs wait for a parser, and how many may.
SELECT (SELECT count(*) FROM embedmill.parse_queue WHERE tenant_id = %(tenant_id)s), t.max_staged_jobs, t.max_file_bytes
  FROM embedmill.tenants t WHERE t.id = %(tenant_id)s;
