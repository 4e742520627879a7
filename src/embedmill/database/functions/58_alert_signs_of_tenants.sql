-- What alerts are raised for, continued: what concerns a tenant beside its queue. As 57_alert_signs.sql.

-- Coverage lies below the best of the last day (or, where that was raised already, what it was then) and has not risen
-- within 15 minutes: what is new is not embedded, or vectors have gone. A large upload makes it fall too, and then it
-- rises.
CREATE OR REPLACE FUNCTION embedmill.coverage_signs(p_now timestamptz)
RETURNS TABLE (kind text, tenant_id integer, subject text, severity text, since timestamptz, message text, numbers jsonb)
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    WITH bound AS MATERIALIZED (
        SELECT embedmill.config_integer('alert_coverage_drop_percent') AS points
    ), low AS MATERIALIZED (
        SELECT r.*, 100.0 * r.embedded / (r.embeddable - u.chunks) AS percent,
               r.embeddable - u.chunks - r.embedded AS lacking
          FROM (SELECT p.tenant_id, p.name || coalesce(' ' || s.name, '') AS subject, p.id AS pipeline_id, c.generation_id,
                       c.record_source_id, c.embedded, c.chunks - c.unembeddable AS embeddable, bound.points
                  FROM bound
                 CROSS JOIN embedmill.pipelines p
                  JOIN embedmill.coverage_counters c ON c.generation_id = p.current_generation_id
                  LEFT JOIN embedmill.record_sources s ON s.id = c.record_source_id
                 WHERE bound.points > 0 AND c.embedded * 100 < (c.chunks - c.unembeddable) * (100 - bound.points)) r
         -- Uploads that stand at their preview lack vectors because nobody has launched them yet.
         CROSS JOIN LATERAL (
            SELECT CASE WHEN r.record_source_id = 0 THEN embedmill.chunks_at_preview(r.tenant_id, r.pipeline_id)
                        ELSE 0 END AS chunks) u
         WHERE r.embeddable > u.chunks AND r.embedded * 100 < (r.embeddable - u.chunks) * (100 - r.points)
    )
    SELECT 'coverage_falling', l.tenant_id, l.subject, 'warning', NULL::timestamptz,
           format('coverage of %s fell from %s%% to %s%% and does not rise since {since}: %s chunks lack their vector; '
                  '`embedmill status` says what binds it, `embedmill audit` finds vectors that were lost', l.subject,
                  round(b.best, 1), round(l.percent, 1), l.lacking),
           jsonb_build_object('percent', round(l.percent, 2), 'bestPercent', round(b.best, 2), 'lackingChunks', l.lacking)
      FROM low l
     CROSS JOIN LATERAL (
        SELECT greatest(max(x.percent), (SELECT (a.numbers ->> 'bestPercent')::numeric FROM embedmill.alerts a
                                          WHERE coalesce(a.tenant_id, 0) = l.tenant_id AND a.kind = 'coverage_falling'
                                            AND a.subject = l.subject AND a.resolved_at IS NULL)) AS best,
               (array_agg(x.percent ORDER BY x.sampled_at DESC)
                    FILTER (WHERE x.sampled_at <= p_now - interval '15 minutes'))[1] AS before
          FROM (SELECT n.sampled_at, 100.0 * n.embedded / (n.chunks - n.unembeddable) AS percent
                  FROM embedmill.coverage_samples n
                 WHERE n.generation_id = l.generation_id AND n.record_source_id = l.record_source_id
                   AND n.sampled_at > p_now - interval '1 day' AND n.chunks > n.unembeddable) x) b
     WHERE l.percent < b.best - l.points AND 100.0 * l.embedded / l.embeddable <= b.before
$$;

CREATE OR REPLACE FUNCTION embedmill.tenant_signs(p_now timestamptz)
RETURNS TABLE (kind text, tenant_id integer, subject text, severity text, since timestamptz, message text, numbers jsonb)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    v_letters bigint := embedmill.config_integer('alert_dead_letters');
    v_percent bigint := embedmill.config_integer('alert_budget_percent');
BEGIN
    RETURN QUERY
    SELECT 'dead_letters', t.id, '', 'warning', NULL::timestamptz,
           format('%s%s dead letters came within the last hour and are open, so many since {since} (most of them: %s): '
                  '`embedmill queue dead-letters` shows them, `embedmill queue dead-letters retry --all` tries them again',
                  n.open, CASE WHEN n.seen = 10000 THEN ' or more' ELSE '' END, n.reason),
           jsonb_build_object('deadLetters', n.open)
      FROM embedmill.tenants t
     CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE r.resolved_at IS NULL) AS open, count(*) AS seen,
               mode() WITHIN GROUP (ORDER BY r.reason) AS reason
          FROM (SELECT l.resolved_at, l.reason FROM embedmill.dead_letters l
                 WHERE l.tenant_id = t.id AND l.created_at > p_now - interval '1 hour'
                 ORDER BY l.created_at DESC LIMIT 10000) r) n
     WHERE v_letters > 0 AND n.open >= v_letters;

    RETURN QUERY
    SELECT 'budget_reached', b.tenant_id, 'tenant', 'critical', b.reached_at,
           format('%s; its work waits since {since}: `embedmill budget set AMOUNT`', embedmill.budget_message(b)),
           jsonb_build_object('limitUsd', b.limit_usd, 'spentUsd', b.spent_usd, 'period', b.period)
      FROM embedmill.budgets b WHERE b.job_id IS NULL AND embedmill.is_reached(b, p_now)
    UNION ALL
    SELECT 'budget_near', b.tenant_id, 'tenant', 'warning', NULL,
           format('%s of the tenant''s budget of %s USD%s are spent (%s%%), more than the %s%% to be warned at since '
                  '{since}: at its limit work waits; `embedmill budget set AMOUNT` raises it',
                  trim_scale(round(b.spent_usd, 6)), trim_scale(b.limit_usd),
                  CASE b.period WHEN 'month' THEN ' of this month' ELSE '' END, floor(100 * b.spent_usd / b.limit_usd),
                  v_percent),
           jsonb_build_object('limitUsd', b.limit_usd, 'spentUsd', b.spent_usd, 'period', b.period)
      FROM embedmill.budgets b
     WHERE b.job_id IS NULL AND v_percent > 0 AND b.limit_usd > 0 AND NOT embedmill.is_reached(b, p_now)
       AND b.spent_usd * 100 >= b.limit_usd * v_percent
       AND (b.period = 'total' OR b.period_start >= embedmill.month_begin(p_now));

    -- Of jobs with a budget of their own; a tenant's own budget is told above, however many jobs it stops.
    RETURN QUERY
    SELECT 'budget_reached', t.id, 'jobs', 'warning', n.since,
           format('%s%s wait%s since {since} because the budget of the job is used up: `embedmill budget set AMOUNT --job '
                  '%s`', n.jobs, CASE WHEN n.jobs = 1 THEN ' job' ELSE ' jobs' END, CASE WHEN n.jobs = 1 THEN 's' ELSE '' END,
                  n.first_job),
           jsonb_build_object('jobs', n.jobs)
      FROM embedmill.tenants t
     CROSS JOIN LATERAL (
        SELECT count(*) AS jobs, min(b.reached_at) AS since, (array_agg(b.job_id ORDER BY b.reached_at))[1] AS first_job
          FROM (SELECT j.id FROM embedmill.ingestion_jobs j
                 WHERE j.tenant_id = t.id AND j.paused_reason = 'budget' AND j.status = 'embedding_in_progress'
                 LIMIT 1000) j
          JOIN embedmill.budgets b ON b.job_id = j.id AND embedmill.is_reached(b, p_now)) n
     WHERE n.jobs > 0;

    RETURN QUERY
    SELECT 'source_trouble', s.tenant_id, s.name, 'critical', NULL::timestamptz,
           format('%s is not read as it should be since {since}: %s', s.name, s.trouble), '{}'::jsonb
      FROM embedmill.record_sources s WHERE s.trouble IS NOT NULL AND s.paused_at IS NULL
    UNION ALL
    SELECT 'column_trouble', c.tenant_id, s.name || ' ' || c.column_name, 'critical', NULL,
           format('vectors cannot be written into column %s of %s since {since}: %s', c.column_name, s.name, c.trouble),
           '{}'
      FROM embedmill.target_columns c JOIN embedmill.record_sources s ON s.id = c.record_source_id
     WHERE c.trouble IS NOT NULL
    UNION ALL
    SELECT 'build_stopped', g.tenant_id, p.name, 'warning', NULL,
           format('the next generation of pipeline %s is not built on since {since}: %s; `embedmill pipeline migrate %s` '
                  'goes on with it, with a larger --budget-usd if need be', p.name, g.build_stopped_reason, p.name),
           jsonb_build_object('budgetUsd', g.budget_usd)
      FROM embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id
     WHERE g.build_stopped_reason LIKE 'its budget%' AND g.build_ended_at IS NULL;

    -- Of what waits for a webhook, what is tried next the latest has been tried most often.
    RETURN QUERY
    SELECT 'webhook_failing', w.tenant_id, w.id::text, 'warning', NULL::timestamptz,
           CASE WHEN w.is_active
                THEN format('the webhook to %s has not taken messages since {since} (%s): they are tried again for three '
                            'days; `embedmill webhook test %s` shows what it answers', w.host, d.error, w.id)
                ELSE format('the webhook to %s was switched off (%s), since {since} it is told nothing: `embedmill webhook '
                            'set %s --on`, then `embedmill webhook redeliver --webhook %s --failed-within 3d`, or '
                            '`embedmill webhook remove %s`', w.host, w.disabled_reason, w.id, w.id, w.id) END,
           jsonb_build_object('attempts', d.attempts, 'givenUpInARow', w.failures)
      FROM (SELECT k.*, substring(k.url FROM '//(?:[^/?#]*@)?([^/?#]*)') AS host FROM embedmill.webhooks k) w
      LEFT JOIN LATERAL (
        SELECT r.attempts, coalesce(r.error, 'it answered ' || r.response_status, 'no answer') AS error
          FROM (SELECT a.attempts, a.error, a.response_status FROM embedmill.webhook_deliveries a
                 WHERE a.webhook_id = w.id AND a.status = 'pending' AND a.event_type <> 'test'
                 ORDER BY a.next_attempt_at DESC LIMIT 100) r
         ORDER BY r.attempts DESC LIMIT 1) d ON w.is_active
     WHERE d.attempts >= 3 OR NOT w.is_active AND w.disabled_reason IS NOT NULL;

    RETURN QUERY
    SELECT 'audit_findings', t.id, '', 'warning', a.ended_at,
           format('the audit that ended at {since} found faults (%s), which nobody has mended: '
                  '`embedmill audit` shows it, `embedmill audit --repair` mends it', f.unmended),
           jsonb_build_object('auditId', a.id, 'findings', f.unmended)
      FROM embedmill.tenants t
     CROSS JOIN LATERAL (
        SELECT u.id, u.ended_at, u.findings FROM embedmill.audits u
         WHERE u.tenant_id = t.id AND u.ended_at IS NOT NULL ORDER BY u.started_at DESC LIMIT 1) a
     CROSS JOIN LATERAL (
        SELECT sum((x ->> 'count')::bigint - coalesce((x ->> 'mended')::bigint, 0)) AS unmended
          FROM jsonb_array_elements(a.findings) AS x) f
     WHERE f.unmended > 0;
END
$$;
