-- Counting without waiting: whoever enqueues (35_documents.sql), claims (30_claiming.sql) or ends items
-- (31_ending.sql) appends what changed to queue_changes, and a sweep folds it. Also the reckoning of
-- fairness between tenants, which is a count of tokens.

-- Folds what was appended into the counts and the tenants' turns; returns how many rows, a hundred thousand at
-- most: after days without a sweep the rest is the next one's. One folds at a time, others go their way (returns 0).
CREATE OR REPLACE FUNCTION embedmill.fold_queue_changes() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_changes embedmill.queue_changes[];
    v_clock double precision;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('embedmill.fold_queue_changes')) THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM embedmill.queue_changes c
         WHERE c.ctid = ANY (ARRAY(SELECT ctid FROM embedmill.queue_changes LIMIT 100000))
        RETURNING c)
    SELECT coalesce(array_agg(c), '{}') INTO v_changes FROM gone;
    IF cardinality(v_changes) = 0 THEN
        RETURN 0;
    END IF;
    INSERT INTO embedmill.queue_counts AS k (generation_id, status, day, tenant_id, items)
    SELECT c.generation_id, c.status, c.day, c.tenant_id, sum(c.items)
      FROM (SELECT generation_id, status, coalesce(day, '-infinity') AS day, tenant_id, items
              FROM unnest(v_changes) WHERE status <> 'claimed'
            UNION ALL
            SELECT generation_id, 'live', '-infinity', tenant_id, -items   -- what ended is no longer live
              FROM unnest(v_changes) WHERE status IN ('completed', 'failed', 'cancelled')) c
      JOIN embedmill.generations g ON g.id = c.generation_id
     GROUP BY c.generation_id, c.status, c.day, c.tenant_id
    HAVING sum(c.items) <> 0
    ON CONFLICT (generation_id, status, day) DO UPDATE SET items = k.items + excluded.items;

    -- What ever ended, whatever retention and pruned generations take from the counts: for metrics.
    INSERT INTO embedmill.ended_totals AS e (tenant_id, status, items)
    SELECT c.tenant_id, c.status, sum(c.items) FROM unnest(v_changes) AS c
     WHERE c.status IN ('completed', 'failed', 'cancelled') GROUP BY c.tenant_id, c.status
    HAVING sum(c.items) > 0
    ON CONFLICT (tenant_id, status) DO UPDATE SET items = e.items + excluded.items;

    SELECT virtual_time INTO STRICT v_clock FROM embedmill.turn_clock FOR UPDATE;
    INSERT INTO embedmill.tenant_turns AS n (tenant_id, virtual_time)
    SELECT c.tenant_id, v_clock + sum(c.tokens) / t.weight
      FROM unnest(v_changes) AS c JOIN embedmill.tenants t ON t.id = c.tenant_id
     WHERE c.status = 'claimed'
     GROUP BY c.tenant_id, t.weight
    ON CONFLICT (tenant_id) DO UPDATE
       SET virtual_time = greatest(n.virtual_time, v_clock) + (excluded.virtual_time - v_clock);
    -- The clock stands where the least served of those stands that were served of late.
    UPDATE embedmill.turn_clock k SET virtual_time = greatest(k.virtual_time, active.virtual_time)
      FROM (SELECT min(n.virtual_time) AS virtual_time FROM embedmill.tenant_turns n
             WHERE n.tenant_id IN (SELECT c.tenant_id FROM unnest(v_changes) AS c WHERE c.status = 'claimed')) active
     WHERE active.virtual_time IS NOT NULL;
    RETURN cardinality(v_changes);
END
$$;

-- How much a tenant has had up to this moment: the least goes first.
CREATE OR REPLACE FUNCTION embedmill.tenant_virtual_time(p_tenant_id integer) RETURNS double precision
LANGUAGE sql STABLE AS $$
    SELECT greatest((SELECT virtual_time FROM embedmill.tenant_turns WHERE tenant_id = p_tenant_id),
                    (SELECT virtual_time FROM embedmill.turn_clock))
         + coalesce((SELECT sum(tokens) FROM embedmill.queue_changes
                      WHERE tenant_id = p_tenant_id AND status = 'claimed'), 0)
           / (SELECT weight FROM embedmill.tenants WHERE id = p_tenant_id)
$$;

-- Embedding jobs of a tenant by status, live and within the retention: from counts, never from scans, except
-- for the few that are being worked on.
CREATE OR REPLACE FUNCTION embedmill.count_embedding_jobs(p_tenant_id integer)
RETURNS TABLE (pending bigint, processing bigint, completed bigint, failed bigint, cancelled bigint)
LANGUAGE sql STABLE AS $$
    WITH counted AS (
        SELECT status, sum(items) AS items
          FROM (SELECT status, items FROM embedmill.queue_counts WHERE tenant_id = p_tenant_id
                UNION ALL
                SELECT status, items FROM embedmill.queue_changes
                 WHERE tenant_id = p_tenant_id AND status <> 'claimed'
                UNION ALL
                SELECT 'live', -items FROM embedmill.queue_changes
                 WHERE tenant_id = p_tenant_id AND status IN ('completed', 'failed', 'cancelled')) c
         GROUP BY status
    ), working AS (
        -- Ordered as the index of leases is, for a planner without statistics.
        SELECT count(*) AS items FROM (
            SELECT FROM embedmill.embedding_queue
             WHERE status = 'processing' AND tenant_id = p_tenant_id
             ORDER BY worker_id, lease_deadline LIMIT 1000000) w
    )
    SELECT greatest(coalesce((SELECT items FROM counted WHERE status = 'live'), 0) - working.items, 0)::bigint,
           working.items,
           coalesce((SELECT items FROM counted WHERE status = 'completed'), 0)::bigint,
           coalesce((SELECT items FROM counted WHERE status = 'failed'), 0)::bigint,
           coalesce((SELECT items FROM counted WHERE status = 'cancelled'), 0)::bigint
      FROM working
$$;

-- How many items of a generation wait or are worked on: from counts.
CREATE OR REPLACE FUNCTION embedmill.live_items(p_generation_id integer) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT greatest(coalesce(sum(n.items), 0), 0)::bigint
      FROM (SELECT c.items FROM embedmill.queue_counts c
             WHERE c.generation_id = p_generation_id AND c.status = 'live'
            UNION ALL
            SELECT CASE WHEN c.status = 'live' THEN c.items ELSE -c.items END FROM embedmill.queue_changes c
             WHERE c.generation_id = p_generation_id AND c.status IN ('live', 'completed', 'failed', 'cancelled')) n
$$;

-- What of a generation is embedded, from all of its counters: of uploads and of each source of records.
CREATE OR REPLACE VIEW embedmill.generation_coverage WITH (security_invoker = true) AS
    SELECT generation_id, sum(chunks)::bigint AS chunks, sum(embedded)::bigint AS embedded,
           sum(unembeddable)::bigint AS unembeddable
      FROM embedmill.coverage_counters GROUP BY generation_id;
SELECT embedmill.grant_table('embedmill.generation_coverage', 'SELECT', true);
