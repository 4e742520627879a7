-- Jobs at the parsers: leased, held, and ended or given back. Staging is 39_staging.sql's. The order of locks is that
-- of 35_documents.sql, with parse_queue right behind the document.

-- Leases jobs to a parser: by priority, and among equals the tenants take turns, those with the fewest under way
-- first. A job that was leased before is parsing already; one that is embedding_in_progress was not taken by the queue
-- of items, and is to be embedded directly.
CREATE OR REPLACE FUNCTION embedmill.claim_parsing(p_worker_id uuid, p_limit integer, p_lease_seconds double precision)
RETURNS TABLE (
    job_id uuid, lease_token bigint, attempts smallint, pipeline_id integer, document_id bigint, source_type text,
    source_id text, name text, media_type text, size_bytes bigint, content_hash bytea, original_key text,
    original_url text, chunk_tokens integer, chunk_overlap integer, metadata jsonb, status embedmill.job_status)
LANGUAGE plpgsql AS $$
DECLARE
    v_ids uuid[];
BEGIN
    v_ids := ARRAY(
        SELECT w.job_id
          FROM embedmill.tenants t
         CROSS JOIN LATERAL (
               SELECT count(*) AS items FROM embedmill.parse_queue l
                WHERE l.lease_token IS NOT NULL AND l.tenant_id = t.id) leased
         CROSS JOIN LATERAL (
               SELECT q.job_id, q.priority, q.available_at,
                      row_number() OVER (ORDER BY q.priority, q.available_at) AS place
                 FROM embedmill.parse_queue q
                WHERE q.tenant_id = t.id AND q.lease_token IS NULL AND q.available_at <= now()
                ORDER BY q.priority, q.available_at LIMIT 4 * p_limit) w
         ORDER BY w.priority, w.place + leased.items, w.available_at LIMIT 4 * p_limit);
    v_ids := ARRAY(
        SELECT q.job_id FROM embedmill.parse_queue q JOIN unnest(v_ids) WITH ORDINALITY AS w (job_id, place) USING (job_id)
         WHERE q.lease_token IS NULL ORDER BY w.place LIMIT p_limit FOR UPDATE OF q SKIP LOCKED);
    UPDATE embedmill.parse_queue q
       SET lease_token = nextval('embedmill.lease_tokens'), worker_id = p_worker_id,
           lease_deadline = clock_timestamp() + make_interval(secs => p_lease_seconds)
     WHERE q.job_id = ANY (v_ids);
    UPDATE embedmill.ingestion_jobs j
       SET status = 'parsing', parsing_started_at = clock_timestamp(), updated_at = now()
     WHERE j.id = ANY (v_ids) AND j.status = 'staged';
    RETURN QUERY
    SELECT j.id, q.lease_token, q.attempts, j.pipeline_id, j.document_id, d.source_type, d.source_id, j.original_name,
           j.media_type, j.size_bytes, j.content_hash, j.original_key, j.original_url, j.chunk_tokens, j.chunk_overlap,
           j.metadata, j.status
      FROM embedmill.parse_queue q
      JOIN embedmill.ingestion_jobs j ON j.id = q.job_id
      JOIN embedmill.knowledge_documents d ON d.id = j.document_id
     WHERE q.job_id = ANY (v_ids);
END
$$;

-- A job that was embedded directly has ended, however it ended.
CREATE OR REPLACE FUNCTION embedmill.leave_parsing(p_job_id uuid, p_lease_token bigint) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM embedmill.parse_queue WHERE job_id = p_job_id AND lease_token = p_lease_token
$$;

-- Whether a parser still holds its job, locked to the end of the transaction: first its document, then itself. Only
-- then may it write.
CREATE OR REPLACE FUNCTION embedmill.hold_parsing(p_job_id uuid, p_lease_token bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM embedmill.knowledge_documents
      WHERE id = (SELECT document_id FROM embedmill.ingestion_jobs WHERE id = p_job_id) FOR UPDATE;
    PERFORM FROM embedmill.parse_queue WHERE job_id = p_job_id AND lease_token = p_lease_token FOR UPDATE;
    RETURN FOUND;
END
$$;

-- The chunks of a job stand: its preview is ready, and no parser has it any more. Called with the lease held.
CREATE OR REPLACE FUNCTION embedmill.end_parsing(
    p_job_id uuid, p_total_chunks integer, p_total_tokens bigint, p_cost_usd numeric)
RETURNS TABLE (auto_launch boolean, batch_id uuid, priority embedmill.queue_priority)
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM embedmill.parse_queue q WHERE q.job_id = p_job_id;
    RETURN QUERY
    UPDATE embedmill.ingestion_jobs j
       SET status = 'chunk_preview_ready', total_chunks = p_total_chunks, total_tokens = p_total_tokens,
           embedded_chunks = 0, reused_chunks = 0, failed_chunks = 0, cost_usd = coalesce(j.cost_usd, p_cost_usd),
           preview_ready_at = clock_timestamp(), error_stage = NULL, error_message = NULL, updated_at = now()
     WHERE j.id = p_job_id
    RETURNING j.auto_launch, j.batch_id, j.priority;
END
$$;

-- The job cannot be parsed. Its document keeps the content that it had; one that never had any says why. False where
-- somebody else has the job by now.
CREATE OR REPLACE FUNCTION embedmill.fail_parsing(
    p_job_id uuid, p_lease_token bigint, p_stage text, p_reason text, p_error_message text)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT embedmill.hold_parsing(p_job_id, p_lease_token) THEN
        RETURN false;
    END IF;
    DELETE FROM embedmill.parse_queue WHERE job_id = p_job_id;
    UPDATE embedmill.knowledge_documents d
       SET error_reason = p_reason, error_message = p_error_message, updated_at = now()
      FROM embedmill.ingestion_jobs j
     WHERE j.id = p_job_id AND d.id = j.document_id AND d.version = 0;
    UPDATE embedmill.ingestion_jobs
       SET status = 'failed', error_stage = p_stage, error_message = p_error_message, completed_at = now(),
           updated_at = now()
     WHERE id = p_job_id;
    RETURN true;
END
$$;

-- What was fetched from a URL stands in the store now: who parses the job next does not fetch again.
CREATE OR REPLACE FUNCTION embedmill.keep_original(
    p_job_id uuid, p_lease_token bigint, p_original_key text, p_name text, p_media_type text, p_size_bytes bigint,
    p_content_hash bytea)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT embedmill.hold_parsing(p_job_id, p_lease_token) THEN
        RETURN false;
    END IF;
    UPDATE embedmill.ingestion_jobs
       SET original_key = p_original_key, original_name = p_name, media_type = p_media_type,
           size_bytes = p_size_bytes, content_hash = p_content_hash, updated_at = now()
     WHERE id = p_job_id;
    RETURN true;
END
$$;

-- Gives a job back that could not be parsed by no fault of its document: the store or its server is away, or we stop
-- (p_attempt 0). After five attempts it fails, with what was said last.
CREATE OR REPLACE FUNCTION embedmill.return_parsing(
    p_job_id uuid, p_lease_token bigint, p_attempt integer, p_delay_ms bigint, p_stage text, p_error_message text)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT embedmill.hold_parsing(p_job_id, p_lease_token) THEN
        RETURN false;
    END IF;
    IF (SELECT attempts + p_attempt >= 5 FROM embedmill.parse_queue WHERE job_id = p_job_id) THEN
        RETURN embedmill.fail_parsing(p_job_id, p_lease_token, p_stage, 'unreadable', p_error_message);
    END IF;
    UPDATE embedmill.parse_queue
       SET lease_token = NULL, lease_deadline = NULL, worker_id = NULL, attempts = attempts + p_attempt,
           available_at = clock_timestamp() + make_interval(secs => p_delay_ms / 1000.0)
     WHERE job_id = p_job_id;
    UPDATE embedmill.ingestion_jobs
       SET error_message = p_error_message, updated_at = now()
     WHERE id = p_job_id AND p_error_message IS NOT NULL;
    RETURN true;
END
$$;

-- Frees the jobs of parsers that died or hung (32_recovery.sql says who is dead). One that was begun five times and
-- never ended fails. Returns how many.
CREATE OR REPLACE FUNCTION embedmill.rescue_parsing() RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v record;
    v_count integer := 0;
BEGIN
    FOR v IN
        SELECT q.job_id, q.lease_token FROM embedmill.parse_queue q
         WHERE q.lease_token IS NOT NULL
           AND (q.lease_deadline < clock_timestamp()
                OR NOT EXISTS (SELECT FROM embedmill.embedding_queue_workers w
                                WHERE w.worker_id = q.worker_id AND w.status IN ('active', 'idle')))
    LOOP
        v_count := v_count + embedmill.return_parsing(
            v.job_id, v.lease_token, 1, 0, 'parsing', 'the worker died or hung each time it read this document')::integer;
    END LOOP;
    RETURN v_count;
END
$$;
