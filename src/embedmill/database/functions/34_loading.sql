-- What a claimed item still needs, and where it may be had for nothing.

-- The chunks of claimed items that have no vector yet and can have one.
CREATE OR REPLACE FUNCTION embedmill.load_chunks(p_generation_id integer, p_item_ids bigint[])
RETURNS TABLE (item_id bigint, chunk_id bigint, token_count integer, content_hash bytea, text text)
LANGUAGE plpgsql STABLE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT q.id, c.id, c.token_count, c.content_hash, c.text'
        '  FROM embedmill.embedding_queue q'
        '  JOIN embedmill.knowledge_chunks c'
        '    ON c.document_id = q.document_id AND c.ordinal BETWEEN q.first_ordinal AND q.last_ordinal'
        ' WHERE q.id = ANY ($1) AND q.operation <> ''DELETE'' AND c.error_reason IS NULL'
        '   AND NOT EXISTS (SELECT FROM embedmill.%I v WHERE v.chunk_id = c.id)',
        'vectors_' || p_generation_id)
    USING p_item_ids;
END
$$;

-- For each text, a chunk of the tenant whose vector may be reused, and the generation that it stands in (this
-- one first, then others of the same recipe): nothing is paid for it. Asked once for each distinct text: ten
-- thousand equal chunks must not look through each other ten thousand times.
CREATE OR REPLACE FUNCTION embedmill.find_donors(p_generation_id integer, p_content_hashes bytea[])
RETURNS TABLE (content_hash bytea, donor bigint, donor_generation_id integer)
LANGUAGE plpgsql STABLE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
    v_own embedmill.generations;
    v_id integer;
BEGIN
    SELECT * INTO STRICT v_own FROM embedmill.generations g WHERE g.id = p_generation_id;
    FOR v_id IN
        SELECT g.id FROM embedmill.generations g
         WHERE g.tenant_id = v_own.tenant_id AND g.recipe_hash = v_own.recipe_hash
         ORDER BY g.id = p_generation_id DESC, g.id DESC
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT w.content_hash, d.id, $3'
            '  FROM unnest($2) AS w (content_hash)'
            ' CROSS JOIN LATERAL ('
            '   SELECT c.id FROM embedmill.knowledge_chunks c JOIN embedmill.%I v ON v.chunk_id = c.id'
            '    WHERE c.tenant_id = $1 AND c.content_hash = w.content_hash LIMIT 1) d',
            'vectors_' || v_id)
        USING v_own.tenant_id, p_content_hashes, v_id;
    END LOOP;
END
$$;
