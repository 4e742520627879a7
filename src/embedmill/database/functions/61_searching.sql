-- Searching with an index where row-level security keeps others from it: containment of metadata and a match of words are
-- not leakproof, so that a service would read every chunk of its tenant's. What stands here runs as the owner and
-- answers only whoever sees the tenant (caller_sees).

-- How far a scan of the HNSW index of so many vectors goes for so many candidates. Of m chunks among n, lying anywhere, k
-- are found after k * n / m steps through the graph, and a step costs three or four times what it costs to compare a
-- chunk: up to twice the square root of k * n chunks are compared one by one. No more steps than that are made either,
-- four times what is to be expected where more are left. NULL without an index to scan.
CREATE OR REPLACE FUNCTION embedmill.scan_reach(p_vectors double precision, p_candidates integer) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT greatest(1000, 2 * sqrt(p_candidates * greatest(p_vectors, 0)))::integer
$$;

-- The chunks of a generation that a filter leaves; NULL where they are more than p_most (which may be NULL: however
-- many). Documents are counted up first, by what they are said to have, for there are fewer of them to read. Of the
-- filter, what is NULL is not asked.
CREATE OR REPLACE FUNCTION embedmill.matching_chunks(
    p_generation_id integer, p_document_id bigint, p_source text, p_metadata jsonb, p_most integer)
RETURNS bigint[]
-- Planned for what is asked: a plan for any filter could use no index.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    g embedmill.generations;
    v_document record;
    v_documents bigint[] := '{}';
    v_chunks bigint := 0;
BEGIN
    SELECT * INTO g FROM embedmill.generations WHERE id = p_generation_id;
    IF g.id IS NULL OR NOT embedmill.caller_sees(g.tenant_id) THEN
        RETURN '{}';
    END IF;
    FOR v_document IN
        SELECT d.id, d.chunk_count FROM embedmill.knowledge_documents d
         WHERE d.pipeline_id = g.pipeline_id
           AND (p_document_id IS NULL OR d.id = p_document_id)
           AND (p_source IS NULL OR d.source_id LIKE p_source)
           AND (p_metadata IS NULL OR d.metadata @> p_metadata)
           -- What the index of metadata holds: named, or it is not used.
           AND (p_metadata IS NULL OR p_metadata = '{}' OR d.metadata <> '{}')
    LOOP
        v_chunks := v_chunks + v_document.chunk_count;
        IF v_chunks > p_most THEN
            RETURN NULL;
        END IF;
        v_documents := v_documents || v_document.id;
    END LOOP;
    RETURN ARRAY(
        SELECT c.id FROM unnest(v_documents) AS d (id) JOIN embedmill.knowledge_chunks c ON c.document_id = d.id
         WHERE c.chunk_set = g.chunk_set);
END
$$;

-- Best full-text rank first. Passages with every word come before those with some: a question in plain words rarely
-- stands in one passage as a whole. With a word excluded ("-word") nothing is loosened: "or anything without it" would
-- match everything. Where passages with every word fill the page, the others are not even ranked.
CREATE OR REPLACE FUNCTION embedmill.search_text(
    p_generation_id integer, p_words text, p_limit integer, p_document_id bigint, p_source text, p_metadata jsonb)
RETURNS TABLE (chunk_id bigint, rank double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    g embedmill.generations;
    v_every tsquery;
    v_asked tsquery;
    v_found integer;
BEGIN
    SELECT * INTO g FROM embedmill.generations WHERE id = p_generation_id;
    IF g.id IS NULL OR NOT embedmill.caller_sees(g.tenant_id) THEN
        RETURN;
    END IF;
    SELECT websearch_to_tsquery(p.text_search_config, p_words) INTO v_every
      FROM embedmill.pipelines p WHERE p.id = g.pipeline_id;
    -- The text of a tsquery is already lexed and quoted; only its operators are replaced.
    v_asked := CASE WHEN v_every::text LIKE '%!%' THEN v_every ELSE replace(v_every::text, ' & ', ' | ')::tsquery END;
    v_found := 0;
    IF v_asked <> v_every THEN
        SELECT count(*) INTO v_found FROM (
            SELECT FROM embedmill.knowledge_chunks c JOIN embedmill.knowledge_documents d ON d.id = c.document_id
             WHERE c.pipeline_id = g.pipeline_id AND c.chunk_set = g.chunk_set AND c.tsv @@ v_every
               AND (p_document_id IS NULL OR c.document_id = p_document_id)
               AND (p_source IS NULL OR d.source_id LIKE p_source)
               AND (p_metadata IS NULL OR d.metadata @> p_metadata)
             LIMIT p_limit) found;
    END IF;
    RETURN QUERY
    SELECT c.id, ts_rank_cd(c.tsv, v_asked, 1)::double precision + (c.tsv @@ v_every)::integer
      FROM embedmill.knowledge_chunks c JOIN embedmill.knowledge_documents d ON d.id = c.document_id
     WHERE c.pipeline_id = g.pipeline_id AND c.chunk_set = g.chunk_set
       AND c.tsv @@ CASE WHEN v_found < p_limit THEN v_asked ELSE v_every END
       AND (p_document_id IS NULL OR c.document_id = p_document_id)
       AND (p_source IS NULL OR d.source_id LIKE p_source)
       AND (p_metadata IS NULL OR d.metadata @> p_metadata)
     ORDER BY 2 DESC, c.id
     LIMIT p_limit;
END
$$;

-- They run with more rights than their caller: by name only, for those who search.
REVOKE ALL ON FUNCTION embedmill.matching_chunks(integer, bigint, text, jsonb, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION embedmill.search_text(integer, text, integer, bigint, text, jsonb) FROM PUBLIC;
DO $$
DECLARE
    v_role name;
BEGIN
    FOR v_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('embedmill_service', 'embedmill_reader') LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION '
                       'embedmill.matching_chunks(integer, bigint, text, jsonb, integer), '
                       'embedmill.search_text(integer, text, integer, bigint, text, jsonb) TO %I', v_role);
    END LOOP;
END
$$;
