-- name: act_as
-- Who acts, for the audit log of this transaction.
SELECT set_config('embedmill.actor', %(actor)s, true);

-- name: record_action
-- One act of a person, with what it was aimed at; its row.
INSERT INTO embedmill.audit_log (tenant_id, actor, action, subject, old_value, new_value)
VALUES (%(tenant_id)s, embedmill.current_actor(), %(action)s, %(subject)s, %(old_value)s::jsonb, %(new_value)s::jsonb)
RETURNING id;

-- name: advance_record
-- An act of many transactions is one row: what is done so far is committed with the doing.
SELECT embedmill.advance_record(%(record_id)s, %(new_value)s::jsonb);

-- name: last_id
-- The newest item there is: what comes after it was not meant by whoever acts now.
SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('embedmill.embedding_queue', 'id')::regclass), 0);

-- name: count_live
-- Live items that match, by status.
SELECT q.status::text, count(*), min(q.id), max(q.id)
  FROM embedmill.embedding_queue q
 WHERE {matching} AND (%(worker_id)s::uuid IS NULL OR q.status = 'processing')
 GROUP BY q.status ORDER BY q.status;

-- name: lock_live
-- The next live items that match, oldest first, locked in the order of ids as everywhere.
SELECT q.id, q.status::text
  FROM embedmill.embedding_queue q
 WHERE {matching} AND (%(worker_id)s::uuid IS NULL OR q.status = 'processing')
   AND q.id > %(after)s AND q.id <= %(last_id)s
 ORDER BY q.id LIMIT %(limit)s FOR UPDATE;

-- name: cancel_items
-- Ends live items as cancelled; the ids of those that were.
SELECT embedmill.cancel_items(%(item_ids)s, %(message)s);

-- name: count_waiting_out
-- Items that match and wait out a failure.
SELECT 'waiting out a failure', count(*), min(q.id), max(q.id)
  FROM embedmill.embedding_queue q
 WHERE {matching} AND q.status = 'pending' AND q.available_at > now() AND NOT embedmill.waits_to_be_read(q)
HAVING count(*) > 0;

-- name: lock_waiting_out
-- The next of them, locked.
SELECT q.id FROM embedmill.embedding_queue q
 WHERE {matching} AND q.status = 'pending' AND q.available_at > now() AND NOT embedmill.waits_to_be_read(q)
   AND q.id > %(after)s AND q.id <= %(last_id)s
 ORDER BY q.id LIMIT %(limit)s FOR UPDATE;

-- name: make_due
-- They may be taken now.
UPDATE embedmill.embedding_queue SET available_at = now() WHERE id = ANY (%(item_ids)s);

-- name: retryable
-- A part of the two statements below: failed and cancelled items that a retry may help. Unless named by its id,
-- a failed one only while its dead letter is open (not retried or discarded yet), and a cancelled one only where
-- such are asked for. What waits again already is left alone. A deletion that was called off stays called off.
q.status IN ('failed', 'cancelled') AND {matching}
   -- In this order: what leaves most out first. No NOT EXISTS: the planner may answer that by hashing the whole queue.
   AND CASE
       WHEN q.status = 'cancelled' AND (q.operation = 'DELETE' OR NOT %(cancelled_too)s) THEN false
       WHEN q.status = 'failed' AND NOT %(by_id)s
            AND (SELECT true FROM embedmill.dead_letters d
                  WHERE d.item_id = q.id AND d.resolved_at IS NULL LIMIT 1) IS NULL THEN false
       ELSE coalesce((SELECT false FROM embedmill.embedding_queue l
                       WHERE l.document_id = q.document_id AND l.generation_id = q.generation_id AND l.part = q.part
                       LIMIT 1), true)
            AND coalesce((SELECT false FROM embedmill.embedding_queue l
                           WHERE l.document_id IS NULL AND l.generation_id = q.generation_id
                             AND l.source_type = q.source_type AND l.source_id = q.source_id AND l.part = q.part
                           LIMIT 1), true) END;

-- name: preview_retryable
-- Ended items that a retry may help, by status and generation, with what they would send and what that costs; and, the
-- same in each row, the first few of them. One statement: to find them is dear, and to plan it over each day of history.
WITH found AS MATERIALIZED (
    SELECT q.id, q.status::text AS status, q.source_type, q.source_id, q.part, q.error_message,
           q.generation_id, q.estimated_tokens
      FROM embedmill.embedding_queue_history q
     WHERE {retryable})
SELECT n.status, n.items, n.first_id, n.last_id, n.tokens, n.tokens * g.price_per_million_tokens / 1000000,
       (SELECT jsonb_agg(to_jsonb(s) ORDER BY s.id)
          FROM (SELECT id, status, source_type, source_id, part, error_message FROM found
                 ORDER BY id LIMIT %(limit)s) s)
  FROM (SELECT status, generation_id, count(*) AS items, min(id) AS first_id, max(id) AS last_id,
               sum(estimated_tokens)::bigint AS tokens
          FROM found GROUP BY status, generation_id) n
  JOIN embedmill.generations g ON g.id = n.generation_id
 ORDER BY n.status;

-- name: next_retryable
-- The next of them, oldest first.
SELECT q.id, q.document_id, q.operation::text, q.batch_id, q.priority::text
  FROM embedmill.embedding_queue_history q
 WHERE {retryable} AND q.id > %(after)s AND q.id <= %(last_id)s
 ORDER BY q.id LIMIT %(limit)s;

-- name: retry_documents
-- Enqueues again what these documents lack; their rows are locked in the order given. Documents that are gone
-- or cannot be read any more, or are to be deleted, are not retried: why, and how many items otherwise. Records can be
-- read again: their rows may have been mended.
SELECT w.document_id, s.why,
       CASE WHEN s.why IS NULL THEN embedmill.retry_document(w.document_id, w.batch_id, w.priority) ELSE 0 END
  FROM unnest(%(document_ids)s::bigint[], %(batch_ids)s::uuid[], %(priorities)s::embedmill.queue_priority[])
       AS w (document_id, batch_id, priority)
  LEFT JOIN embedmill.knowledge_documents d ON d.id = w.document_id AND d.tenant_id = %(tenant_id)s
 CROSS JOIN LATERAL (
    SELECT CASE WHEN d.id IS NULL THEN 'gone' WHEN d.error_reason IS NOT NULL AND d.record_source_id = 0 THEN 'unreadable'
                WHEN EXISTS (SELECT FROM embedmill.embedding_queue l
                              WHERE l.document_id = w.document_id AND l.operation = 'DELETE') THEN 'being_deleted'
           END AS why) s;

-- name: retry_deletions
-- Enqueues failed deletions again, where nothing has come of the document since.
SELECT w.document_id,
       CASE WHEN d.id IS NULL THEN 'gone'
            WHEN d.updated_at > h.processing_completed_at
                 OR EXISTS (SELECT FROM embedmill.embedding_queue l WHERE l.document_id = d.id)
                 OR EXISTS (SELECT FROM embedmill.ingestion_jobs j
                             WHERE j.document_id = d.id AND j.created_at > h.processing_completed_at)
            THEN 'back' ELSE (SELECT NULL::text
                                FROM embedmill.enqueue_deletion(d.id, h.batch_id, h.priority, h.metadata, NULL)) END,
       1
  FROM unnest(%(item_ids)s::bigint[], %(document_ids)s::bigint[]) AS w (item_id, document_id)
  JOIN embedmill.embedding_queue_history h ON h.id = w.item_id AND h.tenant_id = %(tenant_id)s
  LEFT JOIN embedmill.knowledge_documents d ON d.id = w.document_id AND d.tenant_id = %(tenant_id)s;

-- name: resolve_item_letters
-- A person has dealt with what the dead letters of these items and documents say; open ones have their index.
UPDATE embedmill.dead_letters SET resolved_at = now(), resolution = %(resolution)s, resolved_by = embedmill.current_actor()
 WHERE tenant_id = %(tenant_id)s AND resolved_at IS NULL
   AND (item_id = ANY (%(item_ids)s::bigint[]) OR document_id = ANY (%(document_ids)s::bigint[]));

-- name: whereabouts
-- What has become of items that were named by id.
SELECT id, status::text, available_at > now() FROM embedmill.embedding_queue
 WHERE id = ANY (%(ids)s) AND tenant_id = %(tenant_id)s
UNION ALL
SELECT id, status::text, false FROM embedmill.embedding_queue_history
 WHERE id = ANY (%(ids)s) AND tenant_id = %(tenant_id)s;

-- name: pause
-- Nothing of these pipelines is claimed from now on; those that were not paused before.
UPDATE embedmill.pipelines SET paused_at = now()
 WHERE tenant_id = %(tenant_id)s AND (%(pipeline)s::text IS NULL OR name = %(pipeline)s) AND paused_at IS NULL
RETURNING name;

-- name: resume
-- These pipelines are claimed from again; those that were paused.
UPDATE embedmill.pipelines SET paused_at = NULL
 WHERE tenant_id = %(tenant_id)s AND (%(pipeline)s::text IS NULL OR name = %(pipeline)s) AND paused_at IS NOT NULL
RETURNING name;

-- name: in_work
-- Items of these pipelines that workers hold.
SELECT count(*)
  FROM embedmill.embedding_queue q JOIN embedmill.generations g ON g.id = q.generation_id
  JOIN embedmill.pipelines p ON p.id = g.pipeline_id
 WHERE q.status = 'processing' AND p.tenant_id = %(tenant_id)s AND p.name = ANY (%(names)s);

-- name: audit_log
-- The newest acts: the tenant's, and those that concern everybody.
SELECT id, at, actor, action, subject, old_value, new_value
  FROM embedmill.audit_log
 WHERE (tenant_id = %(tenant_id)s OR tenant_id IS NULL)
 ORDER BY id DESC LIMIT %(limit)s;

-- name: by_index
-- For the transaction of a look: a probe for each of what is few, and never a scan of all that waits.
SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin']) AS name;

-- name: sample_live
-- A few of what a cancel would be about.
SELECT q.id, q.status::text, q.source_type, q.source_id, q.part, q.error_message
  FROM embedmill.embedding_queue q
 WHERE {matching} AND (%(worker_id)s::uuid IS NULL OR q.status = 'processing') AND q.id > 0
 ORDER BY q.id LIMIT %(limit)s;

-- name: set_priority
-- A waiting item goes into another lane; what it was in before.
UPDATE embedmill.embedding_queue q SET priority = %(priority)s::embedmill.queue_priority
  FROM (SELECT id, priority::text AS was FROM embedmill.embedding_queue
         WHERE id = %(item_id)s AND tenant_id = %(tenant_id)s AND status IN ('pending', 'rate_limited') FOR UPDATE) b
 WHERE q.id = b.id
RETURNING b.was;
