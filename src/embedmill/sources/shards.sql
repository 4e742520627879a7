-- name: put_shards
-- Many shards of one feed, each once; what became of each.
SELECT p.shard_id, p.outcome, p.version
  FROM embedmill.put_shards(%(record_source_id)s, %(shard_ids)s::text[], %(are_deletions)s::boolean[],
                            %(versions)s::bigint[], %(floors)s::bigint[], %(contents)s::text[], %(fields)s::jsonb[],
                            %(metadata)s::jsonb[], %(reject_reasons)s::text[]) AS p;

-- name: shard
-- A shard with its document and how far that is embedded in the live generation.
SELECT s.version, s.deleted_at IS NOT NULL, s.metadata::text, s.updated_at, d.id, d.content_hash, d.error_reason,
       d.error_message, coalesce(c.chunks, 0), coalesce(c.embedded, 0), coalesce(c.unembeddable, 0)
  FROM embedmill.shards s
  JOIN embedmill.record_sources r ON r.id = s.record_source_id
  LEFT JOIN embedmill.knowledge_documents d
    ON d.pipeline_id = r.pipeline_id AND d.source_type = r.name AND d.source_id = s.shard_id
  LEFT JOIN LATERAL (
        SELECT count(*) AS chunks, count(v.chunk_id) AS embedded,
               count(*) FILTER (WHERE k.error_reason IS NOT NULL AND v.chunk_id IS NULL) AS unembeddable
          FROM embedmill.knowledge_chunks k
          LEFT JOIN {vectors} v ON v.chunk_id = k.id
         WHERE k.document_id = d.id
           AND k.chunk_set = (SELECT g.chunk_set FROM embedmill.generations g WHERE g.id = %(generation_id)s)) c ON true
 WHERE s.record_source_id = %(record_source_id)s AND s.shard_id = %(shard_id)s;

-- name: feeds_named
-- The sources of these names, in one pipeline or all: which there are to choose from.
SELECT s.name, s.id, s.kind, p.name FROM embedmill.record_sources s
  JOIN embedmill.pipelines p ON p.id = s.pipeline_id
 WHERE s.tenant_id = %(tenant_id)s AND s.name = ANY (%(names)s::text[])
   AND (%(pipeline)s::text IS NULL OR p.name = %(pipeline)s)
 ORDER BY s.name, p.name;

-- name: insert_feed
-- Nothing is to be counted: it begins with no rows.
INSERT INTO embedmill.record_sources (tenant_id, pipeline_id, kind, name, template, priority, rows)
SELECT p.tenant_id, p.id, 'shards', %(name)s, %(template)s, %(priority)s::embedmill.queue_priority, 0
  FROM embedmill.pipelines p WHERE p.tenant_id = %(tenant_id)s AND p.name = %(pipeline)s
RETURNING id;

-- name: feeds
-- Shard feeds with how far they are embedded in the live generation.
SELECT s.id, s.tenant_id, s.pipeline_id, p.current_generation_id, s.name, p.name, s.template, s.priority::text,
       s.paused_at, s.trouble, s.rows, s.documents, coalesce(k.chunks, 0), coalesce(k.embedded, 0),
       coalesce(k.unembeddable, 0),
       (SELECT coalesce(sum(cardinality(w.keys)), 0)::bigint
          FROM (SELECT x.keys FROM embedmill.record_changes x WHERE x.record_source_id = s.id LIMIT 10000) w),
       s.created_at
  FROM embedmill.record_sources s
  JOIN embedmill.pipelines p ON p.id = s.pipeline_id
  LEFT JOIN embedmill.coverage_counters k
    ON k.generation_id = p.current_generation_id AND k.record_source_id = s.id
 WHERE s.tenant_id = %(tenant_id)s AND s.kind = 'shards' AND (%(name)s::text IS NULL OR s.name = %(name)s)
   AND (%(pipeline)s::text IS NULL OR p.name = %(pipeline)s)
 ORDER BY s.name, p.name;

-- name: alter_feed
UPDATE embedmill.record_sources
   SET template = %(template)s, priority = %(priority)s::embedmill.queue_priority
 WHERE id = %(record_source_id)s;

-- name: hold_feed
-- Whoever reads the source takes turns with us; its template as it is now.
SELECT template FROM embedmill.record_sources WHERE id = %(record_source_id)s FOR NO KEY UPDATE;

-- name: reread
-- Every shard is to be looked at anew: the walk begins at the first, whatever it was at.
SELECT embedmill.begin_walk(%(record_source_id)s, true);

-- name: pause_feed
UPDATE embedmill.record_sources
   SET paused_at = CASE WHEN %(is_paused)s THEN coalesce(paused_at, now()) END
 WHERE id = %(record_source_id)s;

-- name: act_as
-- Who acts, for the audit log of this transaction.
SELECT set_config('embedmill.actor', %(actor)s, true);

-- name: record_action
SELECT embedmill.record_action(%(tenant_id)s, %(action)s, %(subject)s, %(old_value)s::jsonb, %(new_value)s::jsonb);

-- name: left_behind
-- Whether an earlier source of this name left documents behind.
SELECT 1 FROM embedmill.knowledge_documents d JOIN embedmill.pipelines p ON p.id = d.pipeline_id
 WHERE p.tenant_id = %(tenant_id)s AND p.name = %(pipeline)s AND d.source_type = %(name)s LIMIT 1;

-- name: adopt
-- Some documents that an earlier source of this name left behind become this one's; how many there were.
SELECT embedmill.adopt_source_documents(%(id)s, %(limit)s);

-- name: drop_unread
-- Some documents that were never read go, and work on others that waits to be read; how many there were.
SELECT embedmill.drop_unread_shards(%(id)s, %(limit)s);

-- name: delete_documents
-- Some of a feed's documents, with their vectors; how many there were.
SELECT embedmill.delete_source_documents(%(id)s, %(limit)s);

-- name: release_documents
-- Some of a feed's documents become documents of no source; how many there were.
SELECT embedmill.release_source_documents(%(id)s, %(limit)s);

-- name: close_feed
SELECT id FROM embedmill.record_sources WHERE id = %(id)s FOR UPDATE;

-- name: delete_feed
-- With its shards, its changes and its backfill.
WITH changes AS (DELETE FROM embedmill.record_changes WHERE record_source_id = %(id)s)
DELETE FROM embedmill.record_sources WHERE id = %(id)s;
