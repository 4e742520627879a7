-- A person stops a job, and goes on with it. Not as when content is superseded (35_documents.sql), where a lease is
-- void at once: what is under way here is paid for and wanted, so it is written, and only then its item ends.
--
-- An item that a worker holds is flagged: cancel_requested_at. Its worker learns of it with the write of its next
-- response, or by the look that it takes every two seconds; whoever gives a flagged item back (return_items,
-- rescue_items) ends it. Launching again takes the flag away (enqueue_document).
--
-- The order of locks is that of 35_documents.sql; a row of parse_queue counts as an item.

-- Stops a job for good, or until somebody resumes it; returns its status, NULL where there is no such job. One that has
-- ended stays as it is; what of a failed one is still worked on stops too.
CREATE OR REPLACE FUNCTION embedmill.cancel_job(p_job_id uuid, p_message text DEFAULT 'cancelled')
RETURNS embedmill.job_status
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_document_id bigint;
    v_ids bigint[];
    v_status embedmill.job_status;
BEGIN
    SELECT document_id INTO v_document_id FROM embedmill.ingestion_jobs WHERE id = p_job_id;
    PERFORM FROM embedmill.knowledge_documents WHERE id = v_document_id FOR UPDATE;
    -- Also what other generations of the pipeline have of the document: theirs name no job.
    v_ids := ARRAY(SELECT q.id FROM embedmill.embedding_queue q
                    WHERE q.document_id = v_document_id
                      AND (q.job_id = p_job_id
                           OR q.job_id IS NULL AND q.operation <> 'DELETE' AND q.generation_id <> (
                              SELECT p.current_generation_id FROM embedmill.knowledge_documents d
                                JOIN embedmill.pipelines p ON p.id = d.pipeline_id WHERE d.id = v_document_id))
                    ORDER BY q.id FOR UPDATE);
    PERFORM embedmill.end_items(
        ARRAY(SELECT id FROM embedmill.embedding_queue WHERE id = ANY (v_ids) AND status <> 'processing'),
        'cancelled', p_message, NULL);
    UPDATE embedmill.embedding_queue SET cancel_requested_at = now()
     WHERE id = ANY (v_ids) AND cancel_requested_at IS NULL;
    DELETE FROM embedmill.parse_queue WHERE job_id = p_job_id;
    UPDATE embedmill.ingestion_jobs
       SET status = 'cancelled', error_message = p_message, paused_reason = NULL, updated_at = now(),
           completed_at = now(),
           -- Resumed, it goes back to the parsers, also where chunks of an older plan stand.
           error_stage = CASE WHEN status IN ('staged', 'parsing') THEN 'parsing' END
     WHERE id = p_job_id AND status NOT IN ('completed', 'cancelled', 'failed');
    IF FOUND THEN
        PERFORM embedmill.record_action(j.tenant_id, 'job.cancel', j.id::text, NULL, to_jsonb(p_message))
           FROM embedmill.ingestion_jobs j WHERE j.id = p_job_id;
    END IF;
    SELECT status INTO v_status FROM embedmill.ingestion_jobs WHERE id = p_job_id;
    RETURN v_status;
END
$$;

-- As hold_items, and which of the items somebody wants to stop: known with the lock, without another round trip.
CREATE OR REPLACE FUNCTION embedmill.hold_items_heeding_cancels(p_item_ids bigint[], p_lease_tokens bigint[])
RETURNS TABLE (item_id bigint, is_cancelled boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_held bigint[];
BEGIN
    IF cardinality(p_item_ids) <= 20 THEN
        RETURN QUERY
        SELECT q.id, q.cancel_requested_at IS NOT NULL FROM embedmill.embedding_queue q
         WHERE q.id = ANY (p_item_ids) AND q.lease_token = ANY (p_lease_tokens)
         ORDER BY q.id
           FOR UPDATE;
    ELSE
        v_held := ARRAY(SELECT embedmill.hold_many_items(p_item_ids, p_lease_tokens));
        -- In a statement of its own: it sees what was committed while the one before waited for its locks.
        RETURN QUERY
        SELECT q.id, q.cancel_requested_at IS NOT NULL FROM embedmill.embedding_queue q WHERE q.id = ANY (v_held);
    END IF;
END
$$;

-- Ends those of the (locked) items that somebody wants to stop; returns the others. Their job is cancelled already,
-- as a rule. One that was resumed meanwhile lacks nothing of them (launching would have taken the flag away), and
-- they may have been the last it waited for.
CREATE OR REPLACE FUNCTION embedmill.end_cancelled_items(p_item_ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_flagged bigint[] := ARRAY(SELECT id FROM embedmill.embedding_queue
                                 WHERE id = ANY (p_item_ids) AND cancel_requested_at IS NOT NULL);
    v_jobs uuid[];
BEGIN
    IF cardinality(v_flagged) = 0 THEN
        RETURN p_item_ids;
    END IF;
    v_jobs := ARRAY(SELECT DISTINCT j.id FROM embedmill.embedding_queue q
                      JOIN embedmill.ingestion_jobs j ON j.id = q.job_id
                     WHERE q.id = ANY (v_flagged) AND j.status = 'embedding_in_progress');
    PERFORM embedmill.end_items(v_flagged, 'cancelled', 'its job was cancelled', NULL);
    IF cardinality(v_jobs) > 0 THEN
        PERFORM embedmill.advance_jobs(v_jobs, z, z, z, z::bigint[], z::numeric[])
           FROM array_fill(0, ARRAY[cardinality(v_jobs)]) AS z;
    END IF;
    RETURN ARRAY(SELECT i FROM unnest(p_item_ids) AS i EXCEPT SELECT f FROM unnest(v_flagged) AS f ORDER BY 1);
END
$$;

-- Gives back what the queue thinks that a worker holds and the worker does not know of: a claim whose answer was
-- lost.
CREATE OR REPLACE FUNCTION embedmill.return_stray_items(
    p_worker_id uuid, p_generation_id integer, p_known bigint[])
RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ids bigint[] := ARRAY(SELECT id FROM embedmill.embedding_queue
                             WHERE worker_id = p_worker_id AND generation_id = p_generation_id
                               AND status = 'processing' AND id <> ALL (p_known) ORDER BY id FOR UPDATE);
BEGIN
    UPDATE embedmill.embedding_queue
       SET status = 'pending', lease_token = NULL, lease_deadline = NULL, worker_id = NULL
     WHERE id = ANY (embedmill.end_cancelled_items(v_ids));
END
$$;

-- Hands a job to the parsers again, whoever had it before.
CREATE OR REPLACE FUNCTION embedmill.redispatch_job(p_job embedmill.ingestion_jobs) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO embedmill.parse_queue AS q (job_id, tenant_id, priority)
    VALUES (p_job.id, p_job.tenant_id, p_job.priority)
    ON CONFLICT (job_id) DO UPDATE
       SET available_at = now(), attempts = 0, worker_id = NULL, lease_token = NULL, lease_deadline = NULL
$$;

-- What resume_job and retry_job do.
CREATE OR REPLACE FUNCTION embedmill.restart_job(
    p_job_id uuid, p_forgive boolean, OUT status embedmill.job_status, OUT reason text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_job embedmill.ingestion_jobs;
    v_refused bigint[] := '{}';
BEGIN
    v_job := embedmill.hold_newest_job(p_job_id);
    IF v_job.status NOT IN ('cancelled', 'failed')
       AND NOT (p_forgive AND v_job.status = 'completed' AND v_job.failed_chunks > 0) THEN
        restart_job.status := v_job.status;
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM embedmill.embedding_queue q
                WHERE q.document_id = v_job.document_id AND q.operation = 'DELETE') THEN
        RAISE EXCEPTION 'the document of this job is being deleted'
            USING ERRCODE = 'EM409', HINT = 'Stage it again once it is gone.';
    END IF;

    IF v_job.total_chunks = 0 OR v_job.error_stage NOT IN ('embedding', 'cancellation', 'launch') THEN
        -- Its chunks were never made: whatever chunks the document has are those of older content.
        IF v_job.original_key IS NULL AND v_job.original_url IS NULL AND v_job.original_dropped_at IS NOT NULL THEN
            RAISE EXCEPTION 'the original of this job was dropped on %, past originals_retention_days, so it cannot be read '
                'anew: upload the document again', (v_job.original_dropped_at AT TIME ZONE 'UTC')::date
                USING ERRCODE = 'EM409';
        END IF;
        IF v_job.original_key IS NULL AND v_job.original_url IS NULL THEN
            RAISE EXCEPTION 'this job was never parsed, and its original is not kept here'
                USING ERRCODE = 'EM409', HINT = 'Ingest it again from where it came.';
        END IF;
        PERFORM embedmill.redispatch_job(v_job);
        UPDATE embedmill.ingestion_jobs
           SET status = 'staged', error_stage = NULL, error_message = NULL, paused_reason = NULL, completed_at = NULL,
               updated_at = now()
         WHERE id = p_job_id;
        restart_job.status := 'staged';
        RETURN;
    END IF;

    IF p_forgive THEN
        PERFORM FROM embedmill.embedding_queue q WHERE q.document_id = v_job.document_id ORDER BY q.id FOR UPDATE;
        v_refused := ARRAY(SELECT c.id FROM embedmill.knowledge_chunks c
                            WHERE c.document_id = v_job.document_id AND c.error_reason IS NOT NULL
                            ORDER BY c.id FOR UPDATE);
        UPDATE embedmill.knowledge_chunks SET error_reason = NULL WHERE id = ANY (v_refused);
    END IF;
    SELECT l.reason INTO restart_job.reason
      FROM embedmill.launch_or_start(v_job.document_id, p_job_id, v_job.batch_id, v_job.priority,
                                     'internal_ingestion') AS l
     WHERE l.chunks > 0;
    UPDATE embedmill.ingestion_jobs j SET paused_reason = NULL WHERE j.id = p_job_id
    RETURNING j.status INTO restart_job.status;
    IF restart_job.reason IS NOT NULL THEN
        PERFORM embedmill.redispatch_job(v_job);
    END IF;
    IF p_forgive THEN
        UPDATE embedmill.dead_letters SET resolved_at = now(), resolution = 'retried'
         WHERE document_id = v_job.document_id AND resolved_at IS NULL;
        PERFORM embedmill.count_forgiven(v_refused);
    END IF;
END
$$;

-- Goes on with a job that was cancelled or has failed: what its document lacks is embedded, nothing else; one that was
-- never parsed waits for a parser again. Returns its status from now on, and why the queue did not take it, where it
-- did not: a worker embeds it directly then. Any other job is left as it is.
-- Errors: EM404 where there is no such job; EM409 where it cannot go on (newer content came after it, it is being
-- deleted, its original is not kept), with the reason in words.
CREATE OR REPLACE FUNCTION embedmill.resume_job(
    p_job_id uuid, OUT status embedmill.job_status, OUT reason text)
LANGUAGE sql AS $$
    SELECT r.status, r.reason FROM embedmill.restart_job(p_job_id, false) AS r
$$;

-- As resume_job; also what the provider refused is tried again, of a completed job too, and its dead letters are
-- dealt with.
CREATE OR REPLACE FUNCTION embedmill.retry_job(
    p_job_id uuid, OUT status embedmill.job_status, OUT reason text)
LANGUAGE sql AS $$
    SELECT r.status, r.reason FROM embedmill.restart_job(p_job_id, true) AS r
$$;
