-- name: running
-- The walk of a source, if it runs: where it is and what bounds its next batch. NULL `allowed`: its time has not come.
-- Where the rate is below a batch a second, batches are smaller, so that rows come evenly.
SELECT b.after_key, b.started_at, b.rereads,
       CASE WHEN b.next_batch_at > clock_timestamp() THEN NULL
            ELSE least(b.batch_size, coalesce(b.rows_left, b.batch_size),
                       CASE WHEN b.rows_per_second IS NULL THEN b.batch_size
                            ELSE greatest(1, least(ceil(b.rows_per_second), b.batch_size)) END)::integer END AS allowed,
       CASE WHEN b.ends_before <= clock_timestamp() THEN 'its time is over'
            WHEN b.batches_left = 0 THEN 'its batches are done'
            WHEN b.rows_left = 0 THEN 'its rows are done' END AS over,
       embedmill.backfill_budget_left(b, %(usage_type)s) AS budget_left,
       EXISTS (SELECT FROM embedmill.embedding_queue q
                WHERE q.batch_id = embedmill.backfill_batch(b.record_source_id, b.started_at)) AS has_waiting,
       embedmill.backfill_batch(b.record_source_id, b.started_at) AS batch_id,
       coalesce((SELECT sum(g.price_per_million_tokens) FROM embedmill.generations g
                  WHERE g.pipeline_id = s.pipeline_id), 0) AS price,
       b.rows_per_second IS NOT NULL OR b.delay_seconds > 0 AS is_paced
  FROM embedmill.backfills b JOIN embedmill.record_sources s ON s.id = b.record_source_id
 WHERE b.record_source_id = %(record_source_id)s AND b.started_at IS NOT NULL AND b.ended_at IS NULL;

-- name: lacking
-- Which of these rows' documents are to be seen to, with how many chunks and tokens.
SELECT source_id, chunks, tokens
  FROM embedmill.lacking_documents(%(generation_id)s, %(source_type)s, %(keys)s::text[]);

-- name: advance
-- The walk has come so far; the time of its next batch follows from its rate. What was only walked past costs neither
-- a batch nor time. No row: it was stopped, or begun anew.
UPDATE embedmill.backfills
   SET after_key = %(after)s::text[], rows_walked = rows_walked + %(walked)s, rows_read = rows_read + %(read)s,
       -- greatest() would make a number of no limit.
       rows_left = CASE WHEN rows_left IS NOT NULL THEN greatest(rows_left - %(read)s, 0) END,
       batches_left = CASE WHEN %(read)s > 0 AND batches_left IS NOT NULL THEN greatest(batches_left - 1, 0)
                           ELSE batches_left END,
       next_batch_at = CASE WHEN %(read)s > 0 THEN clock_timestamp() + make_interval(
           secs => greatest(delay_seconds, coalesce(%(read)s / rows_per_second, 0))) ELSE next_batch_at END
 WHERE record_source_id = %(record_source_id)s AND started_at = %(started_at)s AND ended_at IS NULL
   AND after_key IS NOT DISTINCT FROM %(before)s::text[]
RETURNING 1;

-- name: resolve_letters
-- What is tried again need not be looked at by a person any more.
UPDATE embedmill.dead_letters l SET resolved_at = now(), resolution = 'retried'
  FROM embedmill.knowledge_documents d
 WHERE d.pipeline_id = %(pipeline_id)s AND d.source_type = %(source_type)s AND d.source_id = ANY (%(keys)s)
   AND l.document_id = d.id AND l.resolved_at IS NULL AND l.chunk_id IS NULL AND l.item_id IS NOT NULL
   AND l.tenant_id = %(tenant_id)s;

-- name: end
UPDATE embedmill.backfills SET ended_at = clock_timestamp(), end_reason = %(reason)s
 WHERE record_source_id = %(record_source_id)s AND started_at = %(started_at)s AND ended_at IS NULL;
