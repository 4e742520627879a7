-- What a claimed item still needs, and where it may be had for nothing.

-- The chunks of claimed items that have no vector yet and can have one. Item by item, fenced: a planner that knows nothing
-- of tables that were empty a moment ago would begin with all chunks.
CREATE OR REPLACE FUNCTION embedmill.load_chunks(p_generation_id integer, p_item_ids bigint[])
RETURNS TABLE (item_id bigint, chunk_id bigint, token_count integer, content_hash bytea, text text)
LANGUAGE plpgsql STABLE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
    SET jit = off AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT q.id, c.id, c.token_count, c.content_hash, c.text'
        '  FROM unnest($1) AS w (id)'
        ' CROSS JOIN LATERAL ('
        '   SELECT i.id, i.document_id, i.first_ordinal, i.last_ordinal FROM embedmill.embedding_queue i'
        '    WHERE i.id = w.id AND i.operation <> ''DELETE'' OFFSET 0) q'
        ' CROSS JOIN LATERAL ('
        '   SELECT k.id, k.token_count, k.content_hash, k.text FROM embedmill.knowledge_chunks k'
        '    WHERE k.document_id = q.document_id AND k.ordinal BETWEEN q.first_ordinal AND q.last_ordinal'
        '      AND k.chunk_set = $2 AND k.error_reason IS NULL'
        '      AND NOT EXISTS (SELECT FROM embedmill.%I v WHERE v.chunk_id = k.id) OFFSET 0) c',
        'vectors_' || p_generation_id)
    USING p_item_ids, (SELECT g.chunk_set FROM embedmill.generations g WHERE g.id = p_generation_id);
EXCEPTION
    WHEN undefined_table THEN NULL;     -- pruned in this instant, and its items with it
END
$$;

-- For each text, a chunk of the tenant whose vector may be reused, and the generation that it stands in (this
-- one first, then others of the same recipe): nothing is paid for it. Asked once for each distinct text: ten
-- thousand equal chunks must not look through each other ten thousand times.
CREATE OR REPLACE FUNCTION embedmill.find_donors(p_generation_id integer, p_content_hashes bytea[])
RETURNS TABLE (content_hash bytea, donor bigint, donor_generation_id integer)
LANGUAGE plpgsql STABLE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
    SET jit = off AS $$
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
        BEGIN
            RETURN QUERY EXECUTE format(
                'SELECT w.content_hash, d.id, $3'
                '  FROM unnest($2) AS w (content_hash)'
                ' CROSS JOIN LATERAL ('
                '   SELECT c.id FROM ('
                '     SELECT c.id, v.embedding IS NULL AS is_elsewhere'
                '       FROM embedmill.knowledge_chunks c JOIN embedmill.%I v ON v.chunk_id = c.id'
                '      WHERE c.tenant_id = $1 AND c.content_hash = w.content_hash LIMIT %s) c'
                '    ORDER BY c.is_elsewhere LIMIT 1) d',
                'vectors_' || v_id,
                -- A vector beside its chunk is copied more cheaply than one in a column of a user's table.
                CASE WHEN EXISTS (SELECT FROM embedmill.target_columns t WHERE t.generation_id = v_id) THEN 20 ELSE 1 END)
            USING v_own.tenant_id, p_content_hashes, v_id;
        EXCEPTION
            WHEN undefined_table THEN NULL;     -- pruned in this instant
        END;
    END LOOP;
END
$$;

-- Copies the donors' vectors to chunks that lack theirs; returns the chunks that were served. A donor whose vector stands
-- in a column of a user's table gives it from there, where it loses nothing on the way: to rows of the same table, or
-- where the column keeps numbers as the generation does. What went meanwhile, or cannot be read, serves nobody.
CREATE OR REPLACE FUNCTION embedmill.donate_vectors(
    p_generation_id integer, p_donor_generation_id integer, p_chunk_ids bigint[], p_donors bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_target record;
    v_patience text := current_setting('lock_timeout');
    v_served bigint[];
BEGIN
    RETURN QUERY EXECUTE format(
        'INSERT INTO embedmill.%I (chunk_id, input_hash, embedding, document_id)'
        ' SELECT w.chunk_id, v.input_hash, v.embedding, c.document_id'
        '   FROM unnest($1, $2) AS w (chunk_id, donor) JOIN embedmill.%I v ON v.chunk_id = w.donor'
        '   JOIN embedmill.knowledge_chunks c ON c.id = w.chunk_id'
        '  WHERE v.embedding IS NOT NULL'
        ' ON CONFLICT (chunk_id) DO NOTHING RETURNING chunk_id',
        'vectors_' || p_generation_id, 'vectors_' || p_donor_generation_id)
    USING p_chunk_ids, p_donors;
    FOR v_target IN
        SELECT t.record_source_id, t.column_name, s.relation, s.key_columns,
               -- A table that was dropped, or a column, gives nothing.
               (SELECT a.atttypid = g.storage::regtype FROM pg_attribute a
                 WHERE a.attrelid = s.relation AND a.attname = t.column_name AND NOT a.attisdropped) AS is_exact
          FROM embedmill.target_columns t
          JOIN embedmill.table_sources s ON s.record_source_id = t.record_source_id
          JOIN embedmill.generations g ON g.id = t.generation_id
         WHERE t.generation_id = p_donor_generation_id AND current_user <> 'embedmill_service'
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '300ms', true);
            EXECUTE format(
                'WITH served AS ('
                'INSERT INTO embedmill.%I (chunk_id, input_hash, embedding, document_id)'
                ' SELECT p.chunk_id, v.input_hash, t.%I, c.document_id'
                '   FROM unnest($1, $2) AS p (chunk_id, donor)'
                '   JOIN embedmill.%I v ON v.chunk_id = p.donor AND v.embedding IS NULL'
                '   JOIN embedmill.knowledge_chunks d ON d.id = p.donor AND d.record_source_id = $3'
                '   JOIN embedmill.knowledge_documents w ON w.id = d.document_id'
                '   JOIN embedmill.knowledge_chunks c ON c.id = p.chunk_id AND (c.record_source_id = $3 OR $4)'
                '   JOIN %s AS t ON %s'
                '  WHERE t.%2$I IS NOT NULL'
                ' ON CONFLICT (chunk_id) DO NOTHING RETURNING chunk_id'
                ') SELECT array_agg(chunk_id) FROM served',
                'vectors_' || p_generation_id, v_target.column_name, 'vectors_' || p_donor_generation_id,
                v_target.relation, embedmill.key_match(v_target.relation, v_target.key_columns, 't', 'w.source_id'))
            INTO v_served USING p_chunk_ids, p_donors, v_target.record_source_id, v_target.is_exact;
            PERFORM set_config('lock_timeout', v_patience, true);
        EXCEPTION
            WHEN syntax_error_or_access_rule_violation OR data_exception OR lock_not_available THEN
                v_served := '{}';  -- its text is embedded then; what is wrong with the table, who writes to it tells
        END;
        RETURN QUERY SELECT unnest(v_served);
    END LOOP;
END
$$;
