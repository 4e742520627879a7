-- The usage ledger summed: by the half hour and by three hours, which pages and sums read so that nobody reads a million
-- calls to say what a month has cost, and ever, which metrics read. Nobody who pays for a call waits for another: each
-- appends one row to usage_unfolded in the transaction that writes its row of the ledger, and the leader folds.

-- The half hour of UTC in which a moment lies.
CREATE OR REPLACE FUNCTION embedmill.half_hour_of(p_at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    SELECT date_bin('30 minutes', p_at, '2000-01-01 00:00+00')
$$;

-- The half hour that begins then, or else the next one. Plain seconds are added: the same in every zone, whatever the
-- general sum of a moment and an interval must be declared.
CREATE OR REPLACE FUNCTION embedmill.half_hour_from(p_at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    SELECT date_bin('30 minutes', p_at + interval '1799.999999 seconds', '2000-01-01 00:00+00')
$$;

-- The three hours of UTC in which a moment lies.
CREATE OR REPLACE FUNCTION embedmill.three_hours_of(p_at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    SELECT date_bin('3 hours', p_at, '2000-01-01 00:00+00')
$$;

-- Appends what this row of the ledger adds. The same stands in 0006_operations.sql, for the moment before the functions come.
CREATE OR REPLACE FUNCTION embedmill.usage_appended() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedmill.usage_unfolded
        (tenant_id, half_hour, pipeline_id, generation_id, usage_type, provider, model, calls, failed_calls,
         charged_failed_calls, inputs, input_tokens, output_tokens, latency_ms, cost_usd, failed_cost_usd, unknown_cost_calls)
    VALUES (new.tenant_id, embedmill.half_hour_of(new.created_at), coalesce(new.pipeline_id, 0),
            coalesce(new.generation_id, 0), new.usage_type, new.provider, new.model, 1, (new.error IS NOT NULL)::integer,
            (new.error IS NOT NULL AND new.input_tokens + new.output_tokens > 0)::integer, new.inputs, new.input_tokens,
            new.output_tokens, new.latency_ms, new.cost_usd,
            CASE WHEN new.error IS NOT NULL THEN coalesce(new.cost_usd, 0) ELSE 0 END, (new.cost_usd IS NULL)::integer);
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER usage_appended AFTER INSERT ON embedmill.llm_usage_log
    FOR EACH ROW EXECUTE FUNCTION embedmill.usage_appended();

-- Folds what was appended into half hours, three hours and totals, in one statement; returns how many rows, a hundred
-- thousand at most. One folds at a time, others go their way (returns 0). Of the totals the first 300 sets of labels are
-- named in metrics, those that come later are summed: which, is decided when a set comes, so that no counter ever goes
-- back. Backfills of all sources count together there: names of sources have no bound.
CREATE OR REPLACE FUNCTION embedmill.fold_usage() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('embedmill.fold_usage')) THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM embedmill.usage_unfolded u
         WHERE u.ctid = ANY (ARRAY(SELECT ctid FROM embedmill.usage_unfolded LIMIT 100000))
        RETURNING u.*
    ), by_half_hour AS (
        SELECT tenant_id, half_hour, pipeline_id, generation_id, usage_type, provider, model, sum(calls) AS calls,
               sum(failed_calls) AS failed_calls, sum(charged_failed_calls) AS charged_failed_calls, sum(inputs) AS inputs,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(latency_ms) AS latency_ms,
               sum(cost_usd) AS cost_usd, sum(failed_cost_usd) AS failed_cost_usd,
               sum(unknown_cost_calls) AS unknown_cost_calls
          FROM gone GROUP BY 1, 2, 3, 4, 5, 6, 7
    ), ever AS (
        SELECT tenant_id, pipeline_id, split_part(usage_type, ':', 1) AS usage_type, provider, model, sum(calls) AS calls,
               sum(failed_calls) AS failed_calls, sum(input_tokens + output_tokens) AS tokens,
               coalesce(sum(cost_usd), 0) AS cost_usd, sum(unknown_cost_calls) AS unknown_cost_calls
          FROM by_half_hour GROUP BY 1, 2, 3, 4, 5
    ), folded AS (
        INSERT INTO embedmill.usage_half_hours AS h
            (tenant_id, half_hour, pipeline_id, generation_id, usage_type, provider, model, calls, failed_calls,
             charged_failed_calls, inputs, input_tokens, output_tokens, latency_ms, cost_usd, failed_cost_usd,
             unknown_cost_calls)
        SELECT * FROM by_half_hour
        ON CONFLICT (tenant_id, half_hour, pipeline_id, generation_id, usage_type, provider, model) DO UPDATE
           SET calls = h.calls + excluded.calls, failed_calls = h.failed_calls + excluded.failed_calls,
               charged_failed_calls = h.charged_failed_calls + excluded.charged_failed_calls,
               inputs = h.inputs + excluded.inputs, input_tokens = h.input_tokens + excluded.input_tokens,
               output_tokens = h.output_tokens + excluded.output_tokens, latency_ms = h.latency_ms + excluded.latency_ms,
               cost_usd = CASE WHEN num_nulls(h.cost_usd, excluded.cost_usd) = 2 THEN NULL
                               ELSE coalesce(h.cost_usd, 0) + coalesce(excluded.cost_usd, 0) END,
               failed_cost_usd = h.failed_cost_usd + excluded.failed_cost_usd,
               unknown_cost_calls = h.unknown_cost_calls + excluded.unknown_cost_calls
    ), folded_wider AS (
        INSERT INTO embedmill.usage_three_hours AS h
            (tenant_id, three_hours, pipeline_id, generation_id, usage_type, provider, model, calls, failed_calls,
             charged_failed_calls, inputs, input_tokens, output_tokens, latency_ms, cost_usd, failed_cost_usd,
             unknown_cost_calls)
        SELECT tenant_id, embedmill.three_hours_of(half_hour), pipeline_id, generation_id, usage_type, provider, model,
               sum(calls), sum(failed_calls), sum(charged_failed_calls), sum(inputs), sum(input_tokens), sum(output_tokens),
               sum(latency_ms), sum(cost_usd), sum(failed_cost_usd), sum(unknown_cost_calls)
          FROM by_half_hour GROUP BY 1, 2, 3, 4, 5, 6, 7
        ON CONFLICT (tenant_id, three_hours, pipeline_id, generation_id, usage_type, provider, model) DO UPDATE
           SET calls = h.calls + excluded.calls, failed_calls = h.failed_calls + excluded.failed_calls,
               charged_failed_calls = h.charged_failed_calls + excluded.charged_failed_calls,
               inputs = h.inputs + excluded.inputs, input_tokens = h.input_tokens + excluded.input_tokens,
               output_tokens = h.output_tokens + excluded.output_tokens, latency_ms = h.latency_ms + excluded.latency_ms,
               cost_usd = CASE WHEN num_nulls(h.cost_usd, excluded.cost_usd) = 2 THEN NULL
                               ELSE coalesce(h.cost_usd, 0) + coalesce(excluded.cost_usd, 0) END,
               failed_cost_usd = h.failed_cost_usd + excluded.failed_cost_usd,
               unknown_cost_calls = h.unknown_cost_calls + excluded.unknown_cost_calls
    ), counted AS (
        INSERT INTO embedmill.usage_totals AS k
            (tenant_id, pipeline_id, usage_type, provider, model, tenant, pipeline, is_named, calls, failed_calls, tokens,
             cost_usd, unknown_cost_calls)
        SELECT e.tenant_id, e.pipeline_id, e.usage_type, e.provider, e.model,
               coalesce((SELECT t.slug FROM embedmill.tenants t WHERE t.id = e.tenant_id), 'deleted'),
               coalesce((SELECT p.name FROM embedmill.pipelines p WHERE p.id = e.pipeline_id), 'none'),
               row_number() OVER (ORDER BY o.tenant_id IS NOT NULL, e.tokens DESC, e.tenant_id, e.pipeline_id,
                                           e.usage_type, e.provider, e.model)
                   <= 300 - (SELECT count(*) FROM embedmill.usage_totals WHERE is_named),
               e.calls, e.failed_calls, e.tokens, e.cost_usd, e.unknown_cost_calls
          FROM ever e
          LEFT JOIN embedmill.usage_totals o
                 ON (o.tenant_id, o.pipeline_id, o.usage_type, o.provider, o.model)
                  = (e.tenant_id, e.pipeline_id, e.usage_type, e.provider, e.model)
        ON CONFLICT (tenant_id, pipeline_id, usage_type, provider, model) DO UPDATE
           SET calls = k.calls + excluded.calls, failed_calls = k.failed_calls + excluded.failed_calls,
               tokens = k.tokens + excluded.tokens, cost_usd = k.cost_usd + excluded.cost_usd,
               unknown_cost_calls = k.unknown_cost_calls + excluded.unknown_cost_calls
    )
    SELECT count(*) INTO v_count FROM gone;
    RETURN v_count;
END
$$;

-- What was used, by the half hour: what is folded and what is not yet. Several rows may stand for one half hour.
CREATE OR REPLACE VIEW embedmill.usage_sums WITH (security_invoker = true) AS
    SELECT * FROM embedmill.usage_half_hours
    UNION ALL
    SELECT * FROM embedmill.usage_unfolded;
SELECT embedmill.grant_table('embedmill.usage_sums', 'SELECT', false);

-- Whether the days of a zone are made of whole half hours of UTC at both moments (Nepal's and the Chatham Islands' are not).
CREATE OR REPLACE FUNCTION embedmill.has_half_hour_days(p_time_zone text, p_since timestamptz, p_until timestamptz)
RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT bool_and(extract(epoch FROM (t.at AT TIME ZONE p_time_zone) - (t.at AT TIME ZONE 'UTC'))::integer % 1800 = 0)
      FROM (VALUES (coalesce(p_since, now())), (coalesce(p_until, now()))) AS t (at)
$$;
