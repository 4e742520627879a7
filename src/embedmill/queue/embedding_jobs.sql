-- name: page
-- Live and ended items of one moment, newest first: by id, which an item keeps for life. One statement, so that an
-- item that ends meanwhile is seen once. Put together of the parts below.
SELECT p.id, p.tenant_id, p.source_id, p.source_type, p.status::text, p.retry_count, p.error_message, p.created_at,
       CASE WHEN p.processing_completed_at IS NULL THEN greatest(p.created_at, p.processing_started_at)
            ELSE p.processing_completed_at END,
       p.processing_completed_at, g.spec ->> 'model', p.vector_count,
       extract(epoch FROM p.processing_completed_at - p.processing_started_at)::float8 * 1000,
       p.job_id, p.batch_id, p.document_id, p.priority::text, p.operation::text, p.generation_id, p.part
  FROM (SELECT u.* FROM (({live}) UNION ALL ({ended})) u ORDER BY u.id DESC LIMIT %(limit)s::bigint) p
  LEFT JOIN embedmill.generations g ON g.id = p.generation_id
 ORDER BY p.id DESC;

-- name: live
-- A part: live items, in the table's own order.
SELECT q.id, q.tenant_id, q.generation_id, q.source_id, q.source_type, q.status, q.retry_count, q.error_message,
       q.created_at, q.processing_started_at, NULL::timestamptz AS processing_completed_at,
       NULL::integer AS vector_count, q.job_id, q.batch_id, q.document_id, q.priority, q.operation, q.part
  FROM embedmill.embedding_queue q
 WHERE q.tenant_id = %(tenant_id)s::integer AND q.id < %(before)s::bigint AND {status} AND {which}
 ORDER BY q.id DESC LIMIT %(limit)s::bigint;

-- name: live_within
-- A part: live items among so many as are looked through, no more of them than a page needs.
SELECT q.id, q.tenant_id, q.generation_id, q.source_id, q.source_type, q.status, q.retry_count, q.error_message,
       q.created_at, q.processing_started_at, NULL::timestamptz AS processing_completed_at,
       NULL::integer AS vector_count, q.job_id, q.batch_id, q.document_id, q.priority, q.operation, q.part
  FROM (SELECT * FROM embedmill.embedding_queue q
         WHERE q.tenant_id = %(tenant_id)s::integer AND q.id < %(before)s::bigint AND {status}
         ORDER BY q.id DESC LIMIT %(live_looked_through)s::bigint + 1) q
 WHERE {which}
 ORDER BY q.id DESC LIMIT %(limit)s::bigint;

-- name: ended
-- A part: ended items, by the index of tenant and id, or of what was asked for.
SELECT h.id, h.tenant_id, h.generation_id, h.source_id, h.source_type, h.status, h.retry_count, h.error_message,
       h.created_at, h.processing_started_at, h.processing_completed_at,
       h.vector_count, h.job_id, h.batch_id, h.document_id, h.priority, h.operation, h.part
  FROM embedmill.embedding_queue_history h
 WHERE h.tenant_id = %(tenant_id)s::integer AND h.id < %(before)s::bigint AND {status} AND {which} AND {days}
 ORDER BY {order} LIMIT %(limit)s::bigint;

-- name: live_found
-- A part: live items that were found by another index. Fenced, or the order by id would be taken to find them.
SELECT f.* FROM (
    SELECT q.id, q.tenant_id, q.generation_id, q.source_id, q.source_type, q.status, q.retry_count, q.error_message,
           q.created_at, q.processing_started_at, NULL::timestamptz AS processing_completed_at,
           NULL::integer AS vector_count, q.job_id, q.batch_id, q.document_id, q.priority, q.operation, q.part
      FROM embedmill.embedding_queue q
     WHERE q.tenant_id = %(tenant_id)s::integer AND q.id < %(before)s::bigint AND {status} AND {which} OFFSET 0) f
 ORDER BY f.id DESC LIMIT %(limit)s::bigint;

-- name: ended_rare
-- A part: ended items of a kind of source that there is little of: all of them first, in the order of the index of
-- sources, so that no other is taken.
WITH rare AS MATERIALIZED (
    SELECT * FROM embedmill.embedding_queue_history
     WHERE tenant_id = %(tenant_id)s::integer AND source_type = %(source_type)s ORDER BY source_id, id)
SELECT h.id, h.tenant_id, h.generation_id, h.source_id, h.source_type, h.status, h.retry_count, h.error_message,
       h.created_at, h.processing_started_at, h.processing_completed_at,
       h.vector_count, h.job_id, h.batch_id, h.document_id, h.priority, h.operation, h.part
  FROM rare h
 WHERE h.id < %(before)s::bigint AND {status} AND {which} AND {days}
 ORDER BY h.id DESC LIMIT %(limit)s::bigint;

-- name: none_live
-- A part: no live items.
SELECT q.id, q.tenant_id, q.generation_id, q.source_id, q.source_type, q.status, q.retry_count, q.error_message,
       q.created_at, q.processing_started_at, NULL::timestamptz AS processing_completed_at,
       NULL::integer AS vector_count, q.job_id, q.batch_id, q.document_id, q.priority, q.operation, q.part
  FROM embedmill.embedding_queue q WHERE false;

-- name: none_ended
-- A part: no ended items.
SELECT h.id, h.tenant_id, h.generation_id, h.source_id, h.source_type, h.status, h.retry_count, h.error_message,
       h.created_at, h.processing_started_at, h.processing_completed_at,
       h.vector_count, h.job_id, h.batch_id, h.document_id, h.priority, h.operation, h.part
  FROM embedmill.embedding_queue_history h WHERE false;

-- name: of_any_status
-- A part.
true;

-- name: of_pending
-- A part: of q; a rate-limited item waits too.
q.status IN ('pending', 'rate_limited');

-- name: of_processing
-- A part: of q.
q.status = 'processing';

-- name: of_completed
-- A part: of h.
h.status = 'completed';

-- name: of_failed
-- A part: of h, as the partial index says it.
h.status = 'failed';

-- name: of_cancelled
-- A part: of h; the second condition is that of the partial index.
h.status = 'cancelled' AND h.status IN ('failed', 'cancelled');

-- name: all_days
-- A part: of h.
true;

-- name: recent_days
-- A part: of h; other days' partitions, those made ahead included, are not even opened.
h.processing_completed_at >= %(since)s::timestamptz AND h.processing_completed_at < now() + interval '12 hours';

-- name: of_type
-- A part: of a kind of source.
source_type = %(source_type)s;

-- name: of_source
-- A part: of a source of that kind.
source_id = %(source_id)s;

-- name: of_batch
-- A part: of a batch.
batch_id = %(batch_id)s;

-- name: of_job
-- A part: of an ingestion job, whose document's source is named beside it.
job_id = %(job_id)s;

-- name: of_pipeline
-- A part: of a pipeline's generations.
generation_id = ANY (%(chosen_generations)s::integer[]);

-- name: above_floor
-- A part: of the stretch that is looked through.
id >= %(floor)s::bigint;

-- name: in_source
-- A part: of a source. A range of one, since what is equal to a constant needs no order: by this order, which for one
-- source is that by id, only the index of sources can serve, whatever the statistics say.
source_id >= %(source_id)s AND source_id <= %(source_id)s;

-- name: in_batch
-- A part: of a batch, likewise.
batch_id >= %(batch_id)s AND batch_id <= %(batch_id)s;

-- name: by_id
-- A part: the order of ended items.
h.id DESC;

-- name: by_source
-- A part: the same for one source.
h.source_id DESC, h.id DESC;

-- name: by_batch
-- A part: the same for one batch.
h.batch_id DESC, h.id DESC;

-- name: found_few
-- A part: the few that a tenant has beside many of others, found by its generations, and those in work.
q.id = ANY (ARRAY(
    SELECT w.id FROM embedmill.embedding_queue w
     WHERE w.generation_id = ANY (%(generation_ids)s::integer[]) AND w.status IN ('pending', 'rate_limited')
    UNION ALL
    SELECT w.id FROM embedmill.embedding_queue w
     WHERE w.status = 'processing' AND w.tenant_id = %(tenant_id)s::integer));

-- name: found_in_work
-- A part: those that workers hold, by the index of leases.
q.id = ANY (ARRAY(SELECT w.id FROM embedmill.embedding_queue w
                   WHERE w.status = 'processing' AND w.tenant_id = %(tenant_id)s::integer));

-- name: found_by_source
-- A part: those of a source, by its document or, where it has none yet, by its names.
q.id = ANY (ARRAY(
    SELECT w.id FROM embedmill.knowledge_documents d JOIN embedmill.embedding_queue w ON w.document_id = d.id
     WHERE d.pipeline_id = ANY (%(pipeline_ids)s::integer[])
       AND d.source_type = %(source_type)s AND d.source_id = %(source_id)s
    UNION ALL
    SELECT w.id FROM embedmill.embedding_queue w
     WHERE w.document_id IS NULL AND w.generation_id = ANY (%(generation_ids)s::integer[])
       AND w.source_type = %(source_type)s AND w.source_id = %(source_id)s));

-- name: found_by_batch
-- A part: those of a batch that is not large, by its index.
q.id = ANY (ARRAY(SELECT w.id FROM embedmill.embedding_queue w WHERE w.batch_id = %(batch_id)s));

-- name: generations
-- The tenant's pipelines and generations.
SELECT p.id, g.id FROM embedmill.pipelines p JOIN embedmill.generations g ON g.pipeline_id = p.id
 WHERE p.tenant_id = %(tenant_id)s::integer;

-- name: generations_of
-- The generations of one pipeline.
SELECT g.id FROM embedmill.pipelines p JOIN embedmill.generations g ON g.pipeline_id = p.id
 WHERE p.tenant_id = %(tenant_id)s::integer AND p.name = %(pipeline)s;

-- name: floor
-- Where the stretch ends in which a page looks for ended items that have no index of their own; none: at the first.
SELECT h.id FROM embedmill.embedding_queue_history h
 WHERE h.tenant_id = %(tenant_id)s::integer AND h.id < %(before)s::bigint AND {status}
 ORDER BY h.id DESC OFFSET %(looked_through)s::bigint LIMIT 1;

-- name: live_floor
-- The same of live items.
SELECT q.id FROM embedmill.embedding_queue q
 WHERE q.tenant_id = %(tenant_id)s::integer AND q.id < %(before)s::bigint AND {status}
 ORDER BY q.id DESC OFFSET %(looked_through)s::bigint LIMIT 1;

-- name: live_of_pipeline
-- How many items of a pipeline live, by the counts.
SELECT coalesce(sum(c.items), 0)
  FROM (SELECT items FROM embedmill.queue_counts
         WHERE generation_id = ANY (%(chosen_generations)s::integer[]) AND status = 'live'
        UNION ALL
        SELECT CASE WHEN status = 'live' THEN items ELSE 0 END FROM embedmill.queue_changes
         WHERE generation_id = ANY (%(chosen_generations)s::integer[])) c;

-- name: job_source
-- What an ingestion job is about; no row where nothing of it was ever enqueued.
SELECT d.id, d.source_type, d.source_id
  FROM embedmill.ingestion_jobs j JOIN embedmill.knowledge_documents d ON d.id = j.document_id
 WHERE j.id = %(job_id)s AND j.tenant_id = %(tenant_id)s::integer;

-- name: is_rare_type
-- Whether little of this kind of source has ended; in the order of the index that is to be read.
SELECT count(*) <= %(few)s::bigint
  FROM (SELECT FROM embedmill.embedding_queue_history
         WHERE tenant_id = %(tenant_id)s::integer AND source_type = %(source_type)s
         ORDER BY source_id, id LIMIT %(few)s::bigint + 1) h;

-- name: live_items
-- How many of the tenant's items live, by the counts.
SELECT pending + processing FROM embedmill.count_embedding_jobs(%(tenant_id)s::integer);

-- name: is_large_batch
-- Whether more of a batch lives than is sorted without a thought.
SELECT count(*) > %(few)s::bigint
  FROM (SELECT FROM embedmill.embedding_queue WHERE batch_id = %(batch_id)s LIMIT %(few)s::bigint + 1) q;

-- name: first_day
-- The day from which on enough items have ended to fill a page, by the counts; NULL: take them all. What has not been
-- folded into the counts yet only makes the page come from fewer days.
SELECT (d.day::timestamp AT TIME ZONE 'UTC')
  FROM (SELECT c.day, sum(c.items) OVER (ORDER BY c.day DESC) AS items
          FROM (SELECT day, sum(items) AS items FROM embedmill.queue_counts
                 WHERE tenant_id = %(tenant_id)s::integer AND status = ANY (%(statuses)s::text[]) AND day > '-infinity'
                   AND day <= (%(newest)s::timestamptz AT TIME ZONE 'UTC')::date
                 GROUP BY day) c) d
 WHERE d.items >= %(limit)s::bigint
 ORDER BY d.day DESC LIMIT 1;

-- name: tune
-- For this transaction: by index, in the order of the index, whatever the statistics say.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_sort', 'off', true),
       set_config('plan_cache_mode', %(plans)s, true);

-- name: attempts
-- All that was done about the same piece of the same source, newest first.
SELECT a.id, a.status::text, a.error_message, a.worker_id, w.hostname, a.retry_count, a.crash_count, a.created_at,
       a.processing_started_at, a.processing_completed_at, a.vector_count
  FROM ((SELECT q.id, q.status, q.error_message, q.worker_id, q.retry_count, q.crash_count, q.created_at,
                q.processing_started_at, NULL::timestamptz AS processing_completed_at, NULL::integer AS vector_count
           FROM embedmill.embedding_queue q
          WHERE q.tenant_id = %(tenant_id)s::integer AND q.generation_id = %(generation_id)s::integer AND q.part = %(part)s::integer
            AND {which_live})
        UNION ALL
        (SELECT h.id, h.status, h.error_message, h.worker_id, h.retry_count, h.crash_count, h.created_at,
                h.processing_started_at, h.processing_completed_at, h.vector_count
           FROM embedmill.embedding_queue_history h
          WHERE h.tenant_id = %(tenant_id)s::integer AND h.source_type = %(source_type)s
            AND h.source_id >= %(source_id)s AND h.source_id <= %(source_id)s
            AND h.generation_id = %(generation_id)s::integer AND h.part = %(part)s::integer
          ORDER BY h.source_id DESC, h.id DESC LIMIT %(limit)s::bigint)) a
  LEFT JOIN embedmill.embedding_queue_workers w ON w.worker_id = a.worker_id
 ORDER BY a.id DESC LIMIT %(limit)s::bigint;

-- name: piece_of_document
-- A part: the live item of a piece, by its document.
q.document_id = %(document_id)s::bigint;

-- name: piece_of_source
-- A part: the live item of a piece that has no document.
q.document_id IS NULL AND q.source_type = %(source_type)s AND q.source_id = %(source_id)s;

-- name: dead_letters
-- The dead letters of these items, those of single chunks included.
WITH found AS MATERIALIZED (    -- by their index, and not in the order of ids until they are found
    SELECT l.* FROM embedmill.dead_letters l
     WHERE l.item_id = ANY (%(item_ids)s::bigint[]) AND l.tenant_id = %(tenant_id)s::integer
)
SELECT id, item_id, chunk_id, reason, error_message, created_at, resolved_at, resolution FROM found
 ORDER BY id DESC LIMIT %(limit)s::bigint;

-- name: count
-- By status, from counts and the leases.
SELECT pending, processing, completed, failed FROM embedmill.count_embedding_jobs(%(tenant_id)s::integer);

-- name: one_live
-- A part: one item, where it lives.
SELECT q.id, q.tenant_id, q.generation_id, q.source_id, q.source_type, q.status, q.retry_count, q.error_message,
       q.created_at, q.processing_started_at, NULL::timestamptz AS processing_completed_at,
       NULL::integer AS vector_count, q.job_id, q.batch_id, q.document_id, q.priority, q.operation, q.part
  FROM embedmill.embedding_queue q WHERE q.id = %(item_id)s::bigint AND q.tenant_id = %(tenant_id)s::integer;

-- name: one_ended
-- A part: one item, where it has ended.
SELECT h.id, h.tenant_id, h.generation_id, h.source_id, h.source_type, h.status, h.retry_count, h.error_message,
       h.created_at, h.processing_started_at, h.processing_completed_at,
       h.vector_count, h.job_id, h.batch_id, h.document_id, h.priority, h.operation, h.part
  FROM embedmill.embedding_queue_history h
 WHERE h.id = %(item_id)s::bigint AND h.tenant_id = %(tenant_id)s::integer;
