-- Questions to the usage ledger: answered by the half hour (43_usage_sums.sql), call by call where that does not tell it,
-- and then of calls past their retention by user and half hour (56_retention.sql).

-- What was used from p_since on and before p_until (NULL: unbounded), as rows to be summed: by the half hour, and call by
-- call only where the span cuts a half hour in two; with p_by_call of all calls, whose user and session are told then. Of
-- those past their retention only the half hour is known any more: it belongs to the span in which it begins, and to no
-- session.
-- To be inlined: the parts that cannot apply are not read, and calls are found by their index also where the span is that of
-- another row.
CREATE OR REPLACE FUNCTION embedmill.usage_between(
    p_tenant_id integer, p_since timestamptz, p_until timestamptz, p_by_call boolean)
RETURNS TABLE (
    at timestamptz, tenant_id integer, pipeline_id integer, session_id uuid, user_id text, usage_type text, provider text,
    model text, calls bigint, failed_calls bigint, charged_failed_calls bigint, inputs bigint, input_tokens bigint,
    output_tokens bigint, latency_ms bigint, cost_usd numeric, failed_cost_usd numeric, unknown_cost_calls bigint)
LANGUAGE sql STABLE AS $$
    SELECT s.half_hour, s.tenant_id, nullif(s.pipeline_id, 0), NULL::uuid, NULL::text, s.usage_type, s.provider, s.model,
           s.calls, s.failed_calls, s.charged_failed_calls, s.inputs, s.input_tokens, s.output_tokens, s.latency_ms,
           s.cost_usd, s.failed_cost_usd, s.unknown_cost_calls
      FROM embedmill.usage_sums s
     WHERE NOT p_by_call AND (p_tenant_id IS NULL OR s.tenant_id = p_tenant_id)
       AND (p_since IS NULL OR s.half_hour >= embedmill.half_hour_from(p_since))
       AND (p_until IS NULL OR s.half_hour < embedmill.half_hour_of(p_until))
     UNION ALL
    -- The beginning and the end of the span, where they stand within a half hour.
    SELECT l.created_at, l.tenant_id, l.pipeline_id, l.session_id, l.user_id, l.usage_type, l.provider, l.model, 1,
           (l.error IS NOT NULL)::integer, (l.error IS NOT NULL AND l.total_tokens > 0)::integer, l.inputs, l.input_tokens,
           l.output_tokens, l.latency_ms, l.cost_usd, CASE WHEN l.error IS NOT NULL THEN coalesce(l.cost_usd, 0) ELSE 0 END,
           (l.cost_usd IS NULL)::integer
      FROM embedmill.llm_usage_log l
     WHERE NOT p_by_call AND (p_tenant_id IS NULL OR l.tenant_id = p_tenant_id)
       AND p_since > embedmill.half_hour_of(p_since)
       AND l.created_at >= p_since
       AND l.created_at < least(embedmill.half_hour_from(p_since), p_until)
     UNION ALL
    SELECT l.created_at, l.tenant_id, l.pipeline_id, l.session_id, l.user_id, l.usage_type, l.provider, l.model, 1,
           (l.error IS NOT NULL)::integer, (l.error IS NOT NULL AND l.total_tokens > 0)::integer, l.inputs, l.input_tokens,
           l.output_tokens, l.latency_ms, l.cost_usd, CASE WHEN l.error IS NOT NULL THEN coalesce(l.cost_usd, 0) ELSE 0 END,
           (l.cost_usd IS NULL)::integer
      FROM embedmill.llm_usage_log l
     WHERE NOT p_by_call AND (p_tenant_id IS NULL OR l.tenant_id = p_tenant_id)
       AND p_until > embedmill.half_hour_of(p_until)
       AND l.created_at >= greatest(embedmill.half_hour_of(p_until),
                                    embedmill.half_hour_from(p_since))
       AND l.created_at < p_until
     UNION ALL
    SELECT l.created_at, l.tenant_id, l.pipeline_id, l.session_id, l.user_id, l.usage_type, l.provider, l.model, 1,
           (l.error IS NOT NULL)::integer, (l.error IS NOT NULL AND l.total_tokens > 0)::integer, l.inputs, l.input_tokens,
           l.output_tokens, l.latency_ms, l.cost_usd, CASE WHEN l.error IS NOT NULL THEN coalesce(l.cost_usd, 0) ELSE 0 END,
           (l.cost_usd IS NULL)::integer
      FROM embedmill.llm_usage_log l
     WHERE p_by_call AND (p_tenant_id IS NULL OR l.tenant_id = p_tenant_id)
       AND l.created_at >= greatest(p_since, '-infinity') AND l.created_at < least(p_until, 'infinity')
     UNION ALL
    SELECT o.half_hour, o.tenant_id, nullif(o.pipeline_id, 0), NULL, o.user_id, o.usage_type, o.provider, o.model, o.calls,
           o.failed_calls, o.charged_failed_calls, o.inputs, o.input_tokens, o.output_tokens, o.latency_ms, o.cost_usd,
           o.failed_cost_usd, o.unknown_cost_calls
      FROM embedmill.usage_of_users o
     WHERE p_by_call AND (p_tenant_id IS NULL OR o.tenant_id = p_tenant_id)
       AND o.half_hour >= greatest(p_since, '-infinity') AND o.half_hour < least(p_until, 'infinity')
$$;

-- Sums of the ledger by usage_type, model, pipeline, day, user, session or tenant, and one row of all (is_total).
-- From p_since on and before p_until (NULL: unbounded); days as the time zone has them. The sum of costs is that of
-- the known ones, NULL where none is known; unknown_cost_calls says how many are missing from it.
CREATE OR REPLACE FUNCTION embedmill.summarize_usage(
    p_tenant_id integer, p_group_by text, p_since timestamptz, p_until timestamptz, p_time_zone text)
RETURNS TABLE (
    is_total boolean, group_name text, calls bigint, failed_calls bigint, inputs bigint, input_tokens bigint,
    output_tokens bigint, total_tokens bigint, cost_usd numeric, unknown_cost_calls bigint,
    latency_ms_average double precision)
-- Planned with the values at hand, so that a tenant and a time are found by their index.
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    v_by_call boolean := p_group_by IN ('user', 'session');
BEGIN
    IF p_group_by NOT IN ('usage_type', 'model', 'pipeline', 'day', 'user', 'session', 'tenant') THEN
        RAISE EXCEPTION 'usage cannot be summed by %', p_group_by USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM now() AT TIME ZONE p_time_zone;     -- refused also where there is no row to show it with
    IF p_group_by = 'day' AND NOT embedmill.has_half_hour_days(p_time_zone, p_since, p_until) THEN
        v_by_call := true;
    END IF;
    RETURN QUERY
    WITH chosen AS (
        SELECT CASE p_group_by
                   WHEN 'usage_type' THEN l.usage_type
                   WHEN 'model' THEN l.provider || '/' || l.model
                   WHEN 'pipeline' THEN l.pipeline_id::text
                   WHEN 'day' THEN to_char(l.at AT TIME ZONE p_time_zone, 'YYYY-MM-DD')
                   WHEN 'user' THEN l.user_id
                   WHEN 'session' THEN l.session_id::text
                   WHEN 'tenant' THEN l.tenant_id::text
               END AS key, l.*
          FROM embedmill.usage_between(p_tenant_id, p_since, p_until, v_by_call) l
    ), summed AS (
        SELECT grouping(c.key) = 1 AS is_total, c.key, coalesce(sum(c.calls), 0)::bigint AS calls,
               coalesce(sum(c.failed_calls), 0)::bigint AS failed_calls,
               coalesce(sum(c.inputs), 0)::bigint AS inputs, coalesce(sum(c.input_tokens), 0)::bigint AS input_tokens,
               coalesce(sum(c.output_tokens), 0)::bigint AS output_tokens,
               coalesce(sum(c.input_tokens + c.output_tokens), 0)::bigint AS total_tokens,
               CASE WHEN count(*) = 0 THEN 0 ELSE sum(c.cost_usd) END AS cost_usd,
               coalesce(sum(c.unknown_cost_calls), 0)::bigint AS unknown_cost_calls,
               (sum(c.latency_ms) / nullif(sum(c.calls), 0))::double precision AS latency_ms_average
          FROM chosen c GROUP BY GROUPING SETS ((), (c.key))
    )
    SELECT s.is_total,
           CASE WHEN s.is_total THEN NULL
                WHEN p_group_by = 'pipeline' THEN
                    -- Names are unique within a tenant only.
                    (SELECT CASE WHEN p_tenant_id IS NULL THEN t.slug || '/' || p.name ELSE p.name END
                       FROM embedmill.pipelines p JOIN embedmill.tenants t ON t.id = p.tenant_id
                      WHERE p.id = s.key::integer)
                WHEN p_group_by = 'tenant' THEN
                    coalesce((SELECT t.slug FROM embedmill.tenants t WHERE t.id = s.key::integer), s.key)
                ELSE s.key END,
           s.calls, s.failed_calls, s.inputs, s.input_tokens, s.output_tokens, s.total_tokens, s.cost_usd,
           s.unknown_cost_calls, s.latency_ms_average
      FROM summed s;
END
$$;

-- What a tenant has used since a moment, of all or of one pipeline, type or generation (whose searches are not counted).
-- A cost that nobody knows counts as nothing; of how many calls, unknown_cost_calls says. Where single calls are gone, all
-- of the half hour that holds the moment is counted.
CREATE OR REPLACE FUNCTION embedmill.usage_since(
    p_tenant_id integer, p_since timestamptz, p_pipeline_id integer DEFAULT NULL, p_usage_type text DEFAULT NULL,
    p_generation_id integer DEFAULT NULL,
    OUT calls bigint, OUT tokens bigint, OUT cost_usd numeric, OUT unknown_cost_calls bigint)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    WITH found AS (
        SELECT s.calls, s.input_tokens + s.output_tokens AS tokens, coalesce(s.cost_usd, 0) AS cost_usd,
               s.unknown_cost_calls
          FROM embedmill.usage_sums s
         WHERE s.tenant_id = p_tenant_id AND s.half_hour >= embedmill.half_hour_of(p_since)
           AND (p_pipeline_id IS NULL OR s.pipeline_id = p_pipeline_id)
           AND (p_usage_type IS NULL OR s.usage_type = p_usage_type)
           AND (p_generation_id IS NULL OR s.generation_id = p_generation_id AND s.usage_type <> 'query')
         UNION ALL
        -- Less what its first half hour holds of before.
        SELECT -1, -l.total_tokens, -coalesce(l.cost_usd, 0), -(l.cost_usd IS NULL)::integer
          FROM embedmill.llm_usage_log l
         WHERE l.tenant_id = p_tenant_id AND l.created_at >= embedmill.half_hour_of(p_since) AND l.created_at < p_since
           AND (p_pipeline_id IS NULL OR l.pipeline_id = p_pipeline_id)
           AND (p_usage_type IS NULL OR l.usage_type = p_usage_type)
           AND (p_generation_id IS NULL OR l.generation_id = p_generation_id AND l.usage_type <> 'query')
    )
    SELECT coalesce(sum(f.calls), 0), coalesce(sum(f.tokens), 0), coalesce(sum(f.cost_usd), 0),
           coalesce(sum(f.unknown_cost_calls), 0)
      INTO usage_since.calls, usage_since.tokens, usage_since.cost_usd, usage_since.unknown_cost_calls
      FROM found f;
END
$$;
