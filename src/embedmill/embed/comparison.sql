-- name: sample
-- Chunks at random that have a vector in both generations: by their numbers, from the newer one; and of the older one the
-- chunk that says most of the same (the same chunk, where both have the same plan).
SELECT DISTINCT ON (c.id) c.id, c.document_id, o.id
  FROM (SELECT min(chunk_id) AS first, max(chunk_id) AS last FROM {newer}) bounds
 CROSS JOIN unnest(%(fractions)s::float8[]) AS f (fraction)
 CROSS JOIN LATERAL (
        SELECT v.chunk_id FROM {newer} v
         WHERE v.chunk_id >= bounds.first + (f.fraction * (bounds.last - bounds.first))::bigint
           AND v.embedding IS NOT NULL
         ORDER BY v.chunk_id LIMIT 1) s
  JOIN embedmill.knowledge_chunks c ON c.id = s.chunk_id
 CROSS JOIN LATERAL (
        SELECT k.id FROM embedmill.knowledge_chunks k JOIN {older} v ON v.chunk_id = k.id
         WHERE k.document_id = c.document_id AND k.chunk_set = %(older_set)s AND v.embedding IS NOT NULL
         ORDER BY k.id = c.id DESC,
                  least(k.end_offset, c.end_offset) - greatest(k.start_offset, c.start_offset) DESC
         LIMIT 1) o;

-- name: nearest_chunks
-- What is nearest to a chunk, itself left out.
SELECT n.chunk_id FROM (
    SELECT v.chunk_id FROM {vectors} v
     ORDER BY v.embedding <=> (SELECT q.embedding FROM {vectors} q WHERE q.chunk_id = %(chunk_id)s)
     LIMIT %(limit)s + 1) n
 WHERE n.chunk_id <> %(chunk_id)s LIMIT %(limit)s;

-- name: nearest_documents
-- The documents of what is nearest to a chunk, its own left out.
SELECT n.document_id FROM (
    SELECT c.document_id, min(w.place) AS place
      FROM (SELECT v.chunk_id, row_number() OVER () AS place FROM (
                SELECT v.chunk_id FROM {vectors} v
                 ORDER BY v.embedding <=> (SELECT q.embedding FROM {vectors} q WHERE q.chunk_id = %(chunk_id)s)
                 LIMIT 10 * %(limit)s) v) w
      JOIN embedmill.knowledge_chunks c ON c.id = w.chunk_id
     WHERE c.document_id <> %(document_id)s
     GROUP BY c.document_id) n
 ORDER BY n.place LIMIT %(limit)s;

-- name: keep
-- What the comparison found.
UPDATE embedmill.generations SET comparison = %(comparison)s::jsonb WHERE id = %(generation_id)s;
