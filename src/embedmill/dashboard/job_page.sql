-- name: open_letters
-- Dead letters of a document that nobody has dealt with, newest first: by the index on documents.
SELECT l.id, l.created_at, l.reason, l.error_message, c.ordinal
  FROM embedmill.dead_letters l
  LEFT JOIN embedmill.knowledge_chunks c ON c.id = l.chunk_id
 WHERE l.document_id = %(document_id)s AND l.resolved_at IS NULL
 ORDER BY l.id DESC LIMIT %(limit)s;
