-- name: list
-- Dead letters with what they are about, newest first: a whole item, or one chunk of it. Named only when they are chosen,
-- or all there are would be.
SELECT l.id, l.created_at, l.reason, l.error_message, p.name, l.item_id, l.document_id, l.document, c.ordinal,
       l.resolved_at, l.resolution, l.resolved_by, l.note
  FROM (SELECT l.id, l.created_at, l.reason, l.error_message, l.item_id, l.document_id, d.name AS document, l.chunk_id,
               l.generation_id, l.resolved_at, l.resolution, l.resolved_by, l.note
          FROM embedmill.dead_letters l
          LEFT JOIN embedmill.knowledge_documents d ON d.id = l.document_id
         WHERE l.tenant_id = %(tenant_id)s AND (%(resolved_too)s OR l.resolved_at IS NULL)
           AND (%(record_source_id)s::integer IS NULL OR d.record_source_id = %(record_source_id)s::integer)
           AND (%(reason)s::text IS NULL OR l.reason = %(reason)s)
           AND (%(generation_ids)s::integer[] IS NULL OR l.generation_id = ANY (%(generation_ids)s::integer[]))
           AND l.id < %(after)s
         ORDER BY l.id DESC LIMIT %(limit)s) l
  JOIN embedmill.generations g ON g.id = l.generation_id
  JOIN embedmill.pipelines p ON p.id = g.pipeline_id
  LEFT JOIN embedmill.knowledge_chunks c ON c.id = l.chunk_id
 ORDER BY l.id DESC;

-- name: count
-- Open dead letters that match, by reason.
SELECT l.reason, count(*), count(DISTINCT l.document_id), min(l.id), max(l.id)
  FROM embedmill.dead_letters l
 WHERE l.tenant_id = %(tenant_id)s AND l.resolved_at IS NULL
   AND (%(ids)s::bigint[] IS NULL OR l.id = ANY (%(ids)s::bigint[]))
   AND (%(reason)s::text IS NULL OR l.reason = %(reason)s)
   AND (%(generation_ids)s::integer[] IS NULL OR l.generation_id = ANY (%(generation_ids)s::integer[]))
   AND (%(record_source_id)s::integer IS NULL
        OR EXISTS (SELECT FROM embedmill.knowledge_documents d
                    WHERE d.id = l.document_id AND d.record_source_id = %(record_source_id)s::integer))
 GROUP BY l.reason ORDER BY l.reason;

-- name: generations
-- All generations of a pipeline.
SELECT array_agg(g.id) FROM embedmill.generations g JOIN embedmill.pipelines p ON p.id = g.pipeline_id
 WHERE p.tenant_id = %(tenant_id)s AND p.name = %(pipeline)s;

-- name: next
-- The next open ones that match, oldest first, with what was to be done.
SELECT l.id, l.item_id, l.document_id, coalesce(h.operation::text, 'INSERT'), h.batch_id,
       coalesce(h.priority::text, 'medium')
  FROM embedmill.dead_letters l
  LEFT JOIN LATERAL (SELECT e.operation, e.batch_id, e.priority FROM embedmill.embedding_queue_history e
                      WHERE e.id = l.item_id AND e.tenant_id = l.tenant_id LIMIT 1) h ON true
 WHERE l.tenant_id = %(tenant_id)s AND l.resolved_at IS NULL AND l.id > %(after)s AND l.id <= %(last_id)s
   AND (%(ids)s::bigint[] IS NULL OR l.id = ANY (%(ids)s::bigint[]))
   AND (%(reason)s::text IS NULL OR l.reason = %(reason)s)
   AND (%(generation_ids)s::integer[] IS NULL OR l.generation_id = ANY (%(generation_ids)s::integer[]))
   AND (%(record_source_id)s::integer IS NULL
        OR EXISTS (SELECT FROM embedmill.knowledge_documents d
                    WHERE d.id = l.document_id AND d.record_source_id = %(record_source_id)s::integer))
 ORDER BY l.id LIMIT %(limit)s;

-- name: last_id
-- The newest open letter there is: what comes after it was not meant by whoever acts now.
SELECT coalesce((SELECT id FROM embedmill.dead_letters WHERE tenant_id = %(tenant_id)s AND resolved_at IS NULL
                  ORDER BY tenant_id DESC, id DESC LIMIT 1), 0);

-- name: discard
-- Dealt with by doing nothing; how many were open.
UPDATE embedmill.dead_letters
   SET resolved_at = now(), resolution = 'discarded', resolved_by = embedmill.current_actor(), note = %(note)s
 WHERE id = ANY (%(letter_ids)s) AND tenant_id = %(tenant_id)s AND resolved_at IS NULL
RETURNING id;

-- name: known
-- Which of these letters there are, and how they were dealt with.
SELECT id, resolution FROM embedmill.dead_letters WHERE id = ANY (%(ids)s) AND tenant_id = %(tenant_id)s;

-- name: by_reason
-- Open letters by reason, of the newest so many: how many, and since when.
SELECT l.reason, count(*), min(l.created_at), max(l.created_at)
  FROM (SELECT reason, created_at FROM embedmill.dead_letters
         WHERE tenant_id = %(tenant_id)s AND resolved_at IS NULL
         ORDER BY tenant_id DESC, id DESC LIMIT %(most)s) l
 GROUP BY l.reason ORDER BY count(*) DESC, l.reason;

-- name: sources
-- What letters can be about: sources of records, and the uploads (0).
SELECT id, name FROM embedmill.record_sources WHERE tenant_id = %(tenant_id)s ORDER BY name LIMIT 1000;

-- name: one
-- One letter with all that it is about. The text of its chunk is the tenant's own.
SELECT l.id, l.created_at, l.reason, l.error_message, p.name, l.item_id, l.document_id, d.name, c.ordinal, l.resolved_at,
       l.resolution, l.resolved_by, l.note, l.chunk_id, d.source_type, d.source_id, nullif(d.record_source_id, 0), r.name,
       d.error_reason, (SELECT j.id FROM embedmill.ingestion_jobs j
                         WHERE j.document_id = d.id ORDER BY j.created_at DESC LIMIT 1),
       c.token_count, c.start_offset, c.end_offset, CASE WHEN %(with_text)s THEN left(c.text, 20000) END
  FROM embedmill.dead_letters l
  JOIN embedmill.generations g ON g.id = l.generation_id
  JOIN embedmill.pipelines p ON p.id = g.pipeline_id
  LEFT JOIN embedmill.knowledge_documents d ON d.id = l.document_id
  LEFT JOIN embedmill.record_sources r ON r.id = d.record_source_id
  LEFT JOIN embedmill.knowledge_chunks c ON c.id = l.chunk_id
 WHERE l.id = %(letter_id)s AND l.tenant_id = %(tenant_id)s;
