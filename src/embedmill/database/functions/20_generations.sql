-- Generations: one typed table of vectors for each, its index, and the view of the pipeline.

-- What decides a document's vector besides its text. Equal recipes of one tenant share vectors.
CREATE OR REPLACE FUNCTION embedmill.recipe_hash(p_spec jsonb, p_storage text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT md5(jsonb_build_array(
        p_storage, p_spec -> 'provider', p_spec -> 'model', p_spec -> 'dimensions', p_spec -> 'base_url',
        p_spec -> 'params', p_spec -> 'document_params', p_spec -> 'document_prefix')::text)
$$;

-- Where a table of vectors keeps them: each in its row (PLAIN) where that fills three quarters of the pages, else in pieces
-- beside it (EXTERNAL, pgvector's default), which then take less disk. In its row a vector is written at half the cost and
-- compared at less than that (benchmarks/layout.py).
CREATE OR REPLACE FUNCTION embedmill.vector_layout(p_storage text, p_dimensions integer) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p.bytes / r.bytes * r.bytes >= 0.76 * p.bytes THEN 'PLAIN' ELSE 'EXTERNAL' END
      FROM (SELECT current_setting('block_size')::integer - 32 AS bytes) p
     -- 76: the row's header, its other columns and its pointer.
     CROSS JOIN (SELECT 76 + p_dimensions * CASE p_storage WHEN 'halfvec' THEN 2 ELSE 4 END AS bytes) r
$$;

-- Makes the next generation of a pipeline with its table embedmill.vectors_<id>; returns its id. Generations of the same
-- plan of chunks share the chunks. p_price: US dollars for a million tokens, NULL: unknown.
--
-- The lock keeps those out that change chunks: whoever has begun ends first and is in the counters that are copied
-- here, whoever comes later sees this generation. Nothing is counted under it, and it is waited for briefly, because
-- writers wait behind it: the caller tries again on lock_not_available.
CREATE OR REPLACE FUNCTION embedmill.create_generation(
    p_pipeline_id integer, p_spec jsonb, p_dimensions integer, p_storage text, p_chunk_tokens integer,
    p_chunk_overlap integer, p_price numeric)
RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    v_tenant_id integer;
    v_chunk_set integer;
    v_sibling integer;
    v_id integer;
    v_table text;
BEGIN
    SELECT tenant_id INTO STRICT v_tenant_id FROM embedmill.pipelines WHERE id = p_pipeline_id FOR NO KEY UPDATE;
    SELECT g.chunk_set, g.id INTO v_chunk_set, v_sibling FROM embedmill.generations g
     WHERE g.pipeline_id = p_pipeline_id AND g.chunk_tokens = p_chunk_tokens AND g.chunk_overlap = p_chunk_overlap
     ORDER BY g.id DESC LIMIT 1;
    IF EXISTS (SELECT FROM embedmill.generations WHERE pipeline_id = p_pipeline_id) THEN
        LOCK TABLE embedmill.knowledge_chunks IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    v_id := nextval(pg_get_serial_sequence('embedmill.generations', 'id'));
    INSERT INTO embedmill.generations
        (id, tenant_id, pipeline_id, number, spec, recipe_hash, dimensions, storage, chunk_set, chunk_tokens,
         chunk_overlap, price_per_million_tokens)
    OVERRIDING SYSTEM VALUE
    SELECT v_id, v_tenant_id, p_pipeline_id, coalesce(max(number), 0) + 1, p_spec,
           embedmill.recipe_hash(p_spec, p_storage), p_dimensions, p_storage,
           -- A set of chunks has a number that was never used: those of a dropped plan may be there still.
           coalesce(v_chunk_set, CASE WHEN max(id) IS NULL THEN 1 ELSE v_id END),
           p_chunk_tokens, p_chunk_overlap, p_price
      FROM embedmill.generations WHERE pipeline_id = p_pipeline_id;
    INSERT INTO embedmill.coverage_counters (generation_id) VALUES (v_id);
    INSERT INTO embedmill.coverage_counters AS k (generation_id, record_source_id, chunks, unembeddable)
    SELECT v_id, s.record_source_id, s.chunks, s.unembeddable
      FROM embedmill.coverage_counters s WHERE s.generation_id = v_sibling
    ON CONFLICT (generation_id, record_source_id) DO UPDATE
       SET chunks = excluded.chunks, unembeddable = excluded.unembeddable;
    v_table := 'vectors_' || v_id;
    -- No foreign key: it would cost a lookup for each vector. The trigger chunks_deleted keeps the tables
    -- together, and persistence is fenced by the queue item that whoever changes chunks takes first.
    EXECUTE format(
        'CREATE TABLE embedmill.%I (chunk_id bigint PRIMARY KEY, input_hash bytea NOT NULL, embedding %s(%s) NOT NULL, '
        '                           document_id bigint)',
        v_table, p_storage::regtype, p_dimensions);
    EXECUTE format('ALTER TABLE embedmill.%I ALTER COLUMN embedding SET STORAGE %s',
                   v_table, embedmill.vector_layout(p_storage, p_dimensions));
    -- A generation belongs to one tenant, so its table needs no tenant column.
    PERFORM embedmill.protect_table(format('embedmill.%I', v_table)::regclass,
                                    format('(SELECT embedmill.current_tenant_id()) = %s', v_tenant_id));
    PERFORM embedmill.grant_table(format('embedmill.%I', v_table)::regclass, 'SELECT, INSERT, DELETE', true);
    RETURN v_id;
END
$$;

-- Makes a generation the one that searches read, and the view with it, at once: the pipeline's plan and price follow.
-- Items of the one before that wait for their record to be read go over to it. EM409: objects of users depend on the
-- view, and the type of its vectors changes.
CREATE OR REPLACE FUNCTION embedmill.switch_generation(p_generation_id integer) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    v_generation embedmill.generations;
    v_before integer;
    v_view text;
BEGIN
    SELECT * INTO STRICT v_generation FROM embedmill.generations WHERE id = p_generation_id;
    SELECT current_generation_id INTO STRICT v_before FROM embedmill.pipelines
     WHERE id = v_generation.pipeline_id FOR NO KEY UPDATE;
    UPDATE embedmill.pipelines
       SET current_generation_id = p_generation_id, chunk_tokens = v_generation.chunk_tokens,
           chunk_overlap = v_generation.chunk_overlap,
           price_per_million_tokens = v_generation.price_per_million_tokens
     WHERE id = v_generation.pipeline_id
    RETURNING view_name INTO v_view;
    UPDATE embedmill.generations SET switched_at = clock_timestamp()
     WHERE id IN (p_generation_id, v_before) AND v_before IS NOT NULL;
    UPDATE embedmill.embedding_queue q SET generation_id = p_generation_id
     WHERE q.generation_id = v_before AND v_before <> p_generation_id AND q.first_ordinal IS NULL
       AND q.status = 'pending' AND q.available_at = 'infinity' AND q.operation <> 'DELETE' AND q.document_id IS NOT NULL
       AND NOT EXISTS (SELECT FROM embedmill.embedding_queue o
                        WHERE o.generation_id = p_generation_id AND o.document_id = q.document_id AND o.part = q.part);
    PERFORM embedmill.make_view(v_view, v_generation);
    PERFORM embedmill.refresh_source_views(v_generation.pipeline_id);
END
$$;

-- The view of a pipeline on a generation. Replaced where the types are the same, so that what depends on it stays.
CREATE OR REPLACE FUNCTION embedmill.make_view(p_view text, p_generation embedmill.generations) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_definition text := format(
        'VIEW embedmill.%I WITH (security_invoker = true) AS '
        'SELECT c.id AS chunk_id, c.document_id, d.source_type, d.source_id, d.name, d.title, '
        '       c.ordinal, c.start_offset, c.end_offset, c.place_kind, c.place_first, c.place_last, '
        '       c.heading_path, c.text, c.token_count, d.metadata, v.input_hash, v.embedding '
        '  FROM embedmill.knowledge_chunks c '
        '  JOIN embedmill.knowledge_documents d ON d.id = c.document_id '
        '  LEFT JOIN embedmill.%I v ON v.chunk_id = c.id '
        ' WHERE c.pipeline_id = %s AND c.chunk_set = %s',
        p_view, 'vectors_' || p_generation.id, p_generation.pipeline_id, p_generation.chunk_set);
    v_dependents text;
BEGIN
    EXECUTE 'CREATE OR REPLACE ' || v_definition;
    PERFORM embedmill.grant_table(format('embedmill.%I', p_view)::regclass, 'SELECT', true);
EXCEPTION
    WHEN invalid_table_definition THEN
        SELECT string_agg(DISTINCT pg_describe_object(w.classid, w.objid, 0), ', ') INTO v_dependents
          FROM (SELECT coalesce(r.ev_class::regclass::oid, d.objid) AS objid,
                       CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END AS classid
                  FROM pg_depend d LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
                 WHERE d.refobjid = format('embedmill.%I', p_view)::regclass AND d.deptype = 'n') w
         WHERE w.objid <> format('embedmill.%I', p_view)::regclass;
        IF v_dependents IS NOT NULL THEN
            RAISE EXCEPTION 'the type of embedmill.%.embedding changes, and this depends on the view: %', p_view, v_dependents
                USING ERRCODE = 'EM409', HINT = 'Drop what depends on it, switch, and make it again.';
        END IF;
        EXECUTE format('DROP VIEW embedmill.%I', p_view);
        EXECUTE 'CREATE ' || v_definition;
        PERFORM embedmill.grant_table(format('embedmill.%I', p_view)::regclass, 'SELECT', true);
END
$$;

-- Makes a pipeline with its first generation. p_quota_key names a quota that pipelines share (the first one
-- brings its limits); NULL: one of its own.
CREATE OR REPLACE FUNCTION embedmill.create_pipeline(
    p_tenant_id integer, p_name text, p_spec jsonb, p_dimensions integer, p_storage text,
    p_chunk_tokens integer, p_chunk_overlap integer, p_text_search_config text, p_price numeric,
    p_calls_per_minute integer, p_tokens_per_minute integer, p_quota_key text, p_uses_default_quota boolean)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_id integer;
    v_slug text;
    v_quota_key text;
BEGIN
    SELECT slug INTO STRICT v_slug FROM embedmill.tenants WHERE id = p_tenant_id;
    -- Every pipeline has its row, limited or not: a provider's Retry-After is shared through it.
    v_quota_key := coalesce(p_quota_key, v_slug || '/' || p_name);
    INSERT INTO embedmill.quotas AS q (quota_key, calls_per_minute, tokens_per_minute, uses_defaults)
    VALUES (v_quota_key, p_calls_per_minute, p_tokens_per_minute, p_uses_default_quota)
    ON CONFLICT (quota_key) DO UPDATE
       SET calls_per_minute = coalesce(p_calls_per_minute, q.calls_per_minute),
           tokens_per_minute = coalesce(p_tokens_per_minute, q.tokens_per_minute);
    INSERT INTO embedmill.pipelines
        (tenant_id, name, view_name, chunk_tokens, chunk_overlap, text_search_config,
         price_per_million_tokens, quota_key)
    VALUES (p_tenant_id, p_name,
            CASE WHEN v_slug = 'default' THEN '' ELSE 'tenant' || p_tenant_id || '_' END
                || 'embeddings_' || replace(p_name, '-', '_'),
            p_chunk_tokens, p_chunk_overlap, p_text_search_config::regconfig, p_price, v_quota_key)
    RETURNING id INTO v_id;
    PERFORM embedmill.switch_generation(
        embedmill.create_generation(v_id, p_spec, p_dimensions, p_storage, p_chunk_tokens, p_chunk_overlap, p_price));
    RETURN v_id;
END
$$;

-- Chunks come and go in sets; the counters and the vectors of every generation that they are for follow in the same
-- transaction.
CREATE OR REPLACE FUNCTION embedmill.chunks_inserted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedmill.coverage_counters AS k (generation_id, record_source_id, chunks)
    SELECT g.id, i.record_source_id, count(*)
      FROM inserted i
      JOIN embedmill.generations g ON g.pipeline_id = i.pipeline_id AND g.chunk_set = i.chunk_set
     GROUP BY g.id, i.record_source_id ORDER BY g.id, i.record_source_id
    ON CONFLICT (generation_id, record_source_id) DO UPDATE SET chunks = k.chunks + excluded.chunks;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION embedmill.chunks_deleted() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_generation_id integer;
BEGIN
    FOR v_generation_id IN
        SELECT DISTINCT g.id
          FROM deleted d JOIN embedmill.generations g ON g.pipeline_id = d.pipeline_id AND g.chunk_set = d.chunk_set
         ORDER BY g.id
    LOOP
        EXECUTE format(
            'WITH gone AS (DELETE FROM embedmill.%I WHERE chunk_id IN (SELECT id FROM deleted) RETURNING chunk_id)'
            'UPDATE embedmill.coverage_counters k'
            '   SET chunks = k.chunks - n.chunks, embedded = k.embedded - n.vectors,'
            '       unembeddable = k.unembeddable - n.refused'
            '  FROM (SELECT d.record_source_id, count(*) AS chunks, count(o.chunk_id) AS vectors,'
            '               count(*) FILTER (WHERE d.error_reason IS NOT NULL) AS refused'
            '          FROM deleted d'
            '          JOIN embedmill.generations g'
            '            ON g.id = $1 AND g.pipeline_id = d.pipeline_id AND g.chunk_set = d.chunk_set'
            '          LEFT JOIN gone o ON o.chunk_id = d.id'
            '         GROUP BY d.record_source_id ORDER BY d.record_source_id) n'
            ' WHERE k.generation_id = $1 AND k.record_source_id = n.record_source_id',
            'vectors_' || v_generation_id)
        USING v_generation_id;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER chunks_inserted AFTER INSERT ON embedmill.knowledge_chunks
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION embedmill.chunks_inserted();
CREATE OR REPLACE TRIGGER chunks_deleted AFTER DELETE ON embedmill.knowledge_chunks
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION embedmill.chunks_deleted();

-- A generation's items go with it.
CREATE OR REPLACE FUNCTION embedmill.generations_deleted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM embedmill.embedding_queue WHERE generation_id IN (SELECT id FROM deleted);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER generations_deleted AFTER DELETE ON embedmill.generations
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION embedmill.generations_deleted();

-- Views that were made before there were plans of chunks side by side show the chunks of all of them.
DO $$
BEGIN
    PERFORM embedmill.make_view(p.view_name, g)
       FROM embedmill.pipelines p JOIN embedmill.generations g ON g.id = p.current_generation_id
      WHERE pg_get_viewdef(to_regclass(format('embedmill.%I', p.view_name))) NOT LIKE '%chunk_set%';
END
$$;
