-- What is past its retention goes, a few thousand rows at a time: each step is a transaction of its own, which nobody
-- waits for. Days of the queue's history are dropped whole (55_sweeps.sql: clean_up), originals by the service, which
-- has them (forget_originals).

-- Calls that are past the ledger's retention: the sums hold them already (43_usage_sums.sql), but for who made them, which
-- is kept by the half hour. Who asks what was spent gets the same answer as before; by job no more. Returns how many rows
-- went, p_limit at most.
CREATE OR REPLACE FUNCTION embedmill.fold_old_usage(p_before timestamptz, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH oldest AS MATERIALIZED (
        SELECT o.id
          FROM embedmill.tenants t
         CROSS JOIN LATERAL (
            SELECT l.id FROM embedmill.llm_usage_log l
             WHERE l.tenant_id = t.id AND l.created_at < p_before ORDER BY l.created_at LIMIT p_limit) o
         LIMIT p_limit
    ), gone AS (
        DELETE FROM embedmill.llm_usage_log l WHERE l.id = ANY (ARRAY(SELECT o.id FROM oldest o))
        RETURNING l.*
    ), summed AS (
        INSERT INTO embedmill.usage_of_users AS o
            (tenant_id, half_hour, user_id, pipeline_id, usage_type, provider, model, calls, failed_calls,
             charged_failed_calls, inputs, input_tokens, output_tokens, latency_ms, cost_usd, failed_cost_usd,
             unknown_cost_calls)
        SELECT g.tenant_id, embedmill.half_hour_of(g.created_at), g.user_id, coalesce(g.pipeline_id, 0), g.usage_type,
               g.provider, g.model, count(*), count(g.error),
               count(*) FILTER (WHERE g.error IS NOT NULL AND g.total_tokens > 0), sum(g.inputs), sum(g.input_tokens),
               sum(g.output_tokens), sum(g.latency_ms), sum(g.cost_usd),
               coalesce(sum(g.cost_usd) FILTER (WHERE g.error IS NOT NULL), 0), count(*) FILTER (WHERE g.cost_usd IS NULL)
          FROM gone g
         GROUP BY 1, 2, 3, 4, 5, 6, 7
        ON CONFLICT (tenant_id, half_hour, user_id, pipeline_id, usage_type, provider, model) DO UPDATE
           SET calls = o.calls + excluded.calls, failed_calls = o.failed_calls + excluded.failed_calls,
               charged_failed_calls = o.charged_failed_calls + excluded.charged_failed_calls,
               inputs = o.inputs + excluded.inputs, input_tokens = o.input_tokens + excluded.input_tokens,
               output_tokens = o.output_tokens + excluded.output_tokens, latency_ms = o.latency_ms + excluded.latency_ms,
               cost_usd = CASE WHEN num_nulls(o.cost_usd, excluded.cost_usd) = 2 THEN NULL
                               ELSE coalesce(o.cost_usd, 0) + coalesce(excluded.cost_usd, 0) END,
               failed_cost_usd = o.failed_cost_usd + excluded.failed_cost_usd,
               unknown_cost_calls = o.unknown_cost_calls + excluded.unknown_cost_calls
    )
    SELECT count(*) INTO v_count FROM gone;
    RETURN v_count;
END
$$;

-- One step: what is past its retention, p_limit rows of each kind at most. Returns what went, for people.
CREATE OR REPLACE FUNCTION embedmill.drop_expired(p_limit integer DEFAULT 5000) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_history timestamptz := now() - make_interval(days => embedmill.config_integer('history_retention_days')::integer);
    v_usage_days integer := embedmill.config_integer('usage_retention_days');
    v_audit_days integer := embedmill.config_integer('audit_log_retention_days');
    v_done text[] := '{}';
    v_count bigint;
    v record;
BEGIN
    IF v_usage_days > 0 THEN
        v_count := embedmill.fold_old_usage(now() - make_interval(days => greatest(v_usage_days, 32)), p_limit);
        IF v_count > 0 THEN
            v_done := v_done || (v_count || ' calls of the ledger summed');
        END IF;
    END IF;
    FOR v IN
        SELECT * FROM (VALUES
            ('events', 'created_at', 'true',
             now() - make_interval(days => embedmill.config_integer('events_retention_days')::integer)),
            ('webhook_deliveries', 'created_at', 'status <> ''pending''',
             now() - make_interval(days => embedmill.config_integer('webhook_retention_days')::integer)),
            ('alerts', 'resolved_at', 'resolved_at IS NOT NULL',
             now() - make_interval(days => embedmill.config_integer('alert_retention_days')::integer)),
            ('dead_letters', 'resolved_at', 'resolved_at IS NOT NULL', v_history),
            ('audit_log', 'at', 'true', CASE WHEN v_audit_days > 0 THEN now() - make_interval(days => v_audit_days) END),
            ('idempotency_keys', 'created_at', 'true', now() - interval '1 day'),
            ('embedding_minutes', 'minute', 'true', now() - interval '7 days')
        ) AS t (name, age_column, condition, before)
        WHERE t.before IS NOT NULL
    LOOP
        EXECUTE format(
            'DELETE FROM embedmill.%1$I WHERE ctid = ANY (ARRAY('
            'SELECT ctid FROM embedmill.%1$I WHERE %2$I < $1 AND %3$s ORDER BY %2$I LIMIT $2 FOR UPDATE SKIP LOCKED))',
            v.name, v.age_column, v.condition) USING v.before, p_limit;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count > 0 THEN
            v_done := v_done || (v_count || ' ' || replace(v.name, '_', ' '));
        END IF;
    END LOOP;
    RETURN CASE WHEN v_done = '{}' THEN 'nothing' ELSE array_to_string(v_done, ', ') END;
END
$$;

-- Originals whose job has ended and that are past their retention are nobody's from now on: their keys come back, for
-- whoever removes them from the store; what is not removed then, the sweep of the store finds. Documents are held in the
-- order of 35_documents.sql, so that nobody resumes the job meanwhile; what is being worked on is passed over.
CREATE OR REPLACE FUNCTION embedmill.forget_originals(p_limit integer DEFAULT 500) RETURNS text[]
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_days integer := embedmill.config_integer('originals_retention_days');
    v_jobs uuid[];
    v_keys text[];
BEGIN
    IF v_days = 0 THEN
        RETURN '{}';
    END IF;
    v_jobs := ARRAY(
        SELECT j.id FROM embedmill.ingestion_jobs j
          JOIN embedmill.knowledge_documents d ON d.id = j.document_id
         WHERE j.original_key IS NOT NULL AND j.completed_at < now() - make_interval(days => v_days)
           AND j.status IN ('completed', 'cancelled', 'failed')
         ORDER BY j.completed_at LIMIT p_limit
           FOR UPDATE OF d SKIP LOCKED);
    WITH held AS (
        SELECT j.id, j.original_key FROM embedmill.ingestion_jobs j
         WHERE j.id = ANY (v_jobs) AND j.original_key IS NOT NULL AND j.status IN ('completed', 'cancelled', 'failed')
         ORDER BY j.id FOR UPDATE
    ), forgotten AS (
        UPDATE embedmill.ingestion_jobs j SET original_key = NULL, original_dropped_at = now()
          FROM held h WHERE j.id = h.id
    )
    SELECT coalesce(array_agg(h.original_key), '{}') INTO v_keys FROM held h;
    RETURN v_keys;
END
$$;
