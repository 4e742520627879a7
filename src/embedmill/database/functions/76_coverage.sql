-- Coverage and activity: how complete the vectors of each source are, from counters and indexes and never by a scan of
-- documents, chunks or vectors.

-- Whether whoever calls sees this tenant: the owner sees all, others the tenant that their transaction names. For functions
-- that read the lanes with the owner's rights: comparing a priority is not leakproof, so that under row-level security it
-- is no key to an index, and all that waits would be read and sorted.
CREATE OR REPLACE FUNCTION embedmill.caller_sees(p_tenant_id integer) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(embedmill.current_tenant_id() = p_tenant_id, false)
        OR pg_has_role(CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END,
                       (SELECT relowner FROM pg_class WHERE oid = 'embedmill.generations'::regclass), 'MEMBER')
$$;

-- Of what waits of a tenant: since when the oldest does that could be taken (the head of each lane), and what waits for a
-- later time, counted up to 10,000 in each lane.
CREATE OR REPLACE FUNCTION embedmill.waiting_items(
    p_tenant_id integer, OUT oldest_at timestamptz, OUT rate_limited bigint, OUT backing_off bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off
    SET jit = off AS $$
    SELECT min(head.available_at), coalesce(sum(later.rate_limited), 0)::bigint, coalesce(sum(later.backing_off), 0)::bigint
      FROM embedmill.generations g
     CROSS JOIN unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
      LEFT JOIN LATERAL (
            SELECT q.available_at FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at <= now()
             ORDER BY q.available_at, q.id LIMIT 1) head ON true
      LEFT JOIN LATERAL (
            SELECT count(*) FILTER (WHERE l.status = 'rate_limited') AS rate_limited,
                   count(*) FILTER (WHERE l.status = 'pending') AS backing_off
              FROM (SELECT q.status FROM embedmill.embedding_queue q
                     WHERE q.generation_id = g.id AND q.priority = lane.priority
                       AND q.status IN ('pending', 'rate_limited') AND q.available_at > now()
                     ORDER BY q.available_at, q.id LIMIT 10000) l) later ON true
     WHERE g.tenant_id = p_tenant_id AND (SELECT embedmill.caller_sees(p_tenant_id))
$$;

-- What of a generation waits in the queue: how many items (10,000 of each lane are counted), and of the oldest 100 of
-- each lane since when, by the source of records that they are of.
CREATE OR REPLACE FUNCTION embedmill.oldest_items(p_generation_id integer)
RETURNS TABLE (record_source_id integer, since timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
    SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
    SELECT coalesce(d.record_source_id, 0), min(h.created_at)
      FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
     CROSS JOIN LATERAL (
        SELECT q.document_id, q.created_at FROM embedmill.embedding_queue q
         WHERE q.generation_id = p_generation_id AND q.priority = lane.priority
           AND q.status IN ('pending', 'rate_limited')
         ORDER BY q.available_at, q.id LIMIT 100) h
      LEFT JOIN embedmill.knowledge_documents d ON d.id = h.document_id
     WHERE (SELECT embedmill.caller_sees(g.tenant_id) FROM embedmill.generations g WHERE g.id = p_generation_id)
     GROUP BY 1
$$;

-- Coverage of each source of records of a tenant, and of the uploads of each of its pipelines (record_source_id 0).
--     rows              that are to be embedded (NULL: not counted yet); uploads: NULL
--     unread_rows       of these, not read yet
--     unembeddable      {reason: how many}, of documents and chunks together
--     failed            items that were given up and wait for a person (counted up to 10,000)
--     waiting_rows      that changed and are to be read; waiting_chunks that are to be embedded
--     unlaunched_chunks of uploads that stand at their preview: whether they are to be embedded nobody has said yet
--     stale_seconds     since when the oldest of what waits does
--     percent           of what can be embedded; an unread row counts as one chunk; 100 only if nothing is missing
--     chunks_per_minute of the last five minutes
--     eta_seconds       until all is embedded, by what binds; NULL: nothing moves, or nobody knows
--     binds             none, paused, trouble, quota, backfill, budget, embedding, reading, failed, nobody
-- Of one source where p_record_source_id names it; NULL: of all.
CREATE OR REPLACE FUNCTION embedmill.source_coverage(p_tenant_id integer, p_record_source_id integer DEFAULT NULL)
RETURNS TABLE (
    pipeline text, record_source_id integer, kind text, name text, rows bigint, unread_rows bigint, documents bigint,
    chunks bigint, embedded bigint, unembeddable jsonb, failed bigint, waiting_rows bigint, waiting_chunks bigint,
    unlaunched_chunks bigint, stale_seconds double precision, percent double precision, chunks_per_minute double precision,
    eta_seconds double precision, binds text, trouble text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
    SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    -- With the owner's rights, for which policies need not be checked row by row: so whose rows they are is checked here.
    IF NOT embedmill.caller_sees(p_tenant_id) THEN
        RETURN;
    END IF;
    -- One statement, also for what follows from what: by hundreds of sources, assignments took as long as all reading.
    RETURN QUERY
    WITH wanted AS (
        SELECT p.id AS pipeline_id, s.id AS source
          FROM embedmill.pipelines p JOIN embedmill.record_sources s ON s.pipeline_id = p.id
         WHERE p.tenant_id = p_tenant_id AND (p_record_source_id IS NULL OR s.id = p_record_source_id)
        UNION ALL
        SELECT p.id, 0 FROM embedmill.pipelines p
         WHERE p.tenant_id = p_tenant_id AND (p_record_source_id IS NULL OR p_record_source_id = 0)
    ), heads AS MATERIALIZED (
        -- Once for each generation, and not for each of its hundreds of sources.
        SELECT g.id AS generation_id, i.record_source_id, i.since
          FROM embedmill.pipelines p
          JOIN embedmill.generations g ON g.id = p.current_generation_id
         CROSS JOIN LATERAL embedmill.oldest_items(g.id) AS i
         WHERE p.tenant_id = p_tenant_id AND p.id IN (SELECT w.pipeline_id FROM wanted w)
    ), quotas AS MATERIALIZED (
        -- Likewise. Tokens of what is left, by what the tenant's items wait for on the average, where they are limited.
        SELECT p.id AS pipeline_id, q.tokens_per_minute, q.cooling_seconds, q.binds,
               CASE WHEN q.tokens_per_minute IS NOT NULL THEN embedmill.average_tokens(p.current_generation_id) END
                   AS average_tokens
          FROM embedmill.pipelines p CROSS JOIN LATERAL embedmill.quota_state(p.quota_key) AS q
         WHERE p.tenant_id = p_tenant_id AND p.id IN (SELECT w.pipeline_id FROM wanted w)
    ), facts AS MATERIALIZED (
        SELECT p.id AS pipeline_id, p.name AS pipeline, w.source, s.kind, s.name, s.rows,
               coalesce(s.documents, 0) AS read_rows, s.trouble,
               s.paused_at IS NOT NULL OR p.paused_at IS NOT NULL AS is_paused,
               q.tokens_per_minute, q.cooling_seconds, q.binds AS quota_binds, q.average_tokens,
               coalesce(k.chunks, 0) AS chunks, coalesce(k.embedded, 0) AS embedded,
               coalesce(k.unembeddable, 0) AS refused, coalesce(u.reasons, '{}'::jsonb) AS reasons,
               CASE WHEN w.source = 0 THEN embedmill.chunks_at_preview(p_tenant_id, p.id) ELSE 0 END AS at_preview,
               w.source = 0 AND EXISTS (
                    SELECT FROM embedmill.ingestion_jobs j WHERE j.pipeline_id = p.id
                       AND j.status NOT IN ('completed', 'cancelled', 'failed')
                       AND j.status <> 'chunk_preview_ready') AS has_jobs,
               l.failed, coalesce(c.rows, 0) AS changed, c.since AS changed_since, o.since AS waiting_since,
               b.started_at IS NOT NULL AND b.ended_at IS NULL AS is_walking, b.rows_per_second, b.batch_size,
               b.delay_seconds, b.end_reason,
               (SELECT sum(m.embedded) / 5.0 FROM embedmill.embedding_minutes m
                 WHERE m.generation_id = g.id AND m.record_source_id = w.source
                   AND m.minute >= date_trunc('minute', now()) - interval '5 minutes') AS pace
          FROM wanted w
          JOIN embedmill.pipelines p ON p.id = w.pipeline_id
          JOIN embedmill.generations g ON g.id = p.current_generation_id
          LEFT JOIN quotas q ON q.pipeline_id = p.id
          LEFT JOIN embedmill.record_sources s ON s.id = w.source
          LEFT JOIN embedmill.coverage_counters k ON k.generation_id = g.id AND k.record_source_id = w.source
          LEFT JOIN embedmill.backfills b ON b.record_source_id = w.source
          LEFT JOIN heads o ON o.generation_id = g.id AND o.record_source_id = w.source
         CROSS JOIN LATERAL (
                SELECT count(*) AS failed
                  FROM (SELECT FROM embedmill.dead_letters i
                         WHERE i.generation_id = g.id AND i.record_source_id = w.source
                           AND i.resolved_at IS NULL AND i.chunk_id IS NULL AND i.item_id IS NOT NULL
                         -- In the order of the index, for a planner without statistics.
                         ORDER BY i.generation_id, i.record_source_id LIMIT 10000) n) l
         -- What waits to be read: rows (counted from up to 1,000 notes of changes), and since when the oldest does.
         CROSS JOIN LATERAL (
                SELECT sum(cardinality(n.keys)) AS rows, min(n.changed_at) AS since
                  FROM (SELECT r.keys, r.changed_at FROM embedmill.record_changes r
                         WHERE r.record_source_id = w.source ORDER BY r.record_source_id, r.id LIMIT 1000) n) c
         -- What cannot be embedded, by reason: documents that could not be read, chunks that were refused. As many index
         -- entries as there are of these.
         CROSS JOIN LATERAL (
                SELECT jsonb_object_agg(m.reason, m.number) AS reasons
                  FROM (SELECT n.reason, count(*) AS number
                          FROM (SELECT d.error_reason AS reason FROM embedmill.knowledge_documents d
                                 WHERE d.record_source_id = w.source AND d.error_reason IS NOT NULL
                                   AND (w.source <> 0 OR d.pipeline_id = p.id)
                                UNION ALL
                                SELECT e.error_reason FROM embedmill.knowledge_chunks e
                                 WHERE e.record_source_id = w.source AND e.error_reason IS NOT NULL
                                   AND e.pipeline_id = p.id AND e.chunk_set = g.chunk_set) n
                         GROUP BY n.reason) m) u
    ), waiting AS (
        SELECT f.*, greatest(coalesce(f.rows, 0) - f.read_rows, 0) AS unread,
               greatest(f.chunks - f.embedded - f.refused, 0) AS open_chunks,
               least(f.at_preview, greatest(f.chunks - f.embedded - f.refused, 0)) AS unlaunched
          FROM facts f
    ), missing AS (
        SELECT w.*, w.open_chunks - w.unlaunched AS waiting, w.open_chunks - w.unlaunched + w.unread AS left_over,
               w.open_chunks - w.unlaunched + w.unread > 0 OR w.changed > 0
                   OR w.source <> 0 AND w.rows IS NULL AS is_missing
          FROM waiting w
    ), paces AS (
        SELECT m.*, m.left_over / nullif(m.pace, 0) * 60 AS pace_eta,
               m.left_over * m.average_tokens / m.tokens_per_minute * 60 + m.cooling_seconds AS quota_eta,
               CASE WHEN m.is_walking AND m.unread > 0
                    THEN greatest(m.unread / m.rows_per_second, m.unread * m.delay_seconds / m.batch_size)
               END AS backfill_eta, coalesce(m.pace, 0) = 0 AS is_at_rest
          FROM missing m
    ), bound AS (
        -- What binds, and how long it takes by that.
        SELECT p.*,
               CASE WHEN NOT p.is_missing THEN 'none'
                    WHEN p.is_paused THEN 'paused'
                    WHEN p.trouble IS NOT NULL AND (p.unread > 0 OR p.changed > 0) THEN 'trouble'
                    WHEN p.waiting > 0 AND (p.cooling_seconds > 0 OR p.quota_binds) THEN 'quota'
                    WHEN p.unread > 0 AND NOT p.is_walking AND p.changed = 0 AND p.waiting = 0
                    THEN CASE WHEN p.end_reason = 'its budget is used up' THEN 'budget' ELSE 'nobody' END
                    WHEN p.failed > 0 AND p.waiting_since IS NULL AND p.is_at_rest AND p.unread = 0 THEN 'failed'
                    WHEN p.source = 0 AND p.waiting_since IS NULL AND p.is_at_rest AND NOT p.has_jobs THEN 'nobody'
                    WHEN p.backfill_eta > 0 AND p.backfill_eta >= coalesce(p.pace_eta, 0) THEN 'backfill'
                    WHEN p.waiting > 0 OR p.changed = 0 THEN 'embedding'
                    ELSE 'reading' END AS binds
          FROM paces p
    )
    SELECT b.pipeline, b.source, coalesce(b.kind, 'uploads'), coalesce(b.name, 'uploads'), b.rows, b.unread,
           CASE WHEN b.source <> 0 THEN b.read_rows END, b.chunks, b.embedded, b.reasons, b.failed, b.changed, b.waiting,
           b.unlaunched, extract(epoch FROM clock_timestamp() - least(b.changed_since, b.waiting_since))::double precision,
           -- Rounded down: what is not complete is not shown as such.
           least(CASE WHEN b.left_over = 0 THEN 100
                      ELSE floor(10000.0 * b.embedded / greatest(b.embedded + b.left_over, 1)) / 100 END,
                 CASE WHEN b.is_missing THEN 99.99 END)::double precision,
           coalesce(b.pace, 0)::double precision,
           CASE b.binds WHEN 'none' THEN 0
                        WHEN 'quota' THEN greatest(b.quota_eta, b.pace_eta)
                        WHEN 'backfill' THEN greatest(b.backfill_eta, b.quota_eta)
                        WHEN 'embedding' THEN greatest(b.pace_eta, b.backfill_eta, b.quota_eta)
                        WHEN 'reading' THEN greatest(b.pace_eta, b.backfill_eta, b.quota_eta) END::double precision,
           b.binds, b.trouble
      FROM bound b
     ORDER BY b.pipeline_id, b.source;
END
$$;

-- How many tokens a chunk of what waits has, from the items at the head of each lane; what a plan allows where none
-- waits.
CREATE OR REPLACE FUNCTION embedmill.average_tokens(p_generation_id integer) RETURNS double precision
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
    SET enable_bitmapscan = off SET jit = off AS $$
    SELECT coalesce(
        (SELECT sum(h.estimated_tokens)::double precision / nullif(sum(h.chunks), 0)
           FROM unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
          CROSS JOIN LATERAL (
             SELECT q.estimated_tokens, q.last_ordinal - q.first_ordinal + 1 AS chunks
               FROM embedmill.embedding_queue q
              WHERE q.generation_id = p_generation_id AND q.priority = lane.priority
                AND q.status IN ('pending', 'rate_limited')
              ORDER BY q.available_at, q.id LIMIT 100) h),
        (SELECT g.chunk_tokens FROM embedmill.generations g WHERE g.id = p_generation_id))
     WHERE (SELECT embedmill.caller_sees(g.tenant_id) FROM embedmill.generations g WHERE g.id = p_generation_id)
$$;

-- What was embedded and refused in each of the last minutes, by pipeline and source; minutes without any are left out.
CREATE OR REPLACE FUNCTION embedmill.embedding_activity(p_tenant_id integer, p_minutes integer)
RETURNS TABLE (minute timestamptz, pipeline text, record_source_id integer, name text, embedded bigint,
               unembeddable bigint)
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    SELECT m.minute, p.name, m.record_source_id, coalesce(s.name, CASE WHEN m.record_source_id = 0 THEN 'uploads' END),
           sum(m.embedded)::bigint, sum(m.unembeddable)::bigint
      FROM embedmill.generations g
      JOIN embedmill.pipelines p ON p.id = g.pipeline_id
      JOIN embedmill.embedding_minutes m ON m.generation_id = g.id
      LEFT JOIN embedmill.record_sources s ON s.id = m.record_source_id
     WHERE g.tenant_id = p_tenant_id
       AND m.minute > date_trunc('minute', clock_timestamp()) - make_interval(mins => p_minutes)
     GROUP BY m.minute, p.id, p.name, m.record_source_id, s.name
    HAVING sum(m.embedded) + sum(m.unembeddable) > 0
     ORDER BY m.minute, p.id, m.record_source_id
$$;

-- What runs as its owner is for those who have a tenant, and answers them for that one (caller_sees).
REVOKE ALL ON FUNCTION embedmill.items_before(bigint), embedmill.waiting_items(integer), embedmill.oldest_items(integer),
    embedmill.source_coverage(integer, integer), embedmill.average_tokens(integer) FROM PUBLIC;
DO $$
DECLARE
    v_role text;
BEGIN
    FOR v_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('embedmill_service', 'embedmill_reader') LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION embedmill.items_before(bigint), embedmill.waiting_items(integer),'
                       ' embedmill.oldest_items(integer), embedmill.source_coverage(integer, integer), embedmill.average_tokens(integer) TO %I', v_role);
    END LOOP;
END
$$;
