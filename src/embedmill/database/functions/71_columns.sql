-- Vectors that stand in a column of the user's own table: written by UPDATE of that column only, within the transaction
-- that enters what was paid. vectors_<generation> keeps the row that proves the vector, without the vector.
--
-- Nothing that a user's table does may lose a paid vector or hold up others: a row that somebody has locked is passed
-- over, a table that is locked is waited for briefly, and what a constraint or a trigger of theirs raises is caught. Such
-- vectors wait beside the chunks, and a note in column_debts says whose they are; settle_columns moves them.

-- The key of a row equals a text: the text is made into the key's type, so that the key's index serves. Types are named
-- with their schema. p_row and p_key are aliases or expressions of ours.
CREATE OR REPLACE FUNCTION embedmill.key_match(
    p_relation regclass, p_key_columns text[], p_row text, p_key text)
RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT string_agg(
               format('%s.%I = %s::%I.%I', p_row, k.name,
                      CASE WHEN cardinality(p_key_columns) = 1 THEN p_key
                           ELSE format('(%s::pg_catalog.jsonb OPERATOR(pg_catalog.->>) %s)', p_key, k.n - 1) END,
                      coalesce(n.nspname, 'pg_catalog'), coalesce(t.typname, 'text')), ' AND ' ORDER BY k.n)
      FROM unnest(p_key_columns) WITH ORDINALITY AS k (name, n)
      LEFT JOIN pg_attribute a ON a.attrelid = p_relation AND a.attname = k.name AND NOT a.attisdropped
      LEFT JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_namespace n ON n.oid = t.typnamespace
$$;

-- What names mean to a user's triggers: what they mean in his own sessions. Operators of extensions are found at the end.
CREATE OR REPLACE FUNCTION embedmill.users_search_path() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT concat_ws(', ', nullif(btrim((SELECT reset_val FROM pg_settings WHERE name = 'search_path')), ''),
                     (SELECT string_agg(DISTINCT quote_ident(n.nspname), ', ')
                        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                       WHERE n.nspname <> 'pg_catalog'))
$$;

-- What to do about an error of a user's table; without what its rows hold.
CREATE OR REPLACE FUNCTION embedmill.column_trouble(
    p_relation regclass, p_column text, p_dimensions integer, p_state text, p_message text)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('vectors cannot be written into %s.%I (%s); ', p_relation, p_column, p_message)
        || CASE WHEN p_state = '42703' AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = p_relation
                                                        AND attname = p_column AND NOT attisdropped)
                THEN format('ALTER TABLE %s ADD COLUMN %I vector(%s); ', p_relation, p_column, p_dimensions)
                WHEN p_state = '42501'
                THEN format('GRANT SELECT, UPDATE (%I) ON %s TO %I; ', p_column, p_relation, current_user)
                WHEN p_state = '22000'
                THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE vector(%s) USING NULL; ', p_relation, p_column,
                            p_dimensions)
                ELSE '' END
        || 'they are kept, and written when this is mended'
$$;

-- One UPDATE of a table: the vectors of these chunks into its column, or (p_keys) its column emptied. `done`: chunks whose
-- vectors were written; `waiting`: rows that are there and were left, since others have them locked; where the table
-- refused, `state` and `message` say why, and nothing was done.
-- The planner is held to the index of the key.
CREATE OR REPLACE FUNCTION embedmill.update_column(
    p_target embedmill.target_columns, p_vectors text, p_chunk_ids bigint[], p_keys text[],
    OUT done bigint[], OUT waiting text[], OUT state text, OUT message text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '300ms'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_table embedmill.table_sources;
    v_source embedmill.record_sources;
    v_chunk_set integer;
    v_path text := embedmill.users_search_path();
    v_match text;
    v_free text[];
BEGIN
    done := '{}';
    waiting := '{}';
    SELECT * INTO STRICT v_source FROM embedmill.record_sources WHERE id = p_target.record_source_id;
    SELECT * INTO STRICT v_table FROM embedmill.table_sources WHERE record_source_id = p_target.record_source_id;
    SELECT chunk_set INTO STRICT v_chunk_set FROM embedmill.generations WHERE id = p_target.generation_id;
    v_match := embedmill.key_match(v_table.relation, v_table.key_columns, 't', 'w.embedmill_key');
    BEGIN
        -- This source's own trigger does not fire (70_tables.sql).
        PERFORM set_config('embedmill.is_writing', p_target.record_source_id::text, true);
        IF p_keys IS NOT NULL THEN
            -- First the rows, then a look at what they ought to hold: who has a vector for one meanwhile finds it locked.
            EXECUTE format(
                'SELECT coalesce(array_agg(k), ''{}'') FROM ('
                '  SELECT w.embedmill_key AS k FROM unnest($1) AS w (embedmill_key)'
                '    JOIN %s AS t ON %s WHERE t.%I IS NOT NULL FOR NO KEY UPDATE OF t SKIP LOCKED) AS free',
                v_table.relation, v_match, p_target.column_name)
            INTO v_free USING p_keys;
            PERFORM set_config('search_path', v_path, true);
            EXECUTE format(
                'UPDATE %s AS t SET %I = NULL FROM unnest($1) AS w (embedmill_key)'
                ' WHERE %s AND NOT EXISTS ('
                '    SELECT FROM embedmill.knowledge_documents d'
                '      JOIN embedmill.knowledge_chunks c ON c.document_id = d.id'
                '     WHERE d.pipeline_id = $2 AND d.source_type = $3 AND d.source_id = w.embedmill_key'
                '       AND c.chunk_set = $4 AND c.error_reason IS NULL)',
                v_table.relation, p_target.column_name, v_match)
            USING v_free, v_source.pipeline_id, v_source.name, v_chunk_set;
            EXECUTE format('SELECT coalesce(array_agg(w.embedmill_key), ''{}'') FROM unnest($1) AS w (embedmill_key)'
                           '  JOIN %s AS t ON %s WHERE t.%I IS NOT NULL',
                           v_table.relation, v_match, p_target.column_name)
            INTO waiting USING p_keys;
        ELSE
            PERFORM set_config('search_path', v_path, true);
            EXECUTE format(
                'WITH wanted AS MATERIALIZED ('
                '  SELECT v.chunk_id AS embedmill_chunk, d.source_id AS embedmill_key, v.embedding AS embedmill_vector'
                '    FROM %s AS v'
                '    JOIN embedmill.knowledge_chunks c ON c.id = v.chunk_id'
                '    JOIN embedmill.knowledge_documents d ON d.id = c.document_id'
                '   WHERE v.chunk_id = ANY ($1) AND c.record_source_id = $2 AND v.embedding IS NOT NULL'
                '), free AS MATERIALIZED ('
                '  SELECT w.* FROM wanted w JOIN %s AS t ON %s FOR NO KEY UPDATE OF t SKIP LOCKED'
                '), written AS ('
                '  UPDATE %2$s AS t SET %4$I = w.embedmill_vector FROM free w WHERE %3$s RETURNING w.embedmill_chunk'
                ') SELECT coalesce(array_agg(embedmill_chunk), ''{}'') FROM written',
                p_vectors, v_table.relation, v_match, p_target.column_name)
            INTO done USING p_chunk_ids, p_target.record_source_id;
            IF cardinality(done) < cardinality(p_chunk_ids) THEN
                EXECUTE format(
                    'SELECT coalesce(array_agg(w.embedmill_key), ''{}'')'
                    '  FROM (SELECT d.source_id AS embedmill_key FROM embedmill.knowledge_chunks c'
                    '          JOIN embedmill.knowledge_documents d ON d.id = c.document_id'
                    '         WHERE c.id = ANY ($1) AND c.id <> ALL ($2)) AS w'
                    '  JOIN %s AS t ON %s', v_table.relation, v_match)
                INTO waiting USING p_chunk_ids, done;
            END IF;
        END IF;
        -- What a user's deferred triggers would raise at the end of our transaction, where nothing could catch it.
        SET CONSTRAINTS ALL IMMEDIATE;
        PERFORM set_config('embedmill.is_writing', '', true);
    EXCEPTION
        WHEN system_error OR insufficient_resources OR operator_intervention THEN
            RAISE;
        WHEN OTHERS THEN
            done := '{}';
            waiting := '{}';
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
    END;
END
$$;

-- Whether an error says that the table refuses every row alike, or has nothing to do with rows at all.
CREATE OR REPLACE FUNCTION embedmill.is_of_all_rows(p_state text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT left(p_state, 2) IN ('42', '3F', '0A', '25', '28', '55', '40') OR p_state = '22000'
$$;

-- Nothing is tried for some seconds; p_trouble says why, where it is more than a lock. Whoever is at this already is not
-- waited for.
CREATE OR REPLACE FUNCTION embedmill.rest_column(
    p_target embedmill.target_columns, p_seconds double precision, p_trouble text)
RETURNS void
LANGUAGE sql AS $$
    UPDATE embedmill.target_columns t
       SET retry_at = clock_timestamp() + make_interval(secs => p_seconds), trouble = coalesce(p_trouble, t.trouble)
     WHERE t.ctid = (SELECT o.ctid FROM embedmill.target_columns o
                      WHERE o.record_source_id = p_target.record_source_id
                        AND o.generation_id = p_target.generation_id FOR NO KEY UPDATE SKIP LOCKED)
$$;

-- Notes rows whose column is to be looked at, for settle_columns.
CREATE OR REPLACE FUNCTION embedmill.owe_columns(p_target embedmill.target_columns, p_keys text[]) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO embedmill.column_debts AS b (record_source_id, generation_id, tenant_id, key)
    SELECT p_target.record_source_id, p_target.generation_id, p_target.tenant_id, k
      FROM (SELECT DISTINCT k FROM unnest(p_keys) AS k ORDER BY k) w
    ON CONFLICT (record_source_id, generation_id, key) DO UPDATE SET due_at = now(), attempts = 0, error = NULL
$$;

-- Puts vectors into the columns they are for, as far as that can be done at once, and notes the rest; returns the chunks
-- whose vectors are written. p_vectors: the table that they stand in.
CREATE OR REPLACE FUNCTION embedmill.put_into_columns(p_generation_id integer, p_vectors text, p_chunk_ids bigint[])
RETURNS bigint[]
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_target embedmill.target_columns;
    v_written bigint[] := '{}';
    v_chunks bigint[];
    v_keys text[];
    v_done bigint[];
    v_state text;
BEGIN
    FOR v_target IN SELECT * FROM embedmill.target_columns WHERE generation_id = p_generation_id ORDER BY record_source_id
    LOOP
        SELECT array_agg(c.id ORDER BY c.id), array_agg(d.source_id ORDER BY c.id) INTO v_chunks, v_keys
          FROM unnest(p_chunk_ids) AS w (id)
          JOIN embedmill.knowledge_chunks c ON c.id = w.id AND c.record_source_id = v_target.record_source_id
          JOIN embedmill.knowledge_documents d ON d.id = c.document_id;
        CONTINUE WHEN v_chunks IS NULL;
        v_state := NULL;
        -- The service has no rights on users' tables: the worker has.
        IF current_user <> 'embedmill_service' AND coalesce(v_target.retry_at <= clock_timestamp(), true) THEN
            SELECT u.done, u.state INTO v_done, v_state
              FROM embedmill.update_column(v_target, p_vectors, v_chunks, NULL) AS u;
            v_written := v_written || v_done;
        END IF;
        v_keys := ARRAY(SELECT w.key FROM unnest(v_chunks, v_keys) AS w (id, key) WHERE w.id <> ALL (v_written));
        IF cardinality(v_keys) > 0 THEN
            PERFORM embedmill.owe_columns(v_target, v_keys);
        END IF;
        IF v_state IS NOT NULL THEN
            -- settle_columns finds out which rows it is, and says so.
            PERFORM embedmill.rest_column(v_target, 2, NULL);
        END IF;
    END LOOP;
    RETURN v_written;
END
$$;

-- Vectors that were staged (embed/columns.py): into users' columns, and into the generation's table; of those that stand
-- in a column only that they stand. (An older release, which may be at work beside a newer one, stages no document_id.)
CREATE OR REPLACE FUNCTION embedmill.store_staged_vectors(p_generation_id integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_stage text := format('pg_temp.%I', 'staged_vectors_' || p_generation_id);
    v_chunks bigint[];
BEGIN
    EXECUTE format('SELECT array_agg(chunk_id) FROM %s', v_stage) INTO v_chunks;
    EXECUTE format('INSERT INTO embedmill.%I (chunk_id, input_hash, embedding, document_id)'
                   ' SELECT s.chunk_id, s.input_hash, CASE WHEN s.chunk_id = ANY ($1) THEN NULL ELSE s.embedding END,'
                   '        (SELECT c.document_id FROM embedmill.knowledge_chunks c WHERE c.id = s.chunk_id)'
                   '   FROM %s s',
                   'vectors_' || p_generation_id, v_stage)
    USING embedmill.put_into_columns(p_generation_id, v_stage, v_chunks);
END
$$;

-- What count_chunks is told of: vectors that were written beside the chunks go on into the columns they are for, and the
-- columns of chunks that are refused are emptied by and by, since a vector of an older text would stand there else.
CREATE OR REPLACE FUNCTION embedmill.write_columns(p_generation_id integer, p_embedded bigint[], p_refused bigint[])
RETURNS void
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_target embedmill.target_columns;
    v_vectors text := format('embedmill.%I', 'vectors_' || p_generation_id);
    v_chunks bigint[];
    v_chunk_set integer;
BEGIN
    IF cardinality(p_embedded) > 0
       AND EXISTS (SELECT FROM embedmill.target_columns WHERE generation_id = p_generation_id) THEN
        EXECUTE format(
            'SELECT array_agg(v.chunk_id) FROM %s v'
            '  JOIN embedmill.knowledge_chunks c ON c.id = v.chunk_id'
            '  JOIN embedmill.knowledge_documents d ON d.id = c.document_id'
            ' WHERE v.chunk_id = ANY ($1) AND v.embedding IS NOT NULL AND c.record_source_id <> 0'
            '   AND NOT EXISTS (SELECT FROM embedmill.column_debts b'
            '                    WHERE b.record_source_id = c.record_source_id AND b.generation_id = $2'
            '                      AND b.key = d.source_id)', v_vectors)
        INTO v_chunks USING p_embedded, p_generation_id;
        v_chunks := embedmill.put_into_columns(p_generation_id, v_vectors, v_chunks);
        IF cardinality(v_chunks) > 0 THEN
            EXECUTE format('UPDATE %s SET embedding = NULL WHERE chunk_id = ANY ($1)', v_vectors) USING v_chunks;
        END IF;
    END IF;
    IF cardinality(p_refused) > 0 THEN
        SELECT chunk_set INTO v_chunk_set FROM embedmill.generations WHERE id = p_generation_id;
        FOR v_target IN
            SELECT t.* FROM embedmill.target_columns t JOIN embedmill.generations g ON g.id = t.generation_id
             WHERE g.chunk_set = v_chunk_set
               AND t.record_source_id IN (SELECT c.record_source_id FROM embedmill.knowledge_chunks c
                                           WHERE c.id = ANY (p_refused))
             ORDER BY t.record_source_id, t.generation_id
        LOOP
            PERFORM embedmill.owe_columns(v_target, ARRAY(
                SELECT d.source_id FROM embedmill.knowledge_chunks c
                  JOIN embedmill.knowledge_documents d ON d.id = c.document_id
                 WHERE c.id = ANY (p_refused) AND c.record_source_id = v_target.record_source_id));
        END LOOP;
    END IF;
END
$$;

-- Rows that are there but are not embedded any more (the condition, no content): their columns are emptied by and by.
CREATE OR REPLACE FUNCTION embedmill.empty_columns(p_record_source_id integer, p_keys text[]) RETURNS void
LANGUAGE sql AS $$
    SELECT embedmill.owe_columns(t, p_keys) FROM embedmill.target_columns t
     WHERE t.record_source_id = p_record_source_id ORDER BY t.generation_id
$$;

-- Believes vectors that stand in the live generation's column for documents that were just made of their rows: each is
-- counted as embedded with the hash of its present text. Not a vector of zeros, nor one that is to be emptied, nor that
-- of a row that has a change to be read. Returns how many.
CREATE OR REPLACE FUNCTION embedmill.adopt_columns(
    p_record_source_id integer, p_generation_id integer, p_document_ids bigint[])
RETURNS integer
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_table embedmill.table_sources;
    v_generation embedmill.generations;
    v_column text;
    v_changed text[];
    v_adopted bigint[];
BEGIN
    SELECT * INTO v_table FROM embedmill.table_sources WHERE record_source_id = p_record_source_id AND adopts;
    SELECT column_name INTO v_column FROM embedmill.target_columns
     WHERE record_source_id = p_record_source_id AND generation_id = p_generation_id;
    IF v_table.relation IS NULL OR v_column IS NULL THEN
        RETURN 0;
    END IF;
    SELECT * INTO STRICT v_generation FROM embedmill.generations WHERE id = p_generation_id;
    -- A row that was just changed has a vector of its older text.
    v_changed := ARRAY(
        SELECT d.source_id FROM embedmill.knowledge_documents d
         WHERE d.id = ANY (p_document_ids)
           AND EXISTS (SELECT FROM embedmill.record_changes r
                        WHERE r.record_source_id = p_record_source_id AND r.keys @> ARRAY[d.source_id]));
    EXECUTE format(
        'WITH adopted AS ('
        '  INSERT INTO embedmill.%I (chunk_id, input_hash, embedding, document_id)'
        '  SELECT c.id, substring(sha256(convert_to($4 || c.text, ''UTF8'')) FROM 1 FOR 16), NULL, w.id'
        '    FROM embedmill.knowledge_documents w'
        '    JOIN embedmill.knowledge_chunks c'
        '      ON c.document_id = w.id AND c.chunk_set = $5 AND c.error_reason IS NULL'
        '    JOIN %s AS t ON %s'
        '   WHERE w.id = ANY ($1) AND vector_dims(t.%I) = $6 AND (t.%4$I <#> t.%4$I) < 0'
        '     AND NOT EXISTS (SELECT FROM embedmill.column_debts b'
        '                      WHERE b.record_source_id = $2 AND b.generation_id = $3 AND b.key = w.source_id)'
        '     AND w.source_id <> ALL ($7)'
        '   ORDER BY c.id'
        '  ON CONFLICT (chunk_id) DO NOTHING RETURNING chunk_id'
        ') SELECT coalesce(array_agg(chunk_id), ''{}'') FROM adopted',
        'vectors_' || p_generation_id, v_table.relation,
        embedmill.key_match(v_table.relation, v_table.key_columns, 't', 'w.source_id'), v_column)
    INTO v_adopted USING p_document_ids, p_record_source_id, p_generation_id,
        coalesce(v_generation.spec ->> 'document_prefix', ''), v_generation.chunk_set, v_generation.dimensions,
        v_changed;
    IF cardinality(v_adopted) > 0 THEN
        PERFORM embedmill.count_chunks(p_generation_id, v_adopted, '{}');
    END IF;
    RETURN cardinality(v_adopted);
END
$$;

-- Brings up to p_limit rows of one column to what is right; returns how many were dealt with, NULL where nothing is due.
-- Where a table refuses, rows are tried one by one: a row that it refuses costs its neighbours nothing, and a table that
-- takes none is left alone for some seconds. Nothing is waited for but, briefly, the table.
CREATE OR REPLACE FUNCTION embedmill.settle_columns(p_limit integer) RETURNS integer
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_target embedmill.target_columns;
    v_vectors text;
    v_keys text[];
    v_chunks bigint[];          -- whose vectors wait
    v_chunk_keys text[];        -- and the keys of their rows
    v_empty text[];             -- keys of rows whose column is to be NULL
    v_held bigint[];
    v_written bigint[] := '{}';
    v_waiting text[];
    v_refused text[] := '{}';
    v_reasons text[] := '{}';
    v_state text;               -- why the table takes none
    v_message text;
    v_singly boolean := false;
    v_update record;
    v_next record;
BEGIN
    SELECT t.* INTO v_target
      FROM embedmill.target_columns t
     WHERE coalesce(t.retry_at <= clock_timestamp(), true)
       AND EXISTS (SELECT FROM embedmill.column_debts b
                    WHERE b.record_source_id = t.record_source_id AND b.generation_id = t.generation_id
                      AND b.due_at <= clock_timestamp())
     ORDER BY random() LIMIT 1;
    v_keys := ARRAY(SELECT b.key FROM embedmill.column_debts b
                     WHERE b.record_source_id = v_target.record_source_id
                       AND b.generation_id = v_target.generation_id AND b.due_at <= clock_timestamp()
                     ORDER BY b.due_at, b.key LIMIT p_limit FOR UPDATE SKIP LOCKED);
    IF cardinality(v_keys) = 0 THEN
        RETURN NULL;
    END IF;
    v_vectors := format('embedmill.%I', 'vectors_' || v_target.generation_id);
    SELECT w.chunk_ids, w.chunk_keys, w.empty_keys INTO v_chunks, v_chunk_keys, v_empty
      FROM embedmill.owed_columns(v_target, v_vectors, v_keys) AS w;
    -- Held, so that no newer text takes their place while an older vector is written; who has one now goes first.
    EXECUTE format('SELECT coalesce(array_agg(chunk_id), ''{}'') FROM (SELECT chunk_id FROM %s WHERE chunk_id = ANY ($1) '
                   'AND embedding IS NOT NULL ORDER BY chunk_id FOR UPDATE SKIP LOCKED) AS held', v_vectors)
    INTO v_held USING v_chunks;
    v_waiting := ARRAY(SELECT w.key FROM unnest(v_chunks, v_chunk_keys) AS w (id, key) WHERE w.id <> ALL (v_held));
    SELECT coalesce(array_agg(w.key), '{}') INTO v_chunk_keys
      FROM unnest(v_chunks, v_chunk_keys) AS w (id, key) WHERE w.id = ANY (v_held);

    v_update := embedmill.update_column(v_target, v_vectors, v_held, NULL);
    IF v_update.state IS NULL THEN
        v_written := v_update.done;
        v_waiting := v_waiting || v_update.waiting;
        v_update := embedmill.update_column(v_target, v_vectors, NULL, v_empty);
        v_waiting := v_waiting || v_update.waiting;
    END IF;
    IF v_update.state IS NOT NULL AND embedmill.is_of_all_rows(v_update.state) THEN
        v_state := v_update.state;
        v_message := v_update.message;
        v_waiting := v_keys;
    ELSIF v_update.state IS NOT NULL THEN
        v_waiting := v_keys;
        FOR v_next IN
            SELECT ARRAY[c.id] AS chunk_ids, NULL::text[] AS keys, d.source_id AS key
              FROM embedmill.knowledge_chunks c JOIN embedmill.knowledge_documents d ON d.id = c.document_id
             WHERE c.id = ANY (v_held) AND c.id <> ALL (v_written)
            UNION ALL SELECT NULL, ARRAY[k], k FROM unnest(v_empty) AS k
        LOOP
            v_update := embedmill.update_column(v_target, v_vectors, v_next.chunk_ids, v_next.keys);
            IF v_update.state IS NULL THEN
                v_singly := true;
                v_written := v_written || v_update.done;
                v_waiting := array_remove(v_waiting, v_next.key) || v_update.waiting;
            ELSE
                v_refused := v_refused || v_next.key;
                v_reasons := v_reasons || v_update.message;
                IF embedmill.is_of_all_rows(v_update.state) OR NOT v_singly AND cardinality(v_refused) >= 5 THEN
                    v_state := v_update.state;
                    v_message := v_update.message;
                    EXIT;
                END IF;
            END IF;
        END LOOP;
    END IF;

    IF cardinality(v_written) > 0 THEN
        EXECUTE format('UPDATE %s SET embedding = NULL WHERE chunk_id = ANY ($1)', v_vectors) USING v_written;
        v_waiting := ARRAY(SELECT k FROM unnest(v_waiting) AS k WHERE k <> ALL (ARRAY(
            SELECT d.source_id FROM embedmill.knowledge_chunks c JOIN embedmill.knowledge_documents d ON d.id = c.document_id
             WHERE c.id = ANY (v_written))));
    END IF;
    -- A row that is gone is told by a change; what is right already, or is written when it is embedded, needs no note.
    DELETE FROM embedmill.column_debts b
     WHERE b.record_source_id = v_target.record_source_id AND b.generation_id = v_target.generation_id
       AND b.key = ANY (v_keys) AND b.key <> ALL (v_waiting);
    UPDATE embedmill.column_debts b
       SET attempts = b.attempts + 1, error = r.reason,
           due_at = clock_timestamp() + make_interval(secs => CASE WHEN v_state IS NOT NULL AND r.reason IS NULL THEN 0
                                                                   ELSE least(power(2, b.attempts), 60) END)
      FROM unnest(v_keys) AS w (key)
      LEFT JOIN unnest(v_refused, v_reasons) AS r (key, reason) ON r.key = w.key
     WHERE b.record_source_id = v_target.record_source_id AND b.generation_id = v_target.generation_id AND b.key = w.key;
    IF v_state IS NULL THEN
        PERFORM embedmill.resume_column(v_target, v_keys);
    ELSE
        PERFORM embedmill.rest_column(
            v_target, CASE WHEN left(v_state, 2) IN ('55', '40') THEN 1 ELSE 5 END,
            CASE WHEN left(v_state, 2) NOT IN ('55', '40') THEN embedmill.column_trouble(
                (SELECT relation FROM embedmill.table_sources WHERE record_source_id = v_target.record_source_id),
                v_target.column_name,
                (SELECT dimensions FROM embedmill.generations WHERE id = v_target.generation_id), v_state, v_message) END);
    END IF;
    RETURN cardinality(v_keys) - cardinality(v_waiting);
END
$$;

-- What is owed to rows: vectors that wait (their chunks, with their keys), and keys of those whose column is to be empty
-- because no text of theirs is to be embedded.
CREATE OR REPLACE FUNCTION embedmill.owed_columns(
    p_target embedmill.target_columns, p_vectors text, p_keys text[],
    OUT chunk_ids bigint[], OUT chunk_keys text[], OUT empty_keys text[])
LANGUAGE plpgsql STABLE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
    SET jit = off AS $$
BEGIN
    EXECUTE format(
        'SELECT coalesce(array_agg(v.chunk_id ORDER BY v.chunk_id) FILTER (WHERE v.embedding IS NOT NULL), ''{}''),'
        '       coalesce(array_agg(k.key ORDER BY v.chunk_id) FILTER (WHERE v.embedding IS NOT NULL), ''{}''),'
        '       coalesce(array_agg(k.key) FILTER (WHERE c.id IS NULL), ''{}'')'
        '  FROM unnest($1) AS k (key)'
        '  JOIN embedmill.record_sources s ON s.id = $2'
        '  JOIN embedmill.generations g ON g.id = $3'
        '  LEFT JOIN embedmill.knowledge_documents d'
        '    ON d.pipeline_id = s.pipeline_id AND d.source_type = s.name AND d.source_id = k.key'
        '  LEFT JOIN embedmill.knowledge_chunks c'
        '    ON c.document_id = d.id AND c.chunk_set = g.chunk_set AND c.error_reason IS NULL'
        '  LEFT JOIN %s v ON v.chunk_id = c.id', p_vectors)
    INTO chunk_ids, chunk_keys, empty_keys USING p_keys, p_target.record_source_id, p_target.generation_id;
END
$$;

-- A table takes vectors (again): what waited for that is due. Notes that others are at are theirs.
CREATE OR REPLACE FUNCTION embedmill.resume_column(p_target embedmill.target_columns, p_keys text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF p_target.retry_at IS NULL AND p_target.trouble IS NULL THEN
        RETURN;
    END IF;
    UPDATE embedmill.target_columns t SET retry_at = NULL, trouble = NULL
     WHERE t.ctid = (SELECT o.ctid FROM embedmill.target_columns o
                      WHERE o.record_source_id = p_target.record_source_id
                        AND o.generation_id = p_target.generation_id FOR NO KEY UPDATE SKIP LOCKED);
    UPDATE embedmill.column_debts SET due_at = now()
     WHERE ctid = ANY (ARRAY(
        SELECT b.ctid FROM embedmill.column_debts b
         WHERE b.record_source_id = p_target.record_source_id AND b.generation_id = p_target.generation_id
           AND b.due_at > now() AND b.key <> ALL (p_keys) FOR UPDATE SKIP LOCKED));
END
$$;

-- Says in the sources what is wrong with their columns, and takes back what is not any more. In a transaction of its own:
-- whoever reads a source holds it while it waits for others.
CREATE OR REPLACE FUNCTION embedmill.tell_column_troubles() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE embedmill.target_columns t SET trouble = NULL, retry_at = NULL
     WHERE t.trouble IS NOT NULL
       AND NOT EXISTS (SELECT FROM embedmill.column_debts b
                        WHERE b.record_source_id = t.record_source_id AND b.generation_id = t.generation_id);
    UPDATE embedmill.record_sources s SET trouble = n.trouble
      FROM (SELECT t.record_source_id,
                   coalesce(min(t.trouble), min((
                       SELECT format('%s of its rows do not take their vector (%s); %s', count(*), min(b.error),
                                     'they are kept, and tried again every minute')
                         FROM embedmill.column_debts b
                        WHERE b.record_source_id = t.record_source_id AND b.generation_id = t.generation_id
                          AND b.error IS NOT NULL HAVING count(*) > 0))) AS trouble
              FROM embedmill.target_columns t GROUP BY t.record_source_id) n
     WHERE s.id = n.record_source_id AND s.trouble IS DISTINCT FROM n.trouble
       -- What else is wrong with a source was said by others, and is theirs to take back.
       AND (s.trouble IS NULL OR s.trouble LIKE 'vectors cannot be written into %'
            OR s.trouble LIKE '% of its rows do not take their vector (%');
END
$$;

-- Which column the vectors of a generation are for. Raises invalid_parameter_value for a column that cannot hold them.
-- Vectors that stand beside the chunks already are owed to it.
CREATE OR REPLACE FUNCTION embedmill.set_target_column(
    p_record_source_id integer, p_generation_id integer, p_column text)
RETURNS void
LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    v_table embedmill.table_sources;
    v_generation embedmill.generations;
    v_type text;
    v_dimensions integer;
BEGIN
    SELECT t.* INTO v_table FROM embedmill.table_sources t JOIN embedmill.record_sources s ON s.id = t.record_source_id
     WHERE t.record_source_id = p_record_source_id;
    SELECT g.* INTO v_generation FROM embedmill.generations g
      JOIN embedmill.record_sources s ON s.pipeline_id = g.pipeline_id AND s.id = p_record_source_id
     WHERE g.id = p_generation_id;
    IF v_table.relation IS NULL OR v_generation.id IS NULL THEN
        RAISE EXCEPTION 'there is no table source % with a generation %', p_record_source_id, p_generation_id
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT t.typname, a.atttypmod INTO v_type, v_dimensions
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = v_table.relation AND a.attname = p_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF v_type IS NULL THEN
        RAISE EXCEPTION '% has no column %', v_table.relation, p_column
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('ALTER TABLE %s ADD COLUMN %I %s(%s)', v_table.relation, p_column, v_generation.storage,
                                v_generation.dimensions);
    ELSIF v_type NOT IN ('vector', 'halfvec') OR v_dimensions <> v_generation.dimensions THEN
        RAISE EXCEPTION 'the column % of % cannot hold vectors of % dimensions: it is %', p_column, v_table.relation,
            v_generation.dimensions, v_type || CASE WHEN v_dimensions > 0 THEN format('(%s)', v_dimensions) ELSE '' END
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('ALTER TABLE %s ADD COLUMN ... %s(%s)', v_table.relation, v_generation.storage,
                                v_generation.dimensions);
    ELSIF p_column = ANY (v_table.columns || v_table.key_columns || v_table.metadata_columns) THEN
        RAISE EXCEPTION 'the column % of % cannot be embedded and hold the vectors too', p_column, v_table.relation
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF EXISTS (SELECT FROM embedmill.target_columns o JOIN embedmill.table_sources s USING (record_source_id)
                   WHERE s.relation = v_table.relation AND o.column_name = p_column
                     AND (o.record_source_id, o.generation_id) <> (p_record_source_id, p_generation_id)) THEN
        RAISE EXCEPTION 'the column % of % holds other vectors of embedmill', p_column, v_table.relation
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Each generation, and each pipeline, needs a column of its own.';
    END IF;
    -- Of what stands in a column only the proof is kept.
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(format('embedmill.%I', 'vectors_' || p_generation_id))
                                         AND attname = 'embedding' AND attnotnull) THEN
        EXECUTE format('ALTER TABLE embedmill.%I ALTER COLUMN embedding DROP NOT NULL', 'vectors_' || p_generation_id);
    END IF;
    INSERT INTO embedmill.target_columns (record_source_id, generation_id, tenant_id, column_name)
    VALUES (p_record_source_id, p_generation_id, v_table.tenant_id, p_column)
    ON CONFLICT (record_source_id, generation_id) DO UPDATE SET column_name = excluded.column_name;
    EXECUTE format(
        'INSERT INTO embedmill.column_debts (record_source_id, generation_id, tenant_id, key)'
        ' SELECT $1, $2, d.tenant_id, d.source_id'
        '   FROM embedmill.knowledge_documents d'
        '   JOIN embedmill.knowledge_chunks c ON c.document_id = d.id AND c.chunk_set = $3'
        '   JOIN embedmill.%I v ON v.chunk_id = c.id AND v.embedding IS NOT NULL'
        '  WHERE d.record_source_id = $1'
        ' ON CONFLICT DO NOTHING', 'vectors_' || p_generation_id)
    USING p_record_source_id, p_generation_id, v_generation.chunk_set;
END
$$;

-- How many rows have a vector in the column of the live generation, counted up to a limit.
CREATE OR REPLACE FUNCTION embedmill.count_column(p_record_source_id integer, p_limit integer) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_table embedmill.table_sources;
    v_rows bigint;
BEGIN
    SELECT * INTO STRICT v_table FROM embedmill.table_sources WHERE record_source_id = p_record_source_id;
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %s WHERE %I IS NOT NULL LIMIT $1) AS counted', v_table.relation,
                   v_table.target_column)
       INTO v_rows USING p_limit;
    RETURN v_rows;
END
$$;

-- A table that is added with a column: it is the live generation's.
CREATE OR REPLACE FUNCTION embedmill.table_source_added() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM embedmill.set_target_column(s.id, p.current_generation_id, NEW.target_column)
       FROM embedmill.record_sources s JOIN embedmill.pipelines p ON p.id = s.pipeline_id
      WHERE s.id = NEW.record_source_id;
    RETURN NULL;
END
$$;

-- A table whose column is called otherwise now, or was dropped and has another one: what stood in it stands there still, or
-- is lacking again.
CREATE OR REPLACE FUNCTION embedmill.target_column_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_target embedmill.target_columns;
    v_generation embedmill.generations;
    v_is_filled boolean;
    v_lost bigint;
BEGIN
    SELECT t.* INTO v_target
      FROM embedmill.record_sources s
      JOIN embedmill.pipelines p ON p.id = s.pipeline_id
      JOIN embedmill.target_columns t ON t.record_source_id = s.id AND t.generation_id = p.current_generation_id
     WHERE s.id = NEW.record_source_id AND t.column_name <> NEW.target_column;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = NEW.relation AND attname = v_target.column_name
                                          AND NOT attisdropped) THEN
        RAISE EXCEPTION 'the column % still holds the vectors', v_target.column_name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Rename it (ALTER TABLE ... RENAME COLUMN), or remove the table and add it again.';
    END IF;
    PERFORM embedmill.set_target_column(NEW.record_source_id, v_target.generation_id, NEW.target_column);
    EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I IS NOT NULL)', NEW.relation, NEW.target_column)
       INTO v_is_filled;
    IF NOT v_is_filled THEN
        SELECT * INTO v_generation FROM embedmill.generations WHERE id = v_target.generation_id;
        EXECUTE format('WITH lost AS (DELETE FROM embedmill.%I v USING embedmill.knowledge_chunks c'
                       '               WHERE c.id = v.chunk_id AND c.record_source_id = $1 AND c.pipeline_id = $2'
                       '                 AND v.embedding IS NULL RETURNING 1) SELECT count(*) FROM lost',
                       'vectors_' || v_generation.id)
           INTO v_lost USING NEW.record_source_id, v_generation.pipeline_id;
        UPDATE embedmill.coverage_counters SET embedded = embedded - v_lost
         WHERE generation_id = v_generation.id AND record_source_id = NEW.record_source_id;
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER target_column_changed AFTER UPDATE OF target_column ON embedmill.table_sources
    FOR EACH ROW WHEN (NEW.target_column IS NOT NULL AND OLD.target_column IS DISTINCT FROM NEW.target_column)
    EXECUTE FUNCTION embedmill.target_column_changed();

CREATE OR REPLACE TRIGGER table_source_added AFTER INSERT ON embedmill.table_sources
    FOR EACH ROW WHEN (NEW.target_column IS NOT NULL) EXECUTE FUNCTION embedmill.table_source_added();

-- The generation that searches read becomes another: the tables' columns follow. EM409 where one has none.
CREATE OR REPLACE FUNCTION embedmill.generation_switched() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v record;
BEGIN
    FOR v IN
        SELECT s.id, s.name, c.column_name
          FROM embedmill.record_sources s
          JOIN embedmill.table_sources t ON t.record_source_id = s.id AND t.target_column IS NOT NULL
          LEFT JOIN embedmill.target_columns c
            ON c.record_source_id = s.id AND c.generation_id = NEW.current_generation_id
         WHERE s.pipeline_id = NEW.id
         ORDER BY s.id
    LOOP
        IF v.column_name IS NULL THEN
            RAISE EXCEPTION 'the vectors of % stand in a column of it, and the generation that is switched to has none there',
                v.name USING ERRCODE = 'EM409',
                HINT = format('Give it one: embedmill pipeline migrate ... --column %s=NEW_COLUMN', v.name);
        END IF;
        UPDATE embedmill.table_sources SET target_column = v.column_name
         WHERE record_source_id = v.id AND target_column <> v.column_name;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER generation_switched AFTER UPDATE OF current_generation_id ON embedmill.pipelines
    FOR EACH ROW WHEN (OLD.current_generation_id IS DISTINCT FROM NEW.current_generation_id)
    EXECUTE FUNCTION embedmill.generation_switched();

-- The chunks whose vectors stand in columns of users' tables and are nearest to a query, nearest first: of all of a
-- generation's sources together. p_query: as pgvector reads it; p_source: as LIKE reads it. Runs with the rights of
-- embedmill, which may read these tables, for the tenant whose generation it is.
CREATE OR REPLACE FUNCTION embedmill.search_columns(
    p_generation_id integer, p_query text, p_limit integer, p_document_id bigint DEFAULT NULL,
    p_source text DEFAULT NULL, p_metadata jsonb DEFAULT NULL)
RETURNS TABLE (chunk_id bigint, similarity double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_generation embedmill.generations;
    v_asks text := coalesce(nullif(current_setting('role', true), 'none'), session_user::text);
    v_target record;
BEGIN
    SELECT * INTO v_generation FROM embedmill.generations g WHERE g.id = p_generation_id;
    IF v_generation.id IS NULL
       OR v_generation.tenant_id IS DISTINCT FROM embedmill.current_tenant_id()
          AND NOT (embedmill.current_tenant_id() IS NULL AND pg_has_role(v_asks, current_user, 'USAGE')) THEN
        RETURN;
    END IF;
    PERFORM set_config('search_path', embedmill.path_of_vectors(), true);
    FOR v_target IN
        SELECT t.record_source_id, t.column_name, s.name, s.pipeline_id, o.relation, o.key_columns,
               format_type(a.atttypid, a.atttypmod) AS column_type
          FROM embedmill.target_columns t
          JOIN embedmill.record_sources s ON s.id = t.record_source_id
          JOIN embedmill.table_sources o ON o.record_source_id = s.id
          JOIN pg_attribute a ON a.attrelid = o.relation AND a.attname = t.column_name AND NOT a.attisdropped
         WHERE t.generation_id = p_generation_id
         ORDER BY t.record_source_id
    LOOP
        BEGIN
            RETURN QUERY EXECUTE format(
                'SELECT c.id, 1 - (t.%1$I <=> $1::%2$s)'
                '  FROM %3$s AS t'
                '  JOIN embedmill.knowledge_documents d'
                '    ON d.pipeline_id = $2 AND d.source_type = $3 AND d.source_id = %4$s AND d.record_source_id = $4'
                '  JOIN embedmill.knowledge_chunks c ON c.document_id = d.id AND c.chunk_set = $5'
                '  JOIN embedmill.%5$I v ON v.chunk_id = c.id AND v.embedding IS NULL'
                ' WHERE t.%1$I IS NOT NULL AND ($6 IS NULL OR d.id = $6) AND ($7 IS NULL OR d.source_id LIKE $7)'
                '   AND ($8 IS NULL OR d.metadata @> $8)'
                ' ORDER BY t.%1$I <=> $1::%2$s LIMIT $9',
                v_target.column_name, v_target.column_type, v_target.relation,
                embedmill.key_expression(v_target.key_columns, 't.'), 'vectors_' || p_generation_id)
            USING p_query, v_target.pipeline_id, v_target.name, v_target.record_source_id, v_generation.chunk_set,
                  p_document_id, p_source, p_metadata, p_limit;
        EXCEPTION
            -- A table that cannot be read any more: its source says so, and the others answer.
            WHEN syntax_error_or_access_rule_violation OR data_exception THEN
                CONTINUE;
        END;
    END LOOP;
END
$$;

-- It runs with more rights than its caller: by name only, for those who search.
REVOKE ALL ON FUNCTION embedmill.search_columns(integer, text, integer, bigint, text, jsonb) FROM PUBLIC;
DO $$
DECLARE
    v_role name;
BEGIN
    FOR v_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('embedmill_service', 'embedmill_reader') LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION '
                       'embedmill.search_columns(integer, text, integer, bigint, text, jsonb) TO %I', v_role);
    END LOOP;
END
$$;
