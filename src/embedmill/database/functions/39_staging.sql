-- From an upload to its chunks: jobs that wait for a parser. The order of locks is that of 35_documents.sql, with
-- parse_queue right behind the document.

-- Takes an upload in: finds or makes its document, and makes a job that waits for a parser. The same bytes of the same
-- source, to be cut by the same plan, are recognised: `is_known`, and the job is the one that stands. A job that
-- failed or was cancelled before there were chunks is not good enough for that.
CREATE OR REPLACE FUNCTION embedmill.stage_job(
    p_job_id uuid, p_pipeline_id integer, p_source_type text, p_source_id text, p_name text, p_media_type text,
    p_size_bytes bigint, p_content_hash bytea, p_original_key text, p_original_url text,
    p_priority embedmill.queue_priority, p_batch_id uuid, p_metadata jsonb, p_user_id text, p_auto_launch boolean,
    p_chunk_tokens integer, p_chunk_overlap integer, p_budget_usd numeric)
RETURNS TABLE (job_id uuid, document_id bigint, status embedmill.job_status, is_known boolean)
LANGUAGE plpgsql AS $$
DECLARE
    v_pipeline embedmill.pipelines;
    v_document embedmill.knowledge_documents;
    v_newest embedmill.ingestion_jobs;
BEGIN
    SELECT * INTO STRICT v_pipeline FROM embedmill.pipelines WHERE id = p_pipeline_id;
    IF p_budget_usd IS NOT NULL THEN
        -- Budgets are locked before any row (52_budgets.sql).
        PERFORM pg_advisory_xact_lock(hashtext('embedmill.budgets'), v_pipeline.tenant_id);
    END IF;
    -- The same call again: the answer to its commit was lost. Whatever became of the job since, it is this one.
    SELECT * INTO v_newest FROM embedmill.ingestion_jobs j WHERE j.id = p_job_id;
    IF FOUND THEN
        RETURN QUERY SELECT v_newest.id, v_newest.document_id, v_newest.status, true;
        RETURN;
    END IF;
    -- The document has no content before it was parsed: version 0.
    INSERT INTO embedmill.knowledge_documents AS d (tenant_id, pipeline_id, source_type, source_id, name, version)
    VALUES (v_pipeline.tenant_id, p_pipeline_id, p_source_type, p_source_id, p_name, 0)
    ON CONFLICT (pipeline_id, source_type, source_id) DO UPDATE SET updated_at = d.updated_at
    RETURNING d.* INTO v_document;
    SELECT * INTO v_newest FROM embedmill.ingestion_jobs j
     WHERE j.document_id = v_document.id ORDER BY j.created_at DESC LIMIT 1;
    IF coalesce(v_newest.content_hash, v_document.content_hash) = p_content_hash
       AND (v_newest.status NOT IN ('failed', 'cancelled') OR v_newest.total_chunks > 0)
       AND (coalesce(v_newest.chunk_tokens, v_pipeline.chunk_tokens),
            coalesce(v_newest.chunk_overlap, v_pipeline.chunk_overlap))
           = (coalesce(p_chunk_tokens, v_pipeline.chunk_tokens), coalesce(p_chunk_overlap, v_pipeline.chunk_overlap))
    THEN
        RETURN QUERY SELECT v_newest.id, v_document.id, v_newest.status, true;
        RETURN;
    END IF;
    INSERT INTO embedmill.ingestion_jobs
        (id, tenant_id, pipeline_id, document_id, batch_id, priority, metadata, auto_launch, original_name,
         original_key, original_url, media_type, size_bytes, content_hash, chunk_tokens, chunk_overlap, user_id,
         created_at)
    VALUES (p_job_id, v_pipeline.tenant_id, p_pipeline_id, v_document.id, p_batch_id, p_priority, p_metadata,
            p_auto_launch, p_name, p_original_key, p_original_url, p_media_type, p_size_bytes, p_content_hash,
            p_chunk_tokens, p_chunk_overlap, p_user_id, clock_timestamp());
    IF p_budget_usd IS NOT NULL THEN
        PERFORM embedmill.set_budget(v_pipeline.tenant_id, p_job_id, 'total', p_budget_usd);
    END IF;
    PERFORM embedmill.dispatch_job(p_job_id);
    RETURN QUERY SELECT p_job_id, v_document.id, j.status, false
                   FROM embedmill.ingestion_jobs j WHERE j.id = p_job_id;
END
$$;

-- Hands a staged job to the parsers. Where that fails the job says so, and can be retried: it is never lost.
CREATE OR REPLACE FUNCTION embedmill.dispatch_job(p_job_id uuid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedmill.parse_queue (job_id, tenant_id, priority)
    SELECT id, tenant_id, priority FROM embedmill.ingestion_jobs WHERE id = p_job_id;
EXCEPTION
    WHEN deadlock_detected OR serialization_failure OR lock_not_available OR query_canceled THEN
        RAISE;  -- it goes well when it is tried again
    WHEN OTHERS THEN
        UPDATE embedmill.ingestion_jobs
           SET status = 'failed', error_stage = 'dispatch', error_message = SQLERRM, completed_at = now(),
               updated_at = now()
         WHERE id = p_job_id;
END
$$;

-- A job for an upload whose bytes could not be kept: it tells what happened.
CREATE OR REPLACE FUNCTION embedmill.stage_failure(
    p_job_id uuid, p_pipeline_id integer, p_source_type text, p_source_id text, p_name text, p_batch_id uuid,
    p_priority embedmill.queue_priority, p_metadata jsonb, p_user_id text, p_stage text, p_reason text,
    p_error_message text)
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_document_id bigint;
    v_tenant_id integer;
BEGIN
    SELECT tenant_id INTO STRICT v_tenant_id FROM embedmill.pipelines WHERE id = p_pipeline_id;
    INSERT INTO embedmill.knowledge_documents AS d
        (tenant_id, pipeline_id, source_type, source_id, name, version, error_reason, error_message)
    VALUES (v_tenant_id, p_pipeline_id, p_source_type, p_source_id, p_name, 0, p_reason, p_error_message)
    ON CONFLICT (pipeline_id, source_type, source_id) DO UPDATE SET updated_at = d.updated_at
    RETURNING d.id INTO v_document_id;
    INSERT INTO embedmill.ingestion_jobs
        (id, tenant_id, pipeline_id, document_id, batch_id, priority, metadata, original_name, user_id, status,
         error_stage, error_message, created_at, completed_at)
    VALUES (p_job_id, v_tenant_id, p_pipeline_id, v_document_id, p_batch_id, p_priority, p_metadata, p_name,
            p_user_id, 'failed', p_stage, p_error_message, clock_timestamp(), now())
    ON CONFLICT (id) DO NOTHING;  -- the answer to a commit was lost
    RETURN v_document_id;
END
$$;

-- What a job costs if it is launched now: chunks that lack a vector, those of them whose text has one already (or
-- stands twice in the document), and the tokens that must be paid.
CREATE OR REPLACE FUNCTION embedmill.estimate_job(p_job_id uuid)
RETURNS TABLE (lacking_chunks bigint, reusable_chunks bigint, tokens bigint, cost_usd numeric)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_document_id bigint;
    v_live embedmill.generations;
    v_hashes bytea[];
    v_counts integer[];
    v_tokens integer[];
    v_donated bytea[];
BEGIN
    SELECT j.document_id INTO v_document_id FROM embedmill.ingestion_jobs j WHERE j.id = p_job_id;
    SELECT g.* INTO v_live
      FROM embedmill.ingestion_jobs j
      JOIN embedmill.pipelines p ON p.id = j.pipeline_id
      JOIN embedmill.generations g ON g.id = p.current_generation_id
     WHERE j.id = p_job_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    EXECUTE format(
        'SELECT array_agg(content_hash), array_agg(chunks), array_agg(token_count) FROM ('
        '  SELECT c.content_hash, count(*)::integer AS chunks, max(c.token_count) AS token_count'
        '    FROM embedmill.knowledge_chunks c'
        '   WHERE c.document_id = $1 AND c.chunk_set = $2 AND c.error_reason IS NULL'
        '     AND NOT EXISTS (SELECT FROM embedmill.%I v WHERE v.chunk_id = c.id)'
        '   GROUP BY 1) t',
        'vectors_' || v_live.id)
    INTO v_hashes, v_counts, v_tokens USING v_document_id, v_live.chunk_set;
    v_donated := ARRAY(SELECT DISTINCT f.content_hash
                         FROM embedmill.find_donors(v_live.id, coalesce(v_hashes, '{}')) AS f);
    RETURN QUERY
    SELECT coalesce(sum(w.chunks), 0)::bigint,
           coalesce(sum(w.chunks - (NOT w.content_hash = ANY (v_donated))::integer), 0)::bigint,
           coalesce(sum(w.tokens) FILTER (WHERE NOT w.content_hash = ANY (v_donated)), 0)::bigint,
           coalesce(sum(w.tokens) FILTER (WHERE NOT w.content_hash = ANY (v_donated)), 0)
               * v_live.price_per_million_tokens / 1000000
      FROM unnest(v_hashes, v_counts, v_tokens) AS w (content_hash, chunks, tokens);
END
$$;

-- Launches a job whose preview stands. What the queue does not take is handed to a worker, who embeds it directly.
-- EM409: the job is not at its preview, or newer content of its document came after it.
CREATE OR REPLACE FUNCTION embedmill.launch_job(p_job_id uuid)
RETURNS TABLE (status embedmill.job_status, chunks bigint, reason text)
LANGUAGE plpgsql AS $$
DECLARE
    v_job embedmill.ingestion_jobs;
BEGIN
    v_job := embedmill.hold_newest_job(p_job_id);
    IF v_job.status <> 'chunk_preview_ready' THEN
        RAISE EXCEPTION 'only a job at its preview can be launched, and this one is %', v_job.status
            USING ERRCODE = 'EM409', HINT = CASE
                WHEN v_job.status IN ('cancelled', 'failed') THEN 'Resume it.'
                WHEN v_job.status IN ('staged', 'parsing') THEN 'Wait for its chunks, or stage it with autoLaunch.'
                ELSE 'It was launched already.' END;
    END IF;
    SELECT l.chunks, l.reason INTO chunks, reason
      FROM embedmill.launch_or_start(v_job.document_id, p_job_id, v_job.batch_id, v_job.priority, 'internal_ingestion') AS l;
    SELECT j.status INTO status FROM embedmill.ingestion_jobs j WHERE j.id = p_job_id;
    IF reason IS NOT NULL AND status = 'embedding_in_progress' THEN
        PERFORM embedmill.dispatch_job(p_job_id);
    END IF;
    RETURN NEXT;
END
$$;

-- A job with its document locked, if it is the newest of it: only that one may change what the document is. EM404:
-- there is none.
CREATE OR REPLACE FUNCTION embedmill.hold_newest_job(p_job_id uuid) RETURNS embedmill.ingestion_jobs
LANGUAGE plpgsql AS $$
DECLARE
    v_job embedmill.ingestion_jobs;
BEGIN
    PERFORM FROM embedmill.knowledge_documents
      WHERE id = (SELECT document_id FROM embedmill.ingestion_jobs WHERE id = p_job_id) FOR UPDATE;
    SELECT * INTO v_job FROM embedmill.ingestion_jobs WHERE id = p_job_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no ingestion job %', p_job_id USING ERRCODE = 'EM404';
    END IF;
    IF EXISTS (SELECT FROM embedmill.ingestion_jobs n
                WHERE n.document_id = v_job.document_id AND n.created_at > v_job.created_at) THEN
        RAISE EXCEPTION 'newer content of this document came after this job'
            USING ERRCODE = 'EM409', HINT = 'Go on with the newest job of the document.';
    END IF;
    RETURN v_job;
END
$$;

-- Cuts a job's original anew by another plan, before it is launched.
CREATE OR REPLACE FUNCTION embedmill.recut_job(p_job_id uuid, p_chunk_tokens integer, p_chunk_overlap integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_job embedmill.ingestion_jobs;
BEGIN
    v_job := embedmill.hold_newest_job(p_job_id);
    IF v_job.status NOT IN ('staged', 'chunk_preview_ready') THEN
        RAISE EXCEPTION 'the plan of a job can be changed while it is staged or at its preview, and this one is %', v_job.status
            USING ERRCODE = 'EM409', HINT = 'Cancel it first, or stage the document again with another plan.';
    END IF;
    IF v_job.status = 'chunk_preview_ready' AND v_job.original_key IS NULL AND v_job.original_url IS NULL THEN
        RAISE EXCEPTION 'the original of this document is not kept here, so it cannot be cut anew'
            USING ERRCODE = 'EM409', HINT = 'Ingest it again from where it came.';
    END IF;
    UPDATE embedmill.ingestion_jobs
       SET status = 'staged', chunk_tokens = p_chunk_tokens, chunk_overlap = p_chunk_overlap, total_chunks = 0,
           total_tokens = 0, updated_at = now()
     WHERE id = p_job_id;
    IF v_job.status = 'chunk_preview_ready' THEN
        PERFORM embedmill.dispatch_job(p_job_id);
    END IF;
END
$$;

-- Removes a job; the newest one takes its document with it. Returns the originals that nobody needs any more.
CREATE OR REPLACE FUNCTION embedmill.delete_job(p_job_id uuid) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    v_document_id bigint;
    v_is_newest boolean;
    v_keys text[];
BEGIN
    SELECT j.document_id INTO v_document_id FROM embedmill.ingestion_jobs j WHERE j.id = p_job_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no ingestion job %', p_job_id USING ERRCODE = 'EM404';
    END IF;
    PERFORM FROM embedmill.knowledge_documents WHERE id = v_document_id FOR UPDATE;
    v_is_newest := NOT EXISTS (SELECT FROM embedmill.ingestion_jobs n JOIN embedmill.ingestion_jobs j ON j.id = p_job_id
                                WHERE n.document_id = v_document_id AND n.created_at > j.created_at);
    v_keys := ARRAY(SELECT original_key FROM embedmill.ingestion_jobs
                     WHERE original_key IS NOT NULL AND (id = p_job_id OR v_is_newest AND document_id = v_document_id));
    PERFORM embedmill.record_action(j.tenant_id, 'job.delete', j.id::text, to_jsonb(j) - 'content_hash', NULL)
       FROM embedmill.ingestion_jobs j WHERE j.id = p_job_id;
    IF v_is_newest THEN
        PERFORM embedmill.cancel_document_items(v_document_id, 'deleted');
        DELETE FROM embedmill.knowledge_documents WHERE id = v_document_id;
    ELSE
        DELETE FROM embedmill.ingestion_jobs WHERE id = p_job_id;
    END IF;
    RETURN v_keys;
END
$$;
