-- What alerts are raised for, as it is at a moment: each sign with its kind, whose it is (tenant_id NULL: the
-- installation's), its subject, since when (NULL: since it is seen), and one sentence that says what is so and what to
-- do next. `{since}` in it is filled in by whoever raises. From counters and by index: the cost does not grow with what
-- waits or has ended. Nothing of one tenant stands in a sign of the installation.

-- Workers that are alive, as rescue_items has it.
CREATE OR REPLACE FUNCTION embedmill.alive_workers(p_now timestamptz) RETURNS SETOF embedmill.embedding_queue_workers
LANGUAGE sql STABLE AS $$
    SELECT w.* FROM embedmill.embedding_queue_workers w
     WHERE w.status IN ('active', 'idle')
       AND w.heartbeat_at > p_now - make_interval(secs => w.heartbeat_interval_ms * 1.75 / 1000.0)
$$;

-- Pipelines that have work which could be taken now, and since when the oldest of it could. A probe of the index of
-- ready items for each generation and lane.
CREATE OR REPLACE FUNCTION embedmill.waiting_pipelines(p_now timestamptz)
RETURNS TABLE (tenant_id integer, pipeline text, quota_key text, generations integer[], oldest timestamptz)
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
    SELECT p.tenant_id, p.name, p.quota_key, array_agg(DISTINCT g.id), min(head.available_at)
      FROM embedmill.generations g
      JOIN embedmill.pipelines p ON p.id = g.pipeline_id
     CROSS JOIN unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
     CROSS JOIN LATERAL (
        SELECT q.available_at FROM embedmill.embedding_queue q
         WHERE q.generation_id = g.id AND q.priority = lane.priority
           AND q.status IN ('pending', 'rate_limited') AND q.available_at <= p_now
         ORDER BY q.available_at, q.id LIMIT 1) head
     WHERE p.paused_at IS NULL
     GROUP BY p.id
$$;

-- Since when the oldest upload of each tenant waits for a parser, where some could be taken now.
CREATE OR REPLACE FUNCTION embedmill.waiting_uploads(p_now timestamptz)
RETURNS TABLE (tenant_id integer, oldest timestamptz)
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
    SELECT t.id, min(head.available_at)
      FROM embedmill.tenants t
     CROSS JOIN unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
     CROSS JOIN LATERAL (
        SELECT q.available_at FROM embedmill.parse_queue q
         WHERE q.tenant_id = t.id AND q.priority = lane.priority AND q.lease_token IS NULL AND q.available_at <= p_now
         ORDER BY q.available_at LIMIT 1) head
     GROUP BY t.id
$$;

-- Since when the oldest change of each source that can be read waits to be read.
CREATE OR REPLACE FUNCTION embedmill.waiting_sources()
RETURNS TABLE (tenant_id integer, source text, oldest timestamptz)
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
    SELECT s.tenant_id, s.name, head.changed_at
      FROM embedmill.record_sources s
      JOIN embedmill.pipelines p ON p.id = s.pipeline_id
     CROSS JOIN LATERAL (
        SELECT c.changed_at FROM embedmill.record_changes c
         WHERE c.record_source_id = s.id ORDER BY c.id LIMIT 1) head
     WHERE s.paused_at IS NULL AND s.trouble IS NULL
$$;

-- How many items of a generation ended since a moment: since the last sample before it, or the first there is.
CREATE OR REPLACE FUNCTION embedmill.ended_since(
    p_generation_id integer, p_moment timestamptz, OUT since timestamptz, OUT completed bigint, OUT failed bigint)
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    SELECT s.sampled_at,
           coalesce(sum(k.items) FILTER (WHERE k.status = 'completed'), 0)::bigint - s.completed,
           coalesce(sum(k.items) FILTER (WHERE k.status = 'failed'), 0)::bigint - s.failed
      FROM (SELECT * FROM embedmill.queue_samples n WHERE n.generation_id = p_generation_id
             ORDER BY n.sampled_at <= p_moment DESC, abs(extract(epoch FROM p_moment - n.sampled_at)) LIMIT 1) s
      LEFT JOIN embedmill.queue_counts k
        ON k.generation_id = p_generation_id AND k.status IN ('completed', 'failed') AND k.day >= s.day
     GROUP BY s.sampled_at, s.completed, s.failed
$$;

-- What concerns whoever runs the installation.
CREATE OR REPLACE FUNCTION embedmill.installation_signs(p_now timestamptz)
RETURNS TABLE (kind text, tenant_id integer, subject text, severity text, since timestamptz, message text, numbers jsonb)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    v_open_for interval := make_interval(secs => embedmill.config_integer('alert_transaction_seconds'));
    v_age bigint := embedmill.config_integer('alert_xmin_age');
    v_oldest timestamptz := (
        SELECT min(w.oldest) FROM (SELECT p.oldest FROM embedmill.waiting_pipelines(p_now) AS p
                                    UNION ALL SELECT u.oldest FROM embedmill.waiting_uploads(p_now) AS u
                                    UNION ALL SELECT c.oldest FROM embedmill.waiting_sources() AS c) w);
BEGIN
    RETURN QUERY
    SELECT 'no_workers', NULL::integer, '', 'critical',
           greatest(v_oldest, (SELECT max(w.heartbeat_at) FROM embedmill.embedding_queue_workers w)),
           'no worker is alive and work waits, since {since}: start one with `embedmill worker`, or the service with '
           '`embedmill up`; `embedmill status` lists the last workers and their errors',
           jsonb_build_object('oldestWaitingSeconds', round(extract(epoch FROM p_now - v_oldest)))
     WHERE v_oldest IS NOT NULL AND NOT EXISTS (SELECT FROM embedmill.alive_workers(p_now));

    RETURN QUERY
    SELECT 'queue_off', NULL::integer, '', 'warning',
           (SELECT greatest(c.updated_at, v_oldest) FROM embedmill.embedding_queue_config c WHERE c.key = 'queue_enabled'),
           'the queue is off and work waits, since {since}: `embedmill config set queue_enabled true`', '{}'::jsonb
     WHERE v_oldest IS NOT NULL AND NOT embedmill.queue_enabled();

    RETURN QUERY
    SELECT 'workers_dying', NULL::integer, '', 'warning', min(w.stopped_at),
           format('%s workers died within 15 minutes without stopping in order, the first at {since} (last on %s): look '
                  'at their logs and at the memory of the machine; `embedmill status` lists them', count(*),
                  (array_agg(w.hostname ORDER BY w.stopped_at DESC))[1]),
           jsonb_build_object('workers', count(*))
      FROM embedmill.embedding_queue_workers w
     WHERE w.status = 'error' AND w.stopped_at > p_now - interval '15 minutes'
    HAVING count(*) >= 3;

    -- Of sessions of other accounts only whoever has pg_read_all_stats sees since when they are open.
    RETURN QUERY
    SELECT 'oldest_xmin', NULL::integer, 'transaction', 'warning', o.xact_start,
           format('a transaction (pid %s, user %s, application %s, %s) is open since {since}: until it ends vacuum cannot '
                  'clean what it might still see, and the queue''s tables grow; end it there, or with '
                  '`SELECT pg_terminate_backend(%s)`', o.pid, o.usename, coalesce(nullif(o.application_name, ''), 'unnamed'),
                  coalesce(o.state, 'at work'), o.pid),
           jsonb_build_object('pid', o.pid, 'openSeconds', round(extract(epoch FROM p_now - o.xact_start)),
                              'transactionsBehind', o.behind)
      FROM (SELECT a.pid, a.usename, a.application_name, a.state, a.xact_start,
                   age(coalesce(a.backend_xmin, a.backend_xid)) AS behind
              FROM pg_stat_activity a
             WHERE a.datname = current_database() AND a.xact_start < p_now - v_open_for
               AND coalesce(a.backend_xmin, a.backend_xid) IS NOT NULL AND a.backend_type = 'client backend'
               AND a.pid <> pg_backend_pid()
             ORDER BY a.xact_start LIMIT 1) o
     WHERE v_open_for > interval '0';

    RETURN QUERY
    SELECT 'oldest_xmin', NULL::integer, o.subject, CASE WHEN o.behind > 10 * v_age THEN 'critical' ELSE 'warning' END,
           o.since, format('%s is %s transactions behind, seen since {since}: vacuum cannot clean what it might still '
                           'see%s; %s', o.subject, o.behind, o.more, o.act),
           jsonb_build_object('transactionsBehind', o.behind)
      FROM (SELECT 'replication slot ' || s.slot_name AS subject, NULL::timestamptz AS since,
                   greatest(age(s.xmin), age(s.catalog_xmin))::bigint AS behind,
                   ', and the WAL since then is kept' AS more,
                   format('let its reader go on, or drop it: `SELECT pg_drop_replication_slot(%L)`', s.slot_name) AS act
              FROM pg_replication_slots s WHERE s.database IS NULL OR s.database = current_database()
             UNION ALL
            SELECT 'prepared transaction ' || x.gid, x.prepared, age(x.transaction)::bigint, '',
                   format('`COMMIT PREPARED %L` or `ROLLBACK PREPARED %L`', x.gid, x.gid)
              FROM pg_prepared_xacts x WHERE x.database = current_database()
             UNION ALL
            SELECT 'standby ' || coalesce(nullif(a.application_name, ''), a.pid::text), NULL, age(a.backend_xmin)::bigint,
                   ' (hot_standby_feedback)', 'end the long query on the standby'
              FROM pg_stat_activity a WHERE a.backend_type = 'walsender' AND a.backend_xmin IS NOT NULL) o
     WHERE v_age > 0 AND o.behind > v_age;
END
$$;

-- What concerns the tenants: their pipelines, and what ends or waits in them.
CREATE OR REPLACE FUNCTION embedmill.pipeline_signs(p_now timestamptz)
RETURNS TABLE (kind text, tenant_id integer, subject text, severity text, since timestamptz, message text, numbers jsonb)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    v_waiting interval := make_interval(secs => embedmill.config_integer('alert_waiting_seconds'));
    v_failures bigint := embedmill.config_integer('alert_failure_percent');
    v_alive integer := (SELECT count(*) FROM embedmill.alive_workers(p_now));
BEGIN
    -- A provider that is away, or refuses: what workers say of themselves.
    RETURN QUERY
    SELECT 'provider_trouble', p.tenant_id, p.name,
           CASE WHEN count(DISTINCT w.worker_id) = v_alive THEN 'critical' ELSE 'warning' END, NULL::timestamptz,
           format('%s of %s workers leave pipeline %s alone since {since}: %s', count(DISTINCT w.worker_id), v_alive, p.name,
                  min(t.reason)),
           jsonb_build_object('workers', count(DISTINCT w.worker_id), 'aliveWorkers', v_alive)
      FROM embedmill.alive_workers(p_now) AS w
     CROSS JOIN LATERAL jsonb_each_text(w.troubles) AS t (generation, reason)
      JOIN embedmill.generations g ON g.id::text = t.generation
      JOIN embedmill.pipelines p ON p.id = g.pipeline_id
     -- A worker says so until it gets on again: where nothing is left to be done, it is of the past.
     WHERE EXISTS (SELECT FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
                    CROSS JOIN LATERAL (
                       SELECT FROM embedmill.embedding_queue q
                        WHERE q.generation_id = g.id AND q.priority = lane.priority
                          AND q.status IN ('pending', 'rate_limited') AND q.available_at < 'infinity' LIMIT 1) live)
     GROUP BY p.id;

    IF embedmill.queue_enabled() THEN
        RETURN QUERY
        WITH waiting AS MATERIALIZED (
            SELECT w.*, s.binds, s.cooling_seconds, s.cooldown_reason, s.calls_used, s.calls_per_minute, s.tokens_used,
                   s.tokens_per_minute,
                   EXISTS (SELECT FROM embedmill.alive_workers(p_now) AS a
                            WHERE a.troubles ?| w.generations::text[]) AS has_trouble
              FROM embedmill.waiting_pipelines(p_now) AS w CROSS JOIN LATERAL embedmill.quota_state(w.quota_key) AS s
        )
        SELECT 'quota_exhausted', w.tenant_id, w.quota_key, 'warning', NULL::timestamptz,
               CASE WHEN w.cooling_seconds > 0
                    THEN format('everybody on quota key %s holds back since {since}%s', w.quota_key,
                                ': ' || w.cooldown_reason)
                    ELSE format('work waits for quota key %s since {since}: %s of %s calls and %s of %s tokens of the last '
                                'minute are used', w.quota_key, w.calls_used,
                                coalesce(w.calls_per_minute::text, 'unlimited'), w.tokens_used,
                                coalesce(w.tokens_per_minute::text, 'unlimited')) END
               || format('; `embedmill quota list` shows it, `embedmill quota set %s` raises it if the provider allows '
                         'more', w.quota_key),
               jsonb_build_object('callsUsed', w.calls_used, 'callsPerMinute', w.calls_per_minute, 'tokensUsed',
                                  w.tokens_used, 'tokensPerMinute', w.tokens_per_minute,
                                  'oldestWaitingSeconds', round(extract(epoch FROM p_now - w.oldest)))
          FROM (SELECT DISTINCT ON (b.tenant_id, b.quota_key) b.* FROM waiting b
                 ORDER BY b.tenant_id, b.quota_key, b.oldest) w
         WHERE w.binds AND embedmill.config_integer('alert_quota_seconds') > 0
        UNION ALL
        SELECT 'stuck_queue', w.tenant_id, w.pipeline, 'critical', w.oldest,
               format('work of pipeline %s waits since {since}, and nothing of it has been done for %s: %s', w.pipeline,
                      v_waiting,
                      CASE WHEN v_alive = 0 THEN 'no worker is alive; start one with `embedmill worker`'
                           ELSE '`embedmill queue list` shows what waits, and `embedmill queue explain ID` says why'
                           END),
               jsonb_build_object('oldestWaitingSeconds', round(extract(epoch FROM p_now - w.oldest)),
                                  'aliveWorkers', v_alive)
          FROM waiting w
         WHERE v_waiting > interval '0' AND w.oldest < p_now - v_waiting AND NOT w.has_trouble
           AND NOT (w.binds AND v_alive > 0)
           AND NOT EXISTS (SELECT FROM embedmill.embedding_minutes m
                            WHERE m.minute > p_now - v_waiting AND m.generation_id = ANY (w.generations))
           AND NOT EXISTS (SELECT FROM unnest(w.generations) AS o (id)
                            CROSS JOIN LATERAL embedmill.ended_since(o.id, p_now - v_waiting) AS e
                            WHERE e.completed + e.failed > 0);
    END IF;

    RETURN QUERY
    SELECT 'stuck_uploads', u.tenant_id, '', 'critical', u.oldest,
           format('uploads wait to be read since {since}, and nobody reads any: %s',
                  CASE WHEN v_alive = 0 THEN 'no worker is alive; start one with `embedmill worker`'
                       ELSE 'look at the logs of the workers; `embedmill status` lists them' END),
           jsonb_build_object('oldestWaitingSeconds', round(extract(epoch FROM p_now - u.oldest)), 'aliveWorkers', v_alive)
      FROM embedmill.waiting_uploads(p_now) AS u
     WHERE v_waiting > interval '0' AND u.oldest < p_now - v_waiting
       AND NOT EXISTS (SELECT FROM embedmill.parse_queue q WHERE q.lease_token IS NOT NULL AND q.lease_deadline > p_now);

    RETURN QUERY
    SELECT 'stuck_source', c.tenant_id, c.source, 'critical', c.oldest,
           format('changes of %s are not read since {since}: %s', c.source,
                  CASE WHEN v_alive = 0 THEN 'no worker is alive; start one with `embedmill worker`'
                       ELSE '`embedmill status` says what binds it' END),
           jsonb_build_object('oldestWaitingSeconds', round(extract(epoch FROM p_now - c.oldest)), 'aliveWorkers', v_alive)
      FROM embedmill.waiting_sources() AS c
     WHERE v_waiting > interval '0' AND c.oldest < p_now - v_waiting;

    RETURN QUERY
    SELECT 'failure_rate', f.tenant_id, f.name, CASE WHEN f.failed * 2 >= f.ended THEN 'critical' ELSE 'warning' END,
           NULL::timestamptz,
           format('%s of %s items of pipeline %s that ended within the last %s minutes failed (%s%%), so it is since '
                  '{since}: `embedmill queue dead-letters` says why', f.failed, f.ended, f.name, f.minutes,
                  round(100.0 * f.failed / f.ended)),
           jsonb_build_object('failed', f.failed, 'ended', f.ended, 'minutes', f.minutes)
      FROM (SELECT p.tenant_id, p.name, sum(e.failed) AS failed, sum(e.completed + e.failed) AS ended,
                   round(extract(epoch FROM p_now - min(e.since)) / 60) AS minutes
              FROM embedmill.pipelines p
              JOIN embedmill.generations g ON g.pipeline_id = p.id
             CROSS JOIN LATERAL embedmill.ended_since(g.id, p_now - interval '15 minutes') AS e
             WHERE e.since > p_now - interval '30 minutes'
             GROUP BY p.id) f
     WHERE v_failures > 0 AND f.ended >= 20 AND f.failed * 100 >= f.ended * v_failures;
END
$$;
