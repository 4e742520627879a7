-- Tables as they are: whether a condition can be used, and what became of a table since it was added. Mends what needs no
-- person, and tells the rest in a sentence that says what to do.

-- A condition as it is kept: every name in it with its schema, so that it means the same under any search path, and the
-- columns that it looks at. Raises what is wrong with it. It is tried as a CHECK of an empty copy of the table, where
-- sub-queries, aggregates and functions that return sets are refused; and what reads the clock, changes by itself, or
-- belongs to somebody else (it would run with our rights whenever anybody writes) is refused here.
CREATE OR REPLACE FUNCTION embedmill.check_condition(
    p_relation regclass, p_condition text, OUT condition text, OUT columns text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_name text;
    v_schema text;
    v_copy text;
    v_cursor refcursor;
    v_tree text;
    v_columns int2[];
    v_function record;
BEGIN
    SELECT c.relname, n.nspname INTO v_name, v_schema
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = p_relation;
    v_copy := format('pg_temp.%I', v_name);
    EXECUTE format('CREATE TEMPORARY TABLE %I (LIKE %s)', v_name, p_relation);
    PERFORM set_config('search_path', format('pg_catalog, %I, public, pg_temp%s', v_schema, (
        SELECT string_agg(DISTINCT ', ' || quote_ident(n.nspname), '')
          FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE n.nspname NOT IN ('pg_catalog', 'public', v_schema))), true);
    -- A cursor takes one statement only: nothing that closes the parenthesis and goes on gets through.
    OPEN v_cursor FOR EXECUTE format(E'SELECT (%s\n) FROM %s', p_condition, v_copy);
    CLOSE v_cursor;
    EXECUTE format(E'ALTER TABLE %s ADD CONSTRAINT embedmill_condition CHECK ((%s\n)) NOT VALID', v_copy, p_condition);
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT pg_get_expr(k.conbin, k.conrelid), k.conbin::text, k.conkey INTO condition, v_tree, v_columns
      FROM pg_constraint k WHERE k.conrelid = v_copy::regclass AND k.conname = 'embedmill_condition';
    columns := ARRAY(SELECT a.attname FROM pg_attribute a
                      WHERE a.attrelid = v_copy::regclass AND a.attnum = ANY (v_columns) ORDER BY a.attnum);
    EXECUTE format('DROP TABLE %s', v_copy);
    IF v_tree ~ ':varattno (0|-\d+) ' THEN
        RAISE EXCEPTION 'it may look at columns only, not at whole rows or system columns'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF cardinality(columns) = 0 THEN
        RAISE EXCEPTION 'it looks at no column' USING ERRCODE = 'invalid_parameter_value';
    ELSIF v_tree ~ '\{(SQLVALUEFUNCTION|NEXTVALUEEXPR) ' THEN
        RAISE EXCEPTION 'it must depend on the row alone, not on the time or on who asks'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR v_function IN
        SELECT p.oid::regprocedure AS name, p.provolatile, p.proowner,
               p.pronamespace = 'pg_catalog'::regnamespace AND (p.proname LIKE '%timestamp' AND p.pronargs = 0
               OR p.proname IN ('now', 'current_setting', 'pg_is_in_recovery', 'txid_current', 'pg_current_xact_id_if_assigned',
                                'getpgusername', 'age') AND (p.proname <> 'age' OR p.pronargs = 1)) AS reads_the_moment
          FROM (SELECT m[1]::oid AS oid FROM regexp_matches(v_tree, ':funcid (\d+)', 'g') AS m
                UNION SELECT o.oprcode FROM regexp_matches(v_tree, ':opno (\d+)', 'g') AS m
                        JOIN pg_operator o ON o.oid = m[1]::oid) f
          JOIN pg_proc p ON p.oid = f.oid
         ORDER BY 1
    LOOP
        IF v_function.provolatile = 'v' OR v_function.reads_the_moment THEN
            RAISE EXCEPTION 'it must depend on the row alone, and % does not', v_function.name
                USING ERRCODE = 'invalid_parameter_value';
        ELSIF v_function.proowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
              AND NOT (SELECT rolsuper FROM pg_roles WHERE oid = v_function.proowner) THEN
            RAISE EXCEPTION 'the function % belongs to %, and would run with the rights of % whenever a row is written',
                v_function.name, v_function.proowner::regrole, current_user
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
END
$$;

-- What stands in the way of reading a table as it was added, in a sentence that says what to do; NULL: nothing.
CREATE OR REPLACE FUNCTION embedmill.find_table_trouble(p_record_source_id integer) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v embedmill.table_sources;
    v_name text;
    v_typed text;           -- the name as it is typed in a shell
    v_trouble text;
BEGIN
    SELECT * INTO STRICT v FROM embedmill.table_sources WHERE record_source_id = p_record_source_id;
    SELECT name INTO STRICT v_name FROM embedmill.record_sources WHERE id = p_record_source_id;
    v_typed := CASE WHEN v_name ~ '^[a-z0-9_.]+$' THEN v_name ELSE quote_literal(v_name) END;
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = v.relation) THEN
        RETURN format('the table %s was dropped: `embedmill table remove %s` ends it', v_name, v_typed);
    END IF;
    SELECT format('%s has the foreign table %s among its partitions, with which triggers would fail writes: they were '
                  'taken off; detach it, then `embedmill table resume %s`', v_name, f.relation::regclass, v_typed)
      INTO v_trouble FROM embedmill.table_family(v.relation) AS f WHERE f.relkind = 'f' LIMIT 1;
    IF v_trouble IS NOT NULL THEN
        RETURN v_trouble;
    END IF;
    SELECT format('%s is a partition or child of %s now, and what is written through that is not seen: '
                  '`embedmill table remove %s`, then add %2$s', v_name, i.inhparent::regclass, v_typed)
      INTO v_trouble FROM pg_inherits i WHERE i.inhrelid = v.relation LIMIT 1;
    IF v_trouble IS NOT NULL THEN
        RETURN v_trouble;
    END IF;
    SELECT format('the column %s of %s %s: `embedmill table alter %s %s`', w.key, v_name,
                  CASE WHEN a.attname IS NULL OR a.attisdropped THEN 'was dropped'
                       ELSE format('is called %s now', a.attname) END,
                  v_typed,
                  CASE WHEN w.key = ANY (v.key_columns) THEN '--key COLUMNS'
                       WHEN w.key = v.target_column THEN '--into column NAME'
                       ELSE concat_ws(' ',
                           CASE WHEN w.key <> ALL (v.columns || v.metadata_columns) AND v.condition IS NOT NULL
                                THEN '--where CONDITION' END,
                           CASE WHEN w.key = ANY (v.metadata_columns) THEN '--metadata COLUMNS' END,
                           CASE WHEN w.key = ANY (v.columns) OR v.condition IS NULL AND w.key <> ALL (v.metadata_columns)
                                THEN '--content TEMPLATE' END) END)
      INTO v_trouble
      FROM jsonb_each(v.watched) AS w
      LEFT JOIN pg_attribute a ON a.attrelid = v.relation AND a.attnum = (w.value ->> 0)::smallint
     WHERE (a.attname IS DISTINCT FROM w.key OR a.attisdropped)
       -- One that was dropped and made anew is looked at by its name.
       AND NOT EXISTS (SELECT FROM pg_attribute n
                        WHERE n.attrelid = v.relation AND n.attname = w.key AND NOT n.attisdropped)
     ORDER BY w.key = ANY (v.key_columns) DESC, w.key LIMIT 1;
    IF v_trouble IS NOT NULL THEN
        RETURN v_trouble;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index i
         WHERE i.indrelid = v.relation AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
           AND ARRAY(SELECT a.attname::text COLLATE "C"
                       FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
                       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND a.attnotnull
                      WHERE k.n <= i.indnkeyatts ORDER BY 1)
               = ARRAY(SELECT c COLLATE "C" FROM unnest(v.key_columns) AS c ORDER BY 1))
    THEN
        RETURN format('nothing makes (%s) unique in %s any more: add a primary key, or a unique index over NOT '
                      'NULL columns, or '
                      '`embedmill table alter %s --key COLUMNS`',
                      array_to_string(v.key_columns, ', '), v_name, v_typed);
    END IF;
    SELECT format('the role %I lacks rights on %s: GRANT SELECT, TRIGGER ON %2$s TO %1$I', current_user,
                  f.relation::regclass)
      INTO v_trouble FROM embedmill.table_family(v.relation) AS f
     WHERE NOT has_table_privilege(f.relation, 'SELECT') OR NOT has_table_privilege(f.relation, 'TRIGGER') LIMIT 1;
    IF v_trouble IS NOT NULL THEN
        RETURN v_trouble;
    END IF;
    SELECT format('triggers on %s are switched off, and what is written is not seen: ALTER TABLE %1$s ENABLE TRIGGER '
                  'ALL, then `embedmill table alter %s --reread`', f.relation::regclass, v_typed)
      INTO v_trouble
      FROM embedmill.table_family(v.relation) AS f
      JOIN pg_trigger t ON t.tgrelid = f.relation AND t.tgenabled NOT IN ('O', 'A')
       AND t.tgname LIKE format('embedmill\_%s\_%%', p_record_source_id) LIMIT 1;
    RETURN v_trouble;
END
$$;

-- All rows of a source are to be looked at anew, and documents whose rows are gone: rows may have come, changed or gone
-- without a trigger that saw it.
CREATE OR REPLACE FUNCTION embedmill.reread_table_source(p_record_source_id integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant_id integer;
BEGIN
    SELECT tenant_id INTO STRICT v_tenant_id FROM embedmill.record_sources
     WHERE id = p_record_source_id FOR NO KEY UPDATE;
    PERFORM embedmill.begin_walk(p_record_source_id, true);
    INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
    VALUES (p_record_source_id, v_tenant_id, 'T', '{}');
    -- Its rows are counted by whoever reads it next: the caller may hold a lock that keeps users from writing.
    UPDATE embedmill.record_sources SET rows = NULL WHERE id = p_record_source_id;
    UPDATE embedmill.table_sources SET counted_at = NULL WHERE record_source_id = p_record_source_id;
END
$$;

-- Mends what can be mended without a person: partitions that came or went, triggers that were dropped, columns of
-- another type. Raises lock_not_available where the table is busy.
CREATE OR REPLACE FUNCTION embedmill.mend_table_source(p_record_source_id integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v embedmill.table_sources;
    v_family oid[];
    v_bare oid[];           -- lack a trigger
    v_relation oid;
    v_trigger name;
    v_watched jsonb;
    v_function text := 'record_source_' || p_record_source_id;
BEGIN
    SELECT * INTO STRICT v FROM embedmill.table_sources WHERE record_source_id = p_record_source_id;
    SELECT array_agg(f.relation ORDER BY f.relation),
           array_agg(f.relation) FILTER (
               WHERE (SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                       WHERE t.tgrelid = f.relation AND p.pronamespace = 'embedmill'::regnamespace
                         AND p.proname = v_function) < 4)
      INTO v_family, v_bare FROM embedmill.table_family(v.relation) AS f;
    SELECT jsonb_object_agg(w.key, jsonb_build_array(a.attnum, format_type(a.atttypid, a.atttypmod))) INTO v_watched
      FROM jsonb_each(v.watched) AS w
      JOIN pg_attribute a ON a.attrelid = v.relation AND a.attname = w.key AND NOT a.attisdropped;
    -- Those of an older version, which do not name their source: they have missed nothing.
    FOR v_relation IN
        SELECT t.tgrelid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = ANY (v_family) AND p.pronamespace = 'embedmill'::regnamespace AND p.proname = v_function
           AND t.tgname = format('embedmill_%s_update', p_record_source_id)
           AND strpos(pg_get_triggerdef(t.oid), format('IS DISTINCT FROM ''%s''', p_record_source_id)) = 0
         ORDER BY 1
    LOOP
        PERFORM embedmill.attach_table_triggers(p_record_source_id, v_relation);
    END LOOP;
    IF v_bare IS NULL AND v_family = v.relations AND v_watched = v.watched THEN
        IF v.counted_at IS NULL THEN
            PERFORM embedmill.count_table_source(p_record_source_id);
        END IF;
        RETURN;
    END IF;
    UPDATE embedmill.table_sources
       SET relations = v_family, watched = v_watched,
           key_types = ARRAY(SELECT v_watched -> c ->> 1 FROM unnest(v.key_columns) WITH ORDINALITY AS k (c, n) ORDER BY n)
     WHERE record_source_id = p_record_source_id;
    PERFORM embedmill.install_table_function(p_record_source_id);
    FOR v_relation IN SELECT unnest(v_bare) ORDER BY 1 LOOP
        PERFORM embedmill.attach_table_triggers(p_record_source_id, v_relation);
    END LOOP;
    FOR v_relation, v_trigger IN
        SELECT t.tgrelid, t.tgname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid <> ALL (v_family) AND p.pronamespace = 'embedmill'::regnamespace AND p.proname = v_function
    LOOP
        BEGIN
            EXECUTE format('DROP TRIGGER %I ON %s', v_trigger, v_relation::regclass);
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;  -- its owner's to drop; it only tells of keys that are not found
        END;
    END LOOP;
    PERFORM embedmill.reread_table_source(p_record_source_id);
END
$$;

-- Notices what became of a source's table, mends what it can, and keeps the rest as the source's trouble, until it is
-- well again. Returns the trouble.
CREATE OR REPLACE FUNCTION embedmill.check_table_source(p_record_source_id integer) RETURNS text
LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    v_before text;
    v_relation oid;
    v_trouble text;
BEGIN
    SELECT drift, relation INTO v_before, v_relation
      FROM embedmill.table_sources WHERE record_source_id = p_record_source_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    BEGIN
        v_trouble := embedmill.find_table_trouble(p_record_source_id);
        IF v_trouble IS NULL THEN
            PERFORM embedmill.mend_table_source(p_record_source_id);
            PERFORM embedmill.keep_source_view(p_record_source_id);
        ELSIF EXISTS (SELECT FROM embedmill.table_family(v_relation) AS f WHERE f.relkind = 'f') THEN
            PERFORM embedmill.detach_table_source(p_record_source_id);
        END IF;
    EXCEPTION
        WHEN lock_not_available OR deadlock_detected THEN
            RETURN v_before;  -- it is busy: the next time
        WHEN insufficient_privilege THEN
            v_trouble := 'its triggers cannot be mended: ' || SQLERRM;
        WHEN data_exception THEN
            v_trouble := format('its condition fails on some row (SQLSTATE %s): `embedmill table alter %s --where CONDITION`',
                                SQLSTATE, v_relation::regclass);
    END;
    UPDATE embedmill.table_sources SET drift = v_trouble
     WHERE record_source_id = p_record_source_id AND drift IS DISTINCT FROM v_trouble;
    UPDATE embedmill.record_sources SET trouble = v_trouble
     WHERE id = p_record_source_id AND trouble IS DISTINCT FROM v_trouble
       AND (v_trouble IS NOT NULL OR trouble = v_before);
    RETURN v_trouble;
END
$$;

-- (sweep) All of them; and what was counted for sources that are gone is counted for none. Returns how many are in
-- trouble.
CREATE OR REPLACE FUNCTION embedmill.check_table_sources() RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_id integer;
    v_troubled integer := 0;
BEGIN
    FOR v_id IN SELECT record_source_id FROM embedmill.table_sources ORDER BY 1 LOOP
        v_troubled := v_troubled + (embedmill.check_table_source(v_id) IS NOT NULL)::integer;
    END LOOP;
    WITH orphans AS (
        DELETE FROM embedmill.coverage_counters k
         WHERE k.record_source_id <> 0
           AND NOT EXISTS (SELECT FROM embedmill.record_sources s WHERE s.id = k.record_source_id)
        RETURNING k.generation_id, k.chunks, k.embedded, k.unembeddable
    ) INSERT INTO embedmill.coverage_counters AS k (generation_id, record_source_id, chunks, embedded, unembeddable)
      SELECT generation_id, 0, sum(chunks), sum(embedded), sum(unembeddable) FROM orphans
       GROUP BY generation_id ORDER BY generation_id
      ON CONFLICT (generation_id, record_source_id) DO UPDATE
         SET chunks = k.chunks + excluded.chunks, embedded = k.embedded + excluded.embedded,
             unembeddable = k.unembeddable + excluded.unembeddable;
    RETURN v_troubled;
END
$$;

-- Trigger functions are written by this version's generator; those of tables in trouble stay as they are.
DO $$
DECLARE
    v_id integer;
BEGIN
    FOR v_id IN SELECT record_source_id FROM embedmill.table_sources ORDER BY 1 LOOP
        IF embedmill.find_table_trouble(v_id) IS NULL THEN
            PERFORM embedmill.install_table_function(v_id);
        END IF;
    END LOOP;
END
$$;
