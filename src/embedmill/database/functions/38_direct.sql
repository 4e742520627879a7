-- Embedding without the queue: for when it is off, or refuses to take a document. What is fenced by an item's lease
-- elsewhere is fenced here by the document's row and version. The order of locks is that of 35_documents.sql.

-- Launches a document's job as launch_document does. Where the queue is off, or does not take it, the job is set
-- going all the same, and `reason` says why whoever launched it must embed it himself.
CREATE OR REPLACE FUNCTION embedmill.launch_or_start(
    p_document_id bigint, p_job_id uuid, p_batch_id uuid, p_priority embedmill.queue_priority, p_usage_type text)
RETURNS TABLE (chunks bigint, tokens bigint, reason text)
LANGUAGE plpgsql AS $$
BEGIN
    IF embedmill.queue_enabled() THEN
        BEGIN
            SELECT l.chunks, l.tokens INTO chunks, tokens
              FROM embedmill.launch_document(p_document_id, p_job_id, p_batch_id, p_priority, p_usage_type) AS l;
        EXCEPTION
            WHEN deadlock_detected OR serialization_failure OR lock_not_available THEN
                RAISE;  -- it goes well when it is tried again
            WHEN OTHERS THEN
                reason := 'the queue did not take it: ' || SQLERRM;
        END;
    ELSE
        reason := 'queue_enabled is false';
    END IF;
    IF reason IS NOT NULL THEN
        chunks := embedmill.start_job(p_document_id, p_job_id, p_batch_id);
        tokens := 0;
    END IF;
    RETURN NEXT;
END
$$;

-- Chunks of a document that lack a vector and may have one, from an ordinal on.
CREATE OR REPLACE FUNCTION embedmill.load_document_chunks(
    p_generation_id integer, p_document_id bigint, p_first_ordinal integer, p_limit integer)
RETURNS TABLE (chunk_id bigint, ordinal integer, token_count integer, content_hash bytea, text text)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT c.id, c.ordinal, c.token_count, c.content_hash, c.text FROM embedmill.knowledge_chunks c'
        ' WHERE c.document_id = $1 AND c.ordinal >= $2 AND c.chunk_set = $4 AND c.error_reason IS NULL'
        '   AND NOT EXISTS (SELECT FROM embedmill.%I v WHERE v.chunk_id = c.id)'
        ' ORDER BY c.ordinal LIMIT $3',
        'vectors_' || p_generation_id)
    USING p_document_id, p_first_ordinal, p_limit,
          (SELECT g.chunk_set FROM embedmill.generations g WHERE g.id = p_generation_id);
END
$$;

-- The share of a job that is embedded without the queue; returns whether to go on (it was not cancelled).
CREATE OR REPLACE FUNCTION embedmill.advance_direct_job(
    p_job_id uuid, p_embedded integer, p_reused integer, p_failed integer, p_tokens bigint, p_cost numeric)
RETURNS boolean
LANGUAGE sql AS $$
    UPDATE embedmill.ingestion_jobs
       SET failed_chunks = least(failed_chunks + p_failed, total_chunks),
           embedded_chunks = least(embedded_chunks + p_embedded, total_chunks - least(failed_chunks + p_failed, total_chunks)),
           reused_chunks = reused_chunks + p_reused, paid_tokens = paid_tokens + p_tokens,
           cost_usd = cost_usd + p_cost, updated_at = now()
     WHERE id = p_job_id
    RETURNING status = 'embedding_in_progress'
$$;

-- The end of such a job: completed, if every embeddable chunk has its vector by now (verified, never assumed);
-- failed with its message else. Called with the document's row locked.
CREATE OR REPLACE FUNCTION embedmill.end_direct_job(p_document_id bigint, p_job_id uuid, p_error_message text)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM embedmill.ingestion_jobs WHERE id = p_job_id AND status = 'embedding_in_progress' FOR UPDATE;
    IF FOUND AND embedmill.start_job(p_document_id, p_job_id,
                                     (SELECT batch_id FROM embedmill.ingestion_jobs WHERE id = p_job_id)) > 0 THEN
        UPDATE embedmill.ingestion_jobs
           SET status = 'failed', error_stage = 'embedding', completed_at = now(), updated_at = now(),
               error_message = coalesce(p_error_message, 'the document changed while it was embedded')
         WHERE id = p_job_id;
    END IF;
END
$$;
