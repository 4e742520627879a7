-- What users of an ORM see of a table source: a view of the table's rows with their chunks and vectors, and a search.
-- A view over a table keeps its columns from being dropped or changed; a function in text, which the planner puts in
-- the place of its call, does not. So the view stands on such a function, and both are made anew at each switch and
-- where the table has changed (embedmill.refresh_source_views).

-- The name of a source's view: `public.jobs` is embedmill.public_jobs_embedded, in another pipeline (or where the name is
-- taken otherwise) embedmill.public_jobs_<number>_embedded. Once made, it keeps its name.
CREATE OR REPLACE FUNCTION embedmill.source_view_name(p_record_source_id integer) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT c.relname::text
           FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
          WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_proc'::regclass
            AND d.refobjid = to_regprocedure(format('embedmill.source_rows_%s()', p_record_source_id))
            AND c.relnamespace = 'embedmill'::regnamespace AND c.relname ~ '_embedded$' LIMIT 1),
        (SELECT CASE WHEN to_regclass(format('embedmill.%I', n.base || '_embedded')) IS NULL
                     THEN n.base ELSE n.base || '_' || p_record_source_id END || '_embedded'
           FROM (SELECT left(trim(BOTH '_' FROM regexp_replace(lower(s.name), '[^a-z0-9]+', '_', 'g')), 40) AS base
                   FROM embedmill.record_sources s WHERE s.id = p_record_source_id) n))
$$;

-- Makes the view of a table source on the live generation of its pipeline. A column of the table that is called as one
-- of ours keeps its name, ours are called embedmill_...
CREATE OR REPLACE FUNCTION embedmill.make_source_view(p_record_source_id integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    s embedmill.record_sources;
    t embedmill.table_sources;
    g embedmill.generations;
    v_view text := embedmill.source_view_name(p_record_source_id);
    v_function text := 'source_rows_' || p_record_source_id;
    v_columns text;
    v_types text;
    v_match text;
    v_definition text;
BEGIN
    SELECT * INTO STRICT s FROM embedmill.record_sources WHERE id = p_record_source_id;
    SELECT * INTO STRICT t FROM embedmill.table_sources WHERE record_source_id = p_record_source_id;
    SELECT g2.* INTO STRICT g
      FROM embedmill.pipelines p JOIN embedmill.generations g2 ON g2.id = p.current_generation_id WHERE p.id = s.pipeline_id;
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = t.relation) THEN
        RETURN;
    END IF;
    SELECT string_agg(format('t.%I', a.attname), ', ' ORDER BY a.attnum),
           string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
      INTO v_columns, v_types
      FROM pg_attribute a
     WHERE a.attrelid = t.relation AND a.attnum > 0 AND NOT a.attisdropped
       AND a.attname IS DISTINCT FROM t.target_column;
    SELECT string_agg(
               format('t.%I = %s::%s', t.key_columns[n],
                      CASE WHEN cardinality(t.key_columns) = 1 THEN 'd.source_id'
                           ELSE format('(d.source_id::jsonb ->> %s)', n - 1) END,
                      t.key_types[n]), ' AND ')
      INTO v_match FROM generate_subscripts(t.key_columns, 1) AS n;
    IF t.key_types[1] = ANY (ARRAY['uuid', 'bigint', 'integer', 'smallint', 'text', 'character varying'])
       AND cardinality(t.key_columns) = 1 THEN
        -- From the table's row to its document by index as well; these types read the same in every session.
        v_match := v_match || format(' AND d.source_id = t.%I::text', t.key_columns[1]);
    END IF;
    v_definition := format(
        'FUNCTION embedmill.%I() RETURNS TABLE (%s, embedmill_chunk_id bigint, embedmill_ordinal integer,'
        ' embedmill_chunk text, embedmill_embedding %s(%s)) LANGUAGE sql STABLE ROWS 1000000 AS %L',
        v_function, v_types, g.storage::regtype, g.dimensions,
        format('SELECT %s, c.id, c.ordinal, c.text, %s'
               '  FROM %s AS t'
               '  JOIN embedmill.knowledge_documents d'
               '    ON d.pipeline_id = %s AND d.source_type = %L AND d.record_source_id = %s AND %s'
               '  JOIN embedmill.knowledge_chunks c ON c.document_id = d.id AND c.chunk_set = %s'
               '  LEFT JOIN embedmill.%I v ON v.chunk_id = c.id',
               v_columns, CASE WHEN t.target_column IS NULL THEN 'v.embedding' ELSE format('t.%I', t.target_column) END,
               t.relation, s.pipeline_id, s.name, s.id, v_match, g.chunk_set, 'vectors_' || g.id));
    BEGIN
        -- Where its columns are the same, what depends on the view stays.
        EXECUTE 'CREATE OR REPLACE ' || v_definition;
    EXCEPTION WHEN invalid_function_definition THEN
        EXECUTE format('DROP VIEW IF EXISTS embedmill.%I', v_view);
        EXECUTE format('DROP FUNCTION embedmill.%I()', v_function);
        EXECUTE 'CREATE ' || v_definition;
    END;
    EXECUTE format(
        'CREATE OR REPLACE VIEW embedmill.%I WITH (security_invoker = true) AS SELECT * FROM embedmill.%I()',
        v_view, v_function);
    PERFORM embedmill.grant_table(format('embedmill.%I', v_view)::regclass, '', true);
END
$$;

-- All views of a pipeline's tables (p_pipeline_id NULL: of every pipeline). A view on which objects of users depend is
-- left as it is: its source says so in its trouble.
CREATE OR REPLACE FUNCTION embedmill.refresh_source_views(p_pipeline_id integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_id integer;
BEGIN
    FOR v_id IN SELECT s.id FROM embedmill.record_sources s
                 WHERE s.kind = 'table' AND (p_pipeline_id IS NULL OR s.pipeline_id = p_pipeline_id) ORDER BY s.id
    LOOP
        BEGIN
            PERFORM embedmill.make_source_view(v_id);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            UPDATE embedmill.record_sources
               SET trouble = format('the view embedmill.%s is of an older state: objects depend on it; drop them, then '
                                    'SELECT embedmill.make_source_view(%s)', embedmill.source_view_name(v_id), v_id)
             WHERE id = v_id;
        END;
    END LOOP;
END
$$;

-- Makes the view of a source anew where its table has other columns now, or it is missing.
CREATE OR REPLACE FUNCTION embedmill.keep_source_view(p_record_source_id integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_proc f
         WHERE f.oid = to_regprocedure(format('embedmill.source_rows_%s()', p_record_source_id))
           AND (SELECT array_agg(a.attname::text ORDER BY a.attnum)
                  FROM embedmill.table_sources t
                  JOIN pg_attribute a ON a.attrelid = t.relation AND a.attnum > 0 AND NOT a.attisdropped
                                     AND a.attname IS DISTINCT FROM t.target_column
                 WHERE t.record_source_id = p_record_source_id)
             = (f.proargnames)[1 : cardinality(f.proargnames) - 4])
    THEN
        PERFORM embedmill.make_source_view(p_record_source_id);
    END IF;
EXCEPTION WHEN dependent_objects_still_exist THEN
    NULL;  -- objects of users: the view stays as it is
END
$$;

-- A source's view goes with it. Where objects of users depend on it, the source stays.
CREATE OR REPLACE FUNCTION embedmill.drop_source_view() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DROP VIEW IF EXISTS embedmill.%I', embedmill.source_view_name(OLD.id));
    EXECUTE format('DROP FUNCTION IF EXISTS embedmill.%I()', 'source_rows_' || OLD.id);
    RETURN OLD;
END
$$;
CREATE OR REPLACE TRIGGER drop_source_view BEFORE DELETE ON embedmill.record_sources
    FOR EACH ROW WHEN (OLD.kind = 'table') EXECUTE FUNCTION embedmill.drop_source_view();

-- This brings pgvector into the session: without it only a superuser may name its settings in a function.
DO $$ BEGIN PERFORM '[1]'::vector <=> '[1]'::vector; END $$;

-- The chunks of a source whose vectors are nearest to p_query, nearest first. p_source: `public.jobs`, or a shard type;
-- p_filter: metadata that the rows must have (`{"location": "Berlin"}`); p_pipeline where several hold the source. The
-- caller sees what its role, or its tenant, may see. key is that of the row, as text.
-- Errors: EM404 where there is no such source; EM409 where several pipelines have it and none was named.
CREATE OR REPLACE FUNCTION embedmill.search(
    p_source text, p_query vector, p_limit integer DEFAULT 10, p_filter jsonb DEFAULT '{}', p_pipeline text DEFAULT NULL)
RETURNS TABLE (key text, chunk_id bigint, ordinal integer, chunk text, score double precision, metadata jsonb)
-- pgvector is found where it was installed (the migrator's path), whatever path the caller has.
-- Where source and filter leave few documents, they are compared one by one (`measured` keeps the planner from the index,
-- which stops before it has seen all); else the scan of an index goes on past what they reject.
LANGUAGE plpgsql SET search_path FROM CURRENT SET hnsw.iterative_scan = 'strict_order' SET hnsw.ef_search = 100
SET hnsw.max_scan_tuples = 1000000 SET hnsw.scan_mem_multiplier = 8 AS $$
#variable_conflict use_column
DECLARE
    v_ids integer[];
    s embedmill.record_sources;
    t embedmill.table_sources;
    g embedmill.generations;
    v_from text;
    v_vector text;
    v_distance text;
    v_vectors double precision;
    v_reach integer;
    v_found integer;
BEGIN
    SELECT array_agg(r.id) INTO v_ids
      FROM embedmill.record_sources r JOIN embedmill.pipelines p ON p.id = r.pipeline_id
     WHERE r.name = p_source AND (p_pipeline IS NULL OR p.name = p_pipeline);
    IF v_ids IS NULL THEN
        RAISE EXCEPTION 'there is no source %', p_source
            USING ERRCODE = 'EM404', HINT = '`embedmill table list` and `embedmill shards list` name them.';
    ELSIF cardinality(v_ids) > 1 THEN
        RAISE EXCEPTION 'several pipelines hold the source %', p_source
            USING ERRCODE = 'EM409', HINT = 'Name one: p_pipeline => ''...''.';
    END IF;
    SELECT * INTO STRICT s FROM embedmill.record_sources WHERE id = v_ids[1];
    SELECT g2.* INTO STRICT g
      FROM embedmill.pipelines p JOIN embedmill.generations g2 ON g2.id = p.current_generation_id WHERE p.id = s.pipeline_id;
    IF vector_dims(p_query) <> g.dimensions THEN
        RAISE EXCEPTION 'the query has % dimensions, the vectors of % have %', vector_dims(p_query), p_source, g.dimensions
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Embed the query with the model of the pipeline.';
    END IF;
    SELECT * INTO t FROM embedmill.table_sources WHERE record_source_id = s.id;
    IF t.target_column IS NULL THEN
        v_vector := 'v.embedding';
        v_from := format('embedmill.%I v JOIN embedmill.knowledge_chunks c ON c.id = v.chunk_id'
                         '  JOIN embedmill.knowledge_documents d ON d.id = c.document_id', 'vectors_' || g.id);
    ELSE
        v_vector := format('t.%I', t.target_column);
        v_from := format('%s t JOIN embedmill.knowledge_documents d'
                         '    ON d.pipeline_id = %s AND d.source_type = %L AND d.source_id = %s'
                         '  JOIN embedmill.knowledge_chunks c ON c.document_id = d.id AND c.chunk_set = %s',
                         t.relation, s.pipeline_id, s.name, embedmill.key_expression(t.key_columns, 't.'), g.chunk_set);
    END IF;
    v_distance := format('%s <=> $3::%s(%s)', v_vector, g.storage::regtype, g.dimensions);
    SELECT c.reltuples INTO v_vectors
      FROM pg_class c WHERE c.oid = coalesce(t.relation, format('embedmill.%I', 'vectors_' || g.id)::regclass);
    v_reach := embedmill.scan_reach(v_vectors, p_limit);
    PERFORM set_config('hnsw.ef_search', embedmill.scan_depth(
                v_vectors, p_limit, embedmill.passing_share(s.pipeline_id, NULL, p_filter),
                -- (That of a column is its owner's.)
                (SELECT c.reloptions FROM pg_class c
                  WHERE t.target_column IS NULL AND c.oid = to_regclass(format('embedmill.vectors_%s_hnsw', g.id)))
            )::text, true);
    SELECT count(*) INTO v_found
      FROM (SELECT FROM embedmill.knowledge_documents d
             WHERE d.record_source_id = s.id AND d.metadata @> p_filter LIMIT v_reach + 1) found;
    RETURN QUERY EXECUTE format(
        CASE WHEN v_found <= v_reach THEN
            'WITH measured AS MATERIALIZED ('
            '    SELECT d.source_id, c.id, c.ordinal, c.text, %1$s AS distance, d.metadata FROM %2$s'
            '     WHERE d.record_source_id = $1 AND d.metadata @> $2 AND %3$s IS NOT NULL)'
            ' SELECT source_id, id, ordinal, text, 1 - distance, metadata FROM measured ORDER BY distance LIMIT $4'
        ELSE
            'SELECT d.source_id, c.id, c.ordinal, c.text, 1 - (%1$s), d.metadata FROM %2$s'
            ' WHERE d.record_source_id = $1 AND d.metadata @> $2 AND %3$s IS NOT NULL ORDER BY %1$s LIMIT $4'
        END, v_distance, v_from, v_vector)
    USING s.id, p_filter, p_query, p_limit;
END
$$;
