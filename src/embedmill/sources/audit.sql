-- name: pipelines
-- Whose generations and documents are looked at.
SELECT p.id FROM embedmill.pipelines p
 WHERE p.tenant_id = %(tenant_id)s AND (%(pipeline_id)s::integer IS NULL OR p.id = %(pipeline_id)s)
   AND (%(record_source_id)s::integer IS NULL
        OR p.id = (SELECT s.pipeline_id FROM embedmill.record_sources s WHERE s.id = %(record_source_id)s))
 ORDER BY p.id;

-- name: sources
-- Whose rows are looked at.
SELECT s.id, s.name FROM embedmill.record_sources s
 WHERE s.tenant_id = %(tenant_id)s AND (%(pipeline_id)s::integer IS NULL OR s.pipeline_id = %(pipeline_id)s)
   AND (%(record_source_id)s::integer IS NULL OR s.id = %(record_source_id)s)
 ORDER BY s.id;

-- name: generations
SELECT id FROM embedmill.generations WHERE pipeline_id = %(pipeline_id)s ORDER BY id;

-- name: vectors
SELECT last_chunk_id, looked, lost FROM embedmill.audit_vectors(%(generation_id)s, %(after)s, %(limit)s);

-- name: mend_vectors
SELECT embedmill.mend_vectors(%(generation_id)s, %(chunk_ids)s::bigint[]);

-- name: documents
-- The next documents of a pipeline, in the order of its unique index: whatever other tenants have is not walked. The last
-- column: its source of records is gone.
SELECT d.source_type, d.source_id, d.id,
       d.record_source_id <> 0
       AND NOT EXISTS (SELECT FROM embedmill.record_sources s WHERE s.id = d.record_source_id)
  FROM embedmill.knowledge_documents d
 WHERE d.pipeline_id = %(pipeline_id)s AND (d.source_type, d.source_id) > (%(after_type)s, %(after_id)s)
 ORDER BY d.source_type, d.source_id LIMIT %(limit)s;

-- name: source_documents
-- The same of one source: its documents bear its name.
SELECT d.source_type, d.source_id, d.id, false
  FROM embedmill.knowledge_documents d
 WHERE d.pipeline_id = %(pipeline_id)s AND (d.source_type, d.source_id) > (%(after_type)s, %(after_id)s)
   AND d.source_type = (SELECT s.name FROM embedmill.record_sources s WHERE s.id = %(record_source_id)s)
   AND d.record_source_id = %(record_source_id)s
 ORDER BY d.source_type, d.source_id LIMIT %(limit)s;

-- name: pieces
SELECT kind, document_id, part, chunks, source_type, source_id
  FROM embedmill.audit_pieces(%(generation_id)s, %(document_ids)s::bigint[]);

-- name: mend_pieces
SELECT kind, document_id, part FROM embedmill.mend_pieces(%(generation_id)s, %(document_ids)s::bigint[]);

-- name: jobs
SELECT job_id, document_id, source_type, source_id, fault, said, ARRAY[total, embedded, failed]
  FROM embedmill.audit_jobs(%(pipeline_id)s, %(document_ids)s::bigint[]);

-- name: mend_jobs
SELECT embedmill.mend_jobs(%(pipeline_id)s, %(document_ids)s::bigint[]);

-- name: lock_orphans
-- Documents whose source is gone, locked.
SELECT d.id, d.source_type, d.source_id FROM embedmill.knowledge_documents d
 WHERE d.id = ANY (%(document_ids)s::bigint[]) AND d.record_source_id <> 0
   AND NOT EXISTS (SELECT FROM embedmill.record_sources s WHERE s.id = d.record_source_id)
 ORDER BY d.id FOR UPDATE;

-- name: delete_records
SELECT embedmill.delete_records(%(document_ids)s::bigint[], %(message)s);

-- name: coverage
SELECT generation_id, record_source_id, chunks, embedded, unembeddable
  FROM embedmill.audit_coverage(%(pipeline_id)s, %(record_source_id)s);

-- name: mend_coverage
SELECT embedmill.mend_coverage(%(pipeline_id)s, %(record_source_id)s);

-- name: source_numbers
SELECT rows_error, documents_error FROM embedmill.audit_record_source(%(record_source_id)s);

-- name: mend_source_numbers
SELECT embedmill.mend_record_source(%(record_source_id)s);

-- name: live_items
SELECT embedmill.audit_live_items(%(tenant_id)s);

-- name: mend_live_items
SELECT embedmill.mend_live_items(%(tenant_id)s);

-- name: leases
SELECT what, id, worker_id::text FROM embedmill.audit_leases(%(tenant_id)s);

-- name: mend_leases
SELECT embedmill.mend_leases();

-- name: lost_changes
-- Change rows of sources that were removed.
SELECT r.record_source_id, r.id FROM embedmill.record_changes r
 WHERE r.tenant_id = %(tenant_id)s
   AND NOT EXISTS (SELECT FROM embedmill.record_sources s WHERE s.id = r.record_source_id);

-- name: mend_lost_changes
DELETE FROM embedmill.record_changes r
 WHERE r.tenant_id = %(tenant_id)s
   AND NOT EXISTS (SELECT FROM embedmill.record_sources s WHERE s.id = r.record_source_id);

-- name: lost_cuts
-- Documents to be cut for a plan that no generation has.
SELECT m.document_id, m.chunk_set FROM embedmill.stale_cuts m
 WHERE m.tenant_id = %(tenant_id)s
   AND NOT EXISTS (SELECT FROM embedmill.generations g
                    WHERE g.pipeline_id = m.pipeline_id AND g.chunk_set = m.chunk_set);

-- name: mend_lost_cuts
DELETE FROM embedmill.stale_cuts m
 WHERE m.tenant_id = %(tenant_id)s
   AND NOT EXISTS (SELECT FROM embedmill.generations g
                    WHERE g.pipeline_id = m.pipeline_id AND g.chunk_set = m.chunk_set);

-- name: invalid_indexes
-- Half-built indexes of vectors that nobody is building (generations.sql: try_lock).
SELECT g.id, c.relname
  FROM embedmill.generations g
  JOIN pg_class c ON c.relname = format('vectors_%%s_hnsw', g.id) AND c.relnamespace = 'embedmill'::regnamespace
  JOIN pg_index i ON i.indexrelid = c.oid AND NOT i.indisvalid
 WHERE g.pipeline_id = %(pipeline_id)s
   AND NOT EXISTS (SELECT FROM pg_locks l
                    WHERE l.locktype = 'advisory' AND l.granted AND l.objid = g.id::bigint::oid AND l.objsubid = 2
                      AND l.classid::bigint = hashtext('embedmill index')::bigint & 4294967295
                      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()));

-- name: try_index_lock
SELECT pg_try_advisory_lock(hashtext('embedmill index'), %(generation_id)s);

-- name: index_is_invalid
SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                WHERE c.relnamespace = 'embedmill'::regnamespace AND c.relname = %(name)s AND NOT i.indisvalid);

-- name: drop_index
DROP INDEX CONCURRENTLY IF EXISTS {index};

-- name: watch
-- Why changes of a table are not seen: its trouble; triggers that are missing, or switched off.
SELECT embedmill.find_table_trouble(t.record_source_id),
       ARRAY(SELECT f.relation::regclass::text FROM embedmill.table_family(t.relation) AS f
              WHERE (SELECT count(*) FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
                      WHERE g.tgrelid = f.relation AND p.pronamespace = 'embedmill'::regnamespace
                        AND p.proname = 'record_source_' || t.record_source_id) < 4),
       ARRAY(SELECT format('ALTER TABLE %%s ENABLE TRIGGER %%I', f.relation::regclass, g.tgname)
               FROM embedmill.table_family(t.relation) AS f
               JOIN pg_trigger g ON g.tgrelid = f.relation AND g.tgenabled NOT IN ('O', 'A')
               JOIN pg_proc p ON p.oid = g.tgfoid AND p.pronamespace = 'embedmill'::regnamespace
                AND p.proname = 'record_source_' || t.record_source_id)
  FROM embedmill.table_sources t WHERE t.record_source_id = %(record_source_id)s;

-- name: wait_briefly
-- Writers wait behind us.
SELECT set_config('lock_timeout', '500ms', true);

-- name: mend_watch
SELECT embedmill.check_table_source(%(record_source_id)s);

-- name: snapshot
-- What this transaction sees, it sees as of one moment.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- name: waiting
-- Which of these rows have a change that waits to be read; and whether all have.
SELECT EXISTS (SELECT FROM embedmill.record_changes r
                WHERE r.record_source_id = %(record_source_id)s AND (r.operation = 'T' OR r.keys = '{}')),
       ARRAY(SELECT DISTINCT k FROM embedmill.record_changes r CROSS JOIN LATERAL unnest(r.keys) AS k
              WHERE r.record_source_id = %(record_source_id)s AND k = ANY (%(keys)s::text[]));

-- name: standing
SELECT d.source_id, d.id, d.version, d.content_hash FROM embedmill.knowledge_documents d
 WHERE d.pipeline_id = %(pipeline_id)s AND d.source_type = %(source_type)s AND d.source_id = ANY (%(keys)s::text[]);

-- name: backfill
-- Whether a walk runs, where it is, whether it reads all rows; whether one is to come by its schedule.
SELECT b.started_at IS NOT NULL AND b.ended_at IS NULL, b.after_key, b.rereads, b.schedule IS NOT NULL
  FROM embedmill.backfills b WHERE b.record_source_id = %(record_source_id)s;

-- name: said_done
-- Rows whose newest item, of any generation of the pipeline, is said to be completed, and of which none lives.
SELECT w.key
  FROM unnest(%(keys)s::text[]) AS w (key)
 CROSS JOIN LATERAL (
    SELECT h.status FROM embedmill.embedding_queue_history h
     WHERE h.tenant_id = %(tenant_id)s AND h.source_type = %(source_type)s AND h.source_id = w.key
       AND h.operation <> 'DELETE'
       AND h.generation_id IN (SELECT g.id FROM embedmill.generations g WHERE g.pipeline_id = %(pipeline_id)s)
     ORDER BY h.id DESC LIMIT 1) l
 WHERE l.status = 'completed'
   AND NOT EXISTS (SELECT FROM embedmill.embedding_queue q
                    WHERE q.generation_id IN (SELECT g.id FROM embedmill.generations g
                                               WHERE g.pipeline_id = %(pipeline_id)s)
                      AND q.source_type = %(source_type)s AND q.source_id = w.key);

-- name: lock_documents
SELECT d.source_id, d.id, d.version, d.content_hash FROM embedmill.knowledge_documents d
 WHERE d.id = ANY (%(document_ids)s::bigint[]) ORDER BY d.id FOR UPDATE;

-- name: hold_source
SELECT embedmill.hold_record_source(%(record_source_id)s, NULL, 0);

-- name: count_documents
UPDATE embedmill.record_sources SET documents = documents - %(removed)s WHERE id = %(record_source_id)s;

-- name: look_again
-- These rows are to be read, as if somebody had changed them.
INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
SELECT s.id, s.tenant_id, 'U', %(keys)s::text[] FROM embedmill.record_sources s WHERE s.id = %(record_source_id)s;

-- name: begin_walk
-- Rows that were never read, of a source that believes the vectors in its column: a walk takes such a vector for the
-- row's, which nobody may do for a row that was changed.
SELECT embedmill.begin_walk(%(record_source_id)s, false);

-- name: source_documents_after
-- The source's documents, one after another.
SELECT id, source_id, version, content_hash FROM embedmill.knowledge_documents
 WHERE record_source_id = %(record_source_id)s AND id > %(after)s ORDER BY id LIMIT %(limit)s;

-- name: keys_behind
-- Which of these rows a walk has passed, in the order of the table's own key.
SELECT w.embedmill_key
  FROM unnest(%(keys)s::text[]) AS w (embedmill_key)
  JOIN {table} AS t ON {key_match}
 WHERE ({key_columns}) <= ({cursor});

-- name: shards_behind
SELECT s.shard_id FROM embedmill.shards s
 WHERE s.record_source_id = %(record_source_id)s AND s.shard_id = ANY (%(keys)s::text[]) AND s.shard_id <= %(cursor)s;

-- name: unfilled
-- Which of these rows have no vector in their column.
SELECT w.embedmill_key
  FROM unnest(%(keys)s::text[]) AS w (embedmill_key)
  JOIN {table} AS t ON {key_match}
 WHERE t.{column} IS NULL;

-- name: complete_documents
-- Which of these documents have their vector in the live generation, that is to say in their row's own column, with
-- nothing at work on them and no note that it is still to be brought there.
SELECT d.id FROM embedmill.knowledge_documents d
 WHERE d.id = ANY (%(document_ids)s::bigint[])
   AND NOT EXISTS (SELECT FROM embedmill.embedding_queue q WHERE q.document_id = d.id)
   AND NOT EXISTS (SELECT FROM embedmill.column_debts b
                    WHERE b.record_source_id = d.record_source_id AND b.generation_id = %(generation_id)s
                      AND b.key = d.source_id)
   AND EXISTS (SELECT FROM embedmill.knowledge_chunks c JOIN {vectors} v ON v.chunk_id = c.id
                WHERE c.document_id = d.id AND c.chunk_set = %(chunk_set)s);

-- name: mend_unfilled
SELECT embedmill.mend_unfilled(%(generation_id)s, %(document_ids)s::bigint[]);
