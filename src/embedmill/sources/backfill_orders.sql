-- name: sources
-- Sources of a tenant by their names; all of them without.
SELECT s.id, s.kind, s.name, p.name, s.pipeline_id
  FROM embedmill.record_sources s JOIN embedmill.pipelines p ON p.id = s.pipeline_id
 WHERE s.tenant_id = %(tenant_id)s AND (%(names)s::text[] IS NULL OR s.name = ANY (%(names)s))
   AND (%(pipeline)s::text IS NULL OR p.name = %(pipeline)s)
 ORDER BY s.name, p.id;

-- name: hold
-- Orders of one source take turns. What stands, and whether the pipeline's price is known.
SELECT b.started_at IS NOT NULL AND b.ended_at IS NULL, b.end_reason,
       g.price_per_million_tokens IS NOT NULL
  FROM embedmill.record_sources s
  JOIN embedmill.pipelines p ON p.id = s.pipeline_id
  JOIN embedmill.generations g ON g.id = p.current_generation_id
  LEFT JOIN embedmill.backfills b ON b.record_source_id = s.id
 WHERE s.id = %(record_source_id)s
   FOR NO KEY UPDATE OF s;

-- name: begin
-- A walk from the first row on.
INSERT INTO embedmill.backfills AS b
    (record_source_id, tenant_id, started_at, rereads, batch_size, batches_left, rows_left, rows_per_second,
     delay_seconds, ends_before, budget_usd, next_batch_at)
SELECT s.id, s.tenant_id, clock_timestamp(), %(rereads)s, coalesce(%(batch_size)s, 500), %(batches)s, %(rows)s,
       %(rows_per_second)s, coalesce(%(delay_seconds)s, 0), clock_timestamp() + make_interval(secs => %(seconds)s),
       %(budget_usd)s, clock_timestamp()
  FROM embedmill.record_sources s WHERE s.id = %(record_source_id)s
ON CONFLICT (record_source_id) DO UPDATE
   SET started_at = excluded.started_at, ended_at = NULL, end_reason = NULL, after_key = NULL, rows_walked = 0,
       rows_read = 0, rereads = excluded.rereads, batch_size = excluded.batch_size,
       batches_left = excluded.batches_left, rows_left = excluded.rows_left, spent_usd_before = NULL,
       rows_per_second = excluded.rows_per_second, delay_seconds = excluded.delay_seconds,
       ends_before = excluded.ends_before, budget_usd = excluded.budget_usd, next_batch_at = excluded.next_batch_at;

-- name: go_on
-- The walk goes on where it was. With limits said anew (`is_limited`), these hold from now on and no others; without,
-- those of a walk that still runs hold on, and one that a limit has ended has none.
UPDATE embedmill.backfills b
   SET ended_at = NULL, end_reason = NULL, rereads = b.rereads OR %(rereads)s, next_batch_at = clock_timestamp(),
       batch_size = CASE WHEN w.keeps THEN b.batch_size ELSE coalesce(%(batch_size)s, 500) END,
       batches_left = CASE WHEN w.keeps THEN b.batches_left ELSE %(batches)s END,
       rows_left = CASE WHEN w.keeps THEN b.rows_left ELSE %(rows)s END,
       rows_per_second = CASE WHEN w.keeps THEN b.rows_per_second ELSE %(rows_per_second)s END,
       delay_seconds = CASE WHEN w.keeps THEN b.delay_seconds ELSE coalesce(%(delay_seconds)s, 0) END,
       ends_before = CASE WHEN w.keeps THEN b.ends_before
                          ELSE clock_timestamp() + make_interval(secs => %(seconds)s) END,
       budget_usd = CASE WHEN w.keeps THEN b.budget_usd ELSE %(budget_usd)s END,
       spent_usd_before = CASE WHEN w.keeps THEN b.spent_usd_before
                               ELSE (embedmill.backfill_spent(s.tenant_id, s.pipeline_id, %(usage_type)s, b.started_at)).cost_usd END
  FROM embedmill.record_sources s
 CROSS JOIN LATERAL (SELECT NOT %(is_limited)s AND o.ended_at IS NULL AS keeps FROM embedmill.backfills o
                      WHERE o.record_source_id = s.id) w
 WHERE b.record_source_id = %(record_source_id)s AND s.id = b.record_source_id;

-- name: stop
-- A person has enough; what was read stays, and what waits is embedded.
UPDATE embedmill.backfills SET ended_at = clock_timestamp(), end_reason = 'stopped'
 WHERE record_source_id = %(record_source_id)s AND started_at IS NOT NULL AND ended_at IS NULL
RETURNING 1;

-- name: schedule
-- When it begins anew; its pace holds for these walks.
INSERT INTO embedmill.backfills AS b
    (record_source_id, tenant_id, schedule, next_start_at, batch_size, rows_per_second, delay_seconds)
SELECT s.id, s.tenant_id, %(schedule)s, %(next_start_at)s, coalesce(%(batch_size)s, 500), %(rows_per_second)s,
       coalesce(%(delay_seconds)s, 0)
  FROM embedmill.record_sources s WHERE s.id = %(record_source_id)s
ON CONFLICT (record_source_id) DO UPDATE
   SET schedule = excluded.schedule, next_start_at = excluded.next_start_at,
       batch_size = coalesce(%(batch_size)s, b.batch_size),
       rows_per_second = coalesce(%(rows_per_second)s, b.rows_per_second),
       delay_seconds = coalesce(%(delay_seconds)s, b.delay_seconds);

-- name: unschedule
UPDATE embedmill.backfills SET schedule = NULL, next_start_at = NULL
 WHERE record_source_id = %(record_source_id)s AND schedule IS NOT NULL
RETURNING 1;

-- name: unreckoned
-- Schedules whose next time nobody has said yet.
SELECT record_source_id, schedule FROM embedmill.backfills WHERE schedule IS NOT NULL AND next_start_at IS NULL;

-- name: set_next_start
UPDATE embedmill.backfills SET next_start_at = %(next_start_at)s
 WHERE record_source_id = %(record_source_id)s AND schedule = %(schedule)s AND next_start_at IS NULL;

-- name: drop_schedule
UPDATE embedmill.backfills SET schedule = NULL
 WHERE record_source_id = %(record_source_id)s AND schedule = %(schedule)s AND next_start_at IS NULL;

-- name: state
-- How a walk stands, and what came of its items. (OFFSET 0: a function that is called beside a column is asked after the
-- policies, and no index with it.)
SELECT s.id, s.name, p.name, p.paused_at IS NOT NULL, s.paused_at IS NOT NULL, s.trouble, s.rows, s.documents,
       b.started_at, b.ended_at, b.end_reason, coalesce(b.rereads, false), coalesce(b.rows_walked, 0),
       coalesce(b.rows_read, 0), b.rows_per_second, b.schedule, b.next_start_at,
       coalesce(k.chunks, 0), coalesce(k.embedded, 0), coalesce(k.unembeddable, 0),
       (SELECT count(*) FROM (SELECT FROM embedmill.embedding_queue q
                               WHERE q.batch_id = w.batch_id LIMIT 100000) waiting),
       u.cost_usd, coalesce(u.tokens, 0), coalesce(u.calls, 0),
       (SELECT count(*) FROM embedmill.record_changes r
         WHERE r.record_source_id = s.id AND r.id < (SELECT min(f.id) + 1000 FROM embedmill.record_changes f
                                                      WHERE f.record_source_id = s.id)),
       g.price_per_million_tokens IS NOT NULL
  FROM embedmill.record_sources s
  JOIN embedmill.pipelines p ON p.id = s.pipeline_id
  JOIN embedmill.generations g ON g.id = p.current_generation_id
  LEFT JOIN embedmill.backfills b ON b.record_source_id = s.id
  LEFT JOIN embedmill.coverage_counters k ON k.generation_id = g.id AND k.record_source_id = s.id
 CROSS JOIN LATERAL (SELECT embedmill.backfill_batch(s.id, b.started_at) AS batch_id OFFSET 0) AS w
 CROSS JOIN LATERAL embedmill.backfill_spent(s.tenant_id, s.pipeline_id, %(usage_type)s,
                                             coalesce(b.started_at, 'infinity')) AS u
 WHERE s.id = %(record_source_id)s;

-- name: embedded
-- What the items of a walk brought, of those that the history still has. (OFFSET 0: as above.)
SELECT count(*) FILTER (WHERE h.status = 'completed'), coalesce(sum(h.vector_count), 0)::bigint
  FROM embedmill.record_sources s
  JOIN embedmill.backfills b ON b.record_source_id = s.id
 CROSS JOIN LATERAL (SELECT embedmill.backfill_batch(s.id, b.started_at) AS batch_id OFFSET 0) AS w
  JOIN embedmill.embedding_queue_history h ON h.batch_id = w.batch_id
 WHERE s.id = %(record_source_id)s AND h.tenant_id = s.tenant_id;

-- name: failures
-- Rows of a source that are not embedded and will not be by themselves, by reason: read in vain, refused, given up. How
-- many of these since the walk began.
SELECT f.reason, sum(f.number)::bigint, sum(f.fresh)::bigint, min(f.message)
  FROM ((SELECT d.error_reason AS reason, count(*) AS number,
                count(*) FILTER (WHERE d.updated_at >= b.started_at) AS fresh, min(left(d.error_message, 300)) AS message
           FROM embedmill.knowledge_documents d
           LEFT JOIN embedmill.backfills b ON b.record_source_id = d.record_source_id
          WHERE d.record_source_id = %(record_source_id)s AND d.error_reason IS NOT NULL GROUP BY 1)
        UNION ALL
        (SELECT l.reason, count(*), count(*) FILTER (WHERE l.created_at >= b.started_at),
                min(left(l.error_message, 300))
           FROM (SELECT * FROM embedmill.dead_letters o
                  WHERE o.tenant_id = %(tenant_id)s AND o.resolved_at IS NULL
                  ORDER BY o.tenant_id DESC, o.id DESC LIMIT 10000) l
           JOIN embedmill.knowledge_documents d ON d.id = l.document_id
           LEFT JOIN embedmill.backfills b ON b.record_source_id = d.record_source_id
          WHERE d.record_source_id = %(record_source_id)s AND d.error_reason IS NULL GROUP BY 1)) f
 GROUP BY 1 ORDER BY 2 DESC, 1;

-- name: act_as
SELECT set_config('embedmill.actor', %(actor)s, true);

-- name: record_action
SELECT embedmill.record_action(%(tenant_id)s, %(action)s, %(subject)s, NULL, %(value)s::jsonb);
