-- A document's work in the queue: launched, cancelled. Called with the document's row locked; the order of
-- locks is document, queue items, chunks, jobs, counters.

-- Ends the live items of a document as cancelled: its content changed or it goes. A worker that holds one
-- finds its lease void and writes nothing. Its jobs end so as well, but for the one that brings the new content
-- and, as long as they wait for a parser, those that were staged after that.
CREATE OR REPLACE FUNCTION embedmill.cancel_document_items(
    p_document_id bigint, p_message text, p_new_job_id uuid DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[] := ARRAY(SELECT id FROM embedmill.embedding_queue
                             WHERE document_id = p_document_id ORDER BY id FOR UPDATE);
BEGIN
    PERFORM embedmill.end_items(v_ids, 'cancelled', p_message, NULL);
    UPDATE embedmill.ingestion_jobs
       SET status = 'cancelled', error_message = p_message, updated_at = now(), completed_at = now()
     WHERE document_id = p_document_id AND status NOT IN ('completed', 'cancelled', 'failed')
       AND id IS DISTINCT FROM p_new_job_id
       AND (p_new_job_id IS NULL OR status NOT IN ('staged', 'parsing')
            OR created_at < (SELECT created_at FROM embedmill.ingestion_jobs WHERE id = p_new_job_id));
    DELETE FROM embedmill.parse_queue q USING embedmill.ingestion_jobs j
     WHERE j.document_id = p_document_id AND q.job_id = j.id AND j.status = 'cancelled';
END
$$;

-- Enqueues what a document still lacks, in items of up to 500 chunks. Enqueueing again what waits already
-- merges: promoted, never demoted, the newest version wins (also over a worker that is at an older one: its
-- lease is void). Chunks that have their vector are not enqueued; a deletion that still waits is called off.
CREATE OR REPLACE FUNCTION embedmill.enqueue_document(
    p_document_id bigint, p_job_id uuid, p_batch_id uuid, p_priority embedmill.queue_priority, p_usage_type text,
    p_metadata jsonb DEFAULT '{}', p_max_retries integer DEFAULT NULL)
RETURNS TABLE (item_id bigint, chunks bigint, tokens bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_document embedmill.knowledge_documents;
    v_generation_id integer;
BEGIN
    IF p_max_retries NOT BETWEEN 0 AND 100 THEN
        RAISE EXCEPTION 'max_retries is from 0 to 100, not %', p_max_retries USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO STRICT v_document FROM embedmill.knowledge_documents WHERE id = p_document_id FOR UPDATE;
    SELECT current_generation_id INTO STRICT v_generation_id
      FROM embedmill.pipelines WHERE id = v_document.pipeline_id;
    PERFORM embedmill.cancel_items(
        ARRAY(SELECT id FROM embedmill.embedding_queue WHERE document_id = p_document_id AND operation = 'DELETE'),
        'enqueued anew before it was deleted');
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
        '       operation, max_retries, estimated_tokens, job_id, batch_id, source_type, source_id, usage_type,'
        '       metadata)'
        '  SELECT $2, $3, $1, l.part, l.first_ordinal, l.last_ordinal, $4, $5,'
        '         CASE WHEN $4 = 1 THEN ''INSERT'' ELSE ''UPDATE'' END::embedmill.queue_operation, $12, l.tokens, $6,'
        '         $8, $9, $10, $7, $11'
        '    FROM lacking l ORDER BY l.part'
        '  ON CONFLICT (document_id, generation_id, part) WHERE document_id IS NOT NULL DO UPDATE'
        '     SET priority = least(q.priority, excluded.priority), job_id = coalesce(excluded.job_id, q.job_id),'
        '         batch_id = coalesce(excluded.batch_id, q.batch_id), estimated_tokens = excluded.estimated_tokens,'
        '         metadata = q.metadata || excluded.metadata,'
        '         content_version = greatest(q.content_version, excluded.content_version),'
        -- What is lacking now may lie outside of what was lacking then.
        '         first_ordinal = least(q.first_ordinal, excluded.first_ordinal),'
        '         last_ordinal = greatest(q.last_ordinal, excluded.last_ordinal),'
        '         status = CASE WHEN q.status = ''processing'' AND q.content_version < excluded.content_version'
        '                       THEN ''pending'' ELSE q.status END,'
        '         lease_token = CASE WHEN q.content_version >= excluded.content_version THEN q.lease_token END,'
        '         lease_deadline = CASE WHEN q.content_version >= excluded.content_version THEN q.lease_deadline END,'
        '         worker_id = CASE WHEN q.content_version >= excluded.content_version THEN q.worker_id END,'
        '         cancel_requested_at = NULL,'
        -- Somebody asks for it now: what waits out a failure does not wait on. A rate limit is kept.
        '         available_at = CASE WHEN q.status = ''pending'' THEN least(q.available_at, now())'
        '                             ELSE q.available_at END'
        '  RETURNING q.id, q.part, (xmax = 0) AS is_new'
        '), counted AS ('
        '  INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)'
        '  SELECT $2, $3, ''live'', count(*) FROM enqueued WHERE is_new HAVING count(*) > 0'
        ') SELECT e.id, l.chunks, l.tokens::bigint FROM enqueued e JOIN lacking l ON l.part = e.part',
        'vectors_' || v_generation_id)
    USING p_document_id, v_document.tenant_id, v_generation_id, v_document.version, p_priority, p_job_id,
          p_usage_type, p_batch_id, v_document.source_type, v_document.source_id, p_metadata,
          coalesce(p_max_retries, embedmill.config_integer('max_retries'));
END
$$;

-- Sets a document's job going: completed at once where no vector is lacking. Whoever calls it sees to the rest.
-- Returns how many chunks lack theirs.
CREATE OR REPLACE FUNCTION embedmill.start_job(p_document_id bigint, p_job_id uuid, p_batch_id uuid) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_generation_id integer;
    v_total bigint;
    v_standing bigint;
    v_refused bigint;
BEGIN
    SELECT p.current_generation_id INTO STRICT v_generation_id
      FROM embedmill.knowledge_documents d JOIN embedmill.pipelines p ON p.id = d.pipeline_id
     WHERE d.id = p_document_id;
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
           error_stage = NULL, error_message = NULL, launched_at = clock_timestamp(), launched_chunks = v_standing, updated_at = now()
     WHERE id = p_job_id;
    RETURN v_total - v_standing - v_refused;
END
$$;

-- Launches a document's job: enqueues what is lacking and sets the job going. Resume and retry are the same call.
CREATE OR REPLACE FUNCTION embedmill.launch_document(
    p_document_id bigint, p_job_id uuid, p_batch_id uuid, p_priority embedmill.queue_priority, p_usage_type text)
RETURNS TABLE (items integer, chunks bigint, tokens bigint)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT count(*)::integer, coalesce(sum(e.chunks), 0)::bigint, coalesce(sum(e.tokens), 0)::bigint
      FROM embedmill.enqueue_document(p_document_id, p_job_id, p_batch_id, p_priority, p_usage_type) AS e;
    PERFORM embedmill.start_job(p_document_id, p_job_id, p_batch_id);
END
$$;

-- Enqueues the deletion of a document: its chunks and vectors go when a worker comes to it. What else waits of
-- the document is called off. Returns the item.
CREATE OR REPLACE FUNCTION embedmill.enqueue_deletion(
    p_document_id bigint, p_batch_id uuid, p_priority embedmill.queue_priority, p_metadata jsonb,
    p_max_retries integer)
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_document embedmill.knowledge_documents;
    v_id bigint;
BEGIN
    SELECT * INTO STRICT v_document FROM embedmill.knowledge_documents WHERE id = p_document_id FOR UPDATE;
    SELECT id INTO v_id FROM embedmill.embedding_queue
     WHERE document_id = p_document_id AND operation = 'DELETE' FOR UPDATE;
    IF FOUND THEN
        UPDATE embedmill.embedding_queue
           SET priority = least(priority, p_priority), batch_id = coalesce(p_batch_id, batch_id),
               metadata = metadata || p_metadata
         WHERE id = v_id;
        RETURN v_id;
    END IF;
    PERFORM embedmill.cancel_document_items(p_document_id, 'the source was deleted');
    INSERT INTO embedmill.embedding_queue
        (tenant_id, generation_id, document_id, content_version, priority, operation, max_retries, batch_id,
         source_type, source_id, metadata)
    SELECT v_document.tenant_id, p.current_generation_id, p_document_id, v_document.version, p_priority, 'DELETE',
           coalesce(p_max_retries, embedmill.config_integer('max_retries')), p_batch_id, v_document.source_type,
           v_document.source_id, p_metadata
      FROM embedmill.pipelines p WHERE p.id = v_document.pipeline_id
    RETURNING id INTO v_id;
    INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)
    SELECT tenant_id, generation_id, 'live', 1 FROM embedmill.embedding_queue WHERE id = v_id;
    RETURN v_id;
END
$$;

-- Carries out claimed deletions: the documents go, their chunks and vectors with them. Returns the items that
-- were still held and have ended.
CREATE OR REPLACE FUNCTION embedmill.delete_claimed_documents(p_item_ids bigint[], p_lease_tokens bigint[])
RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    v_documents bigint[];
    v_held bigint[];
BEGIN
    PERFORM FROM embedmill.knowledge_documents
      WHERE id IN (SELECT document_id FROM embedmill.embedding_queue WHERE id = ANY (p_item_ids))
      ORDER BY id FOR UPDATE;
    v_held := ARRAY(SELECT h FROM embedmill.hold_items(p_item_ids, p_lease_tokens) AS h
                      JOIN embedmill.embedding_queue q ON q.id = h WHERE q.operation = 'DELETE');
    v_documents := ARRAY(SELECT document_id FROM embedmill.embedding_queue WHERE id = ANY (v_held) ORDER BY 1);
    PERFORM embedmill.end_items(v_held, 'completed', NULL, NULL);
    PERFORM embedmill.cancel_document_items(d, 'the source was deleted') FROM unnest(v_documents) AS d;
    DELETE FROM embedmill.knowledge_documents WHERE id = ANY (v_documents);
    RETURN v_held;
END
$$;

-- Tries again what failed, was refused or was cancelled in a document: refused chunks become embeddable, what
-- is lacking is enqueued, its newest job goes on, its dead letters are resolved. Returns the items.
CREATE OR REPLACE FUNCTION embedmill.retry_document(
    p_document_id bigint, p_batch_id uuid, p_priority embedmill.queue_priority)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_refused bigint[];
    v_job embedmill.ingestion_jobs;
    v_items integer;
BEGIN
    PERFORM FROM embedmill.knowledge_documents WHERE id = p_document_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    v_refused := ARRAY(SELECT c.id FROM embedmill.knowledge_chunks c
                        WHERE c.document_id = p_document_id AND c.error_reason IS NOT NULL ORDER BY c.id FOR UPDATE);
    UPDATE embedmill.knowledge_chunks SET error_reason = NULL WHERE id = ANY (v_refused);
    SELECT * INTO v_job FROM embedmill.ingestion_jobs
     WHERE document_id = p_document_id ORDER BY created_at DESC LIMIT 1 FOR UPDATE;
    -- An item's number is in its dead letter; the retry is a new item.
    IF v_job.id IS NOT NULL
       AND v_job.status IN ('failed', 'cancelled', 'completed', 'chunk_preview_ready', 'embedding_in_progress') THEN
        SELECT l.items INTO v_items
          FROM embedmill.launch_document(p_document_id, v_job.id, coalesce(p_batch_id, v_job.batch_id),
                                         coalesce(p_priority, v_job.priority), 'internal_ingestion') AS l;
    ELSE
        SELECT count(*) INTO v_items
          FROM embedmill.enqueue_document(p_document_id, NULL, p_batch_id, coalesce(p_priority, 'medium'),
                                          'internal_ingestion');
    END IF;
    UPDATE embedmill.dead_letters SET resolved_at = now(), resolution = 'retried'
     WHERE document_id = p_document_id AND resolved_at IS NULL;
    UPDATE embedmill.coverage_counters k SET unembeddable = k.unembeddable - cardinality(v_refused)
      FROM embedmill.knowledge_documents d JOIN embedmill.generations g ON g.pipeline_id = d.pipeline_id
     WHERE d.id = p_document_id AND k.generation_id = g.id AND cardinality(v_refused) > 0;
    RETURN v_items;
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
        ('chunk_preview_ready', 'staged'), ('chunk_preview_ready', 'cancelled'), ('chunk_preview_ready', 'failed'),
        ('embedding_in_progress', 'completed'), ('embedding_in_progress', 'cancelled'),
        ('embedding_in_progress', 'failed'),
        ('cancelled', 'staged'), ('cancelled', 'embedding_in_progress'), ('cancelled', 'completed'),
        ('failed', 'staged'), ('failed', 'embedding_in_progress'), ('failed', 'completed'),
        ('completed', 'embedding_in_progress'))
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
