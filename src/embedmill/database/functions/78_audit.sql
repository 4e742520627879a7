-- The audit: what is said against what is true. Each look is one statement, and so one snapshot: what is committed
-- together is seen together, and work under way is no finding. Each repair locks first, in the order of locks
-- (documents, items, chunks, vectors, jobs, counters), looks again, and changes only what is still wrong.

-- Pieces of documents (parts of 500 chunks) of one generation that lack vectors though nothing will bring them, and
-- vectors that are of another text than their chunk's:
--     done_but_no_vector        the newest item of the piece, or the document's job, says completed
--     source_never_queued       no item was ever made, or it was lost
--     vector_of_an_older_text
-- A person's will and a failure that is told are no findings: jobs that wait at their preview, were cancelled or failed;
-- pieces whose item was cancelled by a person, or failed (its dead letter waits). Nor is what waits to be cut, to be
-- deleted, for the building of its generation, or is embedded without the queue right now.
CREATE OR REPLACE FUNCTION embedmill.audit_pieces(p_generation_id integer, p_document_ids bigint[])
RETURNS TABLE (
    kind text, document_id bigint, part integer, chunks bigint, record_source_id integer, source_type text,
    source_id text)
LANGUAGE plpgsql STABLE
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    g embedmill.generations;
    v_is_live boolean;
BEGIN
    SELECT * INTO g FROM embedmill.generations WHERE id = p_generation_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    v_is_live := EXISTS (SELECT FROM embedmill.pipelines p WHERE p.current_generation_id = p_generation_id);
    RETURN QUERY EXECUTE format(
        'WITH held AS MATERIALIZED ('
        '  SELECT d.id, d.source_type, d.source_id, d.record_source_id, j.status AS job_status,'
        '         EXISTS (SELECT FROM embedmill.embedding_queue q WHERE q.document_id = d.id) AS has_items,'
        -- Embedding without the queue shows only by its job's progress.
        '         j.updated_at > now() - interval ''10 minutes'''
        '         OR EXISTS (SELECT FROM embedmill.parse_queue r WHERE r.job_id = j.id) AS is_in_hand'
        '    FROM unnest($1) AS w (id)'
        '    JOIN embedmill.knowledge_documents d ON d.id = w.id AND d.pipeline_id = $2'
        '    LEFT JOIN LATERAL (SELECT i.id, i.status, i.updated_at FROM embedmill.ingestion_jobs i'
        '                        WHERE i.document_id = d.id ORDER BY i.created_at DESC LIMIT 1) j ON true'
        '   WHERE NOT EXISTS (SELECT FROM embedmill.stale_cuts s WHERE s.document_id = d.id AND s.chunk_set = $3)'
        '     AND NOT EXISTS (SELECT FROM embedmill.embedding_queue q'
        '                      WHERE q.document_id = d.id AND q.operation = ''DELETE'')'
        '), pieces AS ('
        '  SELECT c.document_id, c.ordinal / 500 AS part, count(*) FILTER (WHERE v.chunk_id IS NULL) AS lacking,'
        '         count(v.chunk_id) AS outdated'
        '    FROM held h'
        '    JOIN embedmill.knowledge_chunks c ON c.document_id = h.id AND c.chunk_set = $3'
        '    LEFT JOIN embedmill.%I v ON v.chunk_id = c.id'
        '   WHERE CASE WHEN v.chunk_id IS NULL THEN c.error_reason IS NULL AND NOT EXISTS ('
        '                   SELECT FROM embedmill.embedding_queue q'
        '                    WHERE q.document_id = c.document_id AND q.generation_id = $4'
        '                      AND (q.first_ordinal IS NULL OR c.ordinal BETWEEN q.first_ordinal AND q.last_ordinal))'
        '              ELSE v.input_hash <> substring(sha256(convert_to($5 || c.text, ''UTF8'')) FROM 1 FOR 16) END'
        '   GROUP BY c.document_id, c.ordinal / 500'
        '), judged AS ('
        '  SELECT p.*, h.record_source_id, h.source_type, h.source_id,'
        '         CASE WHEN h.job_status IN (''staged'', ''parsing'', ''chunk_preview_ready'', ''cancelled'', ''failed'')'
        '                   OR h.job_status = ''embedding_in_progress'' AND h.is_in_hand AND NOT h.has_items'
        '                   OR h.id > $8 THEN NULL'
        '              WHEN $7 AND h.job_status = ''completed'' OR l.status = ''completed'' THEN ''done_but_no_vector'''
        '              WHEN l.status = ''failed'''
        -- What was cancelled for newer content, or to be enqueued anew, nobody wanted to stop.
        '                   OR l.status = ''cancelled'' AND coalesce(l.error_message, '''') NOT IN ('
        '                       ''superseded by newer content'', ''enqueued anew before it was deleted'') THEN NULL'
        '              ELSE ''source_never_queued'' END AS lacking_kind'
        '    FROM pieces p JOIN held h ON h.id = p.document_id'
        '    LEFT JOIN LATERAL ('
        '      SELECT e.status, e.error_message FROM embedmill.embedding_queue_history e'
        '       WHERE p.lacking > 0 AND e.tenant_id = $6 AND e.source_type = h.source_type AND e.source_id = h.source_id'
        '         AND e.generation_id = $4 AND e.part = p.part AND e.operation <> ''DELETE'''
        '       ORDER BY e.id DESC LIMIT 1) l ON true'
        ') SELECT j.lacking_kind, j.document_id, j.part, j.lacking, j.record_source_id, j.source_type, j.source_id'
        '    FROM judged j WHERE j.lacking > 0 AND j.lacking_kind IS NOT NULL'
        '  UNION ALL'
        '  SELECT ''vector_of_an_older_text'', j.document_id, j.part, j.outdated, j.record_source_id, j.source_type,'
        '         j.source_id FROM judged j WHERE j.outdated > 0'
        '  ORDER BY 2, 3, 1',
        'vectors_' || p_generation_id)
    USING p_document_ids, g.pipeline_id, g.chunk_set, g.id, coalesce(g.spec ->> 'document_prefix', ''), g.tenant_id,
          v_is_live,
          -- A generation that is built has come so far; one that is complete, or was the first, has them all.
          CASE WHEN g.build_started_at IS NOT NULL AND g.build_ended_at IS NULL
               THEN coalesce(g.build_after_document, 0) ELSE 9223372036854775807 END;
END
$$;

-- Mends what audit_pieces finds in these documents: vectors of an older text go, what is lacking is enqueued, jobs that
-- said completed go on. Where a person stopped the document's job, a wrong vector goes and nothing is enqueued.
-- Returns what was mended.
CREATE OR REPLACE FUNCTION embedmill.mend_pieces(p_generation_id integer, p_document_ids bigint[])
RETURNS TABLE (kind text, document_id bigint, part integer)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    g embedmill.generations;
    v_is_live boolean;
    v_kinds text[];
    v_ids bigint[];
    v_parts integer[];
    v_outdated bigint[];
    v_sources integer[];
    v_vectors bigint[];
    v_plain bigint[];
    v record;
BEGIN
    PERFORM FROM embedmill.knowledge_documents WHERE id = ANY (p_document_ids) ORDER BY id FOR UPDATE;
    SELECT * INTO g FROM embedmill.generations WHERE id = p_generation_id;
    v_is_live := EXISTS (SELECT FROM embedmill.pipelines WHERE current_generation_id = p_generation_id);
    SELECT array_agg(a.kind), array_agg(a.document_id), array_agg(a.part),
           array_agg(DISTINCT a.document_id) FILTER (WHERE a.kind = 'vector_of_an_older_text')
      INTO v_kinds, v_ids, v_parts, v_outdated
      FROM embedmill.audit_pieces(p_generation_id, p_document_ids) AS a;
    IF v_ids IS NULL THEN
        RETURN;
    END IF;
    IF v_outdated IS NOT NULL THEN
        PERFORM embedmill.reclaim_items(v_outdated);
        -- A vector is made, and copied, by the chunk's hash: that one has to be right first.
        UPDATE embedmill.knowledge_chunks c
           SET content_hash = substring(sha256(convert_to(c.text, 'UTF8')) FROM 1 FOR 16)
         WHERE c.document_id = ANY (v_outdated) AND c.chunk_set = g.chunk_set
           AND c.content_hash <> substring(sha256(convert_to(c.text, 'UTF8')) FROM 1 FOR 16);
        EXECUTE format(
            'WITH gone AS ('
            '  DELETE FROM embedmill.%I v USING embedmill.knowledge_chunks c'
            '   WHERE c.document_id = ANY ($1) AND c.chunk_set = $2 AND v.chunk_id = c.id'
            '     AND v.input_hash <> substring(sha256(convert_to($3 || c.text, ''UTF8'')) FROM 1 FOR 16)'
            '  RETURNING c.record_source_id'
            ') SELECT array_agg(n.id ORDER BY n.id), array_agg(n.vectors ORDER BY n.id)'
            '    FROM (SELECT record_source_id AS id, count(*) AS vectors FROM gone GROUP BY 1) n',
            'vectors_' || p_generation_id)
        INTO v_sources, v_vectors USING v_outdated, g.chunk_set, coalesce(g.spec ->> 'document_prefix', '');
    END IF;
    v_plain := '{}';
    FOR v IN
        SELECT w.id AS document_id, j.id AS job_id, j.status, j.batch_id, j.priority
          FROM (SELECT DISTINCT unnest(v_ids) AS id ORDER BY 1) w
          LEFT JOIN LATERAL (SELECT i.* FROM embedmill.ingestion_jobs i
                              WHERE i.document_id = w.id ORDER BY i.created_at DESC LIMIT 1) j ON true
         ORDER BY w.id
    LOOP
        IF v.status IN ('completed', 'embedding_in_progress') AND v_is_live THEN
            PERFORM embedmill.launch_document(v.document_id, v.job_id, v.batch_id, v.priority, 'internal_ingestion');
        ELSIF v.status IS NULL OR v.status IN ('completed', 'embedding_in_progress') THEN
            v_plain := v_plain || v.document_id;
        END IF;
    END LOOP;
    IF cardinality(v_plain) > 0 THEN
        PERFORM embedmill.enqueue_documents(v_plain, NULL, 'low', 'internal_ingestion');
    END IF;
    UPDATE embedmill.coverage_counters k SET embedded = k.embedded - n.vectors
      FROM (SELECT * FROM unnest(v_sources, v_vectors) AS u (id, vectors) ORDER BY 1) n
     WHERE k.generation_id = p_generation_id AND k.record_source_id = n.id;
    RETURN QUERY SELECT * FROM unnest(v_kinds, v_ids, v_parts);
END
$$;

-- Vectors of a generation whose chunk is gone, or is of another plan or pipeline: looks at the next p_limit behind
-- p_after. last_chunk_id is NULL at the end.
CREATE OR REPLACE FUNCTION embedmill.audit_vectors(
    p_generation_id integer, p_after bigint, p_limit integer, OUT last_chunk_id bigint, OUT looked integer,
    OUT lost bigint[])
LANGUAGE plpgsql STABLE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
    SET jit = off AS $$
BEGIN
    EXECUTE format(
        'SELECT max(w.chunk_id), count(*), coalesce(array_agg(w.chunk_id ORDER BY w.chunk_id) FILTER (WHERE c.id IS NULL'
        '           OR c.pipeline_id <> g.pipeline_id OR c.chunk_set <> g.chunk_set), ''{}'')'
        '  FROM (SELECT v.chunk_id FROM embedmill.%I v WHERE v.chunk_id > $1 ORDER BY v.chunk_id LIMIT $2) w'
        '  JOIN embedmill.generations g ON g.id = $3'
        '  LEFT JOIN embedmill.knowledge_chunks c ON c.id = w.chunk_id',
        'vectors_' || p_generation_id)
    INTO last_chunk_id, looked, lost USING p_after, p_limit, p_generation_id;
END
$$;

-- Deletes those of these vectors that are still without their chunk; how many.
CREATE OR REPLACE FUNCTION embedmill.mend_vectors(p_generation_id integer, p_chunk_ids bigint[]) RETURNS integer
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count integer;
BEGIN
    EXECUTE format(
        'DELETE FROM embedmill.%I v USING embedmill.generations g'
        ' WHERE v.chunk_id = ANY ($1) AND g.id = $2'
        '   AND NOT EXISTS (SELECT FROM embedmill.knowledge_chunks c'
        '                    WHERE c.id = v.chunk_id AND c.pipeline_id = g.pipeline_id AND c.chunk_set = g.chunk_set)',
        'vectors_' || p_generation_id)
    USING p_chunk_ids, p_generation_id;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

-- The newest jobs of these documents, where what they say is not so: `fault` is `counts` (completed, with other numbers
-- than its chunks and vectors), `stuck` (nothing is left to wait for), `unparsed` (no parser will come to it). The
-- counts of a job that is under way are for people, and settle at its end. Those of an older plan of chunks are of
-- that plan.
CREATE OR REPLACE FUNCTION embedmill.audit_jobs(p_pipeline_id integer, p_document_ids bigint[])
RETURNS TABLE (
    job_id uuid, document_id bigint, source_type text, source_id text, record_source_id integer, fault text,
    said integer[], total integer, embedded integer, failed integer)
LANGUAGE plpgsql STABLE
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    g embedmill.generations;
BEGIN
    SELECT l.* INTO STRICT g FROM embedmill.pipelines p JOIN embedmill.generations l ON l.id = p.current_generation_id
     WHERE p.id = p_pipeline_id;
    RETURN QUERY EXECUTE format(
        'SELECT * FROM ('
        '  SELECT j.id, d.id AS document_id, d.source_type, d.source_id, d.record_source_id,'
        '         CASE WHEN j.status IN (''staged'', ''parsing'') THEN'
        '                   CASE WHEN NOT EXISTS (SELECT FROM embedmill.parse_queue r WHERE r.job_id = j.id)'
        '                        THEN ''unparsed'' END'
        '              WHEN t.embedded + t.failed < t.total'
        '                   OR EXISTS (SELECT FROM embedmill.stale_cuts s'
        '                               WHERE s.document_id = d.id AND s.chunk_set = $3) THEN NULL'
        '              WHEN j.status = ''embedding_in_progress'' THEN'
        '                   CASE WHEN j.updated_at < now() - interval ''10 minutes'''
        '                             AND NOT EXISTS (SELECT FROM embedmill.parse_queue r WHERE r.job_id = j.id)'
        '                             AND NOT EXISTS (SELECT FROM embedmill.embedding_queue q'
        '                                              WHERE q.document_id = d.id AND q.job_id = j.id)'
        '                        THEN ''stuck'' END'
        '              WHEN j.status = ''completed'' AND (j.total_chunks, j.embedded_chunks, j.failed_chunks)'
        '                       <> (t.total, t.embedded, t.failed)'
        '                   AND ($4 IS NULL OR coalesce(j.launched_at, j.created_at) >= $4)'
        '                   THEN ''counts'' END AS fault,'
        '         ARRAY[j.total_chunks, j.embedded_chunks, j.failed_chunks], t.total, t.embedded, t.failed'
        '    FROM unnest($1) AS w (id)'
        '    JOIN embedmill.knowledge_documents d ON d.id = w.id AND d.pipeline_id = $2'
        '   CROSS JOIN LATERAL (SELECT i.* FROM embedmill.ingestion_jobs i'
        '                        WHERE i.document_id = d.id ORDER BY i.created_at DESC LIMIT 1) j'
        '   CROSS JOIN LATERAL ('
        '     SELECT count(*)::integer AS total, count(v.chunk_id)::integer AS embedded,'
        '            count(*) FILTER (WHERE c.error_reason IS NOT NULL AND v.chunk_id IS NULL)::integer AS failed'
        '       FROM embedmill.knowledge_chunks c LEFT JOIN embedmill.%I v ON v.chunk_id = c.id'
        '      WHERE c.document_id = d.id AND c.chunk_set = $3) t'
        '   WHERE j.status IN (''staged'', ''parsing'', ''embedding_in_progress'', ''completed'')'
        '     AND NOT EXISTS (SELECT FROM embedmill.embedding_queue q'
        '                      WHERE q.document_id = d.id AND q.operation = ''DELETE'')) f'
        ' WHERE f.fault IS NOT NULL ORDER BY f.document_id',
        'vectors_' || g.id)
    USING p_document_ids, p_pipeline_id, g.chunk_set,
          -- Where chunks were cut anew for the generation, its switch; otherwise they are the same.
          CASE WHEN g.build_started_at IS NOT NULL THEN g.switched_at END;
END
$$;

-- Sets right what audit_jobs finds in these documents; how many jobs.
CREATE OR REPLACE FUNCTION embedmill.mend_jobs(p_pipeline_id integer, p_document_ids bigint[]) RETURNS integer
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v record;
    v_count integer := 0;
BEGIN
    PERFORM FROM embedmill.knowledge_documents WHERE id = ANY (p_document_ids) ORDER BY id FOR UPDATE;
    FOR v IN SELECT * FROM embedmill.audit_jobs(p_pipeline_id, p_document_ids) AS a ORDER BY a.job_id LOOP
        -- Its worker may have ended it while we waited for the documents only.
        PERFORM FROM embedmill.ingestion_jobs WHERE id = v.job_id FOR UPDATE;
        CONTINUE WHEN NOT EXISTS (SELECT FROM embedmill.audit_jobs(p_pipeline_id, ARRAY[v.document_id]) AS a
                                   WHERE a.job_id = v.job_id AND a.fault = v.fault);
        IF v.fault = 'unparsed' THEN
            PERFORM embedmill.redispatch_job(j) FROM embedmill.ingestion_jobs j WHERE j.id = v.job_id;
        ELSE
            UPDATE embedmill.ingestion_jobs
               SET total_chunks = v.total, embedded_chunks = v.embedded, failed_chunks = v.failed, updated_at = now()
             WHERE id = v.job_id;
            PERFORM embedmill.advance_jobs(ARRAY[v.job_id], '{0}', '{0}', '{0}', '{0}', '{0}')
              WHERE v.fault = 'stuck';
        END IF;
        v_count := v_count + 1;
    END LOOP;
    RETURN v_count;
END
$$;

-- Vectors that are said to stand in a column of the user's row, and do not. Where we still have them, a note to bring them
-- there; the others are taken away, as if they had never been made, and enqueued. Called with the documents locked.
CREATE OR REPLACE FUNCTION embedmill.mend_unfilled(p_generation_id integer, p_document_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_chunk_set integer := (SELECT chunk_set FROM embedmill.generations WHERE id = p_generation_id);
    v_kept bigint[];
    v_sources integer[];
    v_vectors bigint[];
BEGIN
    EXECUTE format(
        'SELECT coalesce(array_agg(DISTINCT c.document_id), ''{}'')'
        '  FROM embedmill.knowledge_chunks c JOIN embedmill.%I v ON v.chunk_id = c.id'
        ' WHERE c.document_id = ANY ($1) AND c.chunk_set = $2 AND v.embedding IS NOT NULL',
        'vectors_' || p_generation_id)
    INTO v_kept USING p_document_ids, v_chunk_set;
    PERFORM embedmill.owe_columns(t, k.keys)
       FROM (SELECT d.record_source_id, array_agg(d.source_id) AS keys FROM embedmill.knowledge_documents d
              WHERE d.id = ANY (v_kept) GROUP BY d.record_source_id) k
       JOIN embedmill.target_columns t
         ON t.record_source_id = k.record_source_id AND t.generation_id = p_generation_id;
    PERFORM embedmill.reclaim_items(p_document_ids);
    EXECUTE format(
        'WITH gone AS ('
        '  DELETE FROM embedmill.%I v USING embedmill.knowledge_chunks c'
        '   WHERE c.document_id = ANY ($1) AND c.chunk_set = $2 AND v.chunk_id = c.id AND v.embedding IS NULL'
        '  RETURNING c.record_source_id'
        ') SELECT array_agg(n.id ORDER BY n.id), array_agg(n.vectors ORDER BY n.id)'
        '    FROM (SELECT record_source_id AS id, count(*) AS vectors FROM gone GROUP BY 1) n',
        'vectors_' || p_generation_id)
    INTO v_sources, v_vectors USING p_document_ids, v_chunk_set;
    PERFORM embedmill.enqueue_documents(p_document_ids, NULL, 'low', 'internal_ingestion');
    UPDATE embedmill.coverage_counters k SET embedded = k.embedded - n.vectors
      FROM (SELECT * FROM unnest(v_sources, v_vectors) AS u (id, vectors) ORDER BY 1) n
     WHERE k.generation_id = p_generation_id AND k.record_source_id = n.id;
END
$$;
