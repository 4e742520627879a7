-- What is true of the whole fleet, for metrics: from counters and by index, never by a scan of items, history, chunks
-- or the ledger. Each block gives rows of (metric without prefix, label values, value); catalog.py has the labels.

-- name: bounds
-- For this transaction: no figure is worth waiting long for, and statistics of a time when the queue was tiny must
-- not make a probe a scan.
SELECT set_config(c.name, c.value, true)
  FROM (VALUES ('statement_timeout', '3s'), ('lock_timeout', '1s'), ('jit', 'off')) AS c (name, value);

-- name: by_index
-- For the blocks that look into the queue.
SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_seqscan', 'enable_bitmapscan', 'enable_sort']) AS name;

-- name: queue_waiting
-- One probe of embedding_queue_ready for each generation and priority for the oldest that could be claimed, and up to
-- 10,000 entries for what waits out a limit; one walk of embedding_queue_leased for what is worked on.
WITH lanes AS MATERIALIZED (
    SELECT g.id, g.tenant_id, lane.priority, p.paused_at IS NOT NULL OR NOT (SELECT embedmill.queue_enabled()) AS is_off
      FROM embedmill.generations g
      JOIN embedmill.pipelines p ON p.id = g.pipeline_id
     CROSS JOIN unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
), oldest AS (
    SELECT l.priority, min(head.available_at) AS since
      FROM lanes l
      LEFT JOIN LATERAL (
        SELECT q.available_at FROM embedmill.embedding_queue q
         WHERE NOT l.is_off AND q.generation_id = l.id AND q.priority = l.priority
           AND q.status IN ('pending', 'rate_limited') AND q.available_at <= now()
         ORDER BY q.available_at, q.id LIMIT 1) head ON true
     GROUP BY l.priority
), limited AS (
    SELECT l.tenant_id, sum(n.items) AS items
      FROM lanes l
     CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE later.status = 'rate_limited') AS items
          FROM (SELECT q.status FROM embedmill.embedding_queue q
                 WHERE q.generation_id = l.id AND q.priority = l.priority
                   AND q.status IN ('pending', 'rate_limited') AND q.available_at > now()
                   AND q.available_at < 'infinity'
                 ORDER BY q.available_at, q.id LIMIT 10000) later) n
     GROUP BY l.tenant_id
), worked AS (
    SELECT w.tenant_id, count(*) AS items
      FROM (SELECT q.tenant_id FROM embedmill.embedding_queue q
             WHERE q.status = 'processing' ORDER BY q.worker_id, q.lease_deadline LIMIT 1000000) w
     GROUP BY w.tenant_id
), live AS (
    SELECT c.tenant_id, sum(c.items) AS items
      FROM (SELECT tenant_id, items FROM embedmill.queue_counts WHERE status = 'live'
            UNION ALL
            SELECT tenant_id, CASE WHEN status = 'live' THEN items ELSE -items END FROM embedmill.queue_changes
             WHERE status IN ('live', 'completed', 'failed', 'cancelled')) c
     GROUP BY c.tenant_id
), tenants AS (
    SELECT t.slug, coalesce(v.items, 0) AS live, coalesce(w.items, 0) AS worked, coalesce(l.items, 0) AS limited,
           row_number() OVER (ORDER BY coalesce(v.items, 0) DESC, t.id) <= %(named)s AS is_named
      FROM embedmill.tenants t
      LEFT JOIN live v ON v.tenant_id = t.id
      LEFT JOIN worked w ON w.tenant_id = t.id
      LEFT JOIN limited l ON l.tenant_id = t.id
), named AS (
    SELECT CASE WHEN is_named THEN slug ELSE 'other' END AS tenant, sum(live) AS live, sum(worked) AS worked,
           sum(limited) AS limited
      FROM tenants GROUP BY 1
)
SELECT 'queue_oldest_waiting_seconds', ARRAY[p.priority::text],
       greatest(coalesce(extract(epoch FROM clock_timestamp() - o.since), 0), 0)::float8
  FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS p (priority) LEFT JOIN oldest o ON o.priority = p.priority
UNION ALL
SELECT 'queue_items', ARRAY[n.tenant, s.status], s.items::float8
  FROM named n
 CROSS JOIN LATERAL (VALUES ('pending', greatest(n.live - n.worked - n.limited, 0)), ('processing', n.worked),
                            ('rate_limited', n.limited)) AS s (status, items);

-- name: parsing
-- Uploads on their way to a parser, and dead letters that nobody has dealt with.
SELECT 'parse_jobs', ARRAY[s.state], coalesce(n.jobs, 0)::float8
  FROM (VALUES ('waiting'), ('parsing')) AS s (state)
  LEFT JOIN (SELECT CASE WHEN q.is_leased THEN 'parsing' ELSE 'waiting' END AS state, count(*) AS jobs
               FROM (SELECT lease_token IS NOT NULL AS is_leased FROM embedmill.parse_queue LIMIT 10000) q
              GROUP BY 1) n ON n.state = s.state
UNION ALL
SELECT 'parse_oldest_waiting_seconds', '{}',
       greatest(coalesce(extract(epoch FROM clock_timestamp() - min(head.available_at)), 0), 0)::float8
  FROM embedmill.tenants t
 CROSS JOIN unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
 CROSS JOIN LATERAL (
    SELECT q.available_at FROM embedmill.parse_queue q
     WHERE q.tenant_id = t.id AND q.priority = lane.priority AND q.lease_token IS NULL AND q.available_at <= now()
     ORDER BY q.available_at LIMIT 1) head
UNION ALL
SELECT 'dead_letters', ARRAY[l.reason], count(*)::float8
  FROM (SELECT reason FROM embedmill.dead_letters WHERE resolved_at IS NULL
         ORDER BY tenant_id, id LIMIT 10000) l
 GROUP BY l.reason;

-- name: switches
-- What people have switched off, and what ever ended.
SELECT 'queue_enabled', '{}'::text[], embedmill.queue_enabled()::integer::float8
UNION ALL
SELECT 'pipelines_paused', '{}', count(*)::float8 FROM embedmill.pipelines WHERE paused_at IS NOT NULL
UNION ALL
SELECT 'items_ended_total', ARRAY[s.status], coalesce(sum(c.items), 0)::float8
  FROM (VALUES ('completed'), ('failed'), ('cancelled')) AS s (status)
  LEFT JOIN (SELECT status, items FROM embedmill.ended_totals
             UNION ALL
             SELECT status, items FROM embedmill.queue_changes WHERE items > 0) c ON c.status = s.status
 GROUP BY s.status;

-- name: usage
-- What was ever used. Which sets of labels are named was decided when they came.
WITH sums AS (
    SELECT CASE WHEN is_named THEN ARRAY[tenant, pipeline, usage_type, provider, model]
                ELSE ARRAY['other', 'other', 'other', 'other', 'other'] END AS labels,
           sum(calls) AS calls, sum(failed_calls) AS failed_calls, sum(tokens) AS tokens, sum(cost_usd) AS cost_usd,
           sum(unknown_cost_calls) AS unknown_cost_calls
      FROM embedmill.usage_totals GROUP BY 1
)
SELECT n.metric, s.labels, n.value::float8
  FROM sums s
 CROSS JOIN LATERAL (VALUES ('usage_calls_total', s.calls), ('usage_failed_calls_total', s.failed_calls),
                            ('usage_tokens_total', s.tokens), ('usage_cost_usd_total', s.cost_usd),
                            ('usage_unpriced_calls_total', s.unknown_cost_calls)) AS n (metric, value);

-- name: coverage
-- Of the generations that are searched, from their counters.
WITH sizes AS (
    SELECT t.slug, p.name, coalesce(sum(k.chunks), 0) AS chunks, coalesce(sum(k.embedded), 0) AS embedded,
           coalesce(sum(k.unembeddable), 0) AS unembeddable,
           row_number() OVER (ORDER BY coalesce(sum(k.chunks), 0) DESC, p.id) <= %(named)s AS is_named
      FROM embedmill.pipelines p
      JOIN embedmill.tenants t ON t.id = p.tenant_id
      LEFT JOIN embedmill.coverage_counters k ON k.generation_id = p.current_generation_id
     GROUP BY t.slug, p.id, p.name
), named AS (
    SELECT CASE WHEN is_named THEN ARRAY[slug, name] ELSE ARRAY['other', 'other'] END AS labels,
           sum(embedded) AS embedded, sum(unembeddable) AS unembeddable,
           sum(greatest(chunks - embedded - unembeddable, 0)) AS missing
      FROM sizes GROUP BY 1
)
SELECT 'chunks', n.labels || s.state, s.chunks::float8
  FROM named n
 CROSS JOIN LATERAL (VALUES ('embedded', n.embedded), ('missing', n.missing), ('unembeddable', n.unembeddable))
       AS s (state, chunks)
UNION ALL
SELECT 'coverage_ratio', n.labels,
       CASE WHEN n.embedded + n.missing = 0 THEN 1 ELSE (n.embedded / (n.embedded + n.missing))::float8 END
  FROM named n;

-- name: sources
-- Sources of records, and of those that are read the oldest note: the first entry of each in its index.
SELECT 'sources', ARRAY[s.state], coalesce(n.sources, 0)::float8
  FROM (VALUES ('ok'), ('paused'), ('trouble')) AS s (state)
  LEFT JOIN (SELECT CASE WHEN trouble IS NOT NULL THEN 'trouble' WHEN paused_at IS NOT NULL THEN 'paused' ELSE 'ok' END
                    AS state, count(*) AS sources
               FROM embedmill.record_sources GROUP BY 1) n ON n.state = s.state
UNION ALL
SELECT 'sources_oldest_change_seconds', '{}',
       greatest(coalesce(extract(epoch FROM clock_timestamp() - min(head.changed_at)), 0), 0)::float8
  FROM embedmill.record_sources r
 CROSS JOIN LATERAL (
    SELECT c.changed_at FROM embedmill.record_changes c WHERE c.record_source_id = r.id ORDER BY c.id LIMIT 1) head
 WHERE r.paused_at IS NULL;

-- name: workers
-- Workers that are alive or should be, and when their leader has last done its work.
WITH living AS MATERIALIZED (
    SELECT CASE WHEN heartbeat_at < now() - make_interval(secs => heartbeat_interval_ms * 2 / 1000.0) THEN 'lost'
                WHEN status = 'error' THEN 'lost'
                WHEN status = 'active' AND current_work IS NULL THEN 'idle'
                ELSE status::text END AS state, heartbeat_at, drain_requested_at, troubles
      FROM embedmill.embedding_queue_workers
     WHERE status <> 'stopped' AND heartbeat_at > now() - interval '1 hour'
)
SELECT 'workers', ARRAY[s.state], count(l.state)::float8
  FROM (VALUES ('active'), ('idle'), ('lost')) AS s (state) LEFT JOIN living l ON l.state = s.state GROUP BY s.state
UNION ALL
SELECT 'workers_draining', '{}', count(*)::float8 FROM living WHERE drain_requested_at IS NOT NULL AND state <> 'lost'
UNION ALL
SELECT 'worker_heartbeat_age_seconds', '{}',
       greatest(coalesce(extract(epoch FROM clock_timestamp() - min(heartbeat_at)), 0), 0)::float8
  FROM living WHERE state <> 'lost'
UNION ALL
SELECT 'worker_troubled_pipelines', '{}', count(DISTINCT t.generation_id)::float8
  FROM living CROSS JOIN LATERAL jsonb_object_keys(troubles) AS t (generation_id) WHERE state <> 'lost'
UNION ALL
SELECT 'sweeps_age_seconds', '{}',
       coalesce(extract(epoch FROM clock_timestamp() - (
           SELECT ran_at FROM embedmill.sweeps WHERE task = 'fold_counts' ORDER BY tick DESC LIMIT 1)), 0)::float8;

-- name: quotas
-- Quotas of pipelines, as they stand now.
WITH states AS MATERIALIZED (
    SELECT q.quota_key, s.binds, s.calls_used::float8 / s.calls_per_minute AS calls,
           s.tokens_used::float8 / s.tokens_per_minute AS tokens
      FROM embedmill.quotas q CROSS JOIN LATERAL embedmill.quota_state(q.quota_key) AS s
     WHERE EXISTS (SELECT FROM embedmill.pipelines p WHERE p.quota_key = q.quota_key)
), fullest AS (
    SELECT * FROM states WHERE calls IS NOT NULL OR tokens IS NOT NULL
     ORDER BY greatest(calls, tokens) DESC, quota_key LIMIT %(named)s
)
SELECT 'quotas_exhausted', '{}'::text[], count(*) FILTER (WHERE binds)::float8 FROM states
UNION ALL
SELECT 'quota_used_ratio', ARRAY[f.quota_key, r.resource], r.used
  FROM fullest f CROSS JOIN LATERAL (VALUES ('calls', f.calls), ('tokens', f.tokens)) AS r (resource, used)
 WHERE r.used IS NOT NULL;

-- name: budgets
-- Budgets of tenants, those nearest to their limit; a month that is over counts no more.
WITH tenants AS (
    SELECT t.slug, b.limit_usd,
           CASE WHEN b.period = 'month' AND b.period_start < embedmill.month_begin(now()) THEN 0 ELSE b.spent_usd END
           AS spent_usd
      FROM embedmill.budgets b JOIN embedmill.tenants t ON t.id = b.tenant_id
     WHERE b.job_id IS NULL
), nearest AS (
    SELECT * FROM tenants ORDER BY spent_usd / nullif(limit_usd, 0) DESC NULLS FIRST, slug LIMIT %(named)s
)
SELECT n.metric, ARRAY[b.slug], n.value::float8
  FROM nearest b
 CROSS JOIN LATERAL (VALUES ('budget_limit_usd', b.limit_usd), ('budget_spent_usd', b.spent_usd)) AS n (metric, value)
UNION ALL
SELECT 'budgets_reached', '{}', count(*) FILTER (WHERE embedmill.is_reached(b, now()))::float8
  FROM (SELECT * FROM embedmill.budgets WHERE reached_at IS NOT NULL LIMIT 10000) b;

-- name: webhooks
-- Webhooks, and what waits to be delivered.
SELECT 'webhooks', ARRAY[s.state], coalesce(n.webhooks, 0)::float8
  FROM (VALUES ('ok'), ('failing'), ('disabled')) AS s (state)
  LEFT JOIN (SELECT CASE WHEN NOT is_active THEN 'disabled' WHEN failures > 0 THEN 'failing' ELSE 'ok' END AS state,
                    count(*) AS webhooks
               FROM embedmill.webhooks GROUP BY 1) n ON n.state = s.state
UNION ALL
SELECT 'webhook_deliveries_pending', '{}', count(*)::float8
  FROM (SELECT FROM embedmill.webhook_deliveries WHERE status = 'pending'
         ORDER BY webhook_id, next_attempt_at LIMIT 10000) d
UNION ALL
SELECT 'webhook_oldest_due_seconds', '{}',
       greatest(coalesce(extract(epoch FROM clock_timestamp() - min(head.next_attempt_at)), 0), 0)::float8
  FROM embedmill.webhooks w
 CROSS JOIN LATERAL (
    SELECT d.next_attempt_at FROM embedmill.webhook_deliveries d
     WHERE d.webhook_id = w.id AND d.status = 'pending' ORDER BY d.next_attempt_at LIMIT 1) head;

-- name: database
-- What of the server makes the queue slow, from its own statistics.
SELECT 'database_oldest_xmin_transactions', '{}'::text[], coalesce(max(x.age), 0)::float8
  FROM (SELECT age(backend_xmin) AS age FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
        UNION ALL SELECT age(transaction) FROM pg_prepared_xacts
        UNION ALL SELECT greatest(age(xmin), age(catalog_xmin)) FROM pg_replication_slots) x
UNION ALL
SELECT 'database_oldest_transaction_seconds', '{}',
       greatest(coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)), 0), 0)::float8
  FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'
UNION ALL
SELECT 'database_connections', '{}', sum(numbackends)::float8 FROM pg_stat_database
UNION ALL
SELECT 'database_max_connections', '{}', current_setting('max_connections')::float8
UNION ALL
SELECT 'database_queue_bytes', '{}', pg_total_relation_size('embedmill.embedding_queue')::float8
UNION ALL
SELECT 'database_queue_dead_rows', '{}', coalesce(pg_stat_get_dead_tuples('embedmill.embedding_queue'::regclass), 0)::float8
UNION ALL
SELECT 'database_xid_age_transactions', '{}', age(datfrozenxid)::float8 FROM pg_database WHERE datname = current_database();
