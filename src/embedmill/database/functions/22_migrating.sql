-- A pipeline's next generation: built beside the live one, cut anew where its plan of chunks is another, dropped when it
-- is wanted no longer. Each function is one short transaction; whoever calls them goes on where somebody else stopped.
-- The order of locks is generation, documents, items, chunks, counters.

-- The chunks of these documents were replaced in one set: those of the pipeline's other sets are of an older text now,
-- and the builder cuts them. Returns whether p_chunk_set is the live one. Called after the chunks were written and
-- before anything is enqueued: the lock on knowledge_chunks keeps new generations out (create_generation).
CREATE OR REPLACE FUNCTION embedmill.note_recut(p_document_ids bigint[], p_chunk_set integer) RETURNS boolean
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_pipeline_id integer;
    v_live integer;
BEGIN
    SELECT p.id, g.chunk_set INTO v_pipeline_id, v_live
      FROM embedmill.knowledge_documents d
      JOIN embedmill.pipelines p ON p.id = d.pipeline_id
      JOIN embedmill.generations g ON g.id = p.current_generation_id
     WHERE d.id = p_document_ids[1];
    IF EXISTS (SELECT FROM embedmill.generations WHERE pipeline_id = v_pipeline_id AND chunk_set <> p_chunk_set) THEN
        INSERT INTO embedmill.stale_cuts (document_id, chunk_set, pipeline_id, tenant_id, marked_at)
        SELECT d.id, s.chunk_set, d.pipeline_id, d.tenant_id, clock_timestamp()
          FROM embedmill.knowledge_documents d
         CROSS JOIN (SELECT DISTINCT g.chunk_set FROM embedmill.generations g
                      WHERE g.pipeline_id = v_pipeline_id AND g.chunk_set <> p_chunk_set) s
         WHERE d.id = ANY (p_document_ids)
         ORDER BY d.id, s.chunk_set
        ON CONFLICT (document_id, chunk_set) DO UPDATE SET marked_at = excluded.marked_at;
        DELETE FROM embedmill.stale_cuts WHERE document_id = ANY (p_document_ids) AND chunk_set = p_chunk_set;
    END IF;
    RETURN p_chunk_set = v_live;
END
$$;

-- What calls for a generation have cost since its build began, failed ones included and searches not; NULL where the price
-- of one is not known.
CREATE OR REPLACE FUNCTION embedmill.generation_cost(p_generation_id integer, OUT cost_usd numeric, OUT tokens bigint)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT CASE WHEN u.unknown_cost_calls = 0 THEN u.cost_usd END, u.tokens
      INTO generation_cost.cost_usd, generation_cost.tokens
      FROM embedmill.generations g
     CROSS JOIN LATERAL embedmill.usage_since(g.tenant_id, coalesce(g.build_started_at, g.created_at),
                                              p_generation_id => g.id) AS u
     WHERE g.id = p_generation_id;
    tokens := coalesce(tokens, 0);
END
$$;

-- One step of the walk that builds a generation: the next documents that lack something there are enqueued at low
-- priority, or marked to be cut where its plan is another. Never more than p_window items and marks wait, and never
-- more than the budget pays for. Returns what is to be done now:
--     walked (more at once)   waiting (for what is enqueued)   ended (just now, or before)   stopped (the budget)
--     busy (somebody else is at it)
CREATE OR REPLACE FUNCTION embedmill.build_step(p_generation_id integer, p_window integer, p_documents integer) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    g embedmill.generations;
    v_live embedmill.generations;
    v_waiting integer;
    v_due_tokens bigint;
    v_spent numeric;
    v_ids bigint[];
    v_last bigint;
    v_looked integer;
BEGIN
    SELECT * INTO g FROM embedmill.generations WHERE id = p_generation_id FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 'busy';
    ELSIF g.build_started_at IS NULL OR g.build_ended_at IS NOT NULL THEN
        RETURN 'ended';
    ELSIF g.build_stopped_reason IS NOT NULL THEN
        RETURN 'stopped';
    END IF;
    SELECT l.* INTO STRICT v_live FROM embedmill.pipelines p JOIN embedmill.generations l ON l.id = p.current_generation_id
     WHERE p.id = g.pipeline_id;
    SELECT count(*), coalesce(sum(w.tokens), 0) INTO v_waiting, v_due_tokens
      FROM (SELECT q.estimated_tokens AS tokens FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.status IN ('pending', 'rate_limited', 'processing')
             LIMIT 2 * p_window) w;
    SELECT v_waiting + count(*), v_due_tokens + coalesce(sum(s.tokens), 0) INTO v_waiting, v_due_tokens
      FROM (SELECT (SELECT sum(c.token_count) FROM embedmill.knowledge_chunks c
                     WHERE c.document_id = m.document_id AND c.chunk_set = v_live.chunk_set) AS tokens
              FROM embedmill.stale_cuts m
             WHERE m.pipeline_id = g.pipeline_id AND m.chunk_set = g.chunk_set AND g.chunk_set <> v_live.chunk_set
             LIMIT 2 * p_window) s;

    IF g.build_after_document = 9223372036854775807 THEN
        -- The walk is over, and what it enqueued and marked. Changes meanwhile go their own way, as they always do.
        IF EXISTS (SELECT FROM embedmill.embedding_queue q
                    WHERE q.generation_id = g.id AND q.usage_type = 'generation_build')
           OR EXISTS (SELECT FROM embedmill.stale_cuts m
                       WHERE m.pipeline_id = g.pipeline_id AND m.chunk_set = g.chunk_set AND m.marked_at = '-infinity') THEN
            RETURN 'waiting';
        END IF;
        UPDATE embedmill.generations SET build_ended_at = now() WHERE id = g.id;
        RETURN 'ended';
    END IF;
    IF v_waiting >= p_window THEN
        RETURN 'waiting';
    END IF;

    -- By the primary key, whatever other pipelines have in between: a step looks at so many and no more.
    SELECT max(w.id), count(*),
           array_agg(w.id ORDER BY w.id) FILTER (WHERE w.pipeline_id = g.pipeline_id AND w.chunk_count > 0)
      INTO v_last, v_looked, v_ids
      FROM (SELECT d.id, d.pipeline_id, d.chunk_count FROM embedmill.knowledge_documents d
             WHERE d.id > coalesce(g.build_after_document, 0) ORDER BY d.id LIMIT 5000) w;
    IF v_looked = 0 THEN
        UPDATE embedmill.generations SET build_after_document = 9223372036854775807 WHERE id = g.id;
        RETURN 'walked';
    END IF;
    IF cardinality(v_ids) > least(p_documents, p_window - v_waiting) THEN
        v_ids := v_ids[1:least(p_documents, p_window - v_waiting)];
        v_last := v_ids[cardinality(v_ids)];
    END IF;
    v_ids := ARRAY(SELECT d.id FROM embedmill.knowledge_documents d WHERE d.id = ANY (v_ids) ORDER BY d.id FOR UPDATE);
    v_ids := embedmill.buildable_documents(v_live, v_ids);
    IF g.budget_usd IS NOT NULL AND cardinality(v_ids) > 0 THEN
        SELECT coalesce(c.cost_usd, 0) INTO v_spent FROM embedmill.generation_cost(g.id) AS c;
        -- As many as there is money for; where that is none, and nothing is under way, it is used up.
        SELECT coalesce(array_agg(t.id ORDER BY t.id), '{}') INTO v_ids
          FROM (SELECT w.id, sum(coalesce(l.tokens, 0)) OVER (ORDER BY w.id) AS tokens
                  FROM unnest(v_ids) AS w (id)
                 CROSS JOIN LATERAL (
                    SELECT sum(c.token_count) AS tokens FROM embedmill.knowledge_chunks c
                     WHERE c.document_id = w.id AND c.chunk_set = v_live.chunk_set) l) t
         WHERE v_spent + (v_due_tokens + t.tokens) * coalesce(g.price_per_million_tokens, 0) / 1000000 <= g.budget_usd;
        IF cardinality(v_ids) = 0 THEN
            IF v_waiting > 0 THEN
                RETURN 'waiting';
            END IF;
            UPDATE embedmill.generations
               SET build_stopped_reason = format('its budget of %s USD is used up (%s USD are spent)', g.budget_usd,
                                                 round(v_spent, 6))
             WHERE id = g.id;
            RETURN 'stopped';
        END IF;
        -- The walk goes on from the last one that was paid for.
        v_last := v_ids[cardinality(v_ids)];
    END IF;
    IF g.chunk_set <> v_live.chunk_set THEN
        INSERT INTO embedmill.stale_cuts (document_id, chunk_set, pipeline_id, tenant_id, marked_at)
        SELECT w.id, g.chunk_set, g.pipeline_id, g.tenant_id, '-infinity' FROM unnest(v_ids) AS w (id)
         WHERE NOT EXISTS (SELECT FROM embedmill.knowledge_chunks c
                            WHERE c.document_id = w.id AND c.chunk_set = g.chunk_set)
         ORDER BY w.id
        ON CONFLICT (document_id, chunk_set) DO NOTHING;
    END IF;
    PERFORM embedmill.enqueue_in_generation(g.id, v_ids, NULL, NULL, 'low', 'generation_build', '{}',
                                            embedmill.config_integer('max_retries')::integer)
      WHERE cardinality(v_ids) > 0;
    UPDATE embedmill.generations SET build_after_document = v_last WHERE id = g.id;
    RETURN 'walked';
END
$$;

-- Which of these (locked) documents a generation is built of: not those that wait to be deleted, nor those that nobody
-- has launched and of which the live generation has nothing.
CREATE OR REPLACE FUNCTION embedmill.buildable_documents(p_live embedmill.generations, p_document_ids bigint[])
RETURNS bigint[]
LANGUAGE plpgsql STABLE
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ids bigint[];
BEGIN
    EXECUTE format(
        'SELECT coalesce(array_agg(w.id ORDER BY w.id), ''{}'') FROM unnest($1) AS w (id)'
        ' WHERE NOT EXISTS (SELECT FROM embedmill.embedding_queue q'
        '                    WHERE q.document_id = w.id AND q.operation = ''DELETE'')'
        '   AND (coalesce((SELECT j.status NOT IN (''staged'', ''parsing'', ''chunk_preview_ready'', ''cancelled'')'
        '                    FROM embedmill.ingestion_jobs j WHERE j.document_id = w.id'
        '                   ORDER BY j.created_at DESC LIMIT 1), true)'
        '        OR EXISTS (SELECT FROM embedmill.knowledge_chunks c JOIN embedmill.%I v ON v.chunk_id = c.id'
        '                    WHERE c.document_id = w.id AND c.chunk_set = $2))',
        'vectors_' || p_live.id)
    INTO v_ids USING p_document_ids, p_live.chunk_set;
    RETURN v_ids;
END
$$;

-- Documents of a set that are to be cut, with all that they are cut from. Where a text is older than
-- the places that are stored with it, those of the live chunks say where its pages are.
CREATE OR REPLACE FUNCTION embedmill.stale_documents(p_pipeline_id integer, p_chunk_set integer, p_limit integer)
RETURNS TABLE (
    document_id bigint, version bigint, record_source_id integer, media_type text, title text, is_markdown boolean,
    places text, chunk_places text, body text, is_whole boolean)
LANGUAGE sql STABLE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
    SELECT d.id, d.version, d.record_source_id, coalesce(d.media_type, 'text/plain'), d.title,
           coalesce(t.is_markdown, false), t.places::text,
           CASE WHEN t.document_id IS NOT NULL AND t.places IS NULL THEN (
               SELECT jsonb_agg(jsonb_build_array(c.place_kind, c.place_first, c.place_last, c.start_offset, c.end_offset)
                                ORDER BY c.ordinal)
                 FROM embedmill.knowledge_chunks c
                WHERE c.document_id = d.id AND c.place_kind IS NOT NULL
                  AND c.chunk_set = (SELECT g.chunk_set FROM embedmill.pipelines p
                                       JOIN embedmill.generations g ON g.id = p.current_generation_id
                                      WHERE p.id = p_pipeline_id))::text END,
           t.text,
           -- A row whose vector goes into a column of its own is one chunk by any plan.
           EXISTS (SELECT FROM embedmill.table_sources r
                    WHERE r.record_source_id = d.record_source_id AND r.target_column IS NOT NULL)
      FROM (SELECT w.document_id, sum(w.bytes) OVER (ORDER BY w.document_id) - w.bytes AS bytes_before
              FROM (SELECT m.document_id, coalesce(pg_column_size(b.text), 0) AS bytes
                      FROM embedmill.stale_cuts m
                      LEFT JOIN embedmill.knowledge_document_texts b ON b.document_id = m.document_id
                     WHERE m.pipeline_id = p_pipeline_id AND m.chunk_set = p_chunk_set
                     ORDER BY m.document_id LIMIT p_limit) w) s
      JOIN embedmill.knowledge_documents d ON d.id = s.document_id
      LEFT JOIN embedmill.knowledge_document_texts t ON t.document_id = d.id
     WHERE s.bytes_before < 4000000      -- of what is stored, compressed; one at least
     ORDER BY d.id
$$;

-- Locks documents that were cut for a set; returns those whose text is still the one that was cut, and takes their
-- items in the set's generations out of the workers' hands: chunks are about to go.
CREATE OR REPLACE FUNCTION embedmill.hold_cut_documents(
    p_document_ids bigint[], p_versions bigint[], p_chunk_set integer)
RETURNS SETOF bigint
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ids bigint[];
BEGIN
    PERFORM FROM embedmill.knowledge_documents WHERE id = ANY (p_document_ids) ORDER BY id FOR UPDATE;
    v_ids := ARRAY(
        SELECT d.id FROM unnest(p_document_ids, p_versions) AS w (id, version)
          JOIN embedmill.knowledge_documents d ON d.id = w.id AND d.version = w.version
          JOIN embedmill.stale_cuts m ON m.document_id = d.id AND m.chunk_set = p_chunk_set
         WHERE EXISTS (SELECT FROM embedmill.generations g
                        WHERE g.pipeline_id = d.pipeline_id AND g.chunk_set = p_chunk_set)
         ORDER BY d.id);
    PERFORM embedmill.end_items(
        ARRAY(SELECT q.id FROM embedmill.embedding_queue q
                JOIN embedmill.generations g ON g.id = q.generation_id AND g.chunk_set = p_chunk_set
               WHERE q.document_id = ANY (v_ids) AND q.operation <> 'DELETE' ORDER BY q.id FOR UPDATE OF q),
        'cancelled', 'superseded by newer content', NULL);
    RETURN QUERY SELECT unnest(v_ids);
END
$$;

-- The chunks of these documents stand in a set: what lacks a vector is enqueued in its generations, at low priority and
-- on the build's account where the walk has marked it, as any change is else.
CREATE OR REPLACE FUNCTION embedmill.end_cut(p_pipeline_id integer, p_chunk_set integer, p_document_ids bigint[])
RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v record;
    v_walked bigint[];
    v_sum bigint := 0;
BEGIN
    v_walked := ARRAY(SELECT document_id FROM embedmill.stale_cuts
                       WHERE document_id = ANY (p_document_ids) AND chunk_set = p_chunk_set AND marked_at = '-infinity');
    DELETE FROM embedmill.stale_cuts WHERE document_id = ANY (p_document_ids) AND chunk_set = p_chunk_set;
    PERFORM pg_advisory_xact_lock_shared(hashtext('embedmill.generations'), p_pipeline_id);
    p_document_ids := embedmill.buildable_documents(g, p_document_ids)
       FROM embedmill.pipelines p JOIN embedmill.generations g ON g.id = p.current_generation_id
      WHERE p.id = p_pipeline_id;
    FOR v IN
        SELECT g.id, k.ids, k.priority, k.usage_type
          FROM embedmill.generations g
         CROSS JOIN LATERAL (VALUES
               (ARRAY(SELECT w FROM unnest(p_document_ids) AS w WHERE w = ANY (v_walked) ORDER BY w),
                'low'::embedmill.queue_priority, 'generation_build'),
               (ARRAY(SELECT w FROM unnest(p_document_ids) AS w WHERE w <> ALL (v_walked) ORDER BY w),
                'medium', 'internal_ingestion')) AS k (ids, priority, usage_type)
         WHERE g.pipeline_id = p_pipeline_id AND g.chunk_set = p_chunk_set AND cardinality(k.ids) > 0
         ORDER BY g.id
    LOOP
        v_sum := v_sum + (
            SELECT coalesce(sum(e.chunks), 0)
              FROM embedmill.enqueue_in_generation(v.id, v.ids, NULL, NULL, v.priority, v.usage_type, '{}',
                                                   embedmill.config_integer('max_retries')::integer) AS e);
    END LOOP;
    RETURN v_sum;
END
$$;

-- Empties the queue of a generation that is to go, p_limit items at a time; returns how many there were. Deletions and
-- jobs go over to the live generation: they are wanted all the same.
CREATE OR REPLACE FUNCTION embedmill.clear_generation(p_generation_id integer, p_limit integer) RETURNS integer
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_live integer;
    v_documents bigint[];
    v_ids bigint[];
    v_jobs record;
BEGIN
    SELECT p.current_generation_id INTO STRICT v_live
      FROM embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id WHERE g.id = p_generation_id;
    IF v_live = p_generation_id THEN
        RAISE EXCEPTION 'generation % is the live one', p_generation_id USING ERRCODE = 'EM409';
    END IF;
    v_ids := ARRAY(SELECT q.id FROM embedmill.embedding_queue q WHERE q.generation_id = p_generation_id
                      AND q.status IN ('pending', 'rate_limited', 'processing') LIMIT p_limit);
    v_documents := ARRAY(SELECT DISTINCT q.document_id FROM embedmill.embedding_queue q
                          WHERE q.id = ANY (v_ids) AND q.document_id IS NOT NULL ORDER BY 1);
    PERFORM FROM embedmill.knowledge_documents WHERE id = ANY (v_documents) ORDER BY id FOR UPDATE;
    PERFORM FROM embedmill.embedding_queue WHERE id = ANY (v_ids) ORDER BY id FOR UPDATE;
    UPDATE embedmill.embedding_queue SET generation_id = v_live
     WHERE id = ANY (v_ids) AND generation_id = p_generation_id AND operation = 'DELETE';
    FOR v_jobs IN
        SELECT j.document_id, j.id, j.batch_id, j.priority, array_agg(q.id) AS items
          FROM embedmill.embedding_queue q JOIN embedmill.ingestion_jobs j ON j.id = q.job_id
         WHERE q.id = ANY (v_ids) AND q.generation_id = p_generation_id
         GROUP BY j.id ORDER BY j.document_id
    LOOP
        PERFORM embedmill.end_items(v_jobs.items, 'cancelled', 'its generation was pruned', NULL);
        PERFORM embedmill.launch_document(v_jobs.document_id, v_jobs.id, v_jobs.batch_id, v_jobs.priority,
                                          'internal_ingestion')
           FROM embedmill.ingestion_jobs j WHERE j.id = v_jobs.id AND j.status = 'embedding_in_progress';
    END LOOP;
    PERFORM embedmill.end_items(
        ARRAY(SELECT q.id FROM embedmill.embedding_queue q
               WHERE q.id = ANY (v_ids) AND q.generation_id = p_generation_id), 'cancelled', 'its generation was pruned', NULL);
    RETURN cardinality(v_ids);
END
$$;

-- Drops a generation that is not the live one: its vectors, counters, dead letters, and what is left of its items.
-- The locks keep out who changes chunks and who enqueues; they are waited for briefly, and so is every search that
-- reads the table: the caller tries again on lock_not_available, which comes before any deadlock is looked for (the order
-- of locks is another one here). Chunks that no generation has are removed after that.
CREATE OR REPLACE FUNCTION embedmill.drop_generation(p_generation_id integer) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    v_pipeline_id integer;
BEGIN
    LOCK TABLE embedmill.knowledge_chunks IN SHARE ROW EXCLUSIVE MODE;
    SELECT pipeline_id INTO v_pipeline_id FROM embedmill.generations WHERE id = p_generation_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('embedmill.generations'), v_pipeline_id);
    PERFORM FROM embedmill.pipelines WHERE id = v_pipeline_id FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM embedmill.pipelines WHERE current_generation_id = p_generation_id) THEN
        RAISE EXCEPTION 'generation % is the live one', p_generation_id USING ERRCODE = 'EM409';
    END IF;
    LOOP
        EXIT WHEN embedmill.clear_generation(p_generation_id, 500) = 0;
    END LOOP;
    EXECUTE format('DROP TABLE embedmill.%I', 'vectors_' || p_generation_id);
    DELETE FROM embedmill.generations WHERE id = p_generation_id;
END
$$;

-- Removes chunks of a pipeline whose plan no generation has any more, from behind p_after on, looking at p_limit of them.
-- Returns where the next call goes on; NULL at the end.
CREATE OR REPLACE FUNCTION embedmill.remove_unused_chunks(p_pipeline_id integer, p_after bigint, p_limit integer)
RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ids bigint[];
    v_last bigint;
BEGIN
    SELECT max(w.id), array_agg(w.id) FILTER (
               WHERE w.pipeline_id = p_pipeline_id
                 AND NOT EXISTS (SELECT FROM embedmill.generations g
                                  WHERE g.pipeline_id = p_pipeline_id AND g.chunk_set = w.chunk_set))
      INTO v_last, v_ids
      FROM (SELECT c.id, c.pipeline_id, c.chunk_set FROM embedmill.knowledge_chunks c
             WHERE c.id > p_after ORDER BY c.id LIMIT p_limit) w;
    DELETE FROM embedmill.knowledge_chunks WHERE id = ANY (v_ids);
    IF v_last IS NULL THEN
        DELETE FROM embedmill.stale_cuts m
         WHERE m.pipeline_id = p_pipeline_id
           AND NOT EXISTS (SELECT FROM embedmill.generations g
                            WHERE g.pipeline_id = p_pipeline_id AND g.chunk_set = m.chunk_set);
    END IF;
    RETURN v_last;
END
$$;

-- Begins to build the next generation of a pipeline; returns it. EM409: one is there already that was never live.
CREATE OR REPLACE FUNCTION embedmill.start_build(
    p_pipeline_id integer, p_spec jsonb, p_dimensions integer, p_storage text, p_chunk_tokens integer,
    p_chunk_overlap integer, p_price numeric, p_budget_usd numeric)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_id integer;
BEGIN
    PERFORM FROM embedmill.pipelines WHERE id = p_pipeline_id FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM embedmill.generations
                WHERE pipeline_id = p_pipeline_id AND build_started_at IS NOT NULL AND switched_at IS NULL) THEN
        RAISE EXCEPTION 'the next generation of this pipeline is there already'
            USING ERRCODE = 'EM409', HINT = 'Go on with it, switch to it, or cancel it.';
    END IF;
    v_id := embedmill.create_generation(p_pipeline_id, p_spec, p_dimensions, p_storage, p_chunk_tokens, p_chunk_overlap,
                                        p_price);
    UPDATE embedmill.generations SET build_started_at = clock_timestamp(), budget_usd = p_budget_usd WHERE id = v_id;
    RETURN v_id;
END
$$;
