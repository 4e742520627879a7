-- The audit of what is counted and held, and when an audit is due. Differences between what is counted and what is there
-- are reckoned in one statement and added, so that whoever moves a counter meanwhile is not waited for.

-- What the counters of coverage are wrong by: truth less counter, where that is not nothing. Counter and truth are read
-- by one statement, and every transaction moves both together: the difference is a constant, whatever is under way.
CREATE OR REPLACE FUNCTION embedmill.audit_coverage(p_pipeline_id integer, p_record_source_id integer DEFAULT NULL)
RETURNS TABLE (generation_id integer, record_source_id integer, chunks bigint, embedded bigint, unembeddable bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v record;
BEGIN
    FOR v IN SELECT g.id, g.chunk_set FROM embedmill.generations g WHERE g.pipeline_id = p_pipeline_id ORDER BY g.id LOOP
        RETURN QUERY EXECUTE format(
            'SELECT $1, f.id, f.chunks, f.embedded, f.unembeddable FROM ('
            '  SELECT coalesce(t.id, k.record_source_id) AS id, coalesce(t.chunks, 0) - coalesce(k.chunks, 0) AS chunks,'
            '         coalesce(t.embedded, 0) - coalesce(k.embedded, 0) AS embedded,'
            '         coalesce(t.unembeddable, 0) - coalesce(k.unembeddable, 0) AS unembeddable'
            '    FROM (SELECT c.record_source_id AS id, count(*) AS chunks, count(v.chunk_id) AS embedded,'
            '                 count(*) FILTER (WHERE c.error_reason IS NOT NULL) AS unembeddable'
            '            FROM embedmill.knowledge_chunks c LEFT JOIN embedmill.%I v ON v.chunk_id = c.id'
            '           WHERE c.pipeline_id = $2 AND c.chunk_set = $3'
            '             AND ($4::integer IS NULL OR c.record_source_id = $4)'
            '           GROUP BY 1) t'
            '    FULL JOIN (SELECT * FROM embedmill.coverage_counters WHERE generation_id = $1'
            '                  AND ($4::integer IS NULL OR record_source_id = $4)) k ON k.record_source_id = t.id) f'
            ' WHERE (f.chunks, f.embedded, f.unembeddable) <> (0, 0, 0) ORDER BY f.id',
            'vectors_' || v.id)
        USING v.id, p_pipeline_id, v.chunk_set, p_record_source_id;
    END LOOP;
END
$$;

-- Adds the differences: exact beside whoever moves the counters, which are locked for the moment of the update only.
-- One at a time, or the same difference would be added twice. How many counters.
CREATE OR REPLACE FUNCTION embedmill.mend_coverage(p_pipeline_id integer, p_record_source_id integer DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_count integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('embedmill.audit'), 0);
    INSERT INTO embedmill.coverage_counters AS k (generation_id, record_source_id, chunks, embedded, unembeddable)
    SELECT a.generation_id, a.record_source_id, a.chunks, a.embedded, a.unembeddable
      FROM embedmill.audit_coverage(p_pipeline_id, p_record_source_id) AS a
    ON CONFLICT (generation_id, record_source_id) DO UPDATE
       SET chunks = k.chunks + excluded.chunks, embedded = k.embedded + excluded.embedded,
           unembeddable = k.unembeddable + excluded.unembeddable;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

-- What a source's numbers are wrong by, likewise: `rows` against its rows and the changes that wait, `documents` against
-- those that were read. NULL rows: they cannot be reckoned now (a truncation, or a change of unknown rows, waits).
-- Raises what the source's condition raises.
CREATE OR REPLACE FUNCTION embedmill.audit_record_source(
    p_record_source_id integer, OUT rows_error bigint, OUT documents_error bigint)
LANGUAGE plpgsql STABLE
SET "DateStyle" = 'ISO, YMD' SET "TimeZone" = 'UTC' SET "IntervalStyle" = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' AS $$
DECLARE
    v embedmill.table_sources;
BEGIN
    SELECT * INTO v FROM embedmill.table_sources WHERE record_source_id = p_record_source_id;
    EXECUTE format(
        'SELECT n.rows - s.rows - w.rows, n.documents - s.documents'
        '  FROM embedmill.record_sources s'
        '  LEFT JOIN embedmill.table_sources t ON t.record_source_id = s.id'
        ' CROSS JOIN LATERAL ('
        '   SELECT CASE WHEN count(*) FILTER (WHERE r.operation = ''T'' OR r.keys = ''{}'') = 0'
        '               THEN coalesce(sum(CASE r.operation WHEN ''I'' THEN cardinality(r.keys)'
        '                                                  WHEN ''D'' THEN -cardinality(r.keys) ELSE 0 END)'
        '                    FILTER (WHERE t.counted_at IS NULL OR NOT pg_visible_in_snapshot(r.xact, t.counted_at)),'
        '                    0)::bigint END AS rows'
        '     FROM embedmill.record_changes r WHERE r.record_source_id = s.id) w'
        ' CROSS JOIN LATERAL ('
        '   SELECT (SELECT count(*) FROM %s WHERE %s) AS rows,'
        '          (SELECT count(*) FROM embedmill.knowledge_documents d'
        '            WHERE d.record_source_id = s.id AND d.content_hash IS NOT NULL) AS documents) n'
        ' WHERE s.id = $1',
        CASE WHEN v.relation IS NULL THEN 'embedmill.shards' ELSE v.relation::text END,
        CASE WHEN v.relation IS NULL THEN 'record_source_id = $1 AND deleted_at IS NULL'
             WHEN v.condition IS NULL THEN 'true' ELSE format('(%s) IS TRUE', v.condition) END)
    INTO rows_error, documents_error USING p_record_source_id;
END
$$;

-- Adds the differences; whether there were any.
CREATE OR REPLACE FUNCTION embedmill.mend_record_source(p_record_source_id integer) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_rows bigint;
    v_documents bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('embedmill.audit'), 0);
    SELECT a.rows_error, a.documents_error INTO v_rows, v_documents
      FROM embedmill.audit_record_source(p_record_source_id) AS a;
    UPDATE embedmill.record_sources SET rows = rows + coalesce(v_rows, 0), documents = documents + v_documents
     WHERE id = p_record_source_id AND (coalesce(v_rows, 0) <> 0 OR v_documents <> 0);
    RETURN FOUND;
END
$$;

-- By how much the number of a tenant's live items, as it is shown, is wrong.
CREATE OR REPLACE FUNCTION embedmill.audit_live_items(p_tenant_id integer) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT (SELECT count(*) FROM embedmill.embedding_queue WHERE tenant_id = p_tenant_id)
         - coalesce((SELECT sum(items) FROM embedmill.queue_counts
                      WHERE tenant_id = p_tenant_id AND status = 'live'), 0)::bigint
         - coalesce((SELECT sum(CASE WHEN status = 'live' THEN items ELSE -items END) FROM embedmill.queue_changes
                      WHERE tenant_id = p_tenant_id AND status IN ('live', 'completed', 'failed', 'cancelled')), 0)::bigint
$$;

-- Appends the difference as a change of its own, as whoever enqueues does; it is folded with the others.
CREATE OR REPLACE FUNCTION embedmill.mend_live_items(p_tenant_id integer) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('embedmill.audit'), 0);
    INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)
    SELECT p_tenant_id, (SELECT max(g.id) FROM embedmill.generations g WHERE g.tenant_id = p_tenant_id), 'live', n.items::integer
      FROM (SELECT embedmill.audit_live_items(p_tenant_id) AS items) n
     WHERE n.items <> 0;
    RETURN FOUND;
END
$$;

-- What workers that are gone still hold of a tenant: items, sources, documents to be parsed, reserved money.
CREATE OR REPLACE FUNCTION embedmill.audit_leases(p_tenant_id integer)
RETURNS TABLE (what text, id text, worker_id uuid)
LANGUAGE sql STABLE AS $$
    WITH alive AS (
        SELECT w.worker_id FROM embedmill.embedding_queue_workers w
         WHERE w.status IN ('active', 'idle')
           AND greatest(w.heartbeat_at, pg_postmaster_start_time())
               >= clock_timestamp() - make_interval(secs => w.heartbeat_interval_ms * 2 / 1000.0))
    SELECT 'item', q.id::text, q.worker_id FROM embedmill.embedding_queue q
     WHERE q.status = 'processing' AND q.tenant_id = p_tenant_id
       AND (q.lease_deadline < clock_timestamp() - interval '30 seconds'
            OR q.worker_id NOT IN (SELECT a.worker_id FROM alive a))
    UNION ALL
    SELECT 'reader', s.name, s.reader_id FROM embedmill.record_sources s
     WHERE s.reader_id IS NOT NULL AND s.tenant_id = p_tenant_id
       AND s.reader_id NOT IN (SELECT a.worker_id FROM alive a)
    UNION ALL
    SELECT 'parser', r.job_id::text, r.worker_id FROM embedmill.parse_queue r
     WHERE r.lease_token IS NOT NULL AND r.tenant_id = p_tenant_id
       AND (r.lease_deadline < clock_timestamp() - interval '30 seconds'
            OR r.worker_id NOT IN (SELECT a.worker_id FROM alive a))
    UNION ALL
    SELECT 'reservation', b.call_id::text, b.worker_id
      FROM embedmill.budget_reservations b LEFT JOIN embedmill.embedding_queue_workers w ON w.worker_id = b.worker_id
     WHERE b.tenant_id = p_tenant_id
       AND CASE WHEN w.worker_id IS NULL THEN b.created_at < now() - interval '15 minutes'
                ELSE w.worker_id NOT IN (SELECT a.worker_id FROM alive a) END
$$;

-- Takes from dead workers what they hold, of all tenants.
CREATE OR REPLACE FUNCTION embedmill.mend_leases() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM embedmill.rescue_items('{}');
    PERFORM embedmill.rescue_parsing();
    UPDATE embedmill.record_sources s SET reader_id = NULL, reader_token = NULL, reader_deadline = NULL
     WHERE s.reader_id IS NOT NULL
       AND NOT EXISTS (SELECT FROM embedmill.embedding_queue_workers w
                        WHERE w.worker_id = s.reader_id AND w.status IN ('active', 'idle'));
    PERFORM embedmill.release_dead_reservations();
END
$$;

-- Orders an audit for each tenant whose last one is older than `audit_interval_hours`, or whose first is due: by as many
-- hours after it was made. Returns how many.
CREATE OR REPLACE FUNCTION embedmill.order_due_audits() RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_hours bigint := embedmill.config_integer('audit_interval_hours');
    v_count integer := 0;
BEGIN
    IF v_hours = 0 OR NOT pg_try_advisory_xact_lock(hashtext('embedmill.audit'), 1) THEN
        RETURN 0;
    END IF;
    INSERT INTO embedmill.audits (tenant_id, is_repair, progress, actor)
    SELECT t.id, r.is_repair,
           jsonb_build_object('carrier', 'worker', 'mends', CASE WHEN r.is_repair THEN 'all' ELSE 'books' END), 'schedule'
      FROM embedmill.tenants t
     CROSS JOIN (SELECT value::boolean AS is_repair FROM embedmill.embedding_queue_config WHERE key = 'audit_repair') r
     WHERE EXISTS (SELECT FROM embedmill.knowledge_documents d WHERE d.tenant_id = t.id LIMIT 1)
       AND greatest(t.created_at, (SELECT max(a.started_at) FROM embedmill.audits a
                                    WHERE a.tenant_id = t.id AND a.actor = 'schedule'))
           < now() - make_interval(hours => v_hours::integer)
       AND NOT EXISTS (SELECT FROM embedmill.audits a
                        WHERE a.tenant_id = t.id AND a.actor = 'schedule' AND a.ended_at IS NULL
                          AND a.started_at > now() - interval '7 days');
    GET DIAGNOSTICS v_count = ROW_COUNT;
    DELETE FROM embedmill.audits
     WHERE started_at < now() - make_interval(days => embedmill.config_integer('history_retention_days')::integer);
    RETURN v_count;
END
$$;
