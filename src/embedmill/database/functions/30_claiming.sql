-- Claiming: which generations have work, and whose turn it is; a lease on the work; the proof of the lease.
-- Whoever writes on behalf of a claim shows its token; a token is never given twice.

-- Takes ready items of one generation: at most p_max_items, and about p_max_chunks and p_max_tokens of work
-- (the item that passes a bound is the last one taken, so there is always at least one). Nothing while the
-- pipeline is paused or the queue off; no more than the tenant's cap allows, exactly, under its row's lock.
--
-- The heads of the three priority lanes are ranked together, so that the cost does not grow with the backlog.
-- The k-th of a lane has its turn at k / weight: where all wait, the lanes share a claim by their weights. The
-- weight grows by itself once more for each period waited, so that nothing starves, also where every claim
-- takes one item. Then each lane's share is locked in its own order, skipping what other workers hold.
-- `= ANY (ARRAY(...))` keeps the plan when statistics are stale. One plan serves every size of claim, and it goes by
-- the indexes: planned anew for each limit it would cost more than the claim, and one made while the table was
-- tiny would scan it ever after. Where there is one tenant, there is nobody to be fair to: it is not charged.
CREATE OR REPLACE FUNCTION embedmill.claim_items(
    p_worker_id uuid, p_generation_id integer, p_max_items integer, p_max_chunks bigint, p_max_tokens bigint,
    p_lease_seconds double precision)
RETURNS TABLE (
    id bigint, lease_token bigint, lease_deadline timestamptz, tenant_id integer, generation_id integer,
    document_id bigint, job_id uuid, source_type text, source_id text, operation embedmill.queue_operation,
    priority embedmill.queue_priority, usage_type text, estimated_tokens integer, retry_count smallint,
    batch_id uuid, metadata jsonb)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET enable_memoize = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    v record;
    v_most integer := p_max_items;
    v_weights jsonb;
    v_aging double precision;
    v_has_rivals boolean;
BEGIN
    -- One item of a lane that is open (26_lanes.sql): all in one statement, since to begin one costs more than to run
    -- it. Where others hold the whole lane whose turn it is, or nothing is as plain, the long way.
    IF p_max_items = 1 THEN
        UPDATE embedmill.embedding_queue q
           SET status = 'processing', worker_id = p_worker_id, lease_token = nextval('embedmill.lease_tokens'),
               lease_deadline = now() + make_interval(secs => p_lease_seconds),
               processing_started_at = now(), rate_limit_delay_ms = NULL
          FROM (SELECT i.place, lane.has_rivals
                  FROM (SELECT l.priority, l.has_rivals
                          FROM embedmill.claim_lanes l
                         CROSS JOIN LATERAL (
                            SELECT h.available_at FROM embedmill.embedding_queue h
                             WHERE h.generation_id = p_generation_id AND h.priority = l.priority
                               AND h.status IN ('pending', 'rate_limited') AND h.available_at <= now()
                             ORDER BY h.available_at, h.id LIMIT 1) head
                         WHERE l.generation_id = p_generation_id
                         ORDER BY l.weight * (1 + date_part('epoch', now() - head.available_at) / l.aging_seconds) DESC,
                                  l.priority
                         LIMIT 1) lane
                 CROSS JOIN LATERAL (
                    SELECT w.ctid AS place FROM embedmill.embedding_queue w
                     WHERE w.generation_id = p_generation_id AND w.priority = lane.priority
                       AND w.status IN ('pending', 'rate_limited') AND w.available_at <= now()
                     ORDER BY w.available_at, w.id
                     LIMIT 1
                       FOR UPDATE SKIP LOCKED) i) turn
         WHERE q.ctid = turn.place
        RETURNING q.id, q.lease_token, q.lease_deadline, q.tenant_id, q.generation_id, q.document_id, q.job_id,
                  q.source_type, q.source_id, q.operation, q.priority, q.usage_type, q.estimated_tokens,
                  q.retry_count, q.batch_id, q.metadata, turn.has_rivals
             INTO id, lease_token, lease_deadline, tenant_id, generation_id, document_id, job_id, source_type,
                  source_id, operation, priority, usage_type, estimated_tokens, retry_count, batch_id, metadata,
                  v_has_rivals;
        IF FOUND THEN
            IF v_has_rivals THEN
                INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items, tokens)
                VALUES (claim_items.tenant_id, p_generation_id, 'claimed', 1, claim_items.estimated_tokens);
            END IF;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;

    -- The gate, and the head of each lane, in one statement.
    SELECT t.id AS tenant_id, t.max_processing_items AS cap,
           EXISTS (SELECT FROM embedmill.tenants o WHERE o.id <> t.id) AS has_rivals,
           (SELECT q.available_at FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.priority = 'high' AND q.status IN ('pending', 'rate_limited')
               AND q.available_at <= now() ORDER BY q.available_at, q.id LIMIT 1) AS high,
           (SELECT q.available_at FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.priority = 'medium' AND q.status IN ('pending', 'rate_limited')
               AND q.available_at <= now() ORDER BY q.available_at, q.id LIMIT 1) AS medium,
           (SELECT q.available_at FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.priority = 'low' AND q.status IN ('pending', 'rate_limited')
               AND q.available_at <= now() ORDER BY q.available_at, q.id LIMIT 1) AS low
      INTO v
      FROM embedmill.generations g
      JOIN embedmill.pipelines p ON p.id = g.pipeline_id
      JOIN embedmill.tenants t ON t.id = g.tenant_id
     WHERE g.id = p_generation_id AND p.paused_at IS NULL
       AND (SELECT c.value::boolean FROM embedmill.embedding_queue_config c WHERE c.key = 'queue_enabled');
    CASE num_nonnulls(v.high, v.medium, v.low)
        WHEN 0 THEN
            RETURN;
        WHEN 1 THEN
            v_weights := '{"high": 1, "medium": 1, "low": 1}';  -- of no account where one lane is alone
            v_aging := 60;
        ELSE
            SELECT w.value, a.value::double precision INTO v_weights, v_aging
              FROM embedmill.embedding_queue_config w, embedmill.embedding_queue_config a
             WHERE w.key = 'priority_weights' AND a.key = 'priority_aging_seconds';
    END CASE;
    IF v.cap IS NOT NULL THEN
        -- In statements of their own: the count then sees what the claims before us have committed.
        PERFORM FROM embedmill.tenants t WHERE t.id = v.tenant_id FOR NO KEY UPDATE;
        -- Ordered as the index of leases is, for a planner without statistics.
        v_most := least(v_most, v.cap - (
            SELECT count(*) FROM (
                SELECT FROM embedmill.embedding_queue q
                 WHERE q.status = 'processing' AND q.tenant_id = v.tenant_id
                 ORDER BY q.worker_id, q.lease_deadline LIMIT v.cap) working));
        IF v_most <= 0 THEN
            RETURN;
        END IF;
    END IF;

    RETURN QUERY
    WITH heads AS MATERIALIZED (
        SELECT lane.priority, h.id, h.estimated_tokens, h.chunks,
               h.place / (lane.weight * (1 + extract(epoch FROM now() - h.available_at) / v_aging)) AS turn
          FROM (VALUES ('high'::embedmill.queue_priority, v.high, (v_weights -> 'high')::double precision),
                       ('medium', v.medium, (v_weights -> 'medium')::double precision),
                       ('low', v.low, (v_weights -> 'low')::double precision)) AS lane (priority, head, weight)
         CROSS JOIN LATERAL (
            SELECT q.id, q.available_at, q.estimated_tokens,
                   coalesce(q.last_ordinal - q.first_ordinal + 1, 1) AS chunks,
                   row_number() OVER (ORDER BY q.available_at, q.id) AS place
              FROM embedmill.embedding_queue q
             WHERE q.generation_id = p_generation_id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at <= now()
             ORDER BY q.available_at, q.id
             LIMIT v_most) h
         WHERE lane.head IS NOT NULL
    ), ranked AS (
        SELECT priority, row_number() OVER best AS place,
               sum(estimated_tokens) OVER best - estimated_tokens AS tokens_before,
               sum(chunks) OVER best - chunks AS chunks_before
          FROM heads
        WINDOW best AS (ORDER BY turn, priority, id ROWS UNBOUNDED PRECEDING)
    ), share AS (
        SELECT priority, count(*) AS items
          FROM ranked
         WHERE place <= v_most AND tokens_before < p_max_tokens AND chunks_before < p_max_chunks
         GROUP BY priority
    ), locked AS MATERIALIZED (
        SELECT l.id
          FROM share
         CROSS JOIN LATERAL (
            SELECT q.id
              FROM embedmill.embedding_queue q
             WHERE q.generation_id = p_generation_id AND q.priority = share.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at <= now()
             ORDER BY q.available_at, q.id
             LIMIT share.items
               FOR UPDATE SKIP LOCKED) l
    ), taken AS (
        UPDATE embedmill.embedding_queue q
           SET status = 'processing', worker_id = p_worker_id, lease_token = nextval('embedmill.lease_tokens'),
               lease_deadline = now() + make_interval(secs => p_lease_seconds),
               processing_started_at = now(), rate_limit_delay_ms = NULL
         WHERE q.id = ANY (ARRAY(SELECT id FROM locked))
        RETURNING q.id, q.lease_token, q.lease_deadline, q.tenant_id, q.generation_id, q.document_id, q.job_id, q.source_type,
                  q.source_id, q.operation, q.priority, q.usage_type, q.estimated_tokens, q.retry_count, q.batch_id,
                  q.metadata
    ), charged AS (
        INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items, tokens)
        SELECT v.tenant_id, p_generation_id, 'claimed', count(*), sum(estimated_tokens) FROM taken
        HAVING v.has_rivals AND count(*) > 0
    )
    SELECT * FROM taken;
END
$$;

-- Generations with ready items, those of the tenant that has had the least first: one index probe for each
-- generation, however long the queue.
CREATE OR REPLACE FUNCTION embedmill.ready_generations() RETURNS TABLE (generation_id integer, tenant_id integer)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
    v_generations integer[];
    v_tenants integer[];
BEGIN
    IF NOT embedmill.queue_enabled() THEN
        RETURN;
    END IF;
    SELECT array_agg(g.id ORDER BY g.id), array_agg(g.tenant_id ORDER BY g.id)
      INTO v_generations, v_tenants
      FROM embedmill.generations g
      JOIN embedmill.pipelines p ON p.id = g.pipeline_id
     WHERE p.paused_at IS NULL AND EXISTS (
        SELECT FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
         CROSS JOIN LATERAL (
            SELECT FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at <= now()
             ORDER BY q.available_at, q.id
             LIMIT 1) h);
    IF v_tenants[1] = ALL (v_tenants) THEN
        -- One tenant alone waits for nobody.
        RETURN QUERY SELECT * FROM unnest(v_generations, v_tenants);
    ELSE
        RETURN QUERY
        SELECT r.g, r.t
          FROM unnest(v_generations, v_tenants) AS r (g, t)
          JOIN (SELECT d.t, embedmill.tenant_virtual_time(d.t) AS virtual_time
                  FROM (SELECT DISTINCT unnest(v_tenants) AS t) d) n ON n.t = r.t
         ORDER BY n.virtual_time, r.g;
    END IF;
END
$$;

-- Locks the items that are still held by these tokens, in order of id so that nobody deadlocks;
-- returns those ids. What is not returned was lost to a rescue, a change or a cancellation.
-- For many the planner takes any array for ten elements: told not to loop, it hashes, and thousands cost no square.
CREATE OR REPLACE FUNCTION embedmill.hold_items(p_item_ids bigint[], p_lease_tokens bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF cardinality(p_item_ids) <= 20 THEN
        -- A token was given once, for one item: no need to pair them. What has no lease has no token.
        RETURN QUERY
        SELECT q.id FROM embedmill.embedding_queue q
         WHERE q.id = ANY (p_item_ids) AND q.lease_token = ANY (p_lease_tokens)
         ORDER BY q.id
           FOR UPDATE;
    ELSE
        RETURN QUERY SELECT embedmill.hold_many_items(p_item_ids, p_lease_tokens);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION embedmill.hold_many_items(p_item_ids bigint[], p_lease_tokens bigint[])
RETURNS SETOF bigint
LANGUAGE sql SET enable_nestloop = off SET enable_seqscan = off SET jit = off AS $$
    WITH held AS MATERIALIZED (
        SELECT id, lease_token
          FROM embedmill.embedding_queue
         WHERE id = ANY (p_item_ids)
         ORDER BY id
           FOR UPDATE
    )
    SELECT h.id
      FROM held h
      JOIN unnest(p_item_ids, p_lease_tokens) AS l (item_id, token) ON l.item_id = h.id AND l.token = h.lease_token
$$;

-- Whether an item waits for its record to be read and cut: it names no chunks yet.
CREATE OR REPLACE FUNCTION embedmill.waits_to_be_read(q embedmill.embedding_queue) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT q.status = 'pending' AND q.document_id IS NOT NULL AND q.first_ordinal IS NULL AND q.operation <> 'DELETE'
$$;
