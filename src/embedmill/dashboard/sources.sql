-- name: standings
-- Of each source what a person has said: paused, walked, scheduled.
SELECT s.id, s.paused_at IS NOT NULL, p.paused_at IS NOT NULL,
       b.started_at IS NOT NULL AND b.ended_at IS NULL, b.next_start_at
  FROM embedmill.record_sources s
  JOIN embedmill.pipelines p ON p.id = s.pipeline_id
  LEFT JOIN embedmill.backfills b ON b.record_source_id = s.id
 WHERE s.tenant_id = %(tenant_id)s;

-- name: names
-- The sources of each pipeline.
SELECT p.name, s.name FROM embedmill.record_sources s JOIN embedmill.pipelines p ON p.id = s.pipeline_id
 WHERE s.tenant_id = %(tenant_id)s ORDER BY p.id, s.id;

-- name: embedded
-- How many chunks of each pipeline its vectors stand for, from counters.
SELECT p.name, k.embedded FROM embedmill.pipelines p
  JOIN embedmill.generation_coverage k ON k.generation_id = p.current_generation_id
 WHERE p.tenant_id = %(tenant_id)s;

-- name: source
-- One source, whatever its kind.
SELECT s.id, s.kind, s.name, p.name, s.pipeline_id, s.template, s.priority::text, s.paused_at,
       p.paused_at IS NOT NULL, s.created_at
  FROM embedmill.record_sources s
  JOIN embedmill.pipelines p ON p.id = s.pipeline_id
 WHERE s.id = %(id)s AND s.tenant_id = %(tenant_id)s;

-- name: order
-- What a walk was told.
SELECT b.batch_size, b.batches_left, b.rows_left, b.delay_seconds, b.ends_before, b.budget_usd
  FROM embedmill.backfills b WHERE b.record_source_id = %(id)s;

-- name: minutes
-- What was embedded and refused of one source in each of the last minutes, in all generations of its pipeline.
SELECT m.minute, sum(m.embedded)::bigint, sum(m.unembeddable)::bigint
  FROM embedmill.generations g
  JOIN embedmill.embedding_minutes m ON m.generation_id = g.id AND m.record_source_id = %(id)s
 WHERE g.pipeline_id = %(pipeline_id)s
   AND m.minute >= date_trunc('minute', now()) - make_interval(mins => %(minutes)s)
 GROUP BY m.minute;

-- name: examples
-- Some of what cannot be embedded, for each reason: documents that could not be read, chunks that were refused.
SELECT r.reason, e.key, e.message
  FROM unnest(%(reasons)s::text[]) AS r (reason)
 CROSS JOIN LATERAL (
    (SELECT d.source_id AS key, left(coalesce(d.error_message, ''), 300) AS message
       FROM embedmill.knowledge_documents d
      WHERE d.record_source_id = %(id)s AND d.error_reason = r.reason LIMIT %(limit)s)
    UNION ALL
    (SELECT d.source_id || ', chunk ' || (c.ordinal + 1),
            coalesce((SELECT left(l.error_message, 300) FROM embedmill.dead_letters l
                       WHERE l.chunk_id = c.id ORDER BY l.id DESC LIMIT 1), '')
       FROM (SELECT k.id, k.document_id, k.ordinal FROM embedmill.knowledge_chunks k
              WHERE k.record_source_id = %(id)s AND k.error_reason = r.reason LIMIT %(limit)s) c
       JOIN embedmill.knowledge_documents d ON d.id = c.document_id)
 ) e
 ORDER BY r.reason, e.key;

-- name: triggers
-- How many of a table source's triggers there are, and how many are switched on.
SELECT count(*), count(*) FILTER (WHERE t.tgenabled IN ('O', 'A'))
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE p.pronamespace = 'embedmill'::regnamespace AND p.proname = 'record_source_' || %(id)s;

-- name: check
-- Notices what became of a source's table, mends what can be mended, and says what a person must do.
SELECT embedmill.check_table_source(%(id)s);

-- name: pace
-- How many chunks of a generation were embedded in the last five minutes.
SELECT coalesce(sum(m.embedded), 0)::bigint FROM embedmill.embedding_minutes m
 WHERE m.generation_id = %(generation_id)s AND m.minute >= date_trunc('minute', now()) - interval '5 minutes';

-- name: sampled_tokens
-- How many tokens a chunk of a generation's plan has on the average: of the first chunks of documents at 64 places of
-- the index of their hashes, which is a draw that comes out the same as long as they do. (OFFSET 0: a function that is called
-- beside a column is asked after the policies, and no index with it.)
SELECT avg(s.token_count)::float8
  FROM (SELECT decode(lpad(to_hex(n), 2, '0'), 'hex') AS first FROM generate_series(0, 252, 4) AS n OFFSET 0) place
 CROSS JOIN LATERAL (
    SELECT d.id FROM embedmill.knowledge_documents d
     WHERE d.pipeline_id = %(pipeline_id)s AND d.content_hash >= place.first
     ORDER BY d.content_hash LIMIT 2) d
 CROSS JOIN LATERAL (
    SELECT c.token_count FROM embedmill.knowledge_chunks c
     WHERE c.document_id = d.id AND c.chunk_set = %(chunk_set)s ORDER BY c.ordinal LIMIT 5) s;
