-- Budgets as a person sets and removes them; what keeps within them is 52_budgets.sql's.

-- Sets, raises or lowers a budget: the tenant's (p_job_id NULL) or a job's. What was spent before counts, as the ledger
-- and the job say. Call release_budget afterwards, in another transaction. Errors: invalid_parameter_value where a
-- job's pipeline has no known price, or a job is to have one by the month; EM404 where there is no such job.
CREATE OR REPLACE FUNCTION embedmill.set_budget(
    p_tenant_id integer, p_job_id uuid, p_period text, p_limit_usd numeric,
    p_now timestamptz DEFAULT clock_timestamp())
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v record;
    v_start timestamptz := CASE p_period WHEN 'month' THEN embedmill.month_begin(p_now) ELSE '-infinity' END;
    v_spent numeric;
    v_before embedmill.budgets;
    v_id bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('embedmill.budgets'), p_tenant_id);
    IF p_job_id IS NULL THEN
        v_spent := (embedmill.usage_since(p_tenant_id, v_start)).cost_usd;
    ELSE
        IF p_period <> 'total' THEN
            RAISE EXCEPTION 'a job has one budget in all: its period is total, not %', p_period
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT p.name, p.price_per_million_tokens AS price, coalesce(j.cost_usd, 0) AS spent INTO v
          FROM embedmill.ingestion_jobs j JOIN embedmill.pipelines p ON p.id = j.pipeline_id
         WHERE j.id = p_job_id AND j.tenant_id = p_tenant_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no ingestion job %', p_job_id USING ERRCODE = 'EM404';
        END IF;
        IF v.price IS NULL THEN
            RAISE EXCEPTION 'the price of pipeline % is not known, so that no budget can be kept: give it one first',
                v.name USING ERRCODE = 'invalid_parameter_value';
        END IF;
        v_spent := v.spent;
    END IF;
    SELECT * INTO v_before FROM embedmill.budgets b
     WHERE b.tenant_id = p_tenant_id AND b.job_id IS NOT DISTINCT FROM p_job_id;
    UPDATE embedmill.budgets b
       SET limit_usd = p_limit_usd,
           -- Another period begins its count anew; the same one goes on.
           spent_usd = CASE WHEN b.period = p_period AND b.period_start = v_start THEN b.spent_usd ELSE v_spent END,
           period = p_period, period_start = v_start,
           reached_at = CASE WHEN p_limit_usd > CASE WHEN b.period = p_period AND b.period_start = v_start
                                                     THEN b.spent_usd ELSE v_spent END
                             THEN NULL ELSE b.reached_at END
     WHERE b.tenant_id = p_tenant_id AND b.job_id IS NOT DISTINCT FROM p_job_id
    RETURNING b.id INTO v_id;
    IF NOT FOUND THEN
        INSERT INTO embedmill.budgets (tenant_id, job_id, period, limit_usd, spent_usd, period_start)
        VALUES (p_tenant_id, p_job_id, p_period, p_limit_usd, v_spent, v_start)
        RETURNING id INTO v_id;
    END IF;
    PERFORM embedmill.record_action(
        p_tenant_id, 'budget.set', coalesce(p_job_id::text, 'tenant'),
        CASE WHEN v_before.id IS NOT NULL
             THEN jsonb_build_object('period', v_before.period, 'limit_usd', v_before.limit_usd) END,
        jsonb_build_object('period', p_period, 'limit_usd', p_limit_usd));
    RETURN v_id;
END
$$;

-- Takes a budget away; false where there was none. Call release_budget afterwards, in another transaction.
CREATE OR REPLACE FUNCTION embedmill.remove_budget(p_tenant_id integer, p_job_id uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    b embedmill.budgets;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('embedmill.budgets'), p_tenant_id);
    DELETE FROM embedmill.budgets WHERE tenant_id = p_tenant_id AND job_id IS NOT DISTINCT FROM p_job_id
    RETURNING * INTO b;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM embedmill.record_action(
        p_tenant_id, 'budget.remove', coalesce(p_job_id::text, 'tenant'),
        jsonb_build_object('period', b.period, 'limit_usd', b.limit_usd), NULL);
    RETURN true;
END
$$;
