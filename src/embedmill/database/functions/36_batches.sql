-- Batches: items enqueued together, with one progress.

-- Progress of a batch. The rate is that of the last five minutes; eta_seconds is NULL while nothing moves.
-- NULL in every column but the counts where there is no such batch: total is 0 then.
CREATE OR REPLACE FUNCTION embedmill.batch_progress(p_batch_id uuid)
RETURNS TABLE (
    total bigint, pending bigint, processing bigint, rate_limited bigint, completed bigint, failed bigint,
    cancelled bigint, percent double precision, tokens_left bigint, items_per_minute double precision,
    eta_seconds double precision, first_enqueued_at timestamptz, last_ended_at timestamptz)
LANGUAGE sql STABLE AS $$
    WITH live AS (
        SELECT count(*) AS items,
               count(*) FILTER (WHERE status = 'pending') AS pending,
               count(*) FILTER (WHERE status = 'processing') AS processing,
               count(*) FILTER (WHERE status = 'rate_limited') AS rate_limited,
               coalesce(sum(estimated_tokens), 0)::bigint AS tokens, min(created_at) AS first
          FROM embedmill.embedding_queue WHERE batch_id = p_batch_id
    ), ended AS (
        SELECT count(*) AS items,
               count(*) FILTER (WHERE status = 'completed') AS completed,
               count(*) FILTER (WHERE status = 'failed') AS failed,
               count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
               count(*) FILTER (WHERE processing_completed_at > now() - interval '5 minutes') AS of_late,
               min(created_at) AS first, max(processing_completed_at) AS last,
               extract(epoch FROM now() - greatest(min(created_at), now() - interval '5 minutes')) / 60 AS minutes
          FROM (
            -- An item that was tried again is counted once, by its last life.
            SELECT DISTINCT ON (generation_id, source_type, source_id, part) *
              FROM embedmill.embedding_queue_history h WHERE batch_id = p_batch_id
             ORDER BY generation_id, source_type, source_id, part, id DESC) h
         WHERE NOT EXISTS (
            SELECT FROM embedmill.embedding_queue q
             WHERE q.generation_id = h.generation_id AND q.source_type = h.source_type
               AND q.source_id = h.source_id AND q.part = h.part AND q.batch_id = p_batch_id)
    ), pace AS (
        SELECT CASE WHEN of_late > 0 AND minutes > 0 THEN of_late / minutes END AS items_per_minute FROM ended
    )
    SELECT live.items + ended.items, live.pending, live.processing, live.rate_limited, ended.completed, ended.failed,
           ended.cancelled, round(100.0 * ended.items / nullif(live.items + ended.items, 0), 2)::double precision,
           live.tokens, pace.items_per_minute,
           CASE WHEN live.items = 0 AND ended.items > 0 THEN 0 ELSE live.items / pace.items_per_minute * 60 END,
           least(live.first, ended.first), ended.last
      FROM live, ended, pace
$$;
