-- The usage ledger summed.

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
BEGIN
    IF p_group_by NOT IN ('usage_type', 'model', 'pipeline', 'day', 'user', 'session', 'tenant') THEN
        RAISE EXCEPTION 'usage cannot be summed by %', p_group_by USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM now() AT TIME ZONE p_time_zone;     -- refused also where there is no row to show it with
    RETURN QUERY
    WITH chosen AS (
        SELECT CASE p_group_by
                   WHEN 'usage_type' THEN l.usage_type
                   WHEN 'model' THEN l.provider || '/' || l.model
                   WHEN 'pipeline' THEN l.pipeline_id::text
                   WHEN 'day' THEN to_char(l.created_at AT TIME ZONE p_time_zone, 'YYYY-MM-DD')
                   WHEN 'user' THEN l.user_id
                   WHEN 'session' THEN l.session_id::text
                   WHEN 'tenant' THEN l.tenant_id::text
               END AS key, l.*
          FROM embedmill.llm_usage_log l
         WHERE (p_tenant_id IS NULL OR l.tenant_id = p_tenant_id)
           AND (p_since IS NULL OR l.created_at >= p_since) AND (p_until IS NULL OR l.created_at < p_until)
    ), summed AS (
        SELECT grouping(c.key) = 1 AS is_total, c.key, count(*) AS calls, count(c.error) AS failed_calls,
               coalesce(sum(c.inputs), 0)::bigint AS inputs, coalesce(sum(c.input_tokens), 0)::bigint AS input_tokens,
               coalesce(sum(c.output_tokens), 0)::bigint AS output_tokens,
               coalesce(sum(c.total_tokens), 0)::bigint AS total_tokens,
               CASE WHEN count(*) = 0 THEN 0 ELSE sum(c.cost_usd) END AS cost_usd,
               count(*) FILTER (WHERE c.cost_usd IS NULL) AS unknown_cost_calls,
               avg(c.latency_ms)::double precision AS latency_ms_average
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
