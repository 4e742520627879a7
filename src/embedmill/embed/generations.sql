-- name: index_facts
-- What decides about the index of a generation: vectors that stand, chunks that wait (of a thousand items or more
-- reckoned from the queue's counts: a scan of ten million took ten seconds), rows that are not even read yet among them and
-- what uploads that are not parsed yet will have (as documents have on average), whether somebody loads what nobody has
-- counted, and the index: absent (NULL), half-built (false) or ready (true).
SELECT (SELECT embedded FROM embedmill.generation_coverage WHERE generation_id = %(generation_id)s),
       (SELECT CASE WHEN s.items < 1000 THEN s.chunks
                    ELSE s.chunks * greatest(embedmill.live_items(%(generation_id)s), s.items) / s.items END
          FROM (SELECT count(*) AS items, coalesce(sum(w.chunks), 0)::bigint AS chunks
                  FROM (SELECT coalesce(q.last_ordinal - q.first_ordinal + 1, 1) AS chunks
                          FROM embedmill.embedding_queue q
                         WHERE q.generation_id = %(generation_id)s LIMIT 1000) w) s)
       + (SELECT coalesce(sum(greatest(s.rows - s.documents, 0)), 0)::bigint
            FROM embedmill.record_sources s JOIN embedmill.generations g ON g.pipeline_id = s.pipeline_id
           WHERE g.id = %(generation_id)s AND s.paused_at IS NULL)
       + (SELECT coalesce(sum(cardinality(r.keys)), 0)::bigint
            FROM embedmill.record_sources s
            JOIN embedmill.generations g ON g.pipeline_id = s.pipeline_id
           CROSS JOIN LATERAL (SELECT c.keys FROM embedmill.record_changes c
                                WHERE c.record_source_id = s.id AND c.operation = 'I' LIMIT 1000) r
           WHERE g.id = %(generation_id)s AND s.paused_at IS NULL)
       + (SELECT (count(*) * greatest(1, (
                     SELECT c.reltuples / d.reltuples FROM pg_class c, pg_class d
                      WHERE c.oid = 'embedmill.knowledge_chunks'::regclass
                        AND d.oid = 'embedmill.knowledge_documents'::regclass AND d.reltuples > 0)))::bigint
            FROM embedmill.generations g
            JOIN embedmill.parse_queue p ON p.tenant_id = g.tenant_id
            JOIN embedmill.ingestion_jobs j ON j.id = p.job_id AND j.pipeline_id = g.pipeline_id AND j.auto_launch
           WHERE g.id = %(generation_id)s),
       -- Held by none, so that it could be taken, for this statement.
       (SELECT NOT pg_try_advisory_xact_lock(hashtext('embedmill load'), g.pipeline_id)
          FROM embedmill.generations g WHERE g.id = %(generation_id)s),
       (SELECT i.indisvalid
          FROM pg_index i
          JOIN pg_class c ON c.oid = i.indexrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'embedmill' AND c.relname = %(index_name)s);

-- name: begin_loading
-- Beside others who load. Waits for whoever looks at this moment whether anybody does.
SELECT pg_advisory_lock_shared(hashtext('embedmill load'), %(pipeline_id)s);

-- name: try_lock
-- One builder for each generation; never waited for, since waiting inside a lock holds back the build.
SELECT pg_try_advisory_lock(hashtext('embedmill index'), %(generation_id)s);

-- name: more_memory
-- A graph that does not fit is built many times slower; the setting is this session's only.
SELECT set_config('maintenance_work_mem',
    greatest(262144, least(2097152, (%(embedded)s::bigint * (%(vector_bytes)s + 800)) / 1024))::text || 'kB', false);

-- name: build_index
CREATE INDEX CONCURRENTLY {index} ON {vectors} USING hnsw (embedding {operators}) WITH (ef_construction = {depth});

-- name: knows_all_documents
-- Rows that an older release wrote do not say whose they are.
SELECT NOT EXISTS (SELECT FROM {vectors} WHERE document_id IS NULL);

-- name: build_index_of_documents
CREATE INDEX CONCURRENTLY {index} ON {vectors} (document_id);

-- name: drop_index
DROP INDEX CONCURRENTLY IF EXISTS {index};

-- name: analyze
ANALYZE {vectors};
