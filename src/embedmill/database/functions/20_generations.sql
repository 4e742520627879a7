-- Generations: one typed table of vectors for each, its index, and the view of the pipeline.

-- What decides a document's vector besides its text. Equal recipes of one tenant share vectors.
CREATE OR REPLACE FUNCTION embedmill.recipe_hash(p_spec jsonb, p_storage text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT md5(jsonb_build_array(
        p_storage, p_spec -> 'provider', p_spec -> 'model', p_spec -> 'dimensions', p_spec -> 'base_url',
        p_spec -> 'params', p_spec -> 'document_params', p_spec -> 'document_prefix')::text)
$$;

-- Makes the next generation of a pipeline with its table embedmill.vectors_<id>; returns its id.
CREATE OR REPLACE FUNCTION embedmill.create_generation(
    p_pipeline_id integer, p_spec jsonb, p_dimensions integer, p_storage text)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant_id integer;
    v_id integer;
    v_table text;
BEGIN
    SELECT tenant_id INTO STRICT v_tenant_id FROM embedmill.pipelines WHERE id = p_pipeline_id FOR UPDATE;
    INSERT INTO embedmill.generations
        (tenant_id, pipeline_id, number, spec, recipe_hash, dimensions, storage)
    SELECT v_tenant_id, p_pipeline_id, coalesce(max(number), 0) + 1, p_spec,
           embedmill.recipe_hash(p_spec, p_storage), p_dimensions, p_storage
      FROM embedmill.generations WHERE pipeline_id = p_pipeline_id
    RETURNING id INTO v_id;
    INSERT INTO embedmill.coverage_counters (generation_id) VALUES (v_id);
    v_table := 'vectors_' || v_id;
    -- No foreign key: it would cost a lookup for each vector. The trigger chunks_deleted keeps the tables
    -- together, and persistence is fenced by the queue item that whoever changes chunks takes first.
    EXECUTE format(
        'CREATE TABLE embedmill.%I (chunk_id bigint PRIMARY KEY, input_hash bytea NOT NULL, embedding %s(%s) NOT NULL)',
        v_table, p_storage::regtype, p_dimensions);
    -- A generation belongs to one tenant, so its table needs no tenant column.
    PERFORM embedmill.protect_table(format('embedmill.%I', v_table)::regclass,
                                    format('(SELECT embedmill.current_tenant_id()) = %s', v_tenant_id));
    PERFORM embedmill.grant_table(format('embedmill.%I', v_table)::regclass, 'SELECT, INSERT, DELETE', true);
    RETURN v_id;
END
$$;

-- Makes a generation the one that searches read, and the view with it.
CREATE OR REPLACE FUNCTION embedmill.switch_generation(p_generation_id integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_pipeline embedmill.pipelines;
BEGIN
    UPDATE embedmill.pipelines p SET current_generation_id = p_generation_id
      FROM embedmill.generations g WHERE g.id = p_generation_id AND p.id = g.pipeline_id
    RETURNING p.* INTO STRICT v_pipeline;
    -- Dropped and made again, because the type of the vectors may differ.
    EXECUTE format('DROP VIEW IF EXISTS embedmill.%I', v_pipeline.view_name);
    EXECUTE format(
        'CREATE VIEW embedmill.%I WITH (security_invoker = true) AS '
        'SELECT c.id AS chunk_id, c.document_id, d.source_type, d.source_id, d.name, d.title, '
        '       c.ordinal, c.start_offset, c.end_offset, c.place_kind, c.place_first, c.place_last, '
        '       c.heading_path, c.text, c.token_count, d.metadata, v.input_hash, v.embedding '
        '  FROM embedmill.knowledge_chunks c '
        '  JOIN embedmill.knowledge_documents d ON d.id = c.document_id '
        '  LEFT JOIN embedmill.%I v ON v.chunk_id = c.id '
        ' WHERE c.pipeline_id = %s',
        v_pipeline.view_name, 'vectors_' || p_generation_id, v_pipeline.id);
    PERFORM embedmill.grant_table(format('embedmill.%I', v_pipeline.view_name)::regclass, 'SELECT', true);
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
        embedmill.create_generation(v_id, p_spec, p_dimensions, p_storage));
    RETURN v_id;
END
$$;

-- Chunks come and go in sets; the counters and the vectors of every generation follow in the same transaction.
CREATE OR REPLACE FUNCTION embedmill.chunks_inserted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE embedmill.coverage_counters k SET chunks = k.chunks + n.added
      FROM (SELECT g.id, count(*) AS added
              FROM inserted i JOIN embedmill.generations g ON g.pipeline_id = i.pipeline_id
             GROUP BY g.id ORDER BY g.id) n
     WHERE k.generation_id = n.id;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION embedmill.chunks_deleted() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v record;
    v_vectors bigint;
BEGIN
    FOR v IN
        SELECT g.id, count(*) AS gone, count(*) FILTER (WHERE d.error_reason IS NOT NULL) AS gone_unembeddable
          FROM deleted d JOIN embedmill.generations g ON g.pipeline_id = d.pipeline_id
         GROUP BY g.id ORDER BY g.id
    LOOP
        EXECUTE format('DELETE FROM embedmill.%I WHERE chunk_id IN (SELECT id FROM deleted)', 'vectors_' || v.id);
        GET DIAGNOSTICS v_vectors = ROW_COUNT;
        UPDATE embedmill.coverage_counters
           SET chunks = chunks - v.gone, embedded = embedded - v_vectors,
               unembeddable = unembeddable - v.gone_unembeddable
         WHERE generation_id = v.id;
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
