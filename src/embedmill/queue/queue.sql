-- name: claim_items
-- Claims ready items of one generation for a worker, see functions/30_claiming.sql.
SELECT id, lease_token, tenant_id, document_id, job_id, usage_type, retry_count, estimated_tokens,
       operation::text
  FROM embedmill.claim_items(%(worker_id)s, %(generation_id)s, %(max_items)s, %(max_chunks)s, %(max_tokens)s,
                             %(lease_seconds)s);

-- name: return_items
-- Gives held items back; returns the ids of those whose attempts are used up (they ended as failed).
SELECT embedmill.return_items(%(item_ids)s, %(lease_tokens)s, %(status)s, %(attempt)s, %(delay_ms)s, %(reason)s,
                              %(error_message)s);

-- name: return_strays
-- Items of a worker that it does not know of: a claim whose answer was lost.
UPDATE embedmill.embedding_queue
   SET status = 'pending', lease_token = NULL, lease_deadline = NULL, worker_id = NULL
 WHERE worker_id = %(worker_id)s AND generation_id = %(generation_id)s AND status = 'processing'
   AND id <> ALL (%(known)s);

-- name: hold_items
-- Locks what is still held by these tokens; runs inside the caller's transaction.
SELECT embedmill.hold_items(%(item_ids)s, %(lease_tokens)s);

-- name: complete_items
-- Ends those whose every vector stands; returns their ids. Inside the transaction that holds them.
SELECT embedmill.complete_items(%(generation_id)s, %(item_ids)s);

-- name: delete_claimed_documents
-- Carries out claimed deletions; returns the items that were still held.
SELECT embedmill.delete_claimed_documents(%(item_ids)s, %(lease_tokens)s);

-- name: ready_generations
-- The generations that have something to claim now.
SELECT generation_id FROM embedmill.ready_generations();

-- name: rescue_items
-- Frees the items of workers that are gone.
SELECT embedmill.rescue_items(%(dead_workers)s);

-- name: grant_quota
-- Spends one call; milliseconds to wait otherwise.
SELECT embedmill.grant_quota(%(quota_key)s, %(tokens)s);

-- name: cool_down
-- Makes everybody who shares the quota wait.
SELECT embedmill.cool_down(%(quota_key)s, %(delay_ms)s, %(reason)s);

-- name: settle_quota
-- Puts right what a call was taken for.
SELECT embedmill.settle_quota(%(quota_key)s, %(tokens)s, %(seconds_ago)s);

-- name: live_items
-- Whether anything is under way: items, jobs that wait for a parser, records that can be read, backfills, generations
-- that are built. Counted up to a bound, since a backlog may be long.
SELECT count(*) FROM ((SELECT FROM embedmill.embedding_queue LIMIT 1000)
                      UNION ALL (SELECT FROM embedmill.parse_queue LIMIT 1000)
                      UNION ALL (SELECT FROM embedmill.record_sources s
                                  WHERE s.paused_at IS NULL AND s.trouble IS NULL
                                    AND (EXISTS (SELECT FROM embedmill.record_changes c
                                                  WHERE c.record_source_id = s.id)
                                         OR EXISTS (SELECT FROM embedmill.backfills b
                                                     WHERE b.record_source_id = s.id AND b.started_at IS NOT NULL
                                                       AND b.ended_at IS NULL)))
                      UNION ALL (SELECT FROM embedmill.generations g
                                  WHERE g.build_started_at IS NOT NULL AND g.build_ended_at IS NULL
                                    AND g.build_stopped_reason IS NULL)) live;
