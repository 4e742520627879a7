-- Shards: what other systems push. The newest version of each is kept, and that one was deleted, so that a late older
-- version neither overwrites a newer one nor brings back what is gone.
--
--     put_shards              many at once: the shards, that they changed, and work that waits to be read, in one transaction
--     end_unreadable_items    work on a document that cannot be read ends with the reason
--     forget_deleted_shards   tombstones that are so old that nothing older can still be on its way
--
-- The order of locks is shards (new ones, then those that stood, each by id), documents (those that stood, by number;
-- then new ones, by the shard's id), queue items. Nobody else locks shards.

-- Writes shards of one feed, each id once. p_versions NULL: one more than what stands and than p_floors. Returns for
-- each what became of it, with the version that stands now:
--     applied      it is the newest state
--     unchanged    it stood so already, under the same version
--     ignored      a newer version stands
--     conflict     the same version stands with another content: whoever came first is believed
-- Content that cannot be stored has a reason in its place (p_reject_reasons).
CREATE OR REPLACE FUNCTION embedmill.put_shards(
    p_record_source_id integer, p_shard_ids text[], p_are_deletions boolean[], p_versions bigint[], p_floors bigint[],
    p_contents text[], p_fields jsonb[], p_metadata jsonb[], p_reject_reasons text[])
RETURNS TABLE (shard_id text, outcome text, version bigint)
LANGUAGE plpgsql
-- A plan for just these ids: index probes, and lists of them that are hashed.
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    v_source embedmill.record_sources;
    v_standing text[];
    v_ids text[];
    v_outcomes text[];
    v_versions bigint[];
    v_inserted text[];
    v_updated text[];
    v_deleted text[];
BEGIN
    -- The feed is not removed meanwhile, and none of its tombstones is forgotten.
    SELECT * INTO v_source FROM embedmill.record_sources
     WHERE id = p_record_source_id AND kind = 'shards' FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this shard feed was removed' USING ERRCODE = 'EM404';
    END IF;
    WITH made AS (
        INSERT INTO embedmill.shards AS s
            (record_source_id, shard_id, tenant_id, version, content, fields, metadata, reject_reason, deleted_at)
        SELECT p_record_source_id, w.shard_id, v_source.tenant_id, coalesce(w.version, w.floor + 1), w.content, w.fields,
               w.metadata, w.reject_reason, CASE WHEN w.is_deletion THEN now() END
          FROM unnest(p_shard_ids, p_are_deletions, p_versions, p_floors, p_contents, p_fields, p_metadata,
                      p_reject_reasons)
               AS w (shard_id, is_deletion, version, floor, content, fields, metadata, reject_reason)
         ORDER BY w.shard_id COLLATE "C"
        ON CONFLICT (record_source_id, shard_id) DO NOTHING
        RETURNING s.shard_id, s.version, s.deleted_at
    )
    SELECT coalesce(array_agg(m.shard_id), '{}'), coalesce(array_agg('applied'::text), '{}'),
           coalesce(array_agg(m.version), '{}'), coalesce(array_agg(m.shard_id) FILTER (WHERE m.deleted_at IS NULL), '{}')
      INTO v_ids, v_outcomes, v_versions, v_inserted FROM made m;
    RETURN QUERY SELECT * FROM unnest(v_ids, v_outcomes, v_versions);

    IF cardinality(v_ids) < cardinality(p_shard_ids) THEN
        v_standing := ARRAY(SELECT w FROM unnest(p_shard_ids) AS w WHERE w <> ALL (v_ids));
        -- Locked first and judged by the next statement, which sees what others have committed meanwhile.
        PERFORM FROM embedmill.shards
          WHERE record_source_id = p_record_source_id AND shard_id = ANY (v_standing)
          ORDER BY shard_id COLLATE "C" FOR UPDATE;
        WITH judged AS MATERIALIZED (
            SELECT w.*, s.version AS old_version, s.deleted_at IS NOT NULL AS was_deleted,
                   coalesce(w.version, greatest(s.version, w.floor) + 1) AS new_version,
                   w.is_deletion = (s.deleted_at IS NOT NULL)
                   AND (w.is_deletion
                        OR (w.content, w.fields, w.metadata, w.reject_reason)
                           IS NOT DISTINCT FROM (s.content, s.fields, s.metadata, s.reject_reason)) AS is_same
              FROM unnest(p_shard_ids, p_are_deletions, p_versions, p_floors, p_contents, p_fields, p_metadata,
                          p_reject_reasons)
                   AS w (shard_id, is_deletion, version, floor, content, fields, metadata, reject_reason)
              JOIN embedmill.shards s ON s.shard_id = w.shard_id
             WHERE s.record_source_id = p_record_source_id AND s.shard_id = ANY (v_standing)
        ), written AS (
            UPDATE embedmill.shards s
               SET version = j.new_version, content = j.content, fields = j.fields, metadata = j.metadata,
                   reject_reason = j.reject_reason, updated_at = now(),
                   deleted_at = CASE WHEN j.is_deletion THEN coalesce(s.deleted_at, now()) END
              FROM judged j
             WHERE s.record_source_id = p_record_source_id AND s.shard_id = j.shard_id AND j.new_version > j.old_version
               -- Deleted once more, by nobody's version: it stays as it was.
               AND NOT (j.version IS NULL AND j.is_same AND j.is_deletion)
        )
        SELECT coalesce(array_agg(j.shard_id), '{}'),
               coalesce(array_agg(CASE WHEN j.version IS NULL AND j.is_same AND j.is_deletion THEN 'unchanged'
                                       WHEN j.new_version > j.old_version THEN 'applied'
                                       WHEN j.new_version < j.old_version THEN 'ignored'
                                       WHEN j.is_same THEN 'unchanged' ELSE 'conflict' END), '{}'),
               coalesce(array_agg(CASE WHEN j.version IS NULL AND j.is_same AND j.is_deletion THEN j.old_version
                                       ELSE greatest(j.new_version, j.old_version) END), '{}'),
               v_inserted || coalesce(array_agg(j.shard_id) FILTER (
                   WHERE j.new_version > j.old_version AND j.was_deleted AND NOT j.is_deletion), '{}'),
               coalesce(array_agg(j.shard_id) FILTER (
                   WHERE j.new_version > j.old_version AND NOT j.was_deleted AND NOT j.is_deletion), '{}'),
               coalesce(array_agg(j.shard_id) FILTER (
                   WHERE j.new_version > j.old_version AND NOT j.was_deleted AND j.is_deletion), '{}')
          INTO v_ids, v_outcomes, v_versions, v_inserted, v_updated, v_deleted
          FROM judged j;
        RETURN QUERY SELECT * FROM unnest(v_ids, v_outcomes, v_versions);
    END IF;

    INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
    SELECT p_record_source_id, v_source.tenant_id, c.operation, array_agg(c.key)
      FROM (SELECT o.operation, k.key, (row_number() OVER (PARTITION BY o.operation) - 1) / 500 AS part
              FROM (VALUES ('D'::"char", v_deleted), ('I', v_inserted), ('U', v_updated)) AS o (operation, keys)
             CROSS JOIN LATERAL unnest(o.keys) AS k (key)) c
     GROUP BY c.operation, c.part;
    PERFORM embedmill.announce_shards(v_source, v_inserted || v_updated);
END
$$;

-- Makes the documents of shards that have none yet, and an item for each that waits to be read and cut, so that their
-- work is seen from now on. Where an item of a document lives already, that one is seen.
CREATE OR REPLACE FUNCTION embedmill.announce_shards(p_source embedmill.record_sources, p_shard_ids text[]) RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_standing bigint[];
BEGIN
    IF coalesce(cardinality(p_shard_ids), 0) = 0 THEN
        RETURN;
    END IF;
    -- No generation goes while we enqueue in it (22_migrating.sql).
    PERFORM pg_advisory_xact_lock_shared(hashtext('embedmill.generations'), p_source.pipeline_id);
    -- Held, so that none is deleted before its item is there. Whoever reads the source holds some of them for a moment.
    v_standing := ARRAY(
        SELECT d.id FROM embedmill.knowledge_documents d
         WHERE d.pipeline_id = p_source.pipeline_id AND d.source_type = p_source.name AND d.source_id = ANY (p_shard_ids)
         ORDER BY d.id FOR KEY SHARE);
    WITH made AS (
        INSERT INTO embedmill.knowledge_documents AS d
            (tenant_id, pipeline_id, record_source_id, source_type, source_id, name, media_type, metadata)
        SELECT p_source.tenant_id, p_source.pipeline_id, p_source.id, p_source.name, s.shard_id,
               p_source.name || ' ' || s.shard_id, 'text/plain', s.metadata
          FROM embedmill.shards s
         WHERE s.record_source_id = p_source.id AND s.shard_id = ANY (p_shard_ids)
           AND (cardinality(v_standing) = 0 OR NOT EXISTS (
                SELECT FROM embedmill.knowledge_documents o
                 WHERE o.pipeline_id = p_source.pipeline_id AND o.source_type = p_source.name
                   AND o.source_id = s.shard_id))
         ORDER BY s.shard_id COLLATE "C"
        ON CONFLICT (pipeline_id, source_type, source_id) DO NOTHING
        RETURNING d.id, d.source_id, d.version
    ), enqueued AS (
        INSERT INTO embedmill.embedding_queue
            (tenant_id, generation_id, document_id, content_version, priority, operation, max_retries, source_type,
             source_id, usage_type, available_at)
        SELECT p_source.tenant_id, p.current_generation_id, d.id, d.version, p_source.priority,
               CASE WHEN d.is_new THEN 'INSERT' ELSE 'UPDATE' END::embedmill.queue_operation,
               embedmill.config_integer('max_retries'), p_source.name, d.source_id, 'internal_ingestion', 'infinity'
          FROM (SELECT m.id, m.source_id, m.version, true AS is_new FROM made m
                UNION ALL
                SELECT o.id, o.source_id, o.version, false FROM embedmill.knowledge_documents o
                 WHERE o.id = ANY (v_standing)) d
         CROSS JOIN embedmill.pipelines p
         WHERE p.id = p_source.pipeline_id
        ON CONFLICT (document_id, generation_id, part) WHERE document_id IS NOT NULL DO NOTHING
        RETURNING generation_id
    )
    INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)
    SELECT p_source.tenant_id, e.generation_id, 'live', count(*) FROM enqueued e GROUP BY e.generation_id;
END
$$;

-- Ends as failed the items of documents that could not be read: they will never have chunks to wait for. Called with
-- the documents' rows locked; each with its message.
CREATE OR REPLACE FUNCTION embedmill.end_unreadable_items(p_document_ids bigint[], p_messages text[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v record;
BEGIN
    FOR v IN
        SELECT w.message, array_agg(q.id) AS ids
          FROM (SELECT q.id, q.document_id FROM embedmill.embedding_queue q
                 WHERE q.document_id = ANY (p_document_ids) AND embedmill.waits_to_be_read(q)
                 ORDER BY q.id FOR UPDATE) q
          JOIN unnest(p_document_ids, p_messages) AS w (document_id, message) ON w.document_id = q.document_id
         GROUP BY w.message
    LOOP
        PERFORM embedmill.end_items(v.ids, 'failed', v.message, NULL);
    END LOOP;
END
$$;

-- Forgets that shards were deleted, some at a time. Whoever writes to the feed waits meanwhile: what was met as a
-- tombstone must not be gone when it is locked.
CREATE OR REPLACE FUNCTION embedmill.forget_deleted_shards(p_days integer, p_limit integer DEFAULT 10000)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_source_id integer;
    v_forgotten integer;
    v_all integer := 0;
BEGIN
    FOR v_source_id IN
        SELECT DISTINCT w.record_source_id
          FROM (SELECT s.record_source_id FROM embedmill.shards s
                 WHERE s.deleted_at < now() - make_interval(days => p_days) ORDER BY s.deleted_at LIMIT p_limit) w
         ORDER BY 1
    LOOP
        PERFORM FROM embedmill.record_sources WHERE id = v_source_id FOR UPDATE;
        DELETE FROM embedmill.shards s
         WHERE s.record_source_id = v_source_id AND s.shard_id = ANY (ARRAY(
            SELECT o.shard_id FROM embedmill.shards o
             WHERE o.record_source_id = v_source_id AND o.deleted_at < now() - make_interval(days => p_days)
             LIMIT p_limit));
        GET DIAGNOSTICS v_forgotten = ROW_COUNT;
        v_all := v_all + v_forgotten;
    END LOOP;
    RETURN v_all;
END
$$;

-- Of a feed that is being removed, some documents at a time: those that were never read go, work on others that waits
-- to be read is cancelled. Returns how many there were.
CREATE OR REPLACE FUNCTION embedmill.drop_unread_shards(p_record_source_id integer, p_limit integer) RETURNS integer
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_unread bigint[];
    v_waiting bigint[];
BEGIN
    v_unread := ARRAY(SELECT d.id FROM embedmill.knowledge_documents d
                       WHERE d.record_source_id = p_record_source_id AND d.content_hash IS NULL
                       ORDER BY d.id LIMIT p_limit FOR UPDATE);
    PERFORM embedmill.delete_records(v_unread, 'the feed was removed');
    v_waiting := ARRAY(SELECT q.id FROM embedmill.knowledge_documents d
                         JOIN embedmill.embedding_queue q ON q.document_id = d.id
                        WHERE d.record_source_id = p_record_source_id AND embedmill.waits_to_be_read(q)
                        ORDER BY q.id LIMIT p_limit FOR UPDATE OF q);
    PERFORM embedmill.end_items(v_waiting, 'cancelled', 'the feed was removed', NULL);
    RETURN cardinality(v_unread) + cardinality(v_waiting);
END
$$;
