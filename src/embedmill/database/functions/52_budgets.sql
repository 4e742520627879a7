-- Budgets: the most that a tenant (in a month, or in all) or a job may spend. A hard stop in advance: each call
-- reserves what it may cost before it is made, under the lock of the budget's row, so that no number of workers
-- together passes a limit; what it did cost is spent in the transaction that writes the ledger.
--
--     reserve_budget      before a call: none of the rows that come back, or why it may not be made
--     settle_budget       after it: what it did cost (0 where it was not charged)
--     park_budget         the limit is reached: what waits on it waits without an end
--     release_budget      it was raised, removed, or a month began: what need not wait any more is freed
--     sweep_budgets       the same for what was missed, and for the dead
--
-- The order of locks is items, jobs, budgets (by id). Setting, parking and releasing exclude each other for each
-- tenant, by a lock that is taken before all these. A parked item is a pending one whose available_at is infinity: no claim finds it, at no cost.

-- The month in which a moment lies begins here; months are those of UTC.
CREATE OR REPLACE FUNCTION embedmill.month_begin(p_now timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    SELECT date_trunc('month', p_now AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
$$;

-- Whether a budget stops its work at this moment: one that was reached in a month that is over does not.
CREATE OR REPLACE FUNCTION embedmill.is_reached(b embedmill.budgets, p_now timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT b.reached_at IS NOT NULL AND (b.period = 'total' OR b.reached_at >= embedmill.month_begin(p_now))
$$;

-- Whether a budget stops this work now.
CREATE OR REPLACE FUNCTION embedmill.is_parked(p_tenant_id integer, p_job_id uuid) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM embedmill.budgets b
                    WHERE b.tenant_id = p_tenant_id AND b.job_id IS NULL AND embedmill.is_reached(b, now()))
        OR EXISTS (SELECT FROM embedmill.budgets b
                    WHERE b.job_id = p_job_id AND embedmill.is_reached(b, now()))
$$;

-- Locks the budgets that a call of these jobs is under, in order of id, and begins their month where a new one has
-- come; returns their ids.
CREATE OR REPLACE FUNCTION embedmill.lock_budgets(p_tenant_id integer, p_jobs uuid[], p_now timestamptz)
RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[] := ARRAY(
        SELECT t.id FROM embedmill.budgets t WHERE t.tenant_id = p_tenant_id AND t.job_id IS NULL
        UNION ALL
        SELECT j.id FROM embedmill.budgets j WHERE j.job_id = ANY (p_jobs));
BEGIN
    IF cardinality(v_ids) = 0 THEN
        RETURN v_ids;
    END IF;
    -- Found before and locked by number: a condition that reads the table once more loses, when it is checked anew
    -- after a wait, the very row that somebody else has changed meanwhile.
    v_ids := ARRAY(SELECT b.id FROM embedmill.budgets b WHERE b.id = ANY (v_ids) ORDER BY b.id FOR UPDATE);
    -- reached_at is left for the sweep, which frees what waits.
    UPDATE embedmill.budgets
       SET spent_usd = 0, period_start = embedmill.month_begin(p_now)
     WHERE id = ANY (v_ids) AND period = 'month' AND period_start < embedmill.month_begin(p_now);
    RETURN v_ids;
END
$$;

-- Reserves what a call may cost in the tenant's budget (p_amount_usd) and in its jobs' (p_amounts_usd), where they have
-- any: all or nothing. No rows: it may be made. Else for each budget that has no room its verdict:
--     reached    what is spent leaves no room for it: it will not be made until somebody acts
--     waits      calls that are under way may need the room, or leave it
-- May be repeated with the same call. p_now is for tests: the database's clock otherwise.
CREATE OR REPLACE FUNCTION embedmill.reserve_budget(
    p_tenant_id integer, p_worker_id uuid, p_call_id uuid, p_amount_usd numeric, p_jobs uuid[], p_amounts_usd numeric[],
    p_now timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (budget_id bigint, job_id uuid, verdict text, limit_usd numeric, spent_usd numeric)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_ids bigint[] := embedmill.lock_budgets(p_tenant_id, p_jobs, p_now);
BEGIN
    IF cardinality(v_ids) = 0
       OR EXISTS (SELECT FROM embedmill.budget_reservations r WHERE r.call_id = p_call_id) THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT b.id, b.job_id, CASE WHEN b.spent_usd + w.amount_usd > b.limit_usd THEN 'reached' ELSE 'waits' END,
           b.limit_usd, b.spent_usd
      FROM (SELECT NULL::uuid AS job_id, p_amount_usd AS amount_usd
            UNION ALL SELECT * FROM unnest(p_jobs, p_amounts_usd)) AS w
      JOIN embedmill.budgets b ON b.job_id IS NOT DISTINCT FROM w.job_id AND b.id = ANY (v_ids)
     WHERE b.spent_usd + b.reserved_usd + w.amount_usd > b.limit_usd
     ORDER BY b.id;
    IF FOUND THEN
        RETURN;
    END IF;
    WITH made AS (
        INSERT INTO embedmill.budget_reservations (call_id, budget_id, tenant_id, worker_id, amount_usd)
        SELECT p_call_id, b.id, b.tenant_id, p_worker_id, w.amount_usd
          FROM (SELECT NULL::uuid AS job_id, p_amount_usd AS amount_usd
                UNION ALL SELECT * FROM unnest(p_jobs, p_amounts_usd)) AS w
          JOIN embedmill.budgets b ON b.job_id IS NOT DISTINCT FROM w.job_id AND b.id = ANY (v_ids)
        RETURNING budget_id, amount_usd
    )
    UPDATE embedmill.budgets b SET reserved_usd = b.reserved_usd + m.amount_usd FROM made m WHERE b.id = m.budget_id;
END
$$;

-- A call is over: its reservations go, and what it did cost is spent, also where they have gone already (its worker was
-- given up and came back). Called last in the transaction that writes the ledger's row, once for each call.
CREATE OR REPLACE FUNCTION embedmill.settle_budget(
    p_tenant_id integer, p_call_id uuid, p_amount_usd numeric, p_jobs uuid[], p_amounts_usd numeric[],
    p_now timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[] := embedmill.lock_budgets(p_tenant_id, p_jobs, p_now);
BEGIN
    WITH gone AS (
        DELETE FROM embedmill.budget_reservations WHERE call_id = p_call_id RETURNING budget_id, amount_usd
    )
    UPDATE embedmill.budgets b
       SET spent_usd = b.spent_usd + w.amount_usd,
           reserved_usd = b.reserved_usd - coalesce((SELECT g.amount_usd FROM gone g WHERE g.budget_id = b.id), 0)
      FROM (SELECT NULL::uuid AS job_id, p_amount_usd AS amount_usd
            UNION ALL SELECT * FROM unnest(p_jobs, p_amounts_usd)) AS w
     WHERE b.id = ANY (v_ids) AND b.job_id IS NOT DISTINCT FROM w.job_id;
END
$$;

-- Frees what calls of workers that are gone had reserved; whether those were charged, nobody can know. A caller that is
-- no worker (an ingest without the queue, a search) is given a quarter of an hour. Returns how many.
CREATE OR REPLACE FUNCTION embedmill.release_dead_reservations() RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_calls uuid[] := ARRAY(
        SELECT r.call_id
          FROM embedmill.budget_reservations r
          LEFT JOIN embedmill.embedding_queue_workers w ON w.worker_id = r.worker_id
         WHERE CASE WHEN w.worker_id IS NULL THEN r.created_at < now() - interval '15 minutes'
                    ELSE w.status NOT IN ('active', 'idle') END);
    v_budgets bigint[] := ARRAY(
        SELECT DISTINCT r.budget_id FROM embedmill.budget_reservations r WHERE r.call_id = ANY (v_calls));
    v_released integer;
BEGIN
    IF cardinality(v_calls) = 0 THEN
        RETURN 0;
    END IF;
    PERFORM FROM embedmill.budgets WHERE id = ANY (v_budgets) ORDER BY id FOR UPDATE;
    WITH gone AS (
        DELETE FROM embedmill.budget_reservations WHERE call_id = ANY (v_calls) RETURNING budget_id, amount_usd
    ), freed AS (
        UPDATE embedmill.budgets b SET reserved_usd = b.reserved_usd - g.amount_usd
          FROM (SELECT budget_id, sum(amount_usd) AS amount_usd FROM gone GROUP BY budget_id) g
         WHERE b.id = g.budget_id
    )
    SELECT count(*) INTO v_released FROM gone;
    RETURN v_released;
END
$$;

-- A budget has no room for a call of p_amount_usd, whatever becomes of those that are under way: what waits on it waits
-- for a person, or for the next month, and the jobs (those named, and those of what waits) say so. Told once for each
-- crossing. What workers hold is parked when they give it back (return_items). Returns how many items were parked,
-- p_limit at most: call it again while it is as many. Nothing, where there is room by now.
CREATE OR REPLACE FUNCTION embedmill.park_budget(
    p_budget_id bigint, p_amount_usd numeric, p_jobs uuid[], p_limit integer DEFAULT 10000,
    p_now timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    b embedmill.budgets;
    v_ids bigint[];
    v_jobs uuid[];
    v_message text;
BEGIN
    SELECT * INTO b FROM embedmill.budgets WHERE id = p_budget_id;
    PERFORM pg_advisory_xact_lock(hashtext('embedmill.budgets'), b.tenant_id);
    SELECT * INTO b FROM embedmill.budgets WHERE id = p_budget_id;
    IF NOT FOUND OR b.spent_usd + p_amount_usd <= b.limit_usd
       OR b.period = 'month' AND b.period_start < embedmill.month_begin(p_now) THEN
        RETURN 0;
    END IF;
    v_message := embedmill.budget_message(b);
    IF b.job_id IS NULL THEN
        v_ids := ARRAY(
            SELECT q.id FROM embedmill.embedding_queue q
             WHERE q.generation_id = ANY (ARRAY(
                       SELECT g.id FROM embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id
                        WHERE g.tenant_id = b.tenant_id AND g.price_per_million_tokens > 0))
               AND q.status = 'pending' AND q.operation <> 'DELETE' AND q.available_at < 'infinity'
             LIMIT p_limit FOR UPDATE SKIP LOCKED);
    ELSE
        v_ids := ARRAY(
            SELECT q.id FROM embedmill.embedding_queue q
             WHERE q.document_id = (SELECT j.document_id FROM embedmill.ingestion_jobs j WHERE j.id = b.job_id)
               AND q.job_id = b.job_id AND q.status = 'pending' AND q.available_at < 'infinity'
             LIMIT p_limit FOR UPDATE SKIP LOCKED);
    END IF;
    UPDATE embedmill.embedding_queue SET available_at = 'infinity', error_message = v_message WHERE id = ANY (v_ids);
    v_jobs := p_jobs || b.job_id
           || ARRAY(SELECT DISTINCT q.job_id FROM embedmill.embedding_queue q WHERE q.id = ANY (v_ids));
    PERFORM FROM embedmill.ingestion_jobs WHERE id = ANY (v_jobs) ORDER BY id FOR UPDATE;
    UPDATE embedmill.ingestion_jobs SET paused_reason = 'budget', updated_at = now()
     WHERE id = ANY (v_jobs) AND status = 'embedding_in_progress' AND paused_reason IS DISTINCT FROM 'budget';
    UPDATE embedmill.budgets SET reached_at = p_now
     WHERE id = p_budget_id AND NOT embedmill.is_reached(budgets, p_now);
    IF FOUND THEN
        PERFORM embedmill.record_event(
            b.tenant_id, 'budget.reached', b.job_id,
            (SELECT j.batch_id FROM embedmill.ingestion_jobs j WHERE j.id = b.job_id),
            jsonb_build_object('period', b.period, 'limitUsd', b.limit_usd, 'spentUsd', b.spent_usd,
                               'message', v_message));
    END IF;
    RETURN cardinality(v_ids);
END
$$;

-- For people: what stops the work, and what is to be done about it.
CREATE OR REPLACE FUNCTION embedmill.budget_message(b embedmill.budgets) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT format('budget reached: %s of the %s''s %s USD%s are spent, and the next call would pass it: raise or '
                  'remove the budget', trim_scale(round(b.spent_usd, 6)),
                  CASE WHEN b.job_id IS NULL THEN 'tenant' ELSE 'job' END, trim_scale(b.limit_usd),
                  CASE b.period WHEN 'month' THEN ' of this month' ELSE '' END)
$$;

-- Frees what is parked and need not be any more: of a tenant, or of one of its jobs. What another budget stops stays.
-- Returns how many items. To be called in a transaction after the one that has changed the budget.
CREATE OR REPLACE FUNCTION embedmill.release_budget(
    p_tenant_id integer, p_job_id uuid DEFAULT NULL, p_now timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_stopped uuid[];
    v_ids bigint[];
    v_jobs uuid[];
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('embedmill.budgets'), p_tenant_id);
    IF EXISTS (SELECT FROM embedmill.budgets b
                WHERE b.tenant_id = p_tenant_id AND b.job_id IS NULL AND embedmill.is_reached(b, p_now)) THEN
        RETURN 0;
    END IF;
    v_stopped := ARRAY(SELECT b.job_id FROM embedmill.budgets b
                        WHERE b.tenant_id = p_tenant_id AND b.job_id IS NOT NULL AND embedmill.is_reached(b, p_now));
    v_ids := ARRAY(
        SELECT q.id FROM embedmill.embedding_queue q
         WHERE q.generation_id = ANY (ARRAY(
                   SELECT g.id FROM embedmill.generations g WHERE g.tenant_id = p_tenant_id))
           AND q.status = 'pending' AND q.available_at = 'infinity' AND q.priority IN ('high', 'medium', 'low')
           AND NOT embedmill.waits_to_be_read(q)
           AND (p_job_id IS NULL OR q.job_id = p_job_id)
           AND (q.job_id IS NULL OR q.job_id <> ALL (v_stopped))
           FOR UPDATE SKIP LOCKED);
    UPDATE embedmill.embedding_queue SET available_at = now(), error_message = NULL WHERE id = ANY (v_ids);
    v_jobs := ARRAY(
        SELECT j.id FROM embedmill.ingestion_jobs j
         WHERE j.tenant_id = p_tenant_id AND j.status = 'embedding_in_progress' AND j.paused_reason = 'budget'
           AND (p_job_id IS NULL OR j.id = p_job_id) AND j.id <> ALL (v_stopped)
         ORDER BY j.id FOR UPDATE);
    UPDATE embedmill.ingestion_jobs SET paused_reason = NULL, updated_at = now() WHERE id = ANY (v_jobs);
    RETURN cardinality(v_ids);
END
$$;

-- What nobody else sees to: budgets that were used up by callers who do not ask first, months that have begun, items
-- that were parked a moment after their budget was raised, reservations of the dead. Returns what was done.
CREATE OR REPLACE FUNCTION embedmill.sweep_budgets(p_now timestamptz DEFAULT clock_timestamp()) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_tenant_id integer;
    v_used_up bigint;
    v_parked integer := 0;
    v_freed integer := 0;
    v_begun integer;
    v_dead integer;
BEGIN
    FOR v_used_up IN
        SELECT b.id FROM embedmill.budgets b
         WHERE b.spent_usd >= b.limit_usd AND NOT embedmill.is_reached(b, p_now)
           AND (b.period = 'total' OR b.period_start >= embedmill.month_begin(p_now))
           AND (b.job_id IS NULL OR EXISTS (SELECT FROM embedmill.ingestion_jobs j
                                             WHERE j.id = b.job_id AND j.status = 'embedding_in_progress'))
         ORDER BY b.tenant_id, b.id
    LOOP
        v_parked := v_parked + embedmill.park_budget(v_used_up, 1e-12, '{}', p_now => p_now);
    END LOOP;
    FOR v_tenant_id IN
        SELECT j.tenant_id FROM embedmill.ingestion_jobs j
         WHERE j.paused_reason = 'budget' AND j.status NOT IN ('completed', 'cancelled', 'failed')
        UNION
        SELECT g.tenant_id FROM embedmill.generations g
         CROSS JOIN unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
         CROSS JOIN LATERAL (
            SELECT FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at = 'infinity'
               AND NOT embedmill.waits_to_be_read(q) LIMIT 1) parked
        ORDER BY 1
    LOOP
        v_freed := v_freed + embedmill.release_budget(v_tenant_id, NULL, p_now);
    END LOOP;
    v_begun := cardinality(ARRAY(SELECT id FROM embedmill.budgets b
                                  WHERE b.period = 'month'
                                    AND (b.period_start < embedmill.month_begin(p_now)
                                         OR b.reached_at < embedmill.month_begin(p_now)) ORDER BY id FOR UPDATE));
    IF v_begun > 0 THEN
        UPDATE embedmill.budgets b
           SET spent_usd = CASE WHEN b.period_start < embedmill.month_begin(p_now) THEN 0 ELSE b.spent_usd END,
               period_start = embedmill.month_begin(p_now),
               reached_at = CASE WHEN b.reached_at >= embedmill.month_begin(p_now) THEN b.reached_at END
         WHERE b.period = 'month' AND (b.period_start < embedmill.month_begin(p_now)
                                       OR b.reached_at < embedmill.month_begin(p_now));
    END IF;
    v_dead := embedmill.release_dead_reservations();
    RETURN format('%s items parked, %s freed, %s months begun, %s reservations released', v_parked, v_freed, v_begun,
                  v_dead);
END
$$;
