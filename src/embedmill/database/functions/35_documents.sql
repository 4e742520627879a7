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

-- Enqueues what documents lack in one generation, in items of up to 500 chunks; what waits already is merged. Documents
-- whose chunks of its plan are of an older text wait until they are cut (22_migrating.sql). Called with the documents'
-- rows locked. p_job_id is of the one document that there is then.
-- The planner is held to index probes: a hash join would read all chunks and vectors for a few documents.
CREATE OR REPLACE FUNCTION embedmill.enqueue_in_generation(
    p_generation_id integer, p_document_ids bigint[], p_job_id uuid, p_batch_id uuid,
    p_priority embedmill.queue_priority, p_usage_type text, p_metadata jsonb, p_max_retries integer)
RETURNS TABLE (document_id bigint, item_id bigint, chunks bigint, tokens bigint)
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_generation embedmill.generations;
BEGIN
    SELECT * INTO STRICT v_generation FROM embedmill.generations WHERE id = p_generation_id;
    RETURN QUERY EXECUTE format(
        'WITH lacking AS MATERIALIZED ('
        '  SELECT d.id AS document_id, d.version, d.source_type, d.source_id, c.ordinal / 500 AS part,'
        '         min(c.ordinal) AS first_ordinal, max(c.ordinal) AS last_ordinal, count(*) AS chunks,'
        '         sum(c.token_count) AS tokens'
        '    FROM embedmill.knowledge_documents d'
        '    JOIN embedmill.knowledge_chunks c ON c.document_id = d.id'
        '   WHERE d.id = ANY ($1) AND d.pipeline_id = $10 AND c.chunk_set = $11 AND c.error_reason IS NULL'
        '     AND NOT EXISTS (SELECT FROM embedmill.%I v WHERE v.chunk_id = c.id)'
        '     AND NOT EXISTS (SELECT FROM embedmill.stale_cuts s WHERE s.document_id = d.id AND s.chunk_set = $11)'
        '   GROUP BY d.id, c.ordinal / 500'
        '), enqueued AS ('
        '  INSERT INTO embedmill.embedding_queue AS q'
        '      (tenant_id, generation_id, document_id, part, first_ordinal, last_ordinal, content_version, priority,'
        '       operation, max_retries, estimated_tokens, job_id, batch_id, source_type, source_id, usage_type,'
        '       metadata)'
        '  SELECT $2, $3, l.document_id, l.part, l.first_ordinal, l.last_ordinal, l.version, $4,'
        '         CASE WHEN l.version = 1 THEN ''INSERT'' ELSE ''UPDATE'' END::embedmill.queue_operation, $9, l.tokens,'
        '         $5, $7, l.source_type, l.source_id, $6, $8'
        '    FROM lacking l ORDER BY l.document_id, l.part'
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
        '  RETURNING q.id, q.document_id, q.part, (xmax = 0) AS is_new'
        '), counted AS ('
        '  INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)'
        '  SELECT $2, $3, ''live'', count(*) FROM enqueued WHERE is_new HAVING count(*) > 0'
        -- Each piece stands in both once. Not a join: held to nested loops, it would compare each with each of the others.
        ') SELECT w.document_id, max(w.id), max(w.chunks), max(w.tokens)'
        '    FROM (SELECT document_id, part, id, NULL::bigint AS chunks, NULL::bigint AS tokens FROM enqueued'
        '          UNION ALL SELECT document_id, part, NULL, chunks, tokens::bigint FROM lacking) w'
        '   GROUP BY w.document_id, w.part ORDER BY w.document_id, w.part',
        'vectors_' || p_generation_id)
    USING p_document_ids, v_generation.tenant_id, p_generation_id, p_priority, p_job_id, p_usage_type, p_batch_id,
          p_metadata, p_max_retries, v_generation.pipeline_id, v_generation.chunk_set;
END
$$;

-- Ends items of these documents that waited to be read and cut (they name no chunks), now that there are chunks and
-- none of theirs lacks a vector. Verified by complete_items, as every completion is.
CREATE OR REPLACE FUNCTION embedmill.end_read_items(p_document_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v record;
BEGIN
    FOR v IN
        WITH named AS (
            UPDATE embedmill.embedding_queue q
               SET first_ordinal = 500 * q.part, last_ordinal = 500 * q.part + 499,
                   available_at = least(q.available_at, now())
             WHERE q.document_id = ANY (p_document_ids) AND q.first_ordinal IS NULL AND q.operation <> 'DELETE'
            RETURNING q.generation_id, q.id
        )
        SELECT n.generation_id, array_agg(n.id) AS ids FROM named n GROUP BY n.generation_id ORDER BY n.generation_id
    LOOP
        PERFORM embedmill.complete_items(v.generation_id, v.ids);
    END LOOP;
END
$$;

-- What documents still lack is enqueued, in each generation of their pipeline: all of them are kept current. Only items
-- of the live one are of the job. Called with the documents' rows locked, as both functions below are.
CREATE OR REPLACE FUNCTION embedmill.enqueue_everywhere(
    p_document_ids bigint[], p_job_id uuid, p_batch_id uuid, p_priority embedmill.queue_priority, p_usage_type text,
    p_metadata jsonb, p_max_retries integer)
RETURNS TABLE (document_id bigint, generation_id integer, is_live boolean, item_id bigint, chunks bigint, tokens bigint)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v record;
    v_deletions bigint[];
BEGIN
    IF p_max_retries NOT BETWEEN 0 AND 100 THEN
        RAISE EXCEPTION 'max_retries is from 0 to 100, not %', p_max_retries USING ERRCODE = 'invalid_parameter_value';
    END IF;
    v_deletions := ARRAY(SELECT q.id FROM embedmill.embedding_queue q
                          WHERE q.document_id = ANY (p_document_ids) AND q.operation = 'DELETE');
    IF cardinality(v_deletions) > 0 THEN
        PERFORM embedmill.cancel_items(v_deletions, 'enqueued anew before it was deleted');
    END IF;
    -- No generation goes while we enqueue in it (drop_generation, 22_migrating.sql).
    PERFORM pg_advisory_xact_lock_shared(hashtext('embedmill.generations'), w.pipeline_id)
       FROM (SELECT DISTINCT d.pipeline_id FROM embedmill.knowledge_documents d
              WHERE d.id = ANY (p_document_ids) ORDER BY 1) w;
    FOR v IN
        SELECT g.id, g.id = p.current_generation_id AS is_live
          FROM embedmill.pipelines p JOIN embedmill.generations g ON g.pipeline_id = p.id
         WHERE p.id IN (SELECT d.pipeline_id FROM embedmill.knowledge_documents d WHERE d.id = ANY (p_document_ids))
         ORDER BY g.id
    LOOP
        RETURN QUERY
        SELECT e.document_id, v.id, v.is_live, e.item_id, e.chunks, e.tokens
          FROM embedmill.enqueue_in_generation(
                   v.id, p_document_ids, CASE WHEN v.is_live THEN p_job_id END, p_batch_id, p_priority, p_usage_type,
                   p_metadata, coalesce(p_max_retries, embedmill.config_integer('max_retries')::integer)) AS e;
    END LOOP;
    PERFORM embedmill.end_read_items(p_document_ids);
    -- What they lack waits again, or nothing is lacking: only what the provider refuses is still for somebody to look at.
    UPDATE embedmill.dead_letters l SET resolved_at = now(), resolution = 'retried'
     WHERE l.document_id = ANY (p_document_ids) AND l.resolved_at IS NULL AND l.chunk_id IS NULL;
END
$$;

-- Enqueues what documents still lack in each generation of their pipeline, in items of up to 500 chunks. Enqueueing
-- again what waits already merges: promoted, never demoted, the newest version wins (also over a worker that is at
-- an older one: its lease is void). Chunks that have their vector are not enqueued; a deletion that still waits is
-- called off; an item that waited for its document to be read and lacks nothing ends as completed.
-- The caller holds the documents' rows, locked in order of their id.
CREATE OR REPLACE FUNCTION embedmill.enqueue_documents(
    p_document_ids bigint[], p_batch_id uuid, p_priority embedmill.queue_priority, p_usage_type text,
    p_metadata jsonb DEFAULT '{}', p_max_retries integer DEFAULT NULL)
RETURNS TABLE (document_id bigint, generation_id integer, item_id bigint, chunks bigint, tokens bigint)
LANGUAGE sql AS $$
    SELECT e.document_id, e.generation_id, e.item_id, e.chunks, e.tokens
      FROM embedmill.enqueue_everywhere(p_document_ids, NULL, p_batch_id, p_priority, p_usage_type, p_metadata,
                                        p_max_retries) AS e
$$;

-- The same for one document, which it locks, on behalf of a job or of none; the items of the live generation.
CREATE OR REPLACE FUNCTION embedmill.enqueue_document(
    p_document_id bigint, p_job_id uuid, p_batch_id uuid, p_priority embedmill.queue_priority, p_usage_type text,
    p_metadata jsonb DEFAULT '{}', p_max_retries integer DEFAULT NULL)
RETURNS TABLE (item_id bigint, chunks bigint, tokens bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM embedmill.knowledge_documents WHERE id = p_document_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no document %', p_document_id USING ERRCODE = 'no_data_found';
    END IF;
    RETURN QUERY
    SELECT e.item_id, e.chunks, e.tokens
      FROM embedmill.enqueue_everywhere(ARRAY[p_document_id], p_job_id, p_batch_id, p_priority, p_usage_type, p_metadata,
                                        p_max_retries) AS e
     WHERE e.is_live;
END
$$;

-- Sets a document's job going: completed at once where no vector is lacking. Whoever calls it sees to the rest.
-- Returns how many chunks lack theirs.
CREATE OR REPLACE FUNCTION embedmill.start_job(p_document_id bigint, p_job_id uuid, p_batch_id uuid) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_live embedmill.generations;
    v_total bigint;
    v_standing bigint;
    v_refused bigint;
BEGIN
    SELECT g.* INTO STRICT v_live
      FROM embedmill.knowledge_documents d
      JOIN embedmill.pipelines p ON p.id = d.pipeline_id
      JOIN embedmill.generations g ON g.id = p.current_generation_id
     WHERE d.id = p_document_id;
    EXECUTE format(
        'SELECT count(*), count(v.chunk_id), count(*) FILTER (WHERE c.error_reason IS NOT NULL)'
        '  FROM embedmill.knowledge_chunks c LEFT JOIN embedmill.%I v ON v.chunk_id = c.id'
        ' WHERE c.document_id = $1 AND c.chunk_set = $2',
        'vectors_' || v_live.id)
    INTO v_total, v_standing, v_refused USING p_document_id, v_live.chunk_set;
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
-- is lacking is enqueued, its newest job goes on, its dead letters are resolved. A record that could not be read is
-- read anew. Returns the items.
CREATE OR REPLACE FUNCTION embedmill.retry_document(
    p_document_id bigint, p_batch_id uuid, p_priority embedmill.queue_priority)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_refused bigint[];
    v_job embedmill.ingestion_jobs;
    v_items integer;
    v_document embedmill.knowledge_documents;
BEGIN
    SELECT * INTO v_document FROM embedmill.knowledge_documents WHERE id = p_document_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    IF v_document.error_reason IS NOT NULL AND v_document.record_source_id <> 0 THEN
        -- No row has that hash: whatever stands there is new, and told anew.
        UPDATE embedmill.knowledge_documents SET content_hash = '' WHERE id = p_document_id;
        INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
        VALUES (v_document.record_source_id, v_document.tenant_id, 'U', ARRAY[v_document.source_id]);
        UPDATE embedmill.dead_letters SET resolved_at = now(), resolution = 'retried'
         WHERE document_id = p_document_id AND resolved_at IS NULL;
        RETURN 1;
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
    PERFORM embedmill.count_forgiven(v_refused);
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
