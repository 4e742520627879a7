-- What was ever used, by tenant, pipeline, type and model: counters for metrics. Nobody who pays for a call waits for
-- another: each appends to usage_changes, and the leader folds.

-- Appends what these rows of the ledger add. Backfills of all sources count together: names of sources have no bound.
CREATE OR REPLACE FUNCTION embedmill.usage_logged() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedmill.usage_changes
        (tenant_id, pipeline_id, usage_type, provider, model, calls, failed_calls, tokens, cost_usd, unpriced_calls)
    SELECT tenant_id, coalesce(pipeline_id, 0), split_part(usage_type, ':', 1), provider, model, count(*), count(error),
           coalesce(sum(total_tokens), 0), coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_usd IS NULL)
      FROM logged GROUP BY 1, 2, 3, 4, 5;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER usage_logged AFTER INSERT ON embedmill.llm_usage_log
    REFERENCING NEW TABLE AS logged FOR EACH STATEMENT EXECUTE FUNCTION embedmill.usage_logged();

-- Folds what was appended into the totals; returns how many rows. The first 300 sets of labels are named in metrics,
-- those that come later are summed: which, is decided when a set comes, so that no counter ever goes back. One folds
-- at a time, others go their way (returns 0).
CREATE OR REPLACE FUNCTION embedmill.fold_usage_changes() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_changes embedmill.usage_changes[];
    v_room bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('embedmill.fold_usage_changes')) THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM embedmill.usage_changes c
         WHERE c.ctid = ANY (ARRAY(SELECT ctid FROM embedmill.usage_changes LIMIT 100000))
        RETURNING c)
    SELECT coalesce(array_agg(c), '{}') INTO v_changes FROM gone;
    IF cardinality(v_changes) = 0 THEN
        RETURN 0;
    END IF;
    v_room := 300 - (SELECT count(*) FROM embedmill.usage_totals WHERE is_named);
    INSERT INTO embedmill.usage_totals AS k
        (tenant_id, pipeline_id, usage_type, provider, model, tenant, pipeline, is_named,
         calls, failed_calls, tokens, cost_usd, unpriced_calls)
    SELECT c.tenant_id, c.pipeline_id, c.usage_type, c.provider, c.model,
           coalesce((SELECT t.slug FROM embedmill.tenants t WHERE t.id = c.tenant_id), 'deleted'),
           coalesce((SELECT p.name FROM embedmill.pipelines p WHERE p.id = c.pipeline_id), 'none'),
           row_number() OVER (ORDER BY o.tenant_id IS NOT NULL, sum(c.tokens) DESC, c.tenant_id, c.pipeline_id) <= v_room,
           sum(c.calls), sum(c.failed_calls), sum(c.tokens), sum(c.cost_usd), sum(c.unpriced_calls)
      FROM unnest(v_changes) AS c
      LEFT JOIN embedmill.usage_totals o
             ON (o.tenant_id, o.pipeline_id, o.usage_type, o.provider, o.model)
              = (c.tenant_id, c.pipeline_id, c.usage_type, c.provider, c.model)
     GROUP BY c.tenant_id, c.pipeline_id, c.usage_type, c.provider, c.model, o.tenant_id
    ON CONFLICT (tenant_id, pipeline_id, usage_type, provider, model) DO UPDATE
       SET calls = k.calls + excluded.calls, failed_calls = k.failed_calls + excluded.failed_calls,
           tokens = k.tokens + excluded.tokens, cost_usd = k.cost_usd + excluded.cost_usd,
           unpriced_calls = k.unpriced_calls + excluded.unpriced_calls;
    RETURN cardinality(v_changes);
END
$$;
