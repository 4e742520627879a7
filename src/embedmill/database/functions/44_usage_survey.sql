-- The usage of a span as a page shows it, in one reading.

-- All that a page shows of a span at once, read once: `what` is total, usage_type, model, pipeline, tenant, or day (with a
-- row for each kind of usage: backfills of all sources are one) from p_since, which is the beginning of one. Costs as in summarize_usage; of each kind of group
-- p_limit at most, those with most tokens.
CREATE OR REPLACE FUNCTION embedmill.survey_usage(
    p_tenant_id integer, p_since timestamptz, p_until timestamptz, p_time_zone text, p_limit integer)
RETURNS TABLE (
    what text, day date, group_name text, calls bigint, failed_calls bigint, charged_failed_calls bigint, inputs bigint,
    input_tokens bigint, output_tokens bigint, cost_usd numeric, failed_cost_usd numeric, unknown_cost_calls bigint,
    latency_ms_average double precision)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan SET jit = off AS $$
DECLARE
    -- Where each day begins: to look them up is quicker than to ask the calendar for each row.
    v_first date := (p_since AT TIME ZONE p_time_zone)::date;
    v_days timestamptz[] := ARRAY(
        SELECT d AT TIME ZONE p_time_zone
          FROM generate_series(v_first::timestamp, (coalesce(p_until, now()) AT TIME ZONE p_time_zone)::date, '1 day') d);
    -- The half hours within which one does (in Nepal, say), and their ends: these few are summed call by call. Their ends
    -- stand ready, since under row-level security a sum is no key to an index.
    v_cut timestamptz[] := ARRAY(SELECT embedmill.half_hour_of(d) FROM unnest(v_days) d WHERE d > embedmill.half_hour_of(d));
    v_cut_ends timestamptz[] := ARRAY(SELECT c + interval '30 minutes' FROM unnest(v_cut) c);
    -- The span is read by three hours from v_since on and before v_until, but for those within which a day begins.
    v_since timestamptz := embedmill.three_hours_of(p_since + interval '10799.999999 seconds');
    v_until timestamptz := greatest(embedmill.three_hours_of(coalesce(p_until, 'infinity')), v_since);
    v_split timestamptz[] := ARRAY(
        SELECT DISTINCT embedmill.three_hours_of(d) FROM unnest(v_days) d
         WHERE d > embedmill.three_hours_of(d) AND d >= v_since AND d < v_until);
    v_halves timestamptz[] := ARRAY(SELECT s + n * interval '30 minutes' FROM unnest(v_split) s, generate_series(0, 5) n);
BEGIN
    RETURN QUERY
    WITH base AS MATERIALIZED (
        SELECT width_bucket(u.at, v_days) AS day, u.tenant_id, u.pipeline_id, u.usage_type, u.provider,
               u.model AS bare_model, sum(u.calls) AS calls,
               sum(u.failed_calls) AS failed_calls, sum(u.charged_failed_calls) AS charged_failed_calls,
               sum(u.inputs) AS inputs, sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens,
               sum(u.cost_usd) AS cost_usd, sum(u.failed_cost_usd) AS failed_cost_usd,
               sum(u.unknown_cost_calls) AS unknown_cost_calls, sum(u.latency_ms) AS latency_ms
          FROM (SELECT t.three_hours AS at, t.tenant_id, nullif(t.pipeline_id, 0) AS pipeline_id, t.usage_type, t.provider,
                       t.model, t.calls, t.failed_calls, t.charged_failed_calls, t.inputs, t.input_tokens, t.output_tokens,
                       t.latency_ms, t.cost_usd, t.failed_cost_usd, t.unknown_cost_calls
                  FROM embedmill.usage_three_hours t
                 WHERE (p_tenant_id IS NULL OR t.tenant_id = p_tenant_id) AND t.three_hours >= v_since
                   AND t.three_hours < v_until AND t.three_hours <> ALL (v_split)
                UNION ALL
                SELECT n.half_hour, n.tenant_id, nullif(n.pipeline_id, 0), n.usage_type, n.provider, n.model, n.calls,
                       n.failed_calls, n.charged_failed_calls, n.inputs, n.input_tokens, n.output_tokens, n.latency_ms,
                       n.cost_usd, n.failed_cost_usd, n.unknown_cost_calls
                  FROM embedmill.usage_unfolded n
                 WHERE (p_tenant_id IS NULL OR n.tenant_id = p_tenant_id) AND n.half_hour >= v_since
                   AND n.half_hour < v_until AND embedmill.three_hours_of(n.half_hour) <> ALL (v_split)
                UNION ALL
                -- The rest of the span: before these three hours, after them, and those that were left out.
                SELECT w.at, w.tenant_id, w.pipeline_id, w.usage_type, w.provider, w.model, w.calls, w.failed_calls,
                       w.charged_failed_calls, w.inputs, w.input_tokens, w.output_tokens, w.latency_ms, w.cost_usd,
                       w.failed_cost_usd, w.unknown_cost_calls
                  FROM (SELECT * FROM embedmill.usage_between(p_tenant_id, p_since, least(v_since, p_until), false)
                        UNION ALL
                        SELECT * FROM embedmill.usage_between(p_tenant_id, v_until, p_until, false)) w
                 WHERE v_cut = '{}' OR embedmill.half_hour_of(w.at) <> ALL (v_cut)
                UNION ALL
                SELECT s.half_hour, s.tenant_id, nullif(s.pipeline_id, 0), s.usage_type, s.provider, s.model, s.calls,
                       s.failed_calls, s.charged_failed_calls, s.inputs, s.input_tokens, s.output_tokens, s.latency_ms,
                       s.cost_usd, s.failed_cost_usd, s.unknown_cost_calls
                  FROM embedmill.usage_sums s
                 WHERE (p_tenant_id IS NULL OR s.tenant_id = p_tenant_id) AND s.half_hour = ANY (v_halves)
                   AND s.half_hour <> ALL (v_cut)
                UNION ALL
                SELECT c.at, c.tenant_id, c.pipeline_id, c.usage_type, c.provider, c.model, c.calls, c.failed_calls,
                       c.charged_failed_calls, c.inputs, c.input_tokens, c.output_tokens, c.latency_ms, c.cost_usd,
                       c.failed_cost_usd, c.unknown_cost_calls
                  FROM unnest(v_cut, v_cut_ends) AS cut (since, until)
                 CROSS JOIN LATERAL embedmill.usage_between(p_tenant_id, greatest(cut.since, p_since),
                                                            least(cut.until, p_until), true) c) u
         GROUP BY 1, 2, 3, 4, 5, 6
    ), named AS (
        SELECT n.*, split_part(n.usage_type, ':', 1) AS kind, n.provider || '/' || n.bare_model AS model FROM base n
    ), grouped AS (
        SELECT grouping(b.day, b.usage_type, b.model, b.pipeline_id, b.tenant_id) AS sets, b.day, b.kind, b.usage_type,
               b.model, b.pipeline_id, b.tenant_id, sum(b.calls)::bigint AS calls,
               sum(b.failed_calls)::bigint AS failed_calls, sum(b.charged_failed_calls)::bigint AS charged_failed_calls,
               sum(b.inputs)::bigint AS inputs, sum(b.input_tokens)::bigint AS input_tokens,
               sum(b.output_tokens)::bigint AS output_tokens, sum(b.cost_usd) AS cost_usd,
               sum(b.failed_cost_usd) AS failed_cost_usd, sum(b.unknown_cost_calls)::bigint AS unknown_cost_calls,
               (sum(b.latency_ms) / nullif(sum(b.calls), 0))::double precision AS latency_ms_average
          FROM named b
         GROUP BY GROUPING SETS ((), (b.usage_type), (b.model), (b.pipeline_id), (b.tenant_id), (b.day, b.kind))
    ), ranked AS (
        SELECT g.*, row_number() OVER (PARTITION BY g.sets ORDER BY g.input_tokens + g.output_tokens DESC, g.calls DESC,
                                       g.usage_type, g.model, g.pipeline_id, g.tenant_id, g.day, g.kind) AS place
          FROM grouped g
    )
    SELECT CASE r.sets WHEN 31 THEN 'total' WHEN 23 THEN 'usage_type' WHEN 27 THEN 'model' WHEN 29 THEN 'pipeline'
                       WHEN 30 THEN 'tenant' WHEN 15 THEN 'day' END,
           v_first + r.day - 1,
           CASE r.sets
               WHEN 23 THEN r.usage_type WHEN 27 THEN r.model WHEN 15 THEN r.kind
               WHEN 29 THEN (SELECT CASE WHEN p_tenant_id IS NULL THEN t.slug || '/' || p.name ELSE p.name END
                               FROM embedmill.pipelines p JOIN embedmill.tenants t ON t.id = p.tenant_id
                              WHERE p.id = r.pipeline_id)
               WHEN 30 THEN coalesce((SELECT t.slug FROM embedmill.tenants t WHERE t.id = r.tenant_id), r.tenant_id::text)
           END,
           coalesce(r.calls, 0), coalesce(r.failed_calls, 0), coalesce(r.charged_failed_calls, 0), coalesce(r.inputs, 0),
           coalesce(r.input_tokens, 0), coalesce(r.output_tokens, 0),
           CASE WHEN r.calls IS NULL THEN 0 ELSE r.cost_usd END, coalesce(r.failed_cost_usd, 0),
           coalesce(r.unknown_cost_calls, 0), r.latency_ms_average
      FROM ranked r WHERE r.place <= p_limit OR r.sets = 15
     ORDER BY r.sets, r.day, r.place;
END
$$;
