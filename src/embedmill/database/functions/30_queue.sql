-- The queue: claim, finish, retry, release, rescue. Read top-down: an item is enqueued (35_documents.sql),
-- claimed with a lease token, and then finished, retried, failed, released or rescued.
-- Whoever writes on behalf of a claim shows its token; a token is never given twice.

-- Takes ready items of one generation: at most p_max_items, and about p_max_chunks and p_max_tokens of work
-- (the item that passes a bound is the last one taken, so there is always at least one).
--
-- The heads of the three priority lanes are ranked together, so that the cost does not grow with the backlog:
-- a weight for the priority plus one point for each minute waited. Then each lane's share is locked in its
-- own order, skipping what other workers hold. `= ANY (ARRAY(...))` keeps the plan when statistics are stale.
CREATE OR REPLACE FUNCTION embedmill.claim_items(
    p_worker_id uuid, p_generation_id integer, p_max_items integer, p_max_chunks bigint, p_max_tokens bigint,
    p_lease_seconds double precision)
RETURNS SETOF embedmill.embedding_queue
LANGUAGE sql AS $$
    WITH heads AS MATERIALIZED (
        SELECT lane.priority, h.id, h.available_at, h.estimated_tokens, h.chunks
          FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
         CROSS JOIN LATERAL (
            SELECT q.id, q.available_at, q.estimated_tokens,
                   coalesce(q.last_ordinal - q.first_ordinal + 1, 1) AS chunks
              FROM embedmill.embedding_queue q
             WHERE q.generation_id = p_generation_id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at <= now()
             ORDER BY q.available_at, q.id
             LIMIT p_max_items) h
    ), ranked AS (
        SELECT priority, row_number() OVER best AS place,
               sum(estimated_tokens) OVER best - estimated_tokens AS tokens_before,
               sum(chunks) OVER best - chunks AS chunks_before
          FROM heads
        WINDOW best AS (
            ORDER BY (CASE priority WHEN 'high' THEN 3 WHEN 'medium' THEN 2 ELSE 1 END) * 10
                     + extract(epoch FROM now() - available_at) / 60 DESC, id
            ROWS UNBOUNDED PRECEDING)
    ), share AS (
        SELECT priority, count(*) AS items
          FROM ranked
         WHERE place <= p_max_items AND tokens_before < p_max_tokens AND chunks_before < p_max_chunks
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
    )
    UPDATE embedmill.embedding_queue q
       SET status = 'processing', worker_id = p_worker_id, lease_token = nextval('embedmill.lease_tokens'),
           lease_deadline = now() + make_interval(secs => p_lease_seconds),
           processing_started_at = now(), rate_limit_delay_ms = NULL
     WHERE q.id = ANY (ARRAY(SELECT id FROM locked))
    RETURNING q.*
$$;

-- Generations with ready items: one index probe for each generation, however long the queue.
CREATE OR REPLACE FUNCTION embedmill.ready_generations() RETURNS SETOF integer
LANGUAGE sql STABLE AS $$
    SELECT g.id
      FROM embedmill.generations g
     WHERE EXISTS (
        SELECT FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
         CROSS JOIN LATERAL (
            SELECT FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at <= now()
             ORDER BY q.available_at, q.id
             LIMIT 1) h)
$$;

-- Locks the items that are still held by these tokens, in order of id so that nobody deadlocks;
-- returns those ids. What is not returned was lost to a rescue, a change or a cancellation.
-- The planner takes any array for ten elements: told not to loop, it hashes, and thousands cost no square.
CREATE OR REPLACE FUNCTION embedmill.hold_items(p_item_ids bigint[], p_lease_tokens bigint[]) RETURNS SETOF bigint
LANGUAGE sql SET enable_nestloop = off AS $$
    WITH held AS MATERIALIZED (
        SELECT id, lease_token
          FROM embedmill.embedding_queue
         WHERE id = ANY (p_item_ids) AND status = 'processing'
         ORDER BY id
           FOR UPDATE
    )
    SELECT h.id
      FROM held h
      JOIN unnest(p_item_ids, p_lease_tokens) AS l (item_id, token) ON l.item_id = h.id AND l.token = h.lease_token
$$;

-- Moves items out of the live table into the history.
CREATE OR REPLACE FUNCTION embedmill.end_items(
    p_item_ids bigint[], p_status embedmill.queue_status, p_error_message text, p_vector_counts integer[])
RETURNS void
LANGUAGE sql SET enable_nestloop = off SET enable_hashjoin = on AS $$
    WITH ended AS (
        DELETE FROM embedmill.embedding_queue WHERE id = ANY (p_item_ids) RETURNING *
    )
    INSERT INTO embedmill.embedding_queue_history
        (id, tenant_id, generation_id, document_id, part, status, priority, operation, retry_count, max_retries,
         crash_count, estimated_tokens, actual_tokens, vector_count, rate_limit_delay_ms, created_at,
         processing_started_at, processing_completed_at, worker_id, job_id, batch_id, source_type, source_id,
         error_message, metadata)
    SELECT e.id, e.tenant_id, e.generation_id, e.document_id, e.part, p_status, e.priority, e.operation,
           e.retry_count, e.max_retries, e.crash_count, e.estimated_tokens, e.actual_tokens,
           coalesce(l.vectors, 0), e.rate_limit_delay_ms, e.created_at, e.processing_started_at,
           clock_timestamp(), e.worker_id, e.job_id, e.batch_id, e.source_type, e.source_id,
           coalesce(p_error_message, e.error_message), e.metadata
      FROM ended e
      LEFT JOIN unnest(p_item_ids, p_vector_counts) AS l (item_id, vectors) ON l.item_id = e.id
$$;

-- Ends as completed those of the (locked) items whose every embeddable chunk has its vector; returns their
-- ids. Completion is verified here and never assumed: an item that misses a vector is not returned.
-- The planner is held to index probes: a hash join would read the whole table of vectors for a few items.
CREATE OR REPLACE FUNCTION embedmill.complete_items(p_generation_id integer, p_item_ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
    v_done bigint[];
    v_vectors integer[];
BEGIN
    EXECUTE format(
        'SELECT array_agg(t.id), array_agg(t.vectors) FROM ('
        '  SELECT q.id, count(v.chunk_id)::integer AS vectors, '
        '         count(*) FILTER (WHERE c.id IS NOT NULL AND c.error_reason IS NULL AND v.chunk_id IS NULL) AS missing'
        '    FROM embedmill.embedding_queue q'
        '    LEFT JOIN embedmill.knowledge_chunks c'
        '      ON c.document_id = q.document_id AND c.ordinal BETWEEN q.first_ordinal AND q.last_ordinal'
        '    LEFT JOIN embedmill.%I v ON v.chunk_id = c.id'
        '   WHERE q.id = ANY ($1) GROUP BY q.id) t WHERE t.missing = 0',
        'vectors_' || p_generation_id)
    INTO v_done, v_vectors USING p_item_ids;
    PERFORM embedmill.end_items(v_done, 'completed', NULL, v_vectors);
    RETURN coalesce(v_done, '{}');
END
$$;

-- The chunks of claimed items that have no vector yet and can have one.
CREATE OR REPLACE FUNCTION embedmill.load_chunks(p_generation_id integer, p_item_ids bigint[])
RETURNS TABLE (item_id bigint, chunk_id bigint, token_count integer, content_hash bytea, text text)
LANGUAGE plpgsql STABLE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT q.id, c.id, c.token_count, c.content_hash, c.text'
        '  FROM embedmill.embedding_queue q'
        '  JOIN embedmill.knowledge_chunks c'
        '    ON c.document_id = q.document_id AND c.ordinal BETWEEN q.first_ordinal AND q.last_ordinal'
        ' WHERE q.id = ANY ($1) AND c.error_reason IS NULL'
        '   AND NOT EXISTS (SELECT FROM embedmill.%I v WHERE v.chunk_id = c.id)',
        'vectors_' || p_generation_id)
    USING p_item_ids;
END
$$;

-- For each text, a chunk of the tenant whose vector may be reused, and the generation that it stands in (this
-- one first, then others of the same recipe): nothing is paid for it. Asked once for each distinct text: ten
-- thousand equal chunks must not look through each other ten thousand times.
CREATE OR REPLACE FUNCTION embedmill.find_donors(p_generation_id integer, p_content_hashes bytea[])
RETURNS TABLE (content_hash bytea, donor bigint, donor_generation_id integer)
LANGUAGE plpgsql STABLE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
    v_own embedmill.generations;
    v_id integer;
BEGIN
    SELECT * INTO STRICT v_own FROM embedmill.generations g WHERE g.id = p_generation_id;
    FOR v_id IN
        SELECT g.id FROM embedmill.generations g
         WHERE g.tenant_id = v_own.tenant_id AND g.recipe_hash = v_own.recipe_hash
         ORDER BY g.id = p_generation_id DESC, g.id DESC
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT w.content_hash, d.id, $3'
            '  FROM unnest($2) AS w (content_hash)'
            ' CROSS JOIN LATERAL ('
            '   SELECT c.id FROM embedmill.knowledge_chunks c JOIN embedmill.%I v ON v.chunk_id = c.id'
            '    WHERE c.tenant_id = $1 AND c.content_hash = w.content_hash LIMIT 1) d',
            'vectors_' || v_id)
        USING v_own.tenant_id, p_content_hashes, v_id;
    END LOOP;
END
$$;

-- Gives items back. A rate limit or a graceful stop costs no attempt (p_attempt 0), a failure one, and an
-- item whose attempts are used up ends as failed, with a dead letter. Delays are the caller's (backoff).
-- Returns the ids of those that ended.
CREATE OR REPLACE FUNCTION embedmill.return_items(
    p_item_ids bigint[], p_lease_tokens bigint[], p_status embedmill.queue_status, p_attempt integer,
    p_delay_ms bigint, p_reason text, p_error_message text)
RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    v_held bigint[] := ARRAY(SELECT embedmill.hold_items(p_item_ids, p_lease_tokens));
    v_dead bigint[];
BEGIN
    UPDATE embedmill.embedding_queue
       SET status = p_status, lease_token = NULL, lease_deadline = NULL, worker_id = NULL,
           retry_count = retry_count + p_attempt,
           available_at = CASE WHEN p_delay_ms = 0 THEN available_at
                               ELSE clock_timestamp() + make_interval(secs => p_delay_ms / 1000.0) END,
           rate_limit_delay_ms = CASE WHEN p_status = 'rate_limited' THEN p_delay_ms END,
           error_message = coalesce(p_error_message, error_message)
     WHERE id = ANY (v_held);
    v_dead := ARRAY(SELECT id FROM embedmill.embedding_queue
                     WHERE id = ANY (v_held) AND retry_count > max_retries ORDER BY id);
    PERFORM embedmill.bury_items(v_dead, p_reason, p_error_message);
    RETURN v_dead;
END
$$;

-- Ends (locked) items as failed, with a dead letter for each, and their jobs with them.
CREATE OR REPLACE FUNCTION embedmill.bury_items(p_item_ids bigint[], p_reason text, p_error_message text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(cardinality(p_item_ids), 0) = 0 THEN
        RETURN;
    END IF;
    INSERT INTO embedmill.dead_letters (tenant_id, generation_id, item_id, document_id, reason, error_message)
    SELECT tenant_id, generation_id, id, document_id, p_reason, p_error_message
      FROM embedmill.embedding_queue WHERE id = ANY (p_item_ids);
    UPDATE embedmill.ingestion_jobs j
       SET status = 'failed', error_stage = 'embedding', error_message = p_error_message,
           updated_at = now(), completed_at = now()
     WHERE j.id IN (SELECT job_id FROM embedmill.embedding_queue WHERE id = ANY (p_item_ids))
       AND j.status = 'embedding_in_progress';
    PERFORM embedmill.end_items(p_item_ids, 'failed', p_error_message, NULL);
END
$$;

-- Frees the items of workers that are gone: no heartbeat for two intervals, known dead (p_dead_workers, seen
-- by whoever shares their machine), or past the hard deadline, which also catches a worker that hangs with
-- its heart beating. Crashes are counted apart from failures: more than ten, and the item is a dead letter.
CREATE OR REPLACE FUNCTION embedmill.rescue_items(p_dead_workers uuid[]) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[];
BEGIN
    UPDATE embedmill.embedding_queue_workers
       SET status = 'error', stopped_at = now(), last_error = 'the process is gone'
     WHERE status IN ('active', 'idle')
       AND (worker_id = ANY (p_dead_workers)
            OR heartbeat_at < clock_timestamp() - make_interval(secs => heartbeat_interval_ms * 2 / 1000.0));
    v_ids := ARRAY(
        SELECT q.id
          FROM embedmill.embedding_queue q
         WHERE q.status = 'processing'
           AND (q.lease_deadline < clock_timestamp()
                OR NOT EXISTS (SELECT FROM embedmill.embedding_queue_workers w
                                WHERE w.worker_id = q.worker_id AND w.status IN ('active', 'idle')))
         ORDER BY q.id
           FOR UPDATE SKIP LOCKED);
    UPDATE embedmill.embedding_queue
       SET status = 'pending', lease_token = NULL, lease_deadline = NULL, worker_id = NULL,
           crash_count = crash_count + 1
     WHERE id = ANY (v_ids);
    PERFORM embedmill.bury_items(
        ARRAY(SELECT id FROM embedmill.embedding_queue WHERE id = ANY (v_ids) AND crash_count > 10 ORDER BY id),
        'crash', 'the worker died or hung each time it worked on this item');
    RETURN cardinality(v_ids);
END
$$;

-- One partition of history for each day, a week ahead. Where rows of a day already stand in the rest
-- partition (nobody made the day's in time), they stay there: nothing is lost, only dropped later.
CREATE OR REPLACE FUNCTION embedmill.ensure_history_partitions() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_day date;
BEGIN
    FOR v_day IN SELECT (now() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, 7) AS n LOOP
        IF to_regclass('embedmill.embedding_queue_history_' || to_char(v_day, 'YYYYMMDD')) IS NULL THEN
            BEGIN
                EXECUTE format(
                    'CREATE TABLE embedmill.%I PARTITION OF embedmill.embedding_queue_history '
                    'FOR VALUES FROM (%L) TO (%L)',
                    'embedding_queue_history_' || to_char(v_day, 'YYYYMMDD'),
                    v_day::text || ' 00:00:00+00', (v_day + 1)::text || ' 00:00:00+00');
            EXCEPTION WHEN check_violation OR duplicate_table THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

-- What the API and the operators see of an item's life, live or ended.
CREATE OR REPLACE VIEW embedmill.embedding_jobs WITH (security_invoker = true) AS
    SELECT q.id, q.tenant_id, q.generation_id, q.document_id, q.source_type, q.source_id, q.part,
           q.status, q.priority, q.operation, q.retry_count, q.error_message, q.estimated_tokens,
           q.actual_tokens, NULL::integer AS vector_count, q.created_at, q.processing_started_at,
           NULL::timestamptz AS processing_completed_at, q.worker_id, q.job_id, q.batch_id, q.metadata
      FROM embedmill.embedding_queue q
    UNION ALL
    SELECT h.id, h.tenant_id, h.generation_id, h.document_id, h.source_type, h.source_id, h.part,
           h.status, h.priority, h.operation, h.retry_count, h.error_message, h.estimated_tokens,
           h.actual_tokens, h.vector_count, h.created_at, h.processing_started_at,
           h.processing_completed_at, h.worker_id, h.job_id, h.batch_id, h.metadata
      FROM embedmill.embedding_queue_history h;
