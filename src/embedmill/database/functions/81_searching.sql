-- Searching with an index where row-level security keeps others from it: containment of metadata and a match of words are
-- not leakproof, so that a service would read every chunk of its tenant's, and whether each vector's document passes a
-- filter is asked at a tenth of the cost. What stands here runs as the owner and answers only whoever sees the tenant
-- (caller_sees). After 80_source_views.sql, with whose types pgvector's library comes: without it nobody but a superuser
-- may name its settings.

-- How far a scan of the HNSW index of so many vectors goes for so many candidates, and up to how many chunks that a filter
-- leaves are compared one by one instead. Of m chunks among n, lying anywhere, k are found after k * n / m steps through the
-- graph, and a step costs some ten times what it costs to compare a chunk; where the steps are too many, the scan costs as
-- much and misses what it should find (benchmarks/search). NULL without an index.
CREATE OR REPLACE FUNCTION embedmill.scan_reach(p_vectors double precision, p_candidates integer) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT greatest(1000, greatest(25, 5 * sqrt(p_candidates)) * sqrt(greatest(p_vectors, 0)))::integer
$$;

-- How many candidates that scan keeps (hnsw.ef_search): the more vectors, the more, for a recall that stays. Where a filter
-- leaves p_share of all (NULL: no filter), the k-th candidate is the k / p_share-th of all, and several times as many have
-- to be kept for the nearest to be among them; nearly twice as many in an index that an older release built, with less care
-- (p_options: those of the index; benchmarks/search).
CREATE OR REPLACE FUNCTION embedmill.scan_depth(
    p_vectors double precision, p_candidates integer, p_share double precision, p_options text[])
RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT least(1000, greatest(
               100, 2 * p_candidates,
               CASE WHEN p_options @> '{ef_construction=200}' THEN 1 ELSE 1.8 END * greatest(
                   0.2 * sqrt(greatest(p_vectors, 0)) * CASE WHEN p_share IS NULL THEN 1 ELSE 1.4 END,
                   CASE WHEN p_share IS NOT NULL THEN 2.8 * p_candidates / greatest(p_share, 0.001) END)))::integer
$$;

-- The path on which pgvector's operators are found, wherever it was installed.
CREATE OR REPLACE FUNCTION embedmill.path_of_vectors() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT concat_ws(', ', 'pg_catalog', (
        SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'vector'), 'pg_temp')
$$;

-- How many vectors the HNSW index of a generation has, by the statistics; NULL without an index.
CREATE OR REPLACE FUNCTION embedmill.indexed_vectors(p_generation_id integer) RETURNS double precision
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.reltuples FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
     WHERE i.indexrelid = to_regclass(format('embedmill.vectors_%s_hnsw', p_generation_id)) AND i.indisvalid
$$;

-- What share of a pipeline's documents a filter leaves, by a sample in the order of their hashes, which is that of chance.
-- (The planner's own guess goes by a histogram of metadata as a whole, in the order of their first fields: of a field that
-- stands further back it may hold one value only.)
CREATE OR REPLACE FUNCTION embedmill.passing_share(p_pipeline_id integer, p_source text, p_metadata jsonb)
RETURNS double precision
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FILTER (WHERE (p_source IS NULL OR s.source_id LIKE p_source)
                              AND (p_metadata IS NULL OR s.metadata @> p_metadata)) / greatest(count(*), 1)::double precision
      FROM (SELECT d.source_id, d.metadata FROM embedmill.knowledge_documents d
             WHERE d.pipeline_id = p_pipeline_id ORDER BY d.pipeline_id, d.content_hash LIMIT 500) s
$$;

-- The documents that a filter leaves of a generation's pipeline; NULL where they have more than p_most chunks (which may be
-- NULL: however many). Counted by what the documents are said to have. Of the filter, what is NULL is not asked.
CREATE OR REPLACE FUNCTION embedmill.matching_documents(
    p_pipeline_id integer, p_document_id bigint, p_source text, p_metadata jsonb, p_most integer)
RETURNS bigint[]
-- Planned for what is asked: a plan for any filter could use no index.
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    v_documents bigint[];
    v_chunks bigint;
BEGIN
    SELECT coalesce(array_agg(s.id), '{}'), sum(s.chunk_count) INTO v_documents, v_chunks
      FROM (SELECT d.id, d.chunk_count FROM embedmill.knowledge_documents d
             WHERE d.pipeline_id = p_pipeline_id
               AND (p_document_id IS NULL OR d.id = p_document_id)
               AND (p_source IS NULL OR d.source_id LIKE p_source)
               AND (p_metadata IS NULL OR d.metadata @> p_metadata)
               -- What the index of metadata holds: named, or it is not used.
               AND (p_metadata IS NULL OR p_metadata = '{}' OR d.metadata <> '{}')
             LIMIT p_most + 1) s;
    RETURN CASE WHEN greatest(v_chunks, cardinality(v_documents)) > p_most THEN NULL ELSE v_documents END;
END
$$;

-- What a filter leaves, asked once for the parts of one search: the documents where they have so few chunks that each is
-- compared, else NULL, and what share of all they are, by a sample.
CREATE OR REPLACE FUNCTION embedmill.passing_documents(
    p_generation_id integer, p_limit integer, p_document_id bigint, p_source text, p_metadata jsonb,
    OUT share double precision, OUT documents bigint[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    g embedmill.generations;
    v_vectors double precision;
    v_reach integer;
BEGIN
    SELECT * INTO g FROM embedmill.generations WHERE id = p_generation_id;
    IF g.id IS NULL OR NOT embedmill.caller_sees(g.tenant_id) THEN
        RETURN;
    END IF;
    v_vectors := embedmill.indexed_vectors(g.id);
    v_reach := embedmill.scan_reach(v_vectors, p_limit);
    share := CASE WHEN p_document_id IS NOT NULL THEN 0 ELSE embedmill.passing_share(g.pipeline_id, p_source, p_metadata) END;
    -- What by the sample is too many is not counted up.
    IF v_reach IS NULL OR share * v_vectors <= 1.4 * v_reach THEN
        documents := embedmill.matching_documents(g.pipeline_id, p_document_id, p_source, p_metadata,
                                                  CASE WHEN p_document_id IS NULL THEN v_reach END);
    END IF;
END
$$;

-- Whether the index kept something back: a vector that is nearer than the last of those that were found, and not among them.
-- Asked of two hundred, from as many documents as that gives, since what an HNSW graph hides are whole regions: where a
-- document (a table of numbers, say) has hundreds of vectors that are all but equal, their neighbours are one another, and a
-- search that came among them does not get out. Of a sound graph it is hardly ever true. Of the filter, what is NULL is not
-- asked.
CREATE OR REPLACE FUNCTION embedmill.keeps_back(
    p_generation embedmill.generations, p_query text, p_ids bigint[], p_similarities double precision[], p_limit integer,
    p_source text, p_metadata jsonb)
RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    v_found boolean;
    -- The page has room for anything as long as it is not full.
    v_least CONSTANT double precision := CASE WHEN cardinality(p_ids) = p_limit
                                              THEN (SELECT min(s.similarity) FROM unnest(p_similarities) AS s (similarity))
                                              ELSE '-infinity' END;
BEGIN
    PERFORM set_config('search_path', embedmill.path_of_vectors(), true);
    -- (LIMIT 1 says that each is looked up by its index.)
    EXECUTE format(
        'SELECT EXISTS ('
        '    SELECT FROM (SELECT s.*, least(greatest(200 / count(*) OVER (), 1), s.chunk_count) AS places'
        '                   FROM (SELECT d.id, d.chunk_count, d.source_id, d.metadata'
        '                           FROM embedmill.knowledge_documents d'
        '                          WHERE d.pipeline_id = $1 ORDER BY d.pipeline_id, d.content_hash LIMIT 200) s) d'
        '     CROSS JOIN LATERAL generate_series(0, d.places - 1) AS place'
        '     CROSS JOIN LATERAL (SELECT c.id FROM embedmill.knowledge_chunks c'
        '                          WHERE c.document_id = d.id AND c.chunk_set = $2'
        '                            AND c.ordinal = place * d.chunk_count / d.places LIMIT 1) c'
        '     CROSS JOIN LATERAL (SELECT 1 - (v.embedding <=> $3::%1$s(%2$s)) AS similarity FROM embedmill.%3$I v'
        '                          WHERE v.chunk_id = c.id AND v.embedding IS NOT NULL LIMIT 1) v'
        '     WHERE v.similarity > $4 AND c.id <> ALL ($5)'
        '       AND ($6 IS NULL OR d.source_id LIKE $6) AND ($7 IS NULL OR d.metadata @> $7))',
        p_generation.storage::regtype, p_generation.dimensions, 'vectors_' || p_generation.id)
    INTO v_found
    USING p_generation.pipeline_id, p_generation.chunk_set, p_query, v_least, coalesce(p_ids, '{}'), p_source, p_metadata;
    RETURN v_found;
END
$$;

-- Nearest vectors first, of those in the generation's own table. p_query: as pgvector reads it; p_source: as LIKE reads it;
-- of the filter, what is NULL is not asked. p_share and p_documents: what the filter leaves, or some of it, by whoever asked
-- (passing_documents). What a filter leaves is counted, and compared one by one where it is little
-- (distances are kept apart from the order, for which the planner would take the index: that stops before it has seen all):
-- found by the index of documents, where that stands, else by their chunks, as what an older release wrote without saying
-- whose it is.
-- Else the scan of the index goes on past what does not pass; where it ends before the page is full, what is left is
-- nowhere near, and is compared one by one after all. So is everything where the index keeps something back.
CREATE OR REPLACE FUNCTION embedmill.search_vectors(
    p_generation_id integer, p_query text, p_limit integer, p_document_id bigint, p_source text, p_metadata jsonb,
    p_share double precision DEFAULT NULL, p_documents bigint[] DEFAULT NULL)
RETURNS TABLE (chunk_id bigint, similarity double precision)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
    SET jit = off SET hnsw.ef_search = 100 SET hnsw.max_scan_tuples = 20000 SET hnsw.scan_mem_multiplier = 8
    SET hnsw.iterative_scan = 'relaxed_order' AS $$
DECLARE
    g embedmill.generations;
    v_vectors double precision;     -- how many, by the statistics; NULL without an index
    v_options text[];               -- of the index
    v_reach integer;
    v_filtered CONSTANT boolean := num_nonnulls(p_document_id, p_source, p_metadata) > 0;
    v_share double precision := p_share;      -- of the documents that the filter leaves; NULL without one
    v_documents bigint[] := p_documents;      -- those that a filter leaves, where these are few
    v_has_index boolean;            -- of the documents that vectors are of
    v_ids bigint[];
    v_similarities double precision[];
    v_distance text;
    v_near text;
BEGIN
    SELECT * INTO g FROM embedmill.generations WHERE id = p_generation_id;
    IF g.id IS NULL OR NOT embedmill.caller_sees(g.tenant_id) THEN
        RETURN;
    END IF;
    IF v_filtered AND p_share IS NULL THEN
        SELECT p.share, p.documents INTO v_share, v_documents
          FROM embedmill.passing_documents(g.id, p_limit, p_document_id, p_source, p_metadata) p;
    END IF;
    PERFORM set_config('search_path', embedmill.path_of_vectors(), true);
    IF v_documents IS NULL THEN
        v_vectors := embedmill.indexed_vectors(g.id);
        v_reach := embedmill.scan_reach(v_vectors, p_limit);
        SELECT c.reloptions INTO v_options FROM pg_class c WHERE c.oid = to_regclass(format('embedmill.vectors_%s_hnsw', g.id));
        PERFORM set_config('hnsw.max_scan_tuples', coalesce(v_reach, 20000)::text, true),
                set_config('hnsw.ef_search', embedmill.scan_depth(v_vectors, p_limit, v_share, v_options)::text, true);
    END IF;
    v_distance := format('v.embedding <=> $1::%s(%s)', g.storage::regtype, g.dimensions);
    v_near := format('SELECT v.chunk_id, 1 - (%1$s) AS similarity FROM embedmill.%2$I v WHERE v.embedding IS NOT NULL',
                     v_distance, 'vectors_' || g.id);
    IF NOT v_filtered THEN
        EXECUTE format('SELECT array_agg(n.chunk_id), array_agg(n.similarity) FROM (%s ORDER BY %s LIMIT $2) n',
                       v_near, v_distance)
        INTO v_ids, v_similarities USING p_query, p_limit;
        IF v_reach IS NULL OR NOT embedmill.keeps_back(g, p_query, v_ids, v_similarities, p_limit, NULL, NULL) THEN
            RETURN QUERY SELECT * FROM unnest(v_ids, v_similarities) AS n (id, similarity) ORDER BY n.similarity DESC;
            RETURN;
        END IF;
        RETURN QUERY EXECUTE format(
            'SELECT n.chunk_id, n.similarity FROM (%s OFFSET 0) n ORDER BY n.similarity DESC LIMIT $2', v_near)
        USING p_query, p_limit;
        RETURN;
    END IF;
    IF v_documents IS NULL THEN
        EXECUTE format(
            'SELECT array_agg(n.chunk_id), array_agg(n.similarity) FROM (%s'
            '   AND (SELECT ($3 IS NULL OR d.id = $3) AND ($4 IS NULL OR d.source_id LIKE $4)'
            '               AND ($5 IS NULL OR d.metadata @> $5)'
            '          FROM embedmill.knowledge_documents d'
            '         WHERE d.id = coalesce(v.document_id, (SELECT c.document_id FROM embedmill.knowledge_chunks c'
            '                                                WHERE c.id = v.chunk_id)))'
            ' ORDER BY %s LIMIT $2) n', v_near, v_distance)
        INTO v_ids, v_similarities USING p_query, p_limit, p_document_id, p_source, p_metadata;
        IF cardinality(v_ids) = p_limit
           AND NOT embedmill.keeps_back(g, p_query, v_ids, v_similarities, p_limit, p_source, p_metadata) THEN
            RETURN QUERY SELECT * FROM unnest(v_ids, v_similarities) AS n (id, similarity) ORDER BY n.similarity DESC;
            RETURN;
        END IF;
        v_documents := embedmill.matching_documents(g.pipeline_id, p_document_id, p_source, p_metadata, NULL);
    END IF;
    SELECT coalesce(bool_or(i.indisvalid), false) INTO v_has_index
      FROM pg_index i WHERE i.indexrelid = to_regclass(format('embedmill.vectors_%s_documents', g.id));
    RETURN QUERY EXECUTE format(
        -- (The sub-selects hide the arrays from the planner, which would weigh each of their thousands of numbers.)
        CASE WHEN v_has_index THEN
            'SELECT chunk_id, similarity FROM ('
            '    %1$s AND v.document_id = ANY ((SELECT $3)::bigint[])'
            '    UNION ALL'
            '    %1$s AND v.document_id IS NULL'
            '         AND EXISTS (SELECT FROM embedmill.knowledge_chunks c'
            '                      WHERE c.id = v.chunk_id AND c.document_id = ANY ((SELECT $3)::bigint[]))'
            ' OFFSET 0) measured ORDER BY similarity DESC LIMIT $2'
        ELSE
            'SELECT chunk_id, similarity FROM ('
            '    %1$s AND v.chunk_id = ANY ((SELECT ARRAY('
            '        SELECT c.id FROM embedmill.knowledge_chunks c'
            '         WHERE c.document_id = ANY ((SELECT $3)::bigint[]) AND c.chunk_set = $4))::bigint[])'
            ' OFFSET 0) measured ORDER BY similarity DESC LIMIT $2'
        END, v_near)
    USING p_query, p_limit, v_documents, g.chunk_set;
END
$$;

-- How similar to a query vectors are that have nothing to do with it: near 0 with one model, 0.75 with another. The mean of a
-- sample, of some two hundred rows from a hundred pages that lie evenly over each table that holds the generation's vectors
-- (its own, and users' with a column of it); nearly all of so many have nothing to do with it. NULL where there are fewer than
-- twenty to go by.
CREATE OR REPLACE FUNCTION embedmill.similarity_of_chance(p_generation_id integer, p_query text)
RETURNS double precision
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
    SET jit = off AS $$
DECLARE
    g embedmill.generations;
    v_holder record;
    v_pages bigint;
    v_sampled bigint;
    v_sum double precision;
    v_all bigint := 0;
    v_total double precision := 0;
BEGIN
    SELECT * INTO g FROM embedmill.generations WHERE id = p_generation_id;
    IF g.id IS NULL OR NOT embedmill.caller_sees(g.tenant_id) THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('search_path', embedmill.path_of_vectors(), true);
    FOR v_holder IN
        SELECT to_regclass(format('embedmill.vectors_%s', g.id)) AS relation, 'embedding'::name AS column_name,
               format('%s(%s)', g.storage::regtype, g.dimensions) AS column_type
         UNION ALL
        SELECT o.relation, t.column_name, format_type(a.atttypid, a.atttypmod)
          FROM embedmill.target_columns t
          JOIN embedmill.table_sources o ON o.record_source_id = t.record_source_id
          JOIN pg_attribute a ON a.attrelid = o.relation AND a.attname = t.column_name AND NOT a.attisdropped
         WHERE t.generation_id = g.id
    LOOP
        v_pages := pg_relation_size(v_holder.relation) / current_setting('block_size')::integer;
        CONTINUE WHEN coalesce(v_pages, 0) = 0;
        BEGIN
            EXECUTE format(
                'SELECT count(*), coalesce(sum(s.similarity), 0)'
                '  FROM (SELECT 1 - (t.%1$I <=> $1::%2$s) AS similarity FROM %3$s t'
                '         WHERE t.%1$I IS NOT NULL AND t.ctid = ANY (ARRAY('
                '             SELECT concat(''('', n * $2 / least(100, $2), '','', place, '')'')::tid'
                '               FROM generate_series(0, least(100, $2) - 1) AS n,'
                '                    generate_series(1, greatest(2, 200 / $2)) AS place))) s'
                ' WHERE s.similarity <> ''NaN''',
                v_holder.column_name, v_holder.column_type, v_holder.relation)
            INTO v_sampled, v_sum USING p_query, v_pages;
            v_all := v_all + v_sampled;
            v_total := v_total + v_sum;
        EXCEPTION
            -- A table that cannot be read any more (its source says so), or not by place: the others tell.
            WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported THEN
                CONTINUE;
        END;
    END LOOP;
    RETURN CASE WHEN v_all >= 20 THEN v_total / v_all END;
END
$$;

-- A query's words, dearest first, and how much each tells passages apart: its share of the inverse document frequencies of
-- all (Robertson and Sparck Jones), by a sample of the tenant's chunks in the order of their hashes, which is that of
-- chance. What nearly every passage has is worth nearly nothing, be it a word of the language that the configuration
-- `simple` knows nothing of, or what all of a collection is about. Of a query as long as a page the first two hundred words are
-- weighed and the 64 dearest returned: each is held against every passage that has any.
CREATE OR REPLACE FUNCTION embedmill.weighed_words(
    p_tenant_id integer, p_pipeline_id integer, p_chunk_set integer, p_words tsquery[])
RETURNS TABLE (word tsquery, weight double precision)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH sample AS MATERIALIZED (
        SELECT s.tsv FROM (SELECT c.pipeline_id, c.chunk_set, c.tsv FROM embedmill.knowledge_chunks c
                            WHERE c.tenant_id = p_tenant_id ORDER BY c.tenant_id, c.content_hash LIMIT 500) s
         WHERE s.pipeline_id = p_pipeline_id AND s.chunk_set = p_chunk_set
    ), counted AS (
        SELECT w.word, (SELECT count(*) FROM sample) AS passages,
               (SELECT count(*) FROM sample s WHERE s.tsv @@ w.word) AS having
          FROM (SELECT DISTINCT unnest(p_words[:200])) AS w (word)
    ), rated AS (
        SELECT c.word, ln(1 + (c.passages - c.having + 0.5) / (c.having + 0.5))::double precision AS rarity FROM counted c
         ORDER BY rarity DESC, c.word LIMIT 64
    )
    SELECT r.word, r.rarity / sum(r.rarity) OVER () FROM rated r ORDER BY r.rarity DESC, r.word
$$;

-- Best passages first: by the weights of the words that they have, and where these are as much worth by how near to each
-- other the words stand (cover density). So those with every word come first. Of the words only the dearest are looked up,
-- as many as needed: what has none of these cannot come near those that were found. A query that is more than words, with
-- one excluded ("-word") say, is taken as a whole: "or anything without it" would match everything.
CREATE OR REPLACE FUNCTION embedmill.search_text(
    p_generation_id integer, p_words text, p_limit integer, p_document_id bigint, p_source text, p_metadata jsonb,
    p_share double precision DEFAULT NULL, p_documents bigint[] DEFAULT NULL)
RETURNS TABLE (chunk_id bigint, rank double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
    SET jit = off AS $$
DECLARE
    c_few CONSTANT integer := 20000;
    c_much CONSTANT double precision := 0.03;       -- from such a share of the documents on, words are the quicker way
    c_nearness CONSTANT double precision := 0.001;  -- the most that it adds
    v_filtered CONSTANT boolean := num_nonnulls(p_document_id, p_source, p_metadata) > 0;
    v_documents bigint[];       -- those that a filter leaves, where these are few
    g embedmill.generations;
    v_every tsquery;
    v_asked tsquery;
    v_words tsquery[];          -- dearest first
    v_weights double precision[];
    v_rest double precision[];  -- the weights of all words behind this one, added up
    v_taken integer;            -- so many words are looked up
    v_ids bigint[];
    v_worths double precision[];
    v_least double precision := 0.5;  -- the worth of the last one on the page; at first a guess
BEGIN
    SELECT * INTO g FROM embedmill.generations WHERE id = p_generation_id;
    IF g.id IS NULL OR NOT embedmill.caller_sees(g.tenant_id) THEN
        RETURN;
    END IF;
    SELECT websearch_to_tsquery(p.text_search_config, p_words) INTO v_every
      FROM embedmill.pipelines p WHERE p.id = g.pipeline_id;
    -- The text of a tsquery is already lexed and quoted; only its operators are replaced. Phrases stay whole.
    v_asked := CASE WHEN v_every::text LIKE '%!%' THEN v_every ELSE replace(v_every::text, ' & ', ' | ')::tsquery END;
    v_words := CASE WHEN v_every::text ~ '[()!]' THEN ARRAY[v_every, v_asked]
                    ELSE regexp_split_to_array(v_asked::text, ' [|] ')::tsquery[] END;
    SELECT array_agg(w.word), array_agg(w.weight), array_agg(w.rest) INTO v_words, v_weights, v_rest
      FROM (SELECT w.*, 1 - sum(w.weight) OVER (ROWS UNBOUNDED PRECEDING) AS rest
              FROM embedmill.weighed_words(g.tenant_id, g.pipeline_id, g.chunk_set, v_words) w) w;
    IF p_document_id IS NOT NULL
       OR v_filtered AND coalesce(p_share, embedmill.passing_share(g.pipeline_id, p_source, p_metadata)) < c_much THEN
        v_documents := coalesce(CASE WHEN cardinality(p_documents) <= c_few THEN p_documents END,
                                embedmill.matching_documents(g.pipeline_id, p_document_id, p_source, p_metadata, c_few));
    END IF;
    FOR v_time IN 1..2 LOOP  -- more words only make the last one worth more: a second time is enough
        v_taken := coalesce((SELECT min(r.place) FROM unnest(v_rest) WITH ORDINALITY AS r (rest, place)
                              WHERE r.rest + c_nearness <= v_least), cardinality(v_words));
        SELECT array_agg(f.id), array_agg(f.worth) INTO v_ids, v_worths
          FROM (SELECT c.id, (SELECT sum(w.weight) FROM unnest(v_words, v_weights) AS w (word, weight)
                               WHERE c.tsv @@ w.word) AS worth
                  FROM embedmill.knowledge_chunks c
                 -- By the tenant too: one who has little beside many is found by its index, and not among all that have
                 -- the words.
                 WHERE c.tenant_id = g.tenant_id AND c.pipeline_id = g.pipeline_id AND c.chunk_set = g.chunk_set
                   AND c.tsv @@ array_to_string(v_words[:v_taken], ' | ')::tsquery
                   AND (v_documents IS NULL OR c.document_id = ANY (v_documents))
                   AND (NOT v_filtered OR v_documents IS NOT NULL OR EXISTS (
                       SELECT FROM embedmill.knowledge_documents d
                        WHERE d.id = c.document_id
                          AND (p_document_id IS NULL OR d.id = p_document_id)
                          AND (p_source IS NULL OR d.source_id LIKE p_source)
                          AND (p_metadata IS NULL OR d.metadata @> p_metadata)))) f;
        v_least := coalesce((SELECT f.worth FROM unnest(v_worths) AS f (worth)
                              ORDER BY f.worth DESC OFFSET p_limit - 1 LIMIT 1), 0);
        EXIT WHEN v_taken = cardinality(v_words) OR v_rest[v_taken] + c_nearness <= v_least;
    END LOOP;
    RETURN QUERY
    SELECT c.id, f.worth + c_nearness * ts_rank_cd(c.tsv, v_asked, 1 | 32)
      FROM unnest(v_ids, v_worths) AS f (id, worth) JOIN embedmill.knowledge_chunks c ON c.id = f.id
     WHERE f.worth >= v_least - c_nearness
     ORDER BY 2 DESC, 1
     LIMIT p_limit;
END
$$;

-- They run with more rights than their caller: by name only, for those who search.
REVOKE ALL ON FUNCTION embedmill.matching_documents(integer, bigint, text, jsonb, integer),
    embedmill.keeps_back(embedmill.generations, text, bigint[], double precision[], integer, text, jsonb),
    embedmill.passing_documents(integer, integer, bigint, text, jsonb),
    embedmill.search_vectors(integer, text, integer, bigint, text, jsonb, double precision, bigint[]),
    embedmill.similarity_of_chance(integer, text),
    embedmill.search_text(integer, text, integer, bigint, text, jsonb, double precision, bigint[]) FROM PUBLIC;
DO $$
DECLARE
    v_role name;
BEGIN
    FOR v_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('embedmill_service', 'embedmill_reader') LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION '
                       'embedmill.passing_documents(integer, integer, bigint, text, jsonb), '
                       'embedmill.search_vectors(integer, text, integer, bigint, text, jsonb, double precision, bigint[]), '
                       'embedmill.similarity_of_chance(integer, text), '
                       'embedmill.search_text(integer, text, integer, bigint, text, jsonb, double precision, bigint[]) TO %I',
                       v_role);
    END LOOP;
END
$$;
