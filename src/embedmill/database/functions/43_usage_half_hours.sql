-- The usage ledger by the half hour: what pages and sums read, so that nobody reads a million calls to say what a month
-- has cost. Nobody who pays for a call waits for another: each appends to usage_unfolded in the transaction that writes
-- its row of the ledger, and the leader folds.

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

-- Appends what these rows of the ledger add.
CREATE OR REPLACE FUNCTION embedmill.usage_appended() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedmill.usage_unfolded
        (tenant_id, half_hour, pipeline_id, usage_type, provider, model, calls, failed_calls, charged_failed_calls, inputs,
         input_tokens, output_tokens, latency_ms, cost_usd, failed_cost_usd, unknown_cost_calls)
    SELECT tenant_id, embedmill.half_hour_of(created_at), coalesce(pipeline_id, 0), usage_type, provider, model,
           count(*), count(error), count(*) FILTER (WHERE error IS NOT NULL AND total_tokens > 0), sum(inputs), sum(input_tokens), sum(output_tokens), sum(latency_ms), sum(cost_usd),
           coalesce(sum(cost_usd) FILTER (WHERE error IS NOT NULL), 0), count(*) FILTER (WHERE cost_usd IS NULL)
      FROM logged GROUP BY 1, 2, 3, 4, 5, 6;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER usage_appended AFTER INSERT ON embedmill.llm_usage_log
    REFERENCING NEW TABLE AS logged FOR EACH STATEMENT EXECUTE FUNCTION embedmill.usage_appended();

-- Folds what was appended into the half hours; returns how many rows, a hundred thousand at most. One folds at a time,
-- others go their way (returns 0).
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
    ), folded AS (
        INSERT INTO embedmill.usage_half_hours AS h
            (tenant_id, half_hour, pipeline_id, usage_type, provider, model, calls, failed_calls, charged_failed_calls,
             inputs, input_tokens, output_tokens, latency_ms, cost_usd, failed_cost_usd, unknown_cost_calls)
        SELECT g.tenant_id, g.half_hour, g.pipeline_id, g.usage_type, g.provider, g.model, sum(g.calls), sum(g.failed_calls),
               sum(g.charged_failed_calls), sum(g.inputs), sum(g.input_tokens), sum(g.output_tokens), sum(g.latency_ms),
               sum(g.cost_usd), sum(g.failed_cost_usd), sum(g.unknown_cost_calls)
          FROM gone g GROUP BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (tenant_id, half_hour, pipeline_id, usage_type, provider, model) DO UPDATE
           SET calls = h.calls + excluded.calls, failed_calls = h.failed_calls + excluded.failed_calls,
               charged_failed_calls = h.charged_failed_calls + excluded.charged_failed_calls,
               inputs = h.inputs + excluded.inputs, input_tokens = h.input_tokens + excluded.input_tokens,
               output_tokens = h.output_tokens + excluded.output_tokens, latency_ms = h.latency_ms + excluded.latency_ms,
               cost_usd = CASE WHEN num_nulls(h.cost_usd, excluded.cost_usd) = 2 THEN NULL
                               ELSE coalesce(h.cost_usd, 0) + coalesce(excluded.cost_usd, 0) END,
               failed_cost_usd = h.failed_cost_usd + excluded.failed_cost_usd,
               unknown_cost_calls = h.unknown_cost_calls + excluded.unknown_cost_calls
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
