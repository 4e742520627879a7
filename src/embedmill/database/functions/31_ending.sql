-- The ends of a claim: completed (verified, never assumed), returned, failed, cancelled. Ended items move to the
-- history, and every end is counted.

-- Moves items out of the live table into the history, and counts them there.
CREATE OR REPLACE FUNCTION embedmill.end_items(
    p_item_ids bigint[], p_status embedmill.queue_status, p_error_message text, p_vector_counts integer[])
RETURNS void
LANGUAGE sql SET enable_nestloop = off SET enable_hashjoin = on SET enable_seqscan = off SET jit = off AS $$
    WITH ended AS (
        DELETE FROM embedmill.embedding_queue WHERE id = ANY (p_item_ids) RETURNING *
    ), moved AS (
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
        RETURNING tenant_id, generation_id, processing_completed_at
    )
    INSERT INTO embedmill.queue_changes (tenant_id, generation_id, day, status, items)
    SELECT tenant_id, generation_id, (processing_completed_at AT TIME ZONE 'UTC')::date, p_status::text, count(*)
      FROM moved GROUP BY 1, 2, 3
$$;

-- Ends claimed items as completed, fenced by their tokens, where nothing else is to be written with them; returns
-- the ids of those that ended. Items with content are verified (complete_items) and their jobs advance; deletions
-- are carried out; an item without content needs no look. By index, also with a plan made while the table was tiny.
CREATE OR REPLACE FUNCTION embedmill.finish_items(p_item_ids bigint[], p_lease_tokens bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v embedmill.embedding_queue;
    v_done bigint[];
    v_generation_id integer;
    v_held bigint[];
    v_jobs uuid[];
BEGIN
    IF cardinality(p_item_ids) = 1 THEN
        -- By hand for one: statements without a join begin sooner.
        DELETE FROM embedmill.embedding_queue q
         WHERE q.id = p_item_ids[1] AND q.lease_token = p_lease_tokens[1] AND num_nulls(q.document_id) = 1
        RETURNING q.* INTO v;
        IF FOUND THEN
            INSERT INTO embedmill.embedding_queue_history
            (id, tenant_id, generation_id, document_id, part, status, priority, operation, retry_count, max_retries,
             crash_count, estimated_tokens, actual_tokens, vector_count, rate_limit_delay_ms, created_at,
             processing_started_at, processing_completed_at, worker_id, job_id, batch_id, source_type, source_id,
             error_message, metadata)
            VALUES
            (v.id, v.tenant_id, v.generation_id, v.document_id, v.part, 'completed', v.priority, v.operation,
             v.retry_count, v.max_retries, v.crash_count, v.estimated_tokens, v.actual_tokens, 0,
             v.rate_limit_delay_ms, v.created_at, v.processing_started_at, clock_timestamp(), v.worker_id, v.job_id,
             v.batch_id, v.source_type, v.source_id, v.error_message, v.metadata);
            INSERT INTO embedmill.queue_changes (tenant_id, generation_id, day, status, items)
            VALUES (v.tenant_id, v.generation_id, (now() AT TIME ZONE 'UTC')::date, 'completed', 1);
            RETURN p_item_ids;
        END IF;
    ELSE
        WITH ended AS (
            -- One probe for each, in order of id; what has no lease has no token.
            DELETE FROM embedmill.embedding_queue q
             USING (SELECT item_id, token FROM unnest(p_item_ids, p_lease_tokens) AS l (item_id, token)
                     ORDER BY item_id) l
             WHERE q.id = l.item_id AND q.lease_token = l.token AND num_nulls(q.document_id) = 1
            RETURNING q.*
        ), moved AS (
            INSERT INTO embedmill.embedding_queue_history
                (id, tenant_id, generation_id, document_id, part, status, priority, operation, retry_count, max_retries,
                 crash_count, estimated_tokens, actual_tokens, vector_count, rate_limit_delay_ms, created_at,
                 processing_started_at, processing_completed_at, worker_id, job_id, batch_id, source_type, source_id,
                 error_message, metadata)
            SELECT e.id, e.tenant_id, e.generation_id, e.document_id, e.part, 'completed', e.priority, e.operation,
                   e.retry_count, e.max_retries, e.crash_count, e.estimated_tokens, e.actual_tokens, 0,
                   e.rate_limit_delay_ms, e.created_at, e.processing_started_at, clock_timestamp(), e.worker_id, e.job_id,
                   e.batch_id, e.source_type, e.source_id, e.error_message, e.metadata
              FROM ended e
            RETURNING id, tenant_id, generation_id
        ), counted AS (
            INSERT INTO embedmill.queue_changes (tenant_id, generation_id, day, status, items)
            SELECT tenant_id, generation_id, (now() AT TIME ZONE 'UTC')::date, 'completed', count(*) FROM moved
             GROUP BY tenant_id, generation_id
        )
        SELECT array_agg(id) INTO v_done FROM moved;
    END IF;
    IF cardinality(v_done) = cardinality(p_item_ids) THEN
        RETURN v_done;
    END IF;
    IF EXISTS (SELECT FROM embedmill.embedding_queue WHERE id = ANY (p_item_ids) AND operation = 'DELETE') THEN
        v_done := v_done || embedmill.delete_claimed_documents(p_item_ids, p_lease_tokens);
    END IF;
    FOR v_generation_id IN
        SELECT DISTINCT q.generation_id FROM embedmill.embedding_queue q
         WHERE q.id = ANY (p_item_ids) AND q.document_id IS NOT NULL ORDER BY 1
    LOOP
        v_held := ARRAY(
            SELECT h FROM embedmill.hold_items(p_item_ids, p_lease_tokens) AS h
              JOIN embedmill.embedding_queue q ON q.id = h AND q.generation_id = v_generation_id);
        v_jobs := ARRAY(SELECT DISTINCT job_id FROM embedmill.embedding_queue
                         WHERE id = ANY (v_held) AND job_id IS NOT NULL);
        v_done := v_done || embedmill.complete_items(v_generation_id, v_held);
        PERFORM embedmill.advance_jobs(v_jobs, z, z, z, z::bigint[], z::numeric[])
           FROM array_fill(0, ARRAY[cardinality(v_jobs)]) AS z WHERE cardinality(v_jobs) > 0;
    END LOOP;
    RETURN coalesce(v_done, '{}');
END
$$;

-- Ends as completed those of the (locked) items whose every embeddable chunk has its vector; returns their
-- ids. Completion is verified here and never assumed: an item that misses a vector is not returned.
-- The planner is held to index probes: a hash join would read the whole table of vectors for a few items.
CREATE OR REPLACE FUNCTION embedmill.complete_items(p_generation_id integer, p_item_ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
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
        '         AND c.chunk_set = $2'
        '    LEFT JOIN embedmill.%I v ON v.chunk_id = c.id'
        '   WHERE q.id = ANY ($1) GROUP BY q.id) t WHERE t.missing = 0',
        'vectors_' || p_generation_id)
    INTO v_done, v_vectors USING p_item_ids, (SELECT chunk_set FROM embedmill.generations WHERE id = p_generation_id);
    PERFORM embedmill.end_items(v_done, 'completed', NULL, v_vectors);
    RETURN coalesce(v_done, '{}');
END
$$;

-- Gives items back. A rate limit or a graceful stop costs no attempt (p_attempt 0), a failure one, and an
-- item whose attempts are used up ends as failed, with a dead letter. Delays are the caller's (backoff). What
-- somebody wants to stop ends as cancelled; what a budget stops (p_reason `budget`) waits for that (52_budgets.sql).
-- Returns the ids of those that ended.
CREATE OR REPLACE FUNCTION embedmill.return_items(
    p_item_ids bigint[], p_lease_tokens bigint[], p_status embedmill.queue_status, p_attempt integer,
    p_delay_ms bigint, p_reason text, p_error_message text)
RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_held bigint[] := ARRAY(SELECT embedmill.hold_items(p_item_ids, p_lease_tokens));
    v_dead bigint[];
BEGIN
    IF p_attempt = 0 THEN
        -- The tenant has not had what it was charged for.
        INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items, tokens)
        SELECT tenant_id, generation_id, 'claimed', -count(*), -sum(estimated_tokens)
          FROM embedmill.embedding_queue q
         WHERE id = ANY (v_held) AND EXISTS (SELECT FROM embedmill.tenants o WHERE o.id <> q.tenant_id)
         GROUP BY tenant_id, generation_id;
    END IF;
    v_held := embedmill.end_cancelled_items(v_held);
    UPDATE embedmill.embedding_queue q
       SET status = p_status, lease_token = NULL, lease_deadline = NULL, worker_id = NULL,
           retry_count = retry_count + p_attempt,
           available_at = CASE WHEN p_reason = 'budget' AND embedmill.is_parked(q.tenant_id, q.job_id) THEN 'infinity'
                               WHEN p_delay_ms = 0 THEN available_at
                               ELSE clock_timestamp() + make_interval(secs => p_delay_ms / 1000.0) END,
           rate_limit_delay_ms = CASE WHEN p_status = 'rate_limited' THEN p_delay_ms END,
           held_up_at = CASE WHEN p_attempt = 0 AND p_reason = 'provider_unavailable'
                             THEN coalesce(held_up_at, clock_timestamp()) ELSE held_up_at END,
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
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF coalesce(cardinality(p_item_ids), 0) = 0 THEN
        RETURN;
    END IF;
    INSERT INTO embedmill.dead_letters
        (tenant_id, generation_id, item_id, document_id, record_source_id, reason, error_message)
    SELECT q.tenant_id, q.generation_id, q.id, q.document_id,
           coalesce((SELECT d.record_source_id FROM embedmill.knowledge_documents d WHERE d.id = q.document_id), 0),
           p_reason, p_error_message
      FROM embedmill.embedding_queue q WHERE q.id = ANY (p_item_ids);
    UPDATE embedmill.ingestion_jobs j
       SET status = 'failed', error_stage = 'embedding', error_message = p_error_message,
           updated_at = now(), completed_at = now()
     WHERE j.id IN (SELECT job_id FROM embedmill.embedding_queue WHERE id = ANY (p_item_ids))
       AND j.status = 'embedding_in_progress';
    PERFORM embedmill.end_items(p_item_ids, 'failed', p_error_message, NULL);
END
$$;

-- Ends live items as cancelled, whatever they are at: a worker that holds one finds its lease void and writes
-- nothing more. A job that has none left is cancelled with them. Returns the ids of those that were live.
CREATE OR REPLACE FUNCTION embedmill.cancel_items(p_item_ids bigint[], p_message text) RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ids bigint[] := ARRAY(SELECT id FROM embedmill.embedding_queue WHERE id = ANY (p_item_ids) ORDER BY id FOR UPDATE);
    v_jobs uuid[] := ARRAY(SELECT DISTINCT job_id FROM embedmill.embedding_queue
                            WHERE id = ANY (v_ids) AND job_id IS NOT NULL);
BEGIN
    PERFORM embedmill.end_items(v_ids, 'cancelled', p_message, NULL);
    PERFORM FROM embedmill.ingestion_jobs WHERE id = ANY (v_jobs) ORDER BY id FOR UPDATE;
    UPDATE embedmill.ingestion_jobs j
       SET status = 'cancelled', error_message = p_message, updated_at = now(), completed_at = now()
     WHERE j.id = ANY (v_jobs) AND j.status = 'embedding_in_progress'
       AND NOT EXISTS (SELECT FROM embedmill.embedding_queue q
                        WHERE q.document_id = j.document_id AND q.job_id = j.id);
    -- The others' job goes on, and cannot end as completed any more (advance_jobs).
    UPDATE embedmill.ingestion_jobs
       SET error_stage = 'cancellation', error_message = p_message, updated_at = now()
     WHERE id = ANY (v_jobs) AND status = 'embedding_in_progress';
    RETURN v_ids;
END
$$;
