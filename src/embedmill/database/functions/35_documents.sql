-- A document's work in the queue: launched, cancelled. Called with the document's row locked; the order of
-- locks is document, queue items, chunks, jobs, counters.

-- Ends the live items of a document as cancelled: its content changed or it goes. A worker that holds one
-- finds its lease void and writes nothing.
CREATE OR REPLACE FUNCTION embedmill.cancel_document_items(p_document_id bigint, p_message text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[] := ARRAY(SELECT id FROM embedmill.embedding_queue
                             WHERE document_id = p_document_id ORDER BY id FOR UPDATE);
BEGIN
    PERFORM embedmill.end_items(v_ids, 'cancelled', p_message, NULL);
    UPDATE embedmill.ingestion_jobs
       SET status = 'cancelled', error_message = p_message, updated_at = now(), completed_at = now()
     WHERE document_id = p_document_id AND status NOT IN ('completed', 'cancelled', 'failed');
END
$$;

-- Enqueues what a document still lacks, in items of up to 500 chunks, and sets its job going (completed at
-- once where nothing is lacking). Enqueueing again what waits already merges: promoted, never demoted.
-- Resume and retry are the same call: chunks that have their vector are not enqueued.
CREATE OR REPLACE FUNCTION embedmill.launch_document(
    p_document_id bigint, p_job_id uuid, p_batch_id uuid, p_priority embedmill.queue_priority, p_usage_type text)
RETURNS TABLE (items integer, chunks bigint, tokens bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_document embedmill.knowledge_documents;
    v_generation_id integer;
    v_total bigint;
    v_standing bigint;
    v_refused bigint;
BEGIN
    SELECT * INTO STRICT v_document FROM embedmill.knowledge_documents WHERE id = p_document_id FOR UPDATE;
    SELECT current_generation_id INTO STRICT v_generation_id
      FROM embedmill.pipelines WHERE id = v_document.pipeline_id;
    RETURN QUERY EXECUTE format(
        'WITH lacking AS ('
        '  SELECT c.ordinal / 500 AS part, min(c.ordinal) AS first_ordinal, max(c.ordinal) AS last_ordinal,'
        '         count(*) AS chunks, sum(c.token_count) AS tokens'
        '    FROM embedmill.knowledge_chunks c'
        '   WHERE c.document_id = $1 AND c.error_reason IS NULL'
        '     AND NOT EXISTS (SELECT FROM embedmill.%I v WHERE v.chunk_id = c.id)'
        '   GROUP BY 1'
        '), enqueued AS ('
        '  INSERT INTO embedmill.embedding_queue AS q'
        '      (tenant_id, generation_id, document_id, part, first_ordinal, last_ordinal, content_version, priority,'
        '       operation, estimated_tokens, job_id, batch_id, source_type, source_id, usage_type)'
        '  SELECT $2, $3, $1, l.part, l.first_ordinal, l.last_ordinal, $4, $5,'
        '         CASE WHEN $4 = 1 THEN ''INSERT'' ELSE ''UPDATE'' END::embedmill.queue_operation, l.tokens, $6,'
        '         $8, ''document'', $1::text, $7'
        '    FROM lacking l ORDER BY l.part'
        '  ON CONFLICT (generation_id, source_type, source_id, part) DO UPDATE'
        '     SET priority = least(q.priority, excluded.priority), job_id = excluded.job_id,'
        '         batch_id = excluded.batch_id, estimated_tokens = excluded.estimated_tokens,'
        -- What is lacking now may lie outside of what was lacking then.
        '         first_ordinal = least(q.first_ordinal, excluded.first_ordinal),'
        '         last_ordinal = greatest(q.last_ordinal, excluded.last_ordinal),'
        -- Somebody asks for it now: what waits out a failure does not wait on. A rate limit is kept.
        '         available_at = CASE WHEN q.status = ''pending'' THEN least(q.available_at, now())'
        '                             ELSE q.available_at END'
        '  RETURNING 1'
        ') SELECT (SELECT count(*)::integer FROM enqueued), coalesce(sum(l.chunks), 0)::bigint,'
        '         coalesce(sum(l.tokens), 0)::bigint FROM lacking l',
        'vectors_' || v_generation_id)
    USING p_document_id, v_document.tenant_id, v_generation_id, v_document.version, p_priority, p_job_id,
          p_usage_type, p_batch_id;
    EXECUTE format(
        'SELECT count(*), count(v.chunk_id), count(*) FILTER (WHERE c.error_reason IS NOT NULL)'
        '  FROM embedmill.knowledge_chunks c LEFT JOIN embedmill.%I v ON v.chunk_id = c.id'
        ' WHERE c.document_id = $1',
        'vectors_' || v_generation_id)
    INTO v_total, v_standing, v_refused USING p_document_id;
    UPDATE embedmill.ingestion_jobs
       SET status = CASE WHEN v_standing + v_refused >= v_total THEN 'completed' ELSE 'embedding_in_progress'
                    END::embedmill.job_status,
           completed_at = CASE WHEN v_standing + v_refused >= v_total THEN now() END,
           batch_id = p_batch_id, total_chunks = v_total, embedded_chunks = v_standing, failed_chunks = v_refused,
           error_stage = NULL, error_message = NULL, updated_at = now()
     WHERE id = p_job_id;
END
$$;

-- A job's status changes only as core/jobs.py says (a test holds the two together): whatever is not in the
-- list is a bug, and better refused here than believed on a dashboard.
CREATE OR REPLACE FUNCTION embedmill.check_job_transition() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, NEW.status) NOT IN (
        ('staged', 'parsing'), ('staged', 'cancelled'), ('staged', 'failed'),
        ('parsing', 'chunk_preview_ready'), ('parsing', 'cancelled'), ('parsing', 'failed'),
        ('chunk_preview_ready', 'embedding_in_progress'), ('chunk_preview_ready', 'completed'),
        ('chunk_preview_ready', 'cancelled'), ('chunk_preview_ready', 'failed'),
        ('embedding_in_progress', 'completed'), ('embedding_in_progress', 'cancelled'),
        ('embedding_in_progress', 'failed'),
        ('cancelled', 'embedding_in_progress'), ('cancelled', 'completed'),
        ('failed', 'parsing'), ('failed', 'embedding_in_progress'), ('failed', 'completed'))
    THEN
        RAISE EXCEPTION 'ingestion job %: % cannot become %', OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER check_job_transition BEFORE UPDATE OF status ON embedmill.ingestion_jobs
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION embedmill.check_job_transition();
