-- name: queue
-- Items of the tenant by status, live and within the retention: from counts, however many they are.
SELECT pending, processing, completed, failed, cancelled FROM embedmill.count_embedding_jobs(%(tenant_id)s);

-- name: waiting
-- Of what waits: for how long the oldest that could be taken has waited, and what waits for a later time, counted up to
-- a bound.
SELECT extract(epoch FROM now() - w.oldest_at)::float8, w.rate_limited, w.backing_off
  FROM embedmill.waiting_items(%(tenant_id)s) AS w;

-- name: held_up
-- What a person has stopped: the whole queue, or pipelines. Dead letters that nobody has dealt with, up to a bound.
SELECT embedmill.queue_enabled(),
       (SELECT coalesce(array_agg(name ORDER BY name), '{}') FROM embedmill.pipelines
         WHERE tenant_id = %(tenant_id)s AND paused_at IS NOT NULL),
       (SELECT count(*) FROM (SELECT FROM embedmill.dead_letters
                               WHERE tenant_id = %(tenant_id)s AND resolved_at IS NULL LIMIT 10000) l);

-- name: binding_quotas
-- Quotas of the tenant's pipelines that hold work back now.
SELECT q.quota_key, s.calls_used, s.calls_per_minute, s.tokens_used, s.tokens_per_minute, s.cooling_seconds,
       s.cooldown_reason
  FROM embedmill.quotas q CROSS JOIN LATERAL embedmill.quota_state(q.quota_key) AS s
 WHERE s.binds AND EXISTS (SELECT FROM embedmill.pipelines p
                            WHERE p.quota_key = q.quota_key AND p.tenant_id = %(tenant_id)s)
 ORDER BY q.quota_key;

-- name: workers
-- Workers that are at work, or were within the last hour.
SELECT worker_id, hostname, pid,
       CASE WHEN status IN ('active', 'idle')
             AND heartbeat_at < now() - make_interval(secs => heartbeat_interval_ms * 2 / 1000.0)
            THEN 'error' ELSE status::text END,
       extract(epoch FROM now() - heartbeat_at)::float8, chunks_embedded, errors, rate_limits_hit, last_error
  FROM embedmill.embedding_queue_workers
 WHERE status IN ('active', 'idle') OR heartbeat_at > now() - interval '1 hour'
 ORDER BY heartbeat_at DESC LIMIT 20;

-- name: last_errors
-- The latest things that a person should look at: dead letters, and documents that cannot be read (records have a dead
-- letter each).
SELECT e.at, e.what, e.reason, e.message
  FROM ((SELECT l.created_at AS at, coalesce(d.name, 'item ' || l.item_id) AS what, l.reason, l.error_message AS message
           FROM embedmill.dead_letters l LEFT JOIN embedmill.knowledge_documents d ON d.id = l.document_id
          WHERE l.tenant_id = %(tenant_id)s AND l.resolved_at IS NULL ORDER BY l.id DESC LIMIT 10)
        UNION ALL
        (SELECT updated_at, name, error_reason, error_message FROM embedmill.knowledge_documents
          WHERE tenant_id = %(tenant_id)s AND error_reason IS NOT NULL AND record_source_id = 0 ORDER BY updated_at DESC LIMIT 10)) e
 ORDER BY e.at DESC LIMIT 10;

-- name: spent
-- What was paid today and this month (UTC), from the sums of three hours, however many calls these were.
SELECT coalesce(sum(u.input_tokens + u.output_tokens) FILTER (WHERE u.at >= d.day), 0)::bigint,
       sum(u.cost_usd) FILTER (WHERE u.at >= d.day),
       coalesce(sum(u.input_tokens + u.output_tokens), 0)::bigint, sum(u.cost_usd),
       coalesce(sum(u.unknown_cost_calls), 0)::bigint
  FROM (SELECT tenant_id, three_hours AS at, input_tokens, output_tokens, cost_usd, unknown_cost_calls
          FROM embedmill.usage_three_hours
        UNION ALL
        SELECT tenant_id, half_hour, input_tokens, output_tokens, cost_usd, unknown_cost_calls
          FROM embedmill.usage_unfolded) u,
       (SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS day,
               date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS month) d
 WHERE u.tenant_id = %(tenant_id)s AND u.at >= d.month;

-- name: throughput
-- Chunks embedded and refused in each of the last minutes, of all the tenant's sources together.
SELECT m.minute, sum(m.embedded)::bigint, sum(m.unembeddable)::bigint
  FROM embedmill.generations g
  JOIN embedmill.embedding_minutes m ON m.generation_id = g.id
 WHERE g.tenant_id = %(tenant_id)s
   AND m.minute > date_trunc('minute', now()) - make_interval(mins => %(minutes)s)
 GROUP BY m.minute;
