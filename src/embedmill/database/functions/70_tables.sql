-- Tables whose rows are kept embedded: the triggers on them. They write down which rows to look at, in the writer's own
-- transaction, and must neither fail what a user writes nor slow it: hence
--   * one static function for each source, with its key, columns and condition compiled in, and no look at our own tables;
--   * for each statement and not for each row; what was changed elsewhere is found out by comparing, and writes nothing;
--   * whatever goes wrong in reading the rows (a condition that divides by zero, a column that was renamed) is caught:
--     then their keys are written without a closer look, or, where even those are not to be had, `U` with no keys,
--     which means: look at all rows.
-- A small statement is read within the exception block and written after it, because a block that writes costs a
-- transaction number of its own: thousands of single statements in one transaction would use up what the server keeps
-- at hand for those.

-- How a value is compared and hashed. Where equal values can read differently (1.0 and 1.00, citext, collations that
-- ignore case), as text: the text is what is embedded.
CREATE OR REPLACE FUNCTION embedmill.compared_column(p_relation regclass, p_column text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN b.typtype = 'e' OR b.oid = ANY (ARRAY[
                     'int2', 'int4', 'int8', 'oid', 'uuid', 'bool', 'date', 'timestamp', 'timestamptz', 'time',
                     'bytea']::regtype[])
                THEN format('%I', p_column) ELSE format('%I::text COLLATE pg_catalog."C"', p_column) END
      FROM pg_attribute a
      JOIN pg_type t ON t.oid = a.atttypid
      JOIN pg_type b ON b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
     WHERE a.attrelid = p_relation AND a.attname = p_column AND NOT a.attisdropped
$$;

-- The key of a row as its document's source_id: of one column its text, of several a JSON array of texts.
CREATE OR REPLACE FUNCTION embedmill.key_expression(p_key_columns text[], p_prefix text DEFAULT '') RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN cardinality(p_key_columns) = 1 THEN format('%s%I::text', p_prefix, p_key_columns[1])
                ELSE (SELECT format('jsonb_build_array(%s)::text',
                                    string_agg(format('%s%I::text', p_prefix, c), ', ' ORDER BY n))
                        FROM unnest(p_key_columns) WITH ORDINALITY AS u (c, n)) END
$$;

-- A table with its partitions and what inherits from it: a statement fires the triggers of the table that it names.
CREATE OR REPLACE FUNCTION embedmill.table_family(p_relation regclass) RETURNS TABLE (relation oid, relkind "char")
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE family AS (
        SELECT p_relation::oid AS oid
        UNION SELECT i.inhrelid FROM family f JOIN pg_inherits i ON i.inhparent = f.oid
    ) SELECT c.oid, c.relkind FROM family f JOIN pg_class c ON c.oid = f.oid ORDER BY c.oid
$$;

-- The statement that writes down what a query gives as k (a key) and operation, where no p_operation is the same for all
-- of it: up to 500 keys in a row.
CREATE OR REPLACE FUNCTION embedmill.noting_statement(
    p_record_source_id integer, p_tenant_id integer, p_query text, p_operation text DEFAULT NULL)
RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT format(
        'INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys) '
        'SELECT %s, %s, %s, array_agg(k)'
        '  FROM (SELECT *, (row_number() OVER () - 1) / 500 AS part FROM (%s) AS changed) AS numbered'
        ' GROUP BY part %s',
        p_record_source_id, p_tenant_id, coalesce(quote_literal(p_operation), 'operation::"char"'), p_query,
        CASE WHEN p_operation IS NULL THEN ', operation' ELSE '' END)
$$;

-- Makes, or makes anew, the trigger function of a source: no lock on its table is needed for it.
CREATE OR REPLACE FUNCTION embedmill.install_table_function(p_record_source_id integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v embedmill.table_sources;
    v_key text;             -- as text
    v_holds text;           -- the condition
    v_rows text;            -- rows, with their key as text, what is compared, whether they count: FROM is to follow
    v_insert_many text;
    v_delete_many text;
    v_many text;
    v_same_key text;
    v_differs text;
    v_hash text;
    v_update text;
    v_new text;             -- keys, whatever the condition says
    v_old text;
    v_inserted text;        -- keys of rows for which it holds
    v_deleted text;
    v_fits text := '';      -- AND what a key must be to stand in an index
    v_short_types oid[] := ARRAY['int2', 'int4', 'int8', 'oid', 'uuid', 'date', 'timestamp', 'timestamptz', 'bool']::regtype[];
BEGIN
    SELECT * INTO STRICT v FROM embedmill.table_sources WHERE record_source_id = p_record_source_id;
    v_key := embedmill.key_expression(v.key_columns);
    IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = v.relation AND a.attname = ANY (v.key_columns)
                  AND a.atttypid <> ALL (v_short_types))
    THEN
        v_fits := format(' AND octet_length(%s) <= 2000', v_key);
    END IF;
    v_holds := CASE WHEN v.condition IS NULL THEN 'true' ELSE format('(%s) IS TRUE', v.condition) END;
    SELECT format('SELECT %s AS embedmill_key, %s AS embedmill_holds, %s FROM ', v_key, v_holds,
                  string_agg(format('%s AS embedmill_%s', embedmill.compared_column(v.relation, w.name), w.n), ', '
                             ORDER BY w.n)),
           string_agg(format('o.embedmill_%s = n.embedmill_%1$s', w.n), ' AND ' ORDER BY w.n) FILTER (WHERE w.is_key),
           coalesce(string_agg(format(' OR o.embedmill_%s IS DISTINCT FROM n.embedmill_%1$s', w.n), '' ORDER BY w.n)
                    FILTER (WHERE NOT w.is_key), ''),
           format('SELECT bit_xor(hash_record_extended(ROW(embedmill_holds, %s), 0)) FROM',
                  string_agg(format('embedmill_%s', w.n), ', ' ORDER BY w.n))
      INTO v_rows, v_same_key, v_differs, v_hash
      FROM (SELECT row_number() OVER () AS n, name, is_key
              FROM (SELECT unnest(v.key_columns) AS name, true AS is_key
                    UNION ALL
                    SELECT DISTINCT c, false FROM unnest(v.columns || v.metadata_columns) AS c
                     WHERE c <> ALL (v.key_columns)) named) w;
    v_new := format('SELECT %s AS k FROM embedmill_new WHERE true%s', v_key, v_fits);
    v_old := format('SELECT %s AS k FROM embedmill_old WHERE true%s', v_key, v_fits);
    v_inserted := v_new || ' AND ' || v_holds;
    v_deleted := v_old || ' AND ' || v_holds;
    v_update := format(
        'SELECT CASE WHEN n.embedmill_holds THEN n.embedmill_key ELSE o.embedmill_key END AS k,'
        '       CASE WHEN n.embedmill_holds IS NOT TRUE THEN ''D'' WHEN o.embedmill_holds IS NOT TRUE THEN ''I'''
        '            ELSE ''U'' END AS operation'
        '  FROM (%sembedmill_old WHERE true%s) AS o FULL JOIN (%sembedmill_new WHERE true%s) AS n ON %s'
        ' WHERE (o.embedmill_holds OR n.embedmill_holds)'
        '   AND (o.embedmill_holds IS DISTINCT FROM n.embedmill_holds%s)',
        v_rows, v_fits, v_rows, v_fits, v_same_key, v_differs);
    v_insert_many := embedmill.noting_statement(p_record_source_id, v.tenant_id, v_inserted, 'I');
    v_delete_many := embedmill.noting_statement(p_record_source_id, v.tenant_id, v_deleted, 'D');
    -- Where elements of an array stand at known places, one array that is cut up costs a fifth of grouping.
    IF cardinality(v.key_columns) = 1 AND v_fits = '' THEN
        v_many := format(
            'INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)'
            ' SELECT %s, %s, %%L, (a[i:i + 499])::text[]'
            '   FROM (SELECT array_agg(%%I) AS a FROM %%I WHERE %%s OFFSET 0) AS collected,'
            '        generate_series(1, cardinality(a), 500) AS i', p_record_source_id, v.tenant_id);
        v_insert_many := format(v_many, 'I', v.key_columns[1], 'embedmill_new', v_holds);
        v_delete_many := format(v_many, 'D', v.key_columns[1], 'embedmill_old', v_holds);
    END IF;
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION embedmill.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
        ' SET search_path = pg_catalog, pg_temp SET row_security = on %s AS %L',
        'record_source_' || p_record_source_id,
        -- What a value reads like must not depend on who writes it.
        CASE WHEN v.condition IS NOT NULL OR EXISTS (
                 SELECT FROM unnest(v.key_columns || v.columns || v.metadata_columns) AS c
                   JOIN pg_attribute a ON a.attrelid = v.relation AND a.attname = c
                   JOIN pg_type t ON t.oid = a.atttypid
                  WHERE t.typcategory NOT IN ('S', 'B', 'E') AND t.oid <> ALL (
                        ARRAY['int2', 'int4', 'int8', 'uuid', 'numeric', 'jsonb', 'json']::regtype[]))
             THEN 'SET "DateStyle" = ''ISO, YMD'' SET "TimeZone" = ''UTC'' SET "IntervalStyle" = ''postgres'''
                  ' SET extra_float_digits = 1 SET bytea_output = ''hex'''
             ELSE '' END,
        format($function$
#variable_conflict use_column
DECLARE
    embedmill_inserted text[];
    embedmill_updated text[];
    embedmill_deleted text[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
        VALUES (%1$s, %2$s, 'T', '{}');
        RETURN NULL;
    END IF;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            embedmill_inserted := ARRAY(SELECT k FROM (%3$s) AS changed LIMIT 501);
            IF cardinality(embedmill_inserted) > 500 THEN
                embedmill_inserted := NULL;
                %4$s;
            END IF;
        ELSIF TG_OP = 'DELETE' THEN
            embedmill_deleted := ARRAY(SELECT k FROM (%5$s) AS changed LIMIT 501);
            IF cardinality(embedmill_deleted) > 500 THEN
                embedmill_deleted := NULL;
                %6$s;
            END IF;
        ELSIF NOT EXISTS (SELECT FROM embedmill_old OFFSET 500) THEN
            SELECT array_agg(k) FILTER (WHERE operation = 'I'), array_agg(k) FILTER (WHERE operation = 'U'),
                   array_agg(k) FILTER (WHERE operation = 'D')
              INTO embedmill_inserted, embedmill_updated, embedmill_deleted
              FROM (%7$s) AS changed;
        -- Of many rows a sum over each side first: a change of something else is through with that, without a join.
        ELSIF (%8$s) IS DISTINCT FROM (%9$s) THEN
            %10$s;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            EXECUTE CASE TG_OP WHEN 'INSERT' THEN %11$L WHEN 'DELETE' THEN %12$L ELSE %13$L END;
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
            VALUES (%1$s, %2$s, 'U', '{}');
        END;
        RETURN NULL;
    END;
    IF embedmill_deleted <> '{}' THEN
        INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
        VALUES (%1$s, %2$s, 'D', embedmill_deleted);
    END IF;
    IF embedmill_inserted <> '{}' THEN
        INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
        VALUES (%1$s, %2$s, 'I', embedmill_inserted);
    END IF;
    IF embedmill_updated <> '{}' THEN
        INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
        VALUES (%1$s, %2$s, 'U', embedmill_updated);
    END IF;
    RETURN NULL;
END
$function$,
            p_record_source_id, v.tenant_id,
            v_inserted, v_insert_many, v_deleted, v_delete_many,
            v_update,
            format('%s (%sembedmill_old) AS o', v_hash, v_rows),
            format('%s (%sembedmill_new) AS n', v_hash, v_rows),
            embedmill.noting_statement(p_record_source_id, v.tenant_id, v_update),
            embedmill.noting_statement(p_record_source_id, v.tenant_id, v_new, 'U'),
            embedmill.noting_statement(p_record_source_id, v.tenant_id, v_old, 'U'),
            embedmill.noting_statement(p_record_source_id, v.tenant_id, v_new || ' UNION ' || v_old, 'U')));
    EXECUTE format('REVOKE ALL ON FUNCTION embedmill.%I() FROM PUBLIC', 'record_source_' || p_record_source_id);
END
$$;

-- Puts the triggers on one table. Writers wait for it, and it for them: the caller sets a lock_timeout.
CREATE OR REPLACE FUNCTION embedmill.attach_table_triggers(p_record_source_id integer, p_relation regclass) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_operation text;
    v_tables text;
BEGIN
    FOR v_operation, v_tables IN
        VALUES ('INSERT', 'REFERENCING NEW TABLE AS embedmill_new'),
               ('UPDATE', 'REFERENCING OLD TABLE AS embedmill_old NEW TABLE AS embedmill_new'),
               ('DELETE', 'REFERENCING OLD TABLE AS embedmill_old'), ('TRUNCATE', '')
    LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT %s EXECUTE FUNCTION embedmill.%I()',
            format('embedmill_%s_%s', p_record_source_id, lower(v_operation)), v_operation, p_relation, v_tables,
            -- Vectors that we write ourselves into a column of this source's table. What a user's trigger does to another
            -- table meanwhile is no writing of ours.
            CASE WHEN v_operation = 'UPDATE'
                 THEN format('WHEN (pg_catalog.current_setting(''embedmill.is_writing'', true) IS DISTINCT FROM %L)',
                             p_record_source_id::text)
                 ELSE '' END,
            'record_source_' || p_record_source_id);
    END LOOP;
END
$$;

-- The function of a source, and its triggers on the table and all of its partitions.
CREATE OR REPLACE FUNCTION embedmill.attach_table_source(p_record_source_id integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_relation oid;
    v_relations oid[];
BEGIN
    PERFORM embedmill.install_table_function(p_record_source_id);
    SELECT array_agg(f.relation ORDER BY f.relation) INTO v_relations
      FROM embedmill.table_sources s, embedmill.table_family(s.relation) AS f
     WHERE s.record_source_id = p_record_source_id;
    FOREACH v_relation IN ARRAY v_relations LOOP
        PERFORM embedmill.attach_table_triggers(p_record_source_id, v_relation);
    END LOOP;
    UPDATE embedmill.table_sources SET relations = v_relations WHERE record_source_id = p_record_source_id;
    PERFORM embedmill.make_source_view(p_record_source_id);
    RETURN cardinality(v_relations);
END
$$;

-- Takes the triggers off: they go with their function, for which one need not own the table.
CREATE OR REPLACE FUNCTION embedmill.detach_table_source(p_record_source_id integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DROP FUNCTION IF EXISTS embedmill.%I() CASCADE', 'record_source_' || p_record_source_id);
END
$$;

-- Counts the rows of a source, in a snapshot that is kept: changes that it saw already are not counted again. Whoever
-- saves what was read of the source waits meanwhile. Raises what the condition raises on some row.
CREATE OR REPLACE FUNCTION embedmill.count_table_source(p_record_source_id integer) RETURNS bigint
LANGUAGE plpgsql
SET "DateStyle" = 'ISO, YMD' SET "TimeZone" = 'UTC' SET "IntervalStyle" = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' AS $$
DECLARE
    v embedmill.table_sources;
    v_rows bigint;
    v_snapshot pg_snapshot;
BEGIN
    PERFORM FROM embedmill.record_sources WHERE id = p_record_source_id FOR NO KEY UPDATE;
    SELECT * INTO STRICT v FROM embedmill.table_sources WHERE record_source_id = p_record_source_id;
    EXECUTE format('SELECT count(*), pg_current_snapshot() FROM %s WHERE %s', v.relation,
                   CASE WHEN v.condition IS NULL THEN 'true' ELSE format('(%s) IS TRUE', v.condition) END)
       INTO v_rows, v_snapshot;
    UPDATE embedmill.record_sources SET rows = v_rows WHERE id = p_record_source_id;
    UPDATE embedmill.table_sources SET counted_at = v_snapshot WHERE record_source_id = p_record_source_id;
    RETURN v_rows;
END
$$;
