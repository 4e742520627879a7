-- name: standing_chunks
-- The chunks of documents' older content, in order.
SELECT document_id, chunk_set, id, content_hash, ordinal, start_offset, end_offset, place_kind, place_first, place_last,
       heading_path
  FROM embedmill.knowledge_chunks WHERE document_id = ANY (%(document_ids)s)
 ORDER BY document_id, chunk_set, ordinal;

-- name: delete_chunks
-- Passages that are no more; their vectors and counters follow by trigger.
DELETE FROM embedmill.knowledge_chunks WHERE id = ANY (%(chunk_ids)s);

-- name: move_chunks
-- Unchanged passages that stand elsewhere now; they keep their vectors.
UPDATE embedmill.knowledge_chunks c
   SET ordinal = m.ordinal, start_offset = m.start_offset, end_offset = m.end_offset,
       place_kind = m.place_kind, place_first = m.place_first, place_last = m.place_last,
       heading_path = ARRAY(SELECT jsonb_array_elements_text(m.heading_path))
  FROM unnest(%(chunk_ids)s::bigint[], %(ordinals)s::integer[], %(starts)s::integer[], %(ends)s::integer[],
              %(place_kinds)s::text[], %(place_firsts)s::text[], %(place_lasts)s::text[], %(heading_paths)s::jsonb[])
       AS m (id, ordinal, start_offset, end_offset, place_kind, place_first, place_last, heading_path)
 WHERE c.id = m.id;
